// A stream per document: people who edit a Yjs document at the same time, and somebody who opens it later.
// Usage: node documents.mjs [BASE_URL]   (default http://127.0.0.1:4437)

import assert from "node:assert/strict";
import * as Y from "yjs";

const base = (process.argv[2] ?? "http://127.0.0.1:4437").replace(/\/$/, "");

async function call(url, options = {}) {
  const answer = await fetch(url, options);
  if (!answer.ok) throw new Error(`${options.method ?? "GET"} ${url}: ${answer.status} ${await answer.text()}`);
  return answer;
}

/** Somebody who has a document open. Its stream holds updates of Yjs, a JSON message each, in whatever order they have come. */
class Editor {
  constructor(url) {
    this.url = url;
    this.doc = new Y.Doc();
    this.text = this.doc.getText("text");
    this.sent = Promise.resolve();
    this.leaving = new AbortController();
    // What comes from the stream is not sent there again.
    this.doc.on("update", (update, origin) => origin === this || this.#send(update));
  }

  /** Opens a document, which is made if need be; gives an editor that has all of it. */
  static async open(name) {
    const editor = new Editor(`${base}/documents/${name}`);
    await call(editor.url, { method: "PUT", headers: { "Content-Type": "application/json" } });
    let offset = "-1";
    for (let isWhole = false; !isWhole; ) {
      const page = await call(`${editor.url}?offset=${offset}`);
      (await page.json()).forEach((update) => editor.#take(update));
      offset = page.headers.get("Stream-Next-Offset");
      isWhole = page.headers.has("Stream-Up-To-Date");
    }
    editor.following = editor.#follow(offset);
    return editor;
  }

  /** Stops following, once everything is sent. */
  async close() {
    await this.sent;
    this.leaving.abort();
    await this.following;
  }

  #take(update) {
    Y.applyUpdate(this.doc, Buffer.from(update, "base64"), this);
  }

  /** Updates go out one after the other. A real editor would keep them while it is offline, and number them to send them again. */
  #send(update) {
    const body = JSON.stringify(Buffer.from(update).toString("base64"));
    const headers = { "Content-Type": "application/json" };
    this.sent = this.sent.then(() => call(this.url, { method: "POST", headers, body }));
  }

  /** Takes updates as they come. */
  async #follow(offset) {
    while (!this.leaving.signal.aborted) {
      try {
        const page = await call(`${this.url}?offset=${offset}&live=long-poll`, { signal: this.leaving.signal });
        if (page.status === 200) (await page.json()).forEach((update) => this.#take(update));
        offset = page.headers.get("Stream-Next-Offset");
      } catch (error) {
        if (!this.leaving.signal.aborted) throw error;
      }
    }
  }
}

async function until(what, isSo) {
  for (let tries = 0; !isSo(); tries += 1) {
    if (tries > 1000) throw new Error(`it has not come about: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const names = ["minutes", "menu"].map((name) => `${name}-${Date.now()}`);
for (const name of names) {
  const [ann, bob] = [await Editor.open(name), await Editor.open(name)];
  // Both write at the same place at the same time; each has its own words first, until the other's come.
  for (let word = 0; word < 20; word += 1) {
    ann.text.insert(0, `a${word} `);
    bob.text.insert(0, `b${word} `);
  }
  await until("both have all", () => ann.text.length === 140 && ann.text.toString() === bob.text.toString());
  ann.text.delete(0, 10);
  await ann.sent;

  const late = await Editor.open(name);
  await until("all three have the same", () => [bob, late].every(({ text }) => text.toString() === ann.text.toString()));
  assert.equal(late.text.length, 130);
  console.log(`${name}: three editors have the same ${late.text.length} characters`);
  for (const editor of [ann, bob, late]) await editor.close();
  await call(ann.url, { method: "DELETE" });
}
