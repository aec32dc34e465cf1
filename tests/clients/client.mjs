// @durable-streams/client: an idempotent producer that writes on while the server is killed and started again, and
// readers in every mode.
import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"
import { nap, until } from "./wait.mjs"
import { kill, report, start, streamUrl } from "./weir.mjs"

const NAME = "client"
const BEFORE = 100
const AFTER = 300

const url = streamUrl(NAME)
const written = []

/** `fetch` that asks again when there is no answer, or none yet: the producer leaves that to who uses it. */
async function fetchAgain(...request) {
  for (;;) {
    const answer = await fetch(...request).catch(() => null)
    if (answer !== null && answer.status !== 503) return answer
    await nap(20)
  }
}

/** Follows the stream from `offset` until it is closed, coming again from where it was whenever a response breaks. */
async function follow(live, offset) {
  const read = []
  for (let isClosed = false; !isClosed; ) {
    const response = await stream({ url, offset, live })
    await new Promise((resolve, reject) => {
      let isBroken = false
      response.subscribeJson((batch) => {
        // One that comes after the failure is asked for again.
        if (isBroken) return
        read.push(...batch.items)
        offset = batch.offset
        isClosed = batch.streamClosed
        if (isClosed) resolve()
      })
      response.closed.catch((error) => {
        isBroken = true
        // What `fetch` throws when a connection breaks, if it says so.
        if (error instanceof TypeError) resolve()
        else reject(error)
      })
    })
  }
  return read
}

const handle = await DurableStream.create({ url, contentType: "application/json" })
const producer = new IdempotentProducer(handle, "producer", { fetch: fetchAgain, lingerMs: 1 })
const write = () => {
  written.push({ number: written.length })
  producer.append(JSON.stringify(written.at(-1)))
}

const followers = ["long-poll", "sse"].map((live) => [live, follow(live, "-1")])
while (written.length < BEFORE) write()
await producer.flush()
const caughtUp = await stream({ url, offset: "-1", live: false })
const before = await caughtUp.json()

// It writes on all the time, so some appends are on their way when the server dies.
const acknowledged = producer.lastSuccessfulOffset
let hasRestarted = false
const restarted = until("some appends are acknowledged", () => producer.lastSuccessfulOffset > acknowledged)
  .then(kill)
  .then(start)
  .then(() => (hasRestarted = true))
while (!hasRestarted || written.length < AFTER) {
  write()
  await nap(1)
}
await restarted
await producer.flush()
written.push({ number: written.length })
await producer.close(JSON.stringify(written.at(-1)))

const resumed = await stream({ url, offset: caughtUp.offset, live: false })
const reads = { "catch-up, resumed": [...before, ...(await resumed.json())] }
for (const [live, read] of followers) reads[live] = await read
report(NAME, written, reads)
