// Vision features on disk: one file per clip, named by its key, with a checksum. Processes share the cache, and its size is
// bounded. Files appear complete or not at all and are read whole; a damaged file counts as missing. Nothing is memory-mapped,
// because a file that shrinks under a map would kill the process.
import { randomBytes } from "node:crypto";
import { lstat, mkdir, readdir, readFile, stat, unlink, utimes } from "node:fs/promises";
import { join } from "node:path";
import { sha256 } from "../base/sha256.js";
import { type AtomicFile, writeAtomically } from "../base/atomic-files.js";
import { IsrDpoError } from "../base/errors.js";
import { codeOf, type FileErrorOptions, guarded } from "../base/file-errors.js";
import { resolved } from "../base/option-rows.js";
import type { FeatureCacheOptions } from "../base/option-types.js";
import type { Tensor } from "../base/types.js";
import { hashOf } from "./file-hash.js";
import { cacheRows } from "./media-options.js";

/** Node's recursive mkdir says ENOENT whatever the system said: the plain one tells what is wrong. */
async function makeFolder(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true }).catch((e) => {
    if (codeOf(e) !== "ENOENT") throw e;
    return mkdir(dir).catch((plain) => {
      if (codeOf(plain) !== "EEXIST") throw plain;
    });
  });
}

export interface FeatureShape {
  rows: number;
  cols: number;
  dtype: Tensor["dtype"];
}

// magic, dtype, rows, cols, SHA-256 of key and data
const magic = "ISRFEAT1";
const headerBytes = 64;
const suffix = ".feat";
const named = /^[0-9a-f]{64}\.feat$/;
const unfinished = /^[0-9a-f]{64}\.feat\.(\d+)-[0-9a-f]{12}\.tmp$/;
const types = ["f32", "bf16", "u8", "i32"] as const;
const arrays = { f32: Float32Array, bf16: Uint16Array, u8: Uint8Array, i32: Int32Array };
const maxBytesOfFile = 2 ** 31;
const staleMs = 3_600_000;
const scanEvery = 64; // puts from one scan to the next: other processes fill the folder too

const refused: FileErrorOptions = {
  full: "make room, or bound the cache with maxBytes",
  other: "check that the cache's folder can be written",
  absent: "IO", // a row that wants features is not at fault
};

function headerOf(dtype: Tensor["dtype"], rows: number, cols: number, sum: string): Buffer {
  const header = Buffer.alloc(headerBytes);
  header.write(magic, 0, "latin1");
  header.writeUInt32LE(types.indexOf(dtype), 8);
  header.writeDoubleLE(rows, 16);
  header.writeDoubleLE(cols, 24);
  header.write(sum, 32, "hex");
  return header;
}

/** Names that the cache gives: only such files are ever counted or removed, whatever else lies in its folder. */
export const isFeatureName = (name: string): boolean => named.test(name) || unfinished.test(name);

/** Whether a name is that of a file whose writer ended before it was whole. */
export function isLeftOver(name: string): boolean {
  const writer = Number(unfinished.exec(name)?.[1] ?? 0);
  if (writer === 0 || writer === process.pid) return false;
  try {
    process.kill(writer, 0);
    return false;
  } catch (e) {
    return codeOf(e) === "ESRCH";
  }
}

/** Features by key. A missing folder is made at the first put. */
export class FeatureCache {
  readonly #dir: string;
  readonly #maxBytes: number;
  #counts = { hits: 0, misses: 0, corrupt: 0 };
  #bytes = 0; // size of the folder at the last scan, plus what was put since
  #putsUntilScan = 0;

  constructor(o: FeatureCacheOptions) {
    const { dir, maxBytes = Infinity } = resolved("featureCache", o, cacheRows);
    this.#dir = dir;
    this.#maxBytes = maxBytes;
  }

  get hits(): number {
    return this.#counts.hits;
  }
  /** Spoiled files included. */
  get misses(): number {
    return this.#counts.misses;
  }
  /** Files that were there and were not what they should be; the next put replaces them. */
  get corrupt(): number {
    return this.#counts.corrupt;
  }

