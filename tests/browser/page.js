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
