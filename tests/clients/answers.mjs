// For transports that append without a producer: whether the server has answered all that it was sent.
//
// An append whose answer is lost is sent again and stored twice; the protocol's remedy is the producer, which these
// packages do not use. So the server dies when none of their appends is on its way.
import { until } from "./wait.mjs"

const { fetch } = globalThis
let unanswered = 0

globalThis.fetch = async (url, options) => {
  if (options?.method !== "POST") return fetch(url, options)
  unanswered += 1
  try {
    return await fetch(url, options)
  } finally {
    unanswered -= 1
  }
}

/** Waits until every append has its answer. */
export const allAnswered = () => until("every append is answered", () => unanswered === 0)
