// Lines of a text file, cut only at 0x0A: U+2028 and a lone carriage return are part of a row. Memory holds one block and one
// line, whatever the size of the file.
import { isUtf8 } from "node:buffer";
import type { FileHandle } from "node:fs/promises";
import { integer, options, path as checkPath } from "./check.js";
import { openForReading, rowError } from "./data-fault.js";
import { guarded } from "./file-errors.js";

export interface Line {
  /** Without its end; the first line also without a byte order mark. */
  text: string;
  /** From 1. */
  line: number;
  /** Bytes before the line's first. */
  offset: number;
}

export const maxLineBytes = 16 << 20;
const blockBytes = 256 << 10;
const mark = "\ufeff";

/** A line as it stands in a file or stream. */
export interface RawLine {
  /** From 1. */
  number: number;
  /** Bytes before the line's first. */
  offset: number;
  /** Bytes of the line, its end included. */
  size: number;
  /** With its end; null for a line that is too long. Only until the next piece is pushed. */
  bytes: Buffer | null;
  /** There is a newline behind it. */
  ended: boolean;
}

/** Cuts a stream of bytes into lines. What belongs to a line that is too long is counted and dropped. */
export class LineSplitter {
  #parts: Buffer[] = [];
  #held = 0;
  #number = 1;
  #offset = 0;

  /** `limit`: the most bytes of a line, without its end. */
  constructor(readonly limit: number) {}

  /** Number of the line that has begun, from 1. */
  get number(): number {
    return this.#number;
  }

  /** Bytes of the line that has begun. */
  get held(): number {
    return this.#held;
  }

  /** The lines that end in `chunk`, which may be overwritten afterwards. */
  *push(chunk: Buffer): Generator<RawLine> {
    let from = 0;
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, from)) {
      yield this.#take(chunk.subarray(from, at + 1), true);
      from = at + 1;
    }
    if (from === chunk.length) return;
    this.#held += chunk.length - from;
    if (this.#held <= this.limit) this.#parts.push(Buffer.from(chunk.subarray(from)));
    else this.#parts = [];
  }

  /** The last line, where there is no newline behind it. */
  *end(): Generator<RawLine> {
    if (this.#held > 0) yield this.#take(Buffer.alloc(0), false);
  }

  #take(last: Buffer, ended: boolean): RawLine {
    const size = this.#held + last.length;
    const fits = size - (ended ? 1 : 0) <= this.limit;
    const bytes = !fits ? null : this.#parts.length === 0 ? last : Buffer.concat([...this.#parts, last]);
    const line = { number: this.#number++, offset: this.#offset, size, bytes, ended };
    this.#parts = [];
    this.#held = 0;
    this.#offset += size;
    return line;
  }
}

/** Lines of an open file from its beginning, `blockBytes` read at a time. */
export async function* rawLines(
  file: FileHandle,
  path: string,
  o: { limit: number; blockBytes: number },
): AsyncGenerator<RawLine> {
  const block = Buffer.allocUnsafe(o.blockBytes);
  const splitter = new LineSplitter(o.limit);
  for (let at = 0; ; ) {
    const { bytesRead } = await guarded(path, "read", () => file.read(block, 0, block.length, at));
    if (bytesRead === 0) break;
    at += bytesRead;
    yield* splitter.push(block.subarray(0, bytesRead));
  }
  yield* splitter.end();
}

/** The text of a line without its end, or what is wrong with it. */
function textOf({ bytes, size, ended }: RawLine, limit: number): { text: string } | { fault: string } {
  const length = size - (ended ? 1 : 0);
  if (bytes === null) return { fault: `expected a line of at most ${limit} bytes, got ${length}` };
  const whole = bytes.subarray(0, length);
  if (!isUtf8(whole)) return { fault: "expected UTF-8 text, got other bytes" };
  return whole.includes(0) ? { fault: "expected text, got a NUL byte" } : { text: whole.toString("utf8") };
}

/** A line that is no text, and what is wrong with it. */
export interface BadLine {
  line: number;
  fault: string;
}

/** Lines in order, and in place of one that is no text its fault. */
export async function* scanLines(path: string, limit: number): AsyncGenerator<Line | BadLine> {
  const file = await openForReading(path);
  try {
    for await (const raw of rawLines(file, path, { limit, blockBytes })) {
      const { number: line, offset } = raw;
      const found = textOf(raw, limit);
      if ("fault" in found) yield { line, fault: found.fault };
      else yield { text: line === 1 && found.text.startsWith(mark) ? found.text.slice(1) : found.text, line, offset };
    }
  } finally {
    await file.close();
  }
}

/**
 * Streams the lines of a file, the last one with or without a newline. Throws DATA_INVALID with path and line for a line
 * of more than `maxLineBytes` (default 16 MiB), with a NUL byte or with bytes that are no UTF-8; NOT_FOUND, IO.
 */
export async function* readLines(path: string, o?: { maxLineBytes?: number }): AsyncGenerator<Line> {
  checkPath("path", path);
  const given = options("options", o, ["maxLineBytes"]).maxLineBytes ?? maxLineBytes;
  for await (const line of scanLines(path, integer("options.maxLineBytes", given, 1))) {
    if ("fault" in line) throw rowError({ path, line: line.line, unit: "line" }, line.fault);
    yield line;
  }
}
