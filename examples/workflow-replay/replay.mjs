// A workflow whose state is what its events come to: any worker can take it over at any time, by replay.
// Usage: node replay.mjs [BASE_URL]   (default http://127.0.0.1:4437)

import assert from "node:assert/strict";

const base = (process.argv[2] ?? "http://127.0.0.1:4437").replace(/\/$/, "");
const run = `${base}/workflows/run-${Date.now()}`;
const steps = 2000;
const json = { "Content-Type": "application/json" };

async function call(url, options = {}) {
  const answer = await fetch(url, options);
  if (!answer.ok) throw new Error(`${options.method ?? "GET"} ${url}: ${answer.status} ${await answer.text()}`);
  return answer;
}

/** What an event makes of the state. The only code that knows what a workflow is. */
function apply(state, event) {
  if (event.type === "begun") return { name: event.name, done: 0, cost: 0 };
  if (event.type === "step") return { ...state, done: state.done + 1, cost: state.cost + event.cost };
  if (event.type === "ended") return { ...state, ended: true };
  throw new Error(`an event of an unknown type: ${event.type}`);
}

/** Reads events from an offset on, page by page, wherever the server has them; gives the state, and where to read on from. */
async function replay(offset = "-1", state = undefined) {
  let events = 0;
  for (;;) {
    const page = await call(`${run}?offset=${offset}`);
    for (const event of await page.json()) {
      state = apply(state, event);
      events += 1;
    }
    offset = page.headers.get("Stream-Next-Offset");
    if (page.headers.get("Stream-Up-To-Date")) return { state, offset, events };
  }
}

const append = (events) => call(run, { method: "POST", headers: json, body: JSON.stringify(events) });

// A worker runs the first half. Now and then it keeps the state it has, and the offset that this is as of.
await call(run, { method: "PUT", headers: json });
const begun = (await append([{ type: "begun", name: "import" }])).headers.get("Stream-Next-Offset");
let checkpoint;
for (let step = 0; step < steps / 2; step += 10) {
  await append(Array.from({ length: 10 }, (_, i) => ({ type: "step", step: step + i, cost: (step + i) % 7 })));
  if (step === steps / 4) checkpoint = await replay();
}
console.log(`a worker has done ${steps / 2} steps, and kept its state after ${checkpoint.state.done}`);

// It is gone. Another one takes over: from the beginning, or from what was kept. Both come to the same.
const whole = await replay();
const rest = await replay(checkpoint.offset, checkpoint.state);
assert.deepEqual(whole.state, rest.state);
assert.equal(whole.offset, rest.offset);
console.log(`another one has replayed ${whole.events} events, or ${rest.events} from there:`, whole.state);

// It goes on only where the first one has ended. If that is not gone after all, one of the two is refused.
const first = await call(run, {
  method: "POST",
  headers: { ...json, "If-Match": `"${rest.offset}"` },
  body: JSON.stringify([{ type: "step", step: steps / 2, cost: 1 }]),
});
const late = await fetch(run, {
  method: "POST",
  headers: { ...json, "If-Match": `"${rest.offset}"` },
  body: JSON.stringify([{ type: "step", step: steps / 2, cost: 1 }]),
});
assert.equal(late.status, 412, "the first worker is late");
for (let step = steps / 2 + 1; step < steps; step += 1) await append([{ type: "step", step, cost: step % 7 }]);
await append([{ type: "ended" }]);
const end = await replay(first.headers.get("Stream-Next-Offset"), apply(rest.state, { type: "step", cost: 1 }));
assert.deepEqual([end.state.done, end.state.ended], [steps, true]);

// What came before the kept state is needed no longer.
const trim = await call(`${base}/workflows/-/trim/${run.split("/").pop()}?before=${checkpoint.offset}`, { method: "POST" });
assert.equal(trim.headers.get("Stream-Earliest-Offset"), checkpoint.offset);
const kept = await replay(checkpoint.offset, checkpoint.state);
assert.deepEqual(kept.state, end.state);
assert.equal((await fetch(`${run}?offset=${begun}`)).status, 410, "what was trimmed is gone");
await call(run, { method: "DELETE" });
console.log(`replay: ${end.state.done} steps, and the state is the same from wherever it is replayed`);
