// Run: one object that is the promise of a result and the stream of its events. It starts at once; leaving the loop early
// aborts it.
import { IsrDpoError } from "./errors.js";

/** A result to await and events to iterate. `break` out of the loop, or abort(), ends the work. */
export interface Run<E, R> extends AsyncIterable<E>, PromiseLike<R> {
  readonly result: Promise<R>;
  abort(reason?: unknown): void;
}

export type RunBody<E, R> = (signal: AbortSignal, emit: (event: E) => void) => Promise<R>;

/**
 * Starts `body` now. Events wait for a reader from the start; the first await without a reader drops them, so that a run
 * which is only awaited keeps nothing. `coalesce(queued, next)` may merge an event into one that still waits (progress,
 * text): a slow reader loses these in-between states, never others.
 */
export function startRun<E, R>(
  signal: AbortSignal | undefined,
  body: RunBody<E, R>,
  coalesce?: (queued: E, next: E) => E | undefined,
): Run<E, R> {
  return new StartedRun(signal, body, coalesce);
}

class StartedRun<E, R> implements Run<E, R> {
  readonly #result: Promise<R>;
  readonly #controller = new AbortController();
  readonly #coalesce: ((queued: E, next: E) => E | undefined) | undefined;
  #events: E[] = [];
  #keeping = true;
  #reading = false;
  #settled = false;
  #wake: (() => void) | undefined;

  constructor(signal: AbortSignal | undefined, body: RunBody<E, R>, coalesce?: (queued: E, next: E) => E | undefined) {
    this.#coalesce = coalesce;
    const forward = () => this.#controller.abort(signal?.reason);
    if (signal?.aborted) forward();
    else signal?.addEventListener("abort", forward, { once: true });
    this.#result = this.#work(body).finally(() => {
      signal?.removeEventListener("abort", forward);
      this.#settled = true;
      this.#wake?.();
    });
  }

  async #work(body: RunBody<E, R>): Promise<R> {
    this.#controller.signal.throwIfAborted();
    return body(this.#controller.signal, (event) => this.#emit(event));
  }

  #emit(event: E): void {
    if (!this.#keeping) return;
    if (this.#coalesce)
      for (let i = this.#events.length - 1; i >= 0; i--) {
        const merged = this.#coalesce(this.#events[i]!, event);
        if (merged === undefined) continue;
        this.#events[i] = merged;
        return;
      }
    this.#events.push(event);
    this.#wake?.();
  }

  get result(): Promise<R> {
    return this.#result;
  }

  // biome-ignore lint/suspicious/noThenProperty: a Run is awaited like a promise
  then<A = R, B = never>(
    resolve?: ((value: R) => A | PromiseLike<A>) | null,
    reject?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    if (!this.#reading) {
      this.#keeping = false;
      this.#events = [];
    }
    return this.#result.then(resolve, reject);
  }

  abort(reason: unknown = new DOMException("The run was aborted", "AbortError")): void {
    this.#controller.abort(reason);
  }

  [Symbol.asyncIterator](): AsyncIterator<E, undefined> {
    if (this.#reading) throw new IsrDpoError("INVALID_ARGUMENT", "the events of a run can be read once");
    this.#reading = this.#keeping = true;
    this.#result.catch(() => {}); // the loop throws it: `result` counts as handled
    return {
      next: async () => {
        while (this.#events.length === 0) {
          if (this.#settled) {
            await this.#result; // throws what the run failed with
            return { done: true, value: undefined };
          }
          await new Promise<void>((wake) => {
            this.#wake = wake;
          });
        }
        return { done: false, value: this.#events.shift()! };
      },
      return: async () => {
        this.#keeping = false;
        this.#events = [];
        this.abort();
        await this.#result.catch(() => {}); // the work has ended when the loop has been left
        return { done: true, value: undefined };
      },
    };
  }
}
