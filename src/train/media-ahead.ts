// Opens the media of the items that come next while those at hand are computed: decoding and reading files need processors and disks
// that a device leaves alone. A step that has to decode its videos then waits only for what takes longer than the step before it.
import { setMaxListeners } from "node:events";
import type { TrainItem } from "../base/types.js";
import { internalsOf } from "../model/model.js";
import type { VideoLM } from "../model/video-lm.js";
import { type FileMedia, mediaFiles } from "./load-dataset.js";

/** Opens files; what it returns gives them back. A file that cannot be opened is left to whoever needs it. */
export type OpenMedia = (files: readonly FileMedia[], signal: AbortSignal) => Promise<() => void>;

/** Opens files as the model's calls do, so that the next call finds them open. */
export function mediaOpener(model: VideoLM): OpenMedia {
  const { media } = internalsOf(model).inputs;
  return async (files, signal) => {
    const settled = await Promise.allSettled(files.map((file) => media.acquire("media", file, signal)));
    const held = settled.flatMap((s) => (s.status === "fulfilled" ? [s.value] : []));
    return () => media.release(held);
  };
}

const nothing = () => {};

export class MediaAhead {
  readonly #open: OpenMedia;
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  #next: Promise<() => void> = Promise.resolve(nothing);

  constructor(open: OpenMedia, signal: AbortSignal) {
    this.#open = open;
    this.#signal = AbortSignal.any([signal, this.#stop.signal]);
    setMaxListeners(0, this.#signal); // each medium that is being opened adds a listener
  }

  /**
   * Waits for `work`, which has begun, and opens the media of the items behind it meanwhile. `next` may give none. Media stay open until
   * the work that they were opened for has ended.
   */
  async during<T>(work: Promise<T>, next: () => Promise<readonly TrainItem[]>): Promise<T> {
    const held = this.#next;
    this.#next = next()
      .then((items) => this.#open(items.flatMap(mediaFiles), this.#signal))
      .catch(() => nothing); // the items are read again by their own step, which tells what is wrong with them
    try {
      return await work;
    } finally {
      void held.then((giveBack) => giveBack());
    }
  }

  /** Gives back what was opened for items that do not come, and ends what is being opened. */
  end(): void {
    this.#stop.abort();
    void this.#next.then((giveBack) => giveBack());
  }
}
