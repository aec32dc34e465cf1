// @durable-streams/tanstack-ai-transport: a chat that goes on where it was when the server died.
import assert from "node:assert/strict"
import { DurableStream, stream } from "@durable-streams/client"
import {
  durableStreamConnection,
  materializeSnapshotFromDurableStream,
  toDurableChatSessionResponse,
} from "@durable-streams/tanstack-ai-transport"
import { allAnswered } from "./answers.mjs"
import { kill, report, start, streamUrl } from "./weir.mjs"

const NAME = "tanstack"
const HALF = 30

const url = streamUrl(NAME)
const words = Array.from({ length: 2 * HALF }, (_, number) => `word ${number} `)
let answered
let goOn
const mayGoOn = new Promise((resolve) => (goOn = resolve))

async function* model() {
  for (const [number, delta] of words.entries()) {
    if (number === HALF) await mayGoOn
    yield { type: "TEXT_MESSAGE_CONTENT", messageId: "answer", delta }
  }
}

/** The application's server, to which the connection sends messages. */
async function application(_, { body }) {
  const { messages } = JSON.parse(body)
  return toDurableChatSessionResponse({
    stream: { writeUrl: url },
    newMessages: messages,
    responseStream: model(),
    waitUntil: (whole) => (answered = whole),
  })
}

/** All chunks from where the connection is, coming again whenever it breaks. */
async function* follow() {
  for (;;) {
    try {
      yield* connection.subscribe()
      return
    } catch (error) {
      if (!(error instanceof TypeError)) throw error
    }
  }
}

const connection = durableStreamConnection({
  sendUrl: "http://application/chat",
  readUrl: url,
  emitSnapshotOnSubscribe: false,
  fetchClient: application,
})
await connection.send([{ id: "question", role: "user", parts: [{ type: "text", content: "?" }] }])
const read = []
let count = 0
for await (const chunk of follow()) {
  read.push(chunk)
  if (chunk.messageId !== "answer") continue
  count += 1
  if (count === HALF) {
    await allAnswered()
    await kill()
    // The model goes on while there is no server.
    goOn()
    await start()
  } else if (count === words.length) {
    await answered
    await new DurableStream({ url }).close()
  }
}

const { messages } = await materializeSnapshotFromDurableStream({ readUrl: url })
const texts = messages.map(({ role, parts }) => [role, parts[0].content])
assert.deepEqual(texts, [["user", "?"], ["assistant", words.join("")]])

// The application has added what the protocol of the chat asks for; the answer is as the model gave it.
const stored = await (await stream({ url, offset: "-1", live: false })).json()
const answer = stored.filter(({ messageId }) => messageId === "answer")
assert.deepEqual(answer.map(({ delta }) => delta), words)
report(NAME, stored, { connection: read })
