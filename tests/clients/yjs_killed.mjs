// The official Yjs server over Weir: editors whose document outlives the server.
//
// Prints what each of them has at the end, what they should have, and what they complained about.
import { YjsServer } from "@durable-streams/y-durable-streams/server"
import { Editor } from "./editors.mjs"
import { until } from "./wait.mjs"
import { kill, start } from "./weir.mjs"

const HALF = 20

const yjs = new YjsServer({ port: 0, dsServerUrl: process.env.WEIR_URL })
await yjs.start()
const baseUrl = `${yjs.url}/v1/yjs/clients`
const complaints = []
const open = () => new Editor(baseUrl, "killed/document", (complaint) => complaints.push(complaint))

let expected = ""
const editors = [open(), open()]
const areInSync = () => editors.every(({ provider, text }) => provider.synced && text.toString() === expected)

/** Both write, in turn, and see what the other one has written. */
async function write(what) {
  for (let number = 0; number < HALF; number++) {
    const line = `${what} ${number}\n`
    editors[number % 2].write(line)
    expected += line
    await until(`all editors have ${line}`, areInSync)
  }
}

await until("both editors are in sync", areInSync)
await write("before")
// A provider whose edit fails drops it. So none is on its way when the server dies.
for (const { provider } of editors) await provider.flush()
await kill()
await start()
await write("after")
editors.push(open())
await until("who comes late has all", areInSync)
const documents = editors.map(({ text }) => text.toString())
process.stdout.write(`${JSON.stringify({ documents, expected, complaints })}\n`, () => process.exit(0))
