// The positions of a file's lines by key, in columns of numbers: about thirty bytes per key, where a map of objects takes
// hundreds. Keys are found by a checksum, so that a position only says where a key may be; the line there decides.
import { crc32c } from "./crc32c.js";

export interface Place {
  offset: number;
  bytes: number;
}

const grown = <T extends Uint32Array | Float64Array>(old: T, make: new (n: number) => T): T => {
  const now = new make(2 * old.length);
  now.set(old);
  return now;
};

export class PlaceIndex {
  #slots = new Uint32Array(1 << 10); // entry + 1, or 0; at most half are taken
  #hashes = new Uint32Array(1 << 9);
  #offsets = new Float64Array(1 << 9);
  #bytes = new Uint32Array(1 << 9);
  #count = 0;

  get size(): number {
    return this.#count;
  }

  /** Places that were added under this key, or under another with its checksum, the first added first. */
  *find(key: string): Generator<Place> {
    const hash = crc32c(Buffer.from(key));
    for (let at = this.#start(hash); this.#slots[at] !== 0; at = this.#next(at)) {
      const entry = this.#slots[at]! - 1;
      if (this.#hashes[entry] === hash) yield { offset: this.#offsets[entry]!, bytes: this.#bytes[entry]! };
    }
  }

  add(key: string, { offset, bytes }: Place): void {
    if (this.#count === this.#hashes.length) this.#grow();
    const entry = this.#count++;
    this.#hashes[entry] = crc32c(Buffer.from(key));
    this.#offsets[entry] = offset;
    this.#bytes[entry] = bytes;
    this.#insert(entry);
  }

  #start = (hash: number): number => Math.imul(hash, 0x9e3779b1) >>> (32 - Math.log2(this.#slots.length));
  #next = (at: number): number => (at + 1) % this.#slots.length;

  #insert(entry: number): void {
    let at = this.#start(this.#hashes[entry]!);
    while (this.#slots[at] !== 0) at = this.#next(at);
    this.#slots[at] = entry + 1;
  }

  #grow(): void {
    this.#hashes = grown(this.#hashes, Uint32Array);
    this.#offsets = grown(this.#offsets, Float64Array);
    this.#bytes = grown(this.#bytes, Uint32Array);
    this.#slots = new Uint32Array(2 * this.#hashes.length);
    for (let entry = 0; entry < this.#count; entry++) this.#insert(entry);
  }
}