  #pathOf(key: string): string {
    return join(this.#dir, sha256(key) + suffix);
  }

  /** The features of `key`, or null where there are none of that shape. A disk that cannot be read is a miss too. */
  async get(key: string, expect: FeatureShape): Promise<Tensor | null> {
    const path = this.#pathOf(key);
    const found = await this.#read(path, key, expect).catch((e) => (codeOf(e) === "ENOENT" ? null : undefined));
    if (found) {
      this.#counts.hits++;
      const now = new Date();
      await utimes(path, now, now).catch(() => {}); // a folder that may only be read can still be used
      return found;
    }
    this.#counts.misses++;
    if (found === undefined) this.#counts.corrupt++;
    return null;
  }

  async #read(path: string, key: string, { rows, cols, dtype }: FeatureShape): Promise<Tensor | undefined> {
    const type = arrays[dtype];
    const bytes = rows * cols * type.BYTES_PER_ELEMENT;
    if ((await stat(path)).size !== headerBytes + bytes) return undefined;
    const file = await readFile(path);
    if (file.length !== headerBytes + bytes) return undefined;
    const data = new type(rows * cols);
    new Uint8Array(data.buffer).set(file.subarray(headerBytes));
    const header = headerOf(dtype, rows, cols, await hashOf([key, data]));
    return file.subarray(0, headerBytes).equals(header) ? { dtype, shape: [rows, cols], data } : undefined;
  }

  /** Keeps a tensor (rows, cols). DISK_FULL and IO leave the cache as it was. */
  async put(key: string, tensor: Tensor): Promise<void> {
    const [rows, cols] = tensor.shape as [number, number];
    const { data, dtype } = tensor;
    if (tensor.shape.length !== 2 || !(data instanceof arrays[dtype]) || data.length !== rows * cols)
      throw new IsrDpoError(
        "INVALID_ARGUMENT",
        `features: expected a tensor (rows, cols), got shape (${tensor.shape.join(", ")})`,
      );
    const bytes = headerBytes + data.byteLength;
    if (bytes > Math.min(this.#maxBytes, maxBytesOfFile)) return; // it would only push out all others
    const path = this.#pathOf(key);
    const temporary = `${path}.${process.pid}-${randomBytes(6).toString("hex")}.tmp`;
    const header = headerOf(dtype, rows, cols, await hashOf([key, data]));
    await guarded(this.#dir, "make", () => makeFolder(this.#dir), refused);
    const write = async (file: AtomicFile) => {
      await file.write(header);
      await file.write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    };
    await writeAtomically(path, write, { ...refused, temporary, cache: true });
    this.#bytes += bytes;
    if (this.#maxBytes !== Infinity && (--this.#putsUntilScan < 0 || this.#bytes > this.#maxBytes))
      await guarded(this.#dir, "make room in", () => this.#makeRoom(), refused);
  }

  /** Looks at the folder; removes what was used longest ago until the rest fits, and temporary files of processes that died. */
  async #makeRoom(): Promise<void> {
    const files: { path: string; size: number; used: number }[] = [];
    for (const name of await readdir(this.#dir)) {
      const path = join(this.#dir, name);
      const facts = await lstat(path).catch(() => undefined); // another process may have removed it
      if (!facts?.isFile()) continue;
      if (named.test(name)) files.push({ path, size: facts.size, used: facts.mtimeMs });
      else if (unfinished.test(name) && Date.now() - facts.mtimeMs > staleMs) await unlink(path).catch(() => {});
    }
    files.sort((a, b) => a.used - b.used);
    this.#bytes = files.reduce((sum, f) => sum + f.size, 0);
    for (const { path, size } of files) {
      if (this.#bytes <= this.#maxBytes) break;
      await unlink(path).catch(() => {});
      this.#bytes -= size;
    }
    this.#putsUntilScan = scanEvery;
  }
}
