// The official server suite, as it is published; its own command line finds no tests.
import { runConformanceTests } from "@durable-streams/server-conformance-tests"

runConformanceTests({
  baseUrl: process.env.WEIR_URL,
  subscriptions: true,
  longPollTimeoutMs: Number(process.env.WEIR_SUITE_LONG_POLL_MS),
})
