// Frames as ffmpeg's ppm encoder writes them, one after the other; each states its own size.
import type { Frame } from "./preprocess.js";

export const maxSide = 16384;

export class PpmReader {
  readonly frames: Frame[] = [];
  #header = "";
  #frame: { data: Uint8Array; height: number; width: number } | undefined;
  #filled = 0;
  readonly #room: { bytes: number };

  /** `room`: bytes that frames may take, shared by the readers of one clip. */
  constructor(room: { bytes: number }) {
    this.#room = room;
  }

  /** False when there is more than there is room for, or it is no such stream. */
  take(chunk: Buffer): boolean {
    for (let at = 0; at < chunk.length; ) {
      if (!this.#frame) {
        this.#header += String.fromCharCode(chunk[at++]!);
        if (!this.#begin()) return false;
        continue;
      }
      const { data } = this.#frame;
      const part = chunk.subarray(at, at + data.length - this.#filled);
      data.set(part, this.#filled);
      at += part.length;
      this.#filled += part.length;
      if (this.#filled < data.length) continue;
      this.frames.push(this.#frame);
      this.#frame = undefined;
    }
    return true;
  }

  #begin(): boolean {
    const [, w, h] = /^P6\n(\d+) (\d+)\n255\n$/.exec(this.#header) ?? [];
    if (w === undefined || h === undefined) return this.#header.length < 32;
    const [width, height] = [Number(w), Number(h)];
    this.#room.bytes -= width * height * 3;
    if (this.#room.bytes < 0 || width > maxSide || height > maxSide || width * height === 0) return false;
    this.#frame = { data: new Uint8Array(width * height * 3), height, width };
    this.#filled = 0;
    this.#header = "";
    return true;
  }
}
