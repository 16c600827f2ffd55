// Handlers of the caller (onProgress): if a handler throws, or the promise that it returns rejects, its call fails with that
// error.

export class Handler<A> {
  readonly #callback: (value: A) => unknown;
  readonly #controller = new AbortController();
  readonly #pending = new Set<Promise<void>>();
  #failure: { error: unknown } | undefined;

  constructor(callback: (value: A) => unknown) {
    this.#callback = callback;
  }

  /** Aborted when the handler has failed, so that the work it was told of ends. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Never throws. After a failure the handler is not called again. */
  readonly call = (value: A): void => {
    if (this.#failure) return;
    try {
      const made = this.#callback(value) as Partial<PromiseLike<unknown>> | null | undefined;
      if (typeof made?.then === "function") this.#wait(Promise.resolve(made as PromiseLike<unknown>));
    } catch (error) {
      this.#fail(error);
    }
  };

  #wait(made: Promise<unknown>): void {
    const waiting: Promise<void> = made.then(
      () => {},
      (error) => this.#fail(error),
    );
    this.#pending.add(waiting);
    void waiting.then(() => this.#pending.delete(waiting));
  }

  #fail(error: unknown): void {
    if (this.#failure) return;
    this.#failure = { error };
    this.#controller.abort(error);
  }

  /** Throws what the handler failed with, if it did. */
  check(): void {
    if (this.#failure) throw this.#failure.error;
  }

  /** Waits for the promises that the handler gave, and throws what it failed with. */
  async settled(): Promise<void> {
    while (this.#pending.size > 0 && !this.#failure) await Promise.race(this.#pending);
    this.check();
  }
}
