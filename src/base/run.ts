// Run: one object that is the promise of a result and the stream of its events. It starts at once; leaving the loop early
// aborts it.
import { IsrDpoError } from "./errors.js";

/**
 * A promise of a result whose events can be iterated over. The work starts at once. Leaving the loop with `break`, or abort(), ends it.
 *
 * Events wait for a reader until a caller asks for the result alone (`await run`, `run.then`, `run.result`). From then on they are
 * dropped, unless a loop reads them. Wrong arguments reject the promise; the call itself does not throw.
 *
 * A run that fails while nobody listens is an unhandled rejection, as with any promise. A run that ends because the caller aborted
 * it, by abort() or by the signal of its options, or disposed of its model or session, is not.
 *
 * @typeParam E - type of the events
 * @typeParam R - type of the result
 */
export interface Run<E, R> extends AsyncIterable<E>, Promise<R> {
  /** The result, as a separate promise. */
  readonly result: Promise<R>;
  /** Ends the work; the promise then rejects with `reason` (default: an AbortError). On a finished run it does nothing. */
  abort(reason?: unknown): void;
}

export type RunBody<E, R> = (signal: AbortSignal, emit: (event: E) => void) => Promise<R>;

export interface RunRules<E> {
  /** May merge an event into one that still waits (progress): a slow reader loses these in-between states, never others. */
  coalesce?(queued: E, next: E): E | undefined;
  /** Whether a failure is the owner's own doing besides an abort, so that it is no unhandled rejection where nobody listens. */
  owned?(failure: unknown): boolean;
}

/** Starts `body` now; what it throws rejects the run. */
export function startRun<E, R>(
  signal: AbortSignal | undefined,
  body: RunBody<E, R>,
  rules: RunRules<E> = {},
): Run<E, R> {
  return new StartedRun(signal, body, rules);
}

/** Events further back than this many are not looked at when one is merged: an event must not cost the queue's length. */
const coalesceReach = 64;

/** First in, first out; taking one does not move the others. */
class Queue<E> {
  #items: E[] = [];
  #head = 0;

  get size(): number {
    return this.#items.length - this.#head;
  }

  push(item: E): void {
    this.#items.push(item);
  }

  take(): E {
    const item = this.#items[this.#head]!;
    this.#head += 1;
    if (this.#head >= 1024 && 2 * this.#head >= this.#items.length) {
      this.#items.splice(0, this.#head);
      this.#head = 0;
    }
    return item;
  }

  /** Replaces the newest item that `merge` gives something for. */
  merge(merge: (item: E) => E | undefined): boolean {
    const end = Math.max(this.#head, this.#items.length - coalesceReach);
    for (let i = this.#items.length - 1; i >= end; i--) {
      const merged = merge(this.#items[i]!);
      if (merged === undefined) continue;
      this.#items[i] = merged;
      return true;
    }
    return false;
  }

  clear(): void {
    this.#items = [];
    this.#head = 0;
  }
}

class StartedRun<E, R> implements Run<E, R> {
  readonly #result: Promise<R>;
  readonly #controller = new AbortController();
  readonly #rules: RunRules<E>;
  readonly #events = new Queue<E>();
  #keeping = true;
  #reading = false;
  #heard = false;
  #settled = false;
  #wake: (() => void) | undefined;

  constructor(signal: AbortSignal | undefined, body: RunBody<E, R>, rules: RunRules<E>) {
    this.#rules = rules;
    const forward = () => this.abort(signal?.reason);
    this.#result = this.#work(signal, body).finally(() => {
      signal?.removeEventListener("abort", forward);
      this.#settled = true;
      this.#wake?.();
    });
    if (signal?.aborted) forward();
    else signal?.addEventListener("abort", forward, { once: true });
  }

  async #work(signal: AbortSignal | undefined, body: RunBody<E, R>): Promise<R> {
    signal?.throwIfAborted();
    try {
      return await body(this.#controller.signal, (event) => this.#emit(event));
    } catch (e) {
      if (this.#rules.owned?.(e)) queueMicrotask(() => this.#result.catch(() => {})); // counts as handled
      throw e;
    }
  }

  #emit(event: E): void {
    if (!this.#keeping) return;
    const { coalesce } = this.#rules;
    if (coalesce && this.#events.merge((queued) => coalesce(queued, event))) return;
    this.#events.push(event);
    this.#wake?.();
  }

  /** Somebody wants the result. Unless a reader of the events comes in the same tick, nobody wants those. */
  #hear(): Promise<R> {
    this.#heard = true;
    queueMicrotask(() => {
      if (!this.#reading) this.#drop();
    });
    return this.#result;
  }

  #drop(): void {
    this.#keeping = false;
    this.#events.clear();
  }

  get result(): Promise<R> {
    return this.#hear();
  }

  get [Symbol.toStringTag](): string {
    return "Run";
  }

  // biome-ignore lint/suspicious/noThenProperty: a Run is awaited like a promise
  then<A = R, B = never>(
    resolve?: ((value: R) => A | PromiseLike<A>) | null,
    reject?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.#hear().then(resolve, reject);
  }

  catch<B = never>(reject?: ((reason: unknown) => B | PromiseLike<B>) | null): Promise<R | B> {
    return this.#hear().catch(reject);
  }

  finally(then?: (() => void) | null): Promise<R> {
    return this.#hear().finally(then);
  }

  abort(reason: unknown = new DOMException("The run was aborted", "AbortError")): void {
    if (this.#settled || this.#controller.signal.aborted) return;
    this.#controller.abort(reason);
    // A failure other than the abort must not get lost where nobody listens: thrown again it is an unhandled rejection.
    this.#result.catch((e) => {
      if (e !== reason && !this.#heard) throw e;
    });
  }

  [Symbol.asyncIterator](): AsyncIterator<E, undefined> {
    if (this.#reading) {
      const next = async () => {
        throw new IsrDpoError("INVALID_ARGUMENT", "the events of a run can be read once");
      };
      return { next };
    }
    this.#reading = this.#keeping = this.#heard = true;
    this.#result.catch(() => {}); // the loop throws it: `result` counts as handled
    return { next: () => this.#next(), return: () => this.#leave() };
  }

  async #next(): Promise<IteratorResult<E, undefined>> {
    while (this.#events.size === 0) {
      if (this.#settled) {
        await this.#result; // throws what the run failed with
        return { done: true, value: undefined };
      }
      await new Promise<void>((wake) => {
        this.#wake = wake;
      });
    }
    return { done: false, value: this.#events.take() };
  }

  async #leave(): Promise<IteratorResult<E, undefined>> {
    this.#drop();
    this.abort();
    await this.#result.catch(() => {}); // the work has ended when the loop has been left
    return { done: true, value: undefined };
  }
}
