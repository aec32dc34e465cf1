// An AI agent's run as a stream: its steps, somebody who watches, a branch that tries another way, and is thrown away.
// Usage: node run.mjs [BASE_URL]   (default http://127.0.0.1:4437)

import assert from "node:assert/strict";

const base = (process.argv[2] ?? "http://127.0.0.1:4437").replace(/\/$/, "");
const name = `run-${Date.now()}`;
const run = `${base}/agents/${name}`;
const branch = `${base}/agents/${name}-shorter`;

async function call(url, options = {}) {
  const answer = await fetch(url, options);
  if (!answer.ok) throw new Error(`${options.method ?? "GET"} ${url}: ${answer.status} ${await answer.text()}`);
  return answer;
}

/** A process that runs the agent. It numbers what it appends, so what it sends again is stored once. */
class Agent {
  constructor(url, producer) {
    Object.assign(this, { url, producer, epoch: 0, sequence: 0 });
  }

  /** Appends a step; gives the offset behind it. */
  async step(step) {
    const headers = {
      "Content-Type": "application/json",
      "Producer-Id": this.producer,
      "Producer-Epoch": this.epoch,
      "Producer-Seq": this.sequence,
    };
    const answer = await call(this.url, { method: "POST", headers, body: JSON.stringify(step) });
    this.sequence += 1;
    return answer.headers.get("Stream-Next-Offset");
  }
}

/** Calls `seen` with each step of a stream as it comes, until the stream is closed. */
async function watch(url, seen) {
  const answer = await call(`${url}?offset=-1&live=sse`);
  let text = "";
  for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
    text += part;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (event.includes("event: data")) JSON.parse(data).forEach(seen);
    }
  }
}

/** All steps of a stream. */
const steps = async (url) => (await call(`${url}?offset=-1`)).json();

await call(run, { method: "PUT", headers: { "Content-Type": "application/json" } });
const shown = [];
const watching = watch(run, (step) => {
  shown.push(step.text);
  console.log(`watched: ${step.text}`);
});

const agent = new Agent(run, "agent");
await agent.step({ type: "prompt", text: "Which of our invoices are late?" });
const planned = await agent.step({ type: "plan", text: "read the invoices, then ask the bank" });
await agent.step({ type: "tool", text: "invoices: 12 open" });

// The answer to a step got lost, so the agent sends it again. It is stored once.
agent.sequence -= 1;
await agent.step({ type: "tool", text: "invoices: 12 open" });
assert.equal((await steps(run)).length, 3);

// From the plan on, another way is tried beside this one: a fork has all up to there, and takes neither time nor space for it.
const headers = { "Stream-Forked-From": `/agents/${name}`, "Stream-Fork-Offset": planned };
await call(branch, { method: "PUT", headers });
const other = new Agent(branch, "agent");
await other.step({ type: "plan", text: "ask the bank alone" });
await other.step({ type: "answer", text: "cannot say" });
await agent.step({ type: "tool", text: "bank: 9 paid" });
const both = { run: await steps(run), branch: await steps(branch) };
assert.deepEqual(both.branch.slice(0, 2), both.run.slice(0, 2));
assert.deepEqual([both.run.length, both.branch.length], [4, 4]);
console.log(`tried beside it: ${both.branch.slice(2).map((step) => step.text).join("; ")}`);

// It was worse: it is thrown away, and the run knows nothing of it.
await call(branch, { method: "DELETE" });
assert.equal((await fetch(branch)).status, 404);
await agent.step({ type: "answer", text: "3 are late" });
await call(run, { method: "POST", headers: { "Stream-Closed": "true" } });

// Who watches is told that nothing will follow.
await watching;
assert.deepEqual(shown, (await steps(run)).map((step) => step.text));
await call(run, { method: "DELETE" });
console.log(`the run has ${shown.length} steps, and whoever watched has seen each once`);
