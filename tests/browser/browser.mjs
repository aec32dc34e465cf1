// Serves a page on an origin of its own, opens it in Chromium and calls one of its functions:
// `node browser.mjs FUNCTION ARGUMENT...`, each argument JSON.
//
// Prints lines of JSON: `{"said": ...}` for what the page says meanwhile, and at the end
// `{"returned": ..., "requests": [...]}` with the URLs that the page has asked other origins for.
import { readFile } from "node:fs/promises"
import { createServer } from "node:http"
import { chromium } from "playwright-core"

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium"
// Longer than any function takes; a page that hangs is a failure.
const WITHIN_MS = 240_000

const FILES = {
  "/": ["page.html", "text/html"],
  "/page.js": ["page.js", "text/javascript"],
  "/event-source-polyfill.js": ["node_modules/event-source-polyfill/src/eventsource.js", "text/javascript"],
}

const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)

setTimeout(() => {
  console.error(`the page has not come to an end within ${WITHIN_MS} ms`)
  process.exit(1)
}, WITHIN_MS)

const pages = createServer(async (request, response) => {
  const [file, type] = FILES[request.url] ?? []
  response.writeHead(file ? 200 : 404, { "content-type": type ?? "text/plain" })
  response.end(file && (await readFile(file)))
})
await new Promise((resolve) => pages.listen(0, "127.0.0.1", resolve))
const origin = `http://127.0.0.1:${pages.address().port}`

// Nothing that Chromium does by itself leaves this machine.
const args = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
const browser = await chromium.launch({ executablePath: CHROMIUM, args })
const page = await browser.newPage()
const requests = []
page.on("request", (request) => request.url().startsWith(`${origin}/`) || requests.push(request.url()))
page.on("console", (message) => console.error(`page: ${message.text()}`))
await page.exposeFunction("say", (said) => print({ said }))
await page.goto(`${origin}/`)
const [name, ...values] = process.argv.slice(2)
const call = [name, values.map((value) => JSON.parse(value))]
const returned = await page.evaluate(([name, values]) => globalThis[name](...values), call)
print({ returned, requests })
await browser.close()
process.exit(0)
