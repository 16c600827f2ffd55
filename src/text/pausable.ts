// Work that can pause: a generator that yields where it may pause, and returns the result. It runs at once, or in slices
// between which the event loop and a signal get their turn.
import { setImmediate as pause } from "node:timers/promises";

/** Yields to be paused at; whatever is yielded is of no meaning. */
export type Steps<T> = Generator<unknown, T>;

const sliceMs = 8;

export function atOnce<T>(steps: Steps<T>): T {
  for (;;) {
    const next = steps.next();
    if (next.done) return next.value;
  }
}

/** The same result, in slices of a few milliseconds; rejects with the signal's reason. */
export async function inSlices<T>(steps: Steps<T>, signal?: AbortSignal): Promise<T> {
  let until = performance.now() + sliceMs;
  for (;;) {
    const next = steps.next();
    if (next.done) return next.value;
    if (performance.now() < until) continue;
    await pause();
    signal?.throwIfAborted();
    until = performance.now() + sliceMs;
  }
}
