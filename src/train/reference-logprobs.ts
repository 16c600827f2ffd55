// Reference log-probs of a run: they are scored once and kept per token with their items, in a file of records that carry
// their own checksums. Scoring that was killed resumes after the last complete record.
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { IsrDpoError } from "../base/errors.js";
import { crc32c } from "../runfolder/crc32c.js";
import { between } from "../base/failpoint.js";
import { readAll, writeAll } from "../base/atomic-files.js";
import { guarded } from "../base/file-errors.js";

export interface Reference {
  chosen: Float32Array;
  rejected: Float32Array;
}

const headerBytes = 12; // item, scored tokens of chosen, of rejected: u32 each
const sumBytes = 4;

function encode(item: number, { chosen, rejected }: Reference): Buffer {
  const bytes = Buffer.alloc(headerBytes + 4 * (chosen.length + rejected.length) + sumBytes);
  bytes.writeUInt32LE(item, 0);
  bytes.writeUInt32LE(chosen.length, 4);
  bytes.writeUInt32LE(rejected.length, 8);
  let at = headerBytes;
  for (const x of [...chosen, ...rejected]) at = bytes.writeFloatLE(x, at);
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, at)), at);
  return bytes;
}

const maxTokens = 1 << 24; // per side: a larger number means a damaged header

export class ReferenceStore {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #starts: number[]; // byte offset of the record of each item
  #end: number;

  private constructor(path: string, file: FileHandle, starts: number[], end: number) {
    this.#path = path;
    this.#file = file;
    this.#starts = starts;
    this.#end = end;
  }

  /** Opens or begins the file; what follows the last whole record is cut off. */
  static async open(path: string): Promise<ReferenceStore> {
    const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;
    const file = await guarded(path, "open", () => open(path, flags, 0o666));
    try {
      const { size } = await file.stat();
      const starts: number[] = [];
      let at = 0;
      while (at < size) {
        const length = await guarded(path, "read", () => wholeRecord(file, at, size, starts.length));
        if (length === 0) break;
        starts.push(at);
        at += length;
      }
      if (at < size) await guarded(path, "cut the tail of", () => between("cut", path, () => file.truncate(at)));
      return new ReferenceStore(path, file, starts, at);
    } catch (e) {
      await file.close();
      throw e;
    }
  }

  /** Items scored so far: 0 .. count - 1. */
  get count(): number {
    return this.#starts.length;
  }

  async append(references: readonly Reference[]): Promise<void> {
    const records = references.map((r, i) => encode(this.#starts.length + i, r));
    const bytes = Buffer.concat(records);
    await guarded(this.#path, "append to", () => writeAll(this.#file, bytes, this.#end, this.#path));
    for (const r of records) {
      this.#starts.push(this.#end);
      this.#end += r.length;
    }
  }

  async get(item: number): Promise<Reference> {
    const begin = this.#starts[item]!;
    const bytes = Buffer.alloc((this.#starts[item + 1] ?? this.#end) - begin);
    await guarded(this.#path, "read", () => readAll(this.#file, bytes, begin));
    const sum = bytes.length - sumBytes;
    if (bytes.readUInt32LE(sum) !== crc32c(bytes.subarray(0, sum)))
      throw new IsrDpoError("JOURNAL_CORRUPT", `the reference log-probs of item ${item} are damaged (byte ${begin})`, {
        hint: "delete the run folder's refs.f32 and start again: it is scored anew",
      });
    const values = (from: number, n: number) =>
      Float32Array.from({ length: n }, (_, i) => bytes.readFloatLE(headerBytes + 4 * (from + i)));
    const chosen = bytes.readUInt32LE(4);
    return { chosen: values(0, chosen), rejected: values(chosen, bytes.readUInt32LE(8)) };
  }

  async sync(): Promise<void> {
    await guarded(this.#path, "sync", () => between("sync", this.#path, () => this.#file.datasync()));
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

/** Bytes of the record at `at`; 0 when it is not whole. */
async function wholeRecord(file: FileHandle, at: number, size: number, item: number): Promise<number> {
  const header = Buffer.alloc(headerBytes);
  if (at + headerBytes > size) return 0;
  await readAll(file, header, at);
  const tokens = [header.readUInt32LE(4), header.readUInt32LE(8)];
  if (header.readUInt32LE(0) !== item || tokens.some((n) => n > maxTokens)) return 0;
  const length = headerBytes + 4 * (tokens[0]! + tokens[1]!) + sumBytes;
  if (at + length > size) return 0;
  const bytes = Buffer.alloc(length);
  await readAll(file, bytes, at);
  const sum = length - sumBytes;
  return bytes.readUInt32LE(sum) === crc32c(bytes.subarray(0, sum)) ? length : 0;
}
