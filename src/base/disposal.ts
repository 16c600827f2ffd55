// Things that are disposed of once, however often a caller asks for it.
import { asyncDispose } from "./addon.js";

export abstract class Disposable implements AsyncDisposable {
  #disposal: Promise<void> | undefined;

  /** Called at the first dispose() alone. */
  protected abstract close(): Promise<void>;

  dispose(): Promise<void> {
    this.#disposal ??= this.close();
    return this.#disposal;
  }

  [asyncDispose](): Promise<void> {
    return this.dispose();
  }
}
