// Failures of data files, in one form: where, what was expected, what was got.
import { type FileHandle, open } from "node:fs/promises";
import { ioError } from "./file-errors.js";
import { type ErrorCode, IsrDpoError, isIsrDpoError } from "./errors.js";

const rowFaults: readonly ErrorCode[] = [
  "DATA_INVALID",
  "INVALID_ARGUMENT",
  "CONTEXT_OVERFLOW",
  "PLACEHOLDER_MISMATCH",
  "MEDIA_UNREADABLE",
  "MEDIA_EMPTY",
  "NOT_FOUND",
];

/** Whether an error of working on a row is the row's own fault: nothing else is ever left out. */
export const isRowFault = (e: unknown): e is IsrDpoError => isIsrDpoError(e) && rowFaults.includes(e.code);

export async function openForReading(path: string): Promise<FileHandle> {
  try {
    const file = await open(path);
    if ((await file.stat()).isFile()) return file;
    await file.close();
  } catch (e) {
    throw ioError(path, e, "read");
  }
  throw new IsrDpoError("IO", `${path}: expected a regular file, got something else`, { path });
}

/** What a file that is no text begins with, by what it is; how to make rows of it. */
const packings: readonly [name: string, begins: readonly number[], todo: (path: string) => string][] = [
  ["a gzip file", [0x1f, 0x8b], (path) => `unpack it: gzip -dc ${path} > rows.jsonl`],
  ["a Zstandard file", [0x28, 0xb5, 0x2f, 0xfd], (path) => `unpack it: zstd -dc ${path} > rows.jsonl`],
  ["an xz file", [0xfd, 0x37, 0x7a, 0x58, 0x5a], (path) => `unpack it: xz -dc ${path} > rows.jsonl`],
  ["a bzip2 file", [0x42, 0x5a, 0x68], (path) => `unpack it: bzip2 -dc ${path} > rows.jsonl`],
  ["a zip archive", [0x50, 0x4b, 0x03, 0x04], () => "unpack it, and name the file inside"],
  ["UTF-16 text", [0xff, 0xfe], (path) => `save it as UTF-8: iconv -f UTF-16 -t UTF-8 ${path} > rows.jsonl`],
  ["UTF-16 text", [0xfe, 0xff], (path) => `save it as UTF-8: iconv -f UTF-16 -t UTF-8 ${path} > rows.jsonl`],
];

/** DATA_INVALID for a file of rows that is compressed, or in another encoding; its name does not matter. */
export async function refusePacked(path: string): Promise<void> {
  const file = await openForReading(path);
  const head = Buffer.alloc(8);
  try {
    await file.read(head, 0, head.length, 0);
  } catch (e) {
    throw ioError(path, e, "read");
  } finally {
    await file.close();
  }
  const found = packings.find(([, begins]) => begins.every((byte, i) => head[i] === byte));
  if (found) throw fileFault(path, `expected rows as text or Parquet, got ${found[0]}`, found[2](path));
}

export interface Place {
  path: string;
  /** Counted from 1: lines of a .jsonl file, rows of a .json or .parquet file. */
  line: number;
  unit: "line" | "row";
}

const spell = ({ path, line, unit }: Place) => (unit === "line" ? `${path}:${line}` : `${path}: row ${line}`);

/** DATA_INVALID of a place; `field` is the row's, where there is one. */
export function rowError(place: Place, message: string, field?: string, cause?: unknown): IsrDpoError {
  return new IsrDpoError("DATA_INVALID", `${spell(place)}: ${message}`, {
    hint: 'correct the row, or leave such rows out with onBadRow: "skip"',
    path: place.path,
    detail: { [place.unit]: place.line, ...(field === undefined ? {} : { field }) },
    ...(cause === undefined ? {} : { cause }),
  });
}

/** DATA_INVALID of a whole file, which no skipping helps. */
export function fileFault(path: string, message: string, hint: string, cause?: unknown): IsrDpoError {
  return new IsrDpoError("DATA_INVALID", `${path}: ${message}`, { hint, path, ...(cause ? { cause } : {}) });
}
