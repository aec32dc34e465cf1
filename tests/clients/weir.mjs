// What the scripts share: the server under test, which is killed and started at their word, and their report.
//
// The test reads stdout: the words `kill` and `start`, each answered by a line on stdin once it is done, and at the
// end the report.
import { createInterface } from "node:readline"

// Longer than any script takes; one that hangs is a failure.
const WITHIN_MS = 120_000

setTimeout(() => {
  console.error(`the script has not come to an end within ${WITHIN_MS} ms`)
  process.exit(1)
}, WITHIN_MS).unref()

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]()

async function order(word) {
  process.stdout.write(`${word}\n`)
  if ((await answers.next()).done) process.exit(1)
}

/** Kills the server as `kill -9` does; gives back when it is gone. */
export const kill = () => order("kill")

/** Starts the server again, on the same data and port; gives back when it is ready. */
export const start = () => order("start")

/** The URL of a stream. */
export const streamUrl = (name) => `${process.env.WEIR_URL}/v1/stream/${name}`

/**
 * Ends the script. The test compares the records `written` to the stream `name` with what is stored in it and with
 * each of `reads`, all in their order, and sees that the stream is closed.
 */
export function report(name, written, reads) {
  process.stdout.write(`${JSON.stringify({ name, written, reads })}\n`, () => process.exit(0))
}
