// What a page does with streams of another origin. The test calls these functions by name; `say` tells it something
// at once.

/** Follows a stream of `{number, at}` by EventSource until it is closed: each number, and how late it came in ms. */
async function follow(url, isNative) {
  // Authorization is what people take the polyfill for.
  const headers = { Authorization: "Bearer none" }
  const source = isNative ? new EventSource(url) : new EventSourcePolyfill(url, { headers })
  const messages = []
  source.addEventListener("open", () => say("open"))
  source.addEventListener("data", ({ data }) => {
    const now = Date.now()
    for (const { number, at } of JSON.parse(data)) messages.push([number, now - at])
  })
  // Every end of a response is an error to it; only the end of a closed stream leaves it closed.
  await new Promise((resolve) => {
    source.addEventListener("error", () => source.readyState === source.CLOSED && resolve())
  })
  return messages
}

/** Creates, appends and reads with `fetch`, and tries what is only for operators. */
async function fetches(url) {
  const json = { "content-type": "application/json" }
  const traced = { "cache-control": "no-cache", traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" }
  const created = await fetch(url, { method: "PUT", headers: { ...json, ...traced } })
  const appended = await fetch(url, { method: "POST", headers: { ...json, ...traced }, body: '{"from":"page"}' })
  const read = await fetch(`${url}?offset=-1`, { headers: traced })
  const operators = await fetch(new URL("/-/buckets", url)).then(({ status }) => status, ({ name }) => name)
  return {
    created: created.status,
    location: created.headers.get("location"),
    appended: appended.status,
    tail: appended.headers.get("stream-next-offset"),
    read: read.status,
    next: read.headers.get("stream-next-offset"),
    etag: read.headers.get("etag"),
    messages: await read.json(),
    operators,
  }
}

/** Follows a stream of text with `fetch` and a token until it is closed; says what comes when it comes. */
async function streams(url) {
  const response = await fetch(url, { headers: { Authorization: "Bearer none" } })
  const events = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let text = ""
  let control
  for (;;) {
    const { done, value } = await events.read()
    if (done) return { status: response.status, control }
    text += value
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const fields = Object.fromEntries(text.slice(0, end).split("\n").map((line) => line.split(/: ?(.*)/s)))
      if (fields.event === "data") say(fields.data)
      if (fields.event === "control") control = JSON.parse(fields.data)
    }
  }
}

/** The names of all header fields that the page can read, over requests that are answered with every one of them. */
async function headers(url, trimmedUrl) {
  const names = new Set()
  const ask = async (target, method = "GET", fields = {}, body = undefined) => {
    const stop = new AbortController()
    const response = await fetch(target, { method, headers: fields, body, signal: stop.signal })
    for (const name of response.headers.keys()) names.add(name)
    // Some would go on for as long as the stream is open.
    stop.abort()
  }
  const bytes = { "content-type": "application/octet-stream" }
  const producer = (seq) => ({ ...bytes, "producer-id": "page", "producer-epoch": "1", "producer-seq": `${seq}` })
  await ask(url, "PUT", { ...bytes, "stream-ttl": "3600" })
  await ask(url, "HEAD")
  await ask(url, "POST", producer(0), "one")
  await ask(url, "POST", producer(2), "three")
  await ask(`${url}?offset=-1`)
  await ask(`${url}?offset=-1&live=long-poll`)
  await ask(`${url}?offset=-1&live=sse`)
  await ask(url, "POST", { "stream-closed": "true" })
  await ask(`${url}-expires`, "PUT", { ...bytes, "stream-expires-at": "2999-01-01T00:00:00Z" })
  await ask(`${url}-expires`, "HEAD")
  await ask(trimmedUrl, "HEAD")
  return [...names].sort()
}
