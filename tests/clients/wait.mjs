// Waiting for what others do.

/** Waits until `condition` holds; throws `what` when it does not within 30 s. */
export async function until(what, condition) {
  const deadline = Date.now() + 30_000
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(what)
    await nap(5)
  }
}

export const nap = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
