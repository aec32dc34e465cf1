// @durable-streams/aisdk-transport: an answer that is still being given when the server dies, and is read from its
// beginning by who comes back.
import assert from "node:assert/strict"
import { createDurableChatTransport, toDurableStreamResponse } from "@durable-streams/aisdk-transport"
import { allAnswered } from "./answers.mjs"
import { kill, report, start, streamUrl } from "./weir.mjs"

const NAME = "aisdk"
const HALF = 30

const writeUrl = streamUrl(NAME)
const written = []
let goOn
const mayGoOn = new Promise((resolve) => (goOn = resolve))

function* words(count) {
  for (; count > 0; count--) {
    written.push({ type: "text-delta", id: "answer", delta: `word ${written.length} ` })
    yield written.at(-1)
  }
}

async function* model() {
  yield* words(HALF)
  await mayGoOn
  yield* words(HALF)
}

/** The application's server, which the transport asks for a new answer and for the one that is being given. */
async function application(_, { method }) {
  if (method === "POST") return toDurableStreamResponse({ source: model(), stream: { writeUrl } })
  return Response.json({ streamUrl: writeUrl })
}

/** The next chunks: `count` of them, or what comes before the end or before the connection breaks. */
async function take(reader, count) {
  const chunks = []
  try {
    while (chunks.length < count) {
      const { done, value } = await reader.read()
      if (done) break
      chunks.push(value)
    }
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
  }
  return chunks
}

const transport = createDurableChatTransport({ api: "http://application/chat", fetchClient: application })
const messages = [{ id: "question", role: "user", parts: [{ type: "text", text: "?" }] }]
const asked = { trigger: "submit-message", chatId: "chat", messages }
const answer = (await transport.sendMessages(asked)).getReader()
const before = await take(answer, HALF)
await allAnswered()
await kill()
// The model goes on while there is no server.
goOn()
await start()
const again = (await transport.reconnectToStream({ chatId: "chat" })).getReader()
const reads = { again: await take(again, Infinity) }
// The reader from before has broken, or has found the server again.
const whole = [...before, ...(await take(answer, Infinity))]
assert.deepEqual(whole, written.slice(0, Math.max(HALF, whole.length)))
report(NAME, written, reads)
