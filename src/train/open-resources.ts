// Work in a folder: what it opens is closed at its end, in whatever way it ends.
import { join } from "node:path";

export class Closing {
  readonly #list: (() => unknown)[] = [];

  /** Closed at the end, the last opened first. */
  keep<T>(value: T, close: () => unknown): T {
    this.#list.push(close);
    return value;
  }

  /** Does the work, then closes everything whatever fails; the first failure is thrown. */
  async after<T>(work: () => Promise<T>): Promise<T> {
    const [done] = await Promise.allSettled([work()]);
    const ends: PromiseSettledResult<unknown>[] = [done];
    for (const close of this.#list.reverse()) ends.push(...(await Promise.allSettled([Promise.resolve().then(close)])));
    for (const end of ends) if (end.status === "rejected") throw end.reason;
    return (done as PromiseFulfilledResult<T>).value;
  }
}

/** Work in a folder of its own. */
export abstract class FolderWork<R> {
  protected readonly closing = new Closing();

  protected constructor(protected readonly dir: string) {}

  protected at(name: string): string {
    return join(this.dir, name);
  }

  protected abstract work(): Promise<R>;

  run(): Promise<R> {
    return this.closing.after(() => this.work());
  }
}
