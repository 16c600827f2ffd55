// Lines of a text file, cut at 0x0A alone: U+2028 and a lone carriage return are part of a row. Memory holds one block and
// one line, whatever the file's size.
import { isUtf8 } from "node:buffer";
import { integer, options, path as checkPath } from "../check.js";
import type { IsrDpoError } from "../errors.js";
import { ioError, openForReading, rowError } from "./fault.js";

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

/** The bytes of the line that has begun; those of a line that is too long are counted and dropped. */
class Pending {
  #parts: Buffer[] = [];
  bytes = 0;

  constructor(readonly limit: number) {}

  add(piece: Buffer): void {
    this.bytes += piece.length;
    if (this.bytes <= this.limit) this.#parts.push(Buffer.from(piece));
    else this.#parts = [];
  }

  /** The whole line, or what is wrong with it. */
  take(last: Buffer): { text: string } | { fault: string } {
    const bytes = this.bytes + last.length;
    const whole = this.#parts.length === 0 ? last : Buffer.concat([...this.#parts, last]);
    this.#parts = [];
    this.bytes = 0;
    if (bytes > this.limit) return { fault: `expected a line of at most ${this.limit} bytes, got ${bytes}` };
    if (!isUtf8(whole)) return { fault: "expected UTF-8 text, got other bytes" };
    return whole.includes(0) ? { fault: "expected text, got a NUL byte" } : { text: whole.toString("utf8") };
  }
}

/** A line that is no text. */
export interface BadLine {
  line: number;
  fault: IsrDpoError;
}

/** Lines in order, and in place of one that is no text its fault. */
export async function* scanLines(path: string, limit: number): AsyncGenerator<Line | BadLine> {
  const file = await openForReading(path);
  const block = Buffer.allocUnsafe(blockBytes);
  const pending = new Pending(limit);
  let [line, offset] = [1, 0];
  const end = (last: Buffer): Line | BadLine => {
    const begun = { line: line++, offset };
    offset += pending.bytes + last.length + 1;
    const taken = pending.take(last);
    if ("text" in taken)
      return { text: begun.line === 1 && taken.text.startsWith(mark) ? taken.text.slice(1) : taken.text, ...begun };
    return { line: begun.line, fault: rowError({ path, line: begun.line, unit: "line" }, taken.fault) };
  };
  try {
    for (;;) {
      const { bytesRead } = await file.read(block, 0, blockBytes).catch((e) => {
        throw ioError(path, e, "read");
      });
      if (bytesRead === 0) break;
      const read = block.subarray(0, bytesRead);
      let from = 0;
      for (let at = read.indexOf(10); at >= 0; at = read.indexOf(10, from)) {
        const whole = end(read.subarray(from, at));
        from = at + 1;
        yield whole;
      }
      if (from < bytesRead) pending.add(read.subarray(from));
    }
    if (pending.bytes > 0) yield end(Buffer.alloc(0));
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
    if ("fault" in line) throw line.fault;
    yield line;
  }
}
