// @durable-streams/state: change events, the state that they make, and a StreamDB that follows them across a kill.
import assert from "node:assert/strict"
import { DurableStream, stream } from "@durable-streams/client"
import { MaterializedState, createStateSchema } from "@durable-streams/state"
import { createStreamDB } from "@durable-streams/state/db"
import { until } from "./wait.mjs"
import { kill, report, start, streamUrl } from "./weir.mjs"

const NAME = "state"
const USERS = 7

const url = streamUrl(NAME)
const anything = { "~standard": { version: 1, vendor: "weir", validate: (value) => ({ value }) } }
const schema = createStateSchema({ users: { schema: anything, type: "user", primaryKey: "id" } })
const handle = await DurableStream.create({ url, contentType: "application/json" })
const written = []

/** Appends a change of some user: they come, change and go, each in turn. */
async function change() {
  const number = written.length
  const key = `user ${number % USERS}`
  const headers = { txid: `${number}` }
  const { users } = schema
  const changes = [
    () => users.upsert({ key, value: { number }, headers }),
    () => users.update({ key, value: { number }, headers }),
    () => users.delete({ key, headers }),
  ]
  written.push(changes[Math.floor(number / USERS) % changes.length]())
  await handle.append(JSON.stringify(written.at(-1)))
}

const followed = []
let isClosed = false
const onEvent = (event) => followed.push(event)
const onBatch = (batch) => (isClosed = batch.streamClosed)
const db = createStreamDB({ streamOptions: { url }, state: schema, onEvent, onBatch })
await db.preload()

for (let count = 0; count < 30; count++) await change()
await db.utils.awaitTxId("29")
const state = new MaterializedState()
const first = await stream({ url, offset: "-1", live: false })
const before = await first.json()
state.applyBatch(before)

// A plain append whose answer is lost is sent again and stored twice; so none is on its way when the server dies, and
// one is made while it is down.
await kill()
const changed = change()
await start()
await changed
while (written.length < 60) await change()
await handle.close()

const second = await stream({ url, offset: first.offset, live: false })
const after = await second.json()
state.applyBatch(after)
await until("the StreamDB sees the end", () => isClosed)

const rows = [...db.collections.users.entries()].map(([key, { number }]) => [key, number])
const expected = [...state.getType("user")].map(([key, { number }]) => [key, number])
assert.ok(expected.length > 0)
assert.deepEqual(rows.sort(), expected.sort())
report(NAME, written, { "catch-up, resumed": [...before, ...after], StreamDB: followed })
