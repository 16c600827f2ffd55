// Work that several callers ask for at once is done once: callers that arrive while it runs wait for the same result or the
// same error.

interface Running<T> {
  promise: Promise<T>;
  controller: AbortController;
  waiting: number;
}

export class Shared<T> {
  readonly #running = new Map<string, Running<T>>();

  /** A caller that aborts leaves alone; the work is aborted when nobody waits for it any more. */
  async run(key: string, signal: AbortSignal | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    signal?.throwIfAborted();
    const running = this.#running.get(key) ?? this.#start(key, work);
    running.waiting++;
    let leave: (() => void) | undefined;
    const left = new Promise<never>((_, reject) => {
      leave = () => reject(signal!.reason);
      signal?.addEventListener("abort", leave, { once: true });
    });
    try {
      return await Promise.race([running.promise, left]);
    } finally {
      signal?.removeEventListener("abort", leave!);
      running.waiting--;
      if (running.waiting === 0) this.#end(key, running, signal?.reason);
    }
  }

  #start(key: string, work: (signal: AbortSignal) => Promise<T>): Running<T> {
    const controller = new AbortController();
    const promise = work(controller.signal);
    promise.catch(() => {}); // the callers that wait get the failure
    const running = { promise, controller, waiting: 0 };
    this.#running.set(key, running);
    return running;
  }

  #end(key: string, running: Running<T>, reason: unknown): void {
    if (this.#running.get(key) === running) this.#running.delete(key);
    running.controller.abort(reason);
  }
}
