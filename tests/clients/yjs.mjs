// The official Yjs server over Weir: documents that are compacted while they are edited, and joined late.
//
// Prints one line of JSON: how often each document was compacted and what did not come about in it, and what the Yjs
// server and its clients complained about.
import { YjsServer } from "@durable-streams/y-durable-streams/server"
import { Editor } from "./editors.mjs"
import { until } from "./wait.mjs"

const DOCUMENTS = 10
// The Yjs server's own threshold is 1 MiB; with this one a few lines are enough.
const COMPACTION_BYTES = 2000
const COMPACTIONS = 2

const complaints = []
console.log = () => {}
console.error = (...words) => complaints.push(words.map(String).join(" "))

const server = new YjsServer({ port: 0, dsServerUrl: process.env.WEIR_URL, compactionThreshold: COMPACTION_BYTES })
await server.start()
const baseUrl = `${server.url}/v1/yjs/clients`

const open = (docId) => new Editor(baseUrl, docId, (complaint) => complaints.push(complaint))

/** Where the document's latest snapshot is, `-1` before the first. */
async function snapshot(docId) {
  const found = await fetch(`${baseUrl}/docs/${docId}?offset=snapshot`, { redirect: "manual" })
  return new URL(found.headers.get("location"), baseUrl).searchParams.get("offset")
}

async function edit(docId) {
  const editors = [open(docId)]
  const snapshots = new Set()
  let expected = ""
  const join = async (what) => {
    const editor = open(docId)
    editors.push(editor)
    await until(what, () => editor.provider.synced && editor.text.toString() === expected)
  }
  const write = async (what, editor, line) => {
    editor.write(line)
    expected += line
    await until(what, () => editors.every(({ text }) => text.toString() === expected))
  }
  let broken = null
  try {
    await until("the first editor is in sync", () => editors[0].provider.synced)
    await join("a second editor is in sync")
    await until("the document is compacted again and again", async () => {
      await write("all editors have a line", editors[snapshots.size % 2], `${"word ".repeat(20)}\n`)
      const latest = await snapshot(docId)
      if (latest !== "-1") snapshots.add(latest)
      return snapshots.size >= COMPACTIONS
    })
    // Who comes now needs the snapshot and what follows it.
    await write("all editors have a line after the last compaction", editors[0], "after\n")
    await join("a late editor has all")
    await write("all editors have the late one's line", editors[2], "late\n")
  } catch (error) {
    const lengths = editors.map(({ text }) => text.length)
    broken = `${error.message}; of ${expected.length} characters the editors have ${lengths}`
  }
  for (const { provider } of editors) provider.destroy()
  return { docId, compactions: snapshots.size, broken }
}

const documents = await Promise.all(Array.from({ length: DOCUMENTS }, (_, number) => edit(`documents/${number}`)))
process.stdout.write(`${JSON.stringify({ documents, complaints })}\n`, () => process.exit(0))
