// Files of lines that calls read and write: lines of bounded length in, whole files or none out.
import { createReadStream, realpathSync, statSync } from "node:fs";
import { open } from "node:fs/promises";
import type { Readable } from "node:stream";
import { AtomicFile } from "./atomic-files.js";
import { IsrDpoError } from "./errors.js";
import { type FileErrorOptions, fileError } from "./file-errors.js";
import { LineSplitter, type RawLine } from "./lines.js";
import { keysOfFirstLine, refuseForeignFile } from "./output-path.js";

const maxLineBytes = 64 << 20;

const again: FileErrorOptions = { full: "free space, and run the command again" };

/** Opens a file for reading now, so that a missing one is told before anything else is done. */
export async function openInput(path: string): Promise<Readable> {
  try {
    const file = await open(path);
    if ((await file.stat()).isDirectory()) {
      await file.close();
      throw Object.assign(new Error("it is a folder"), { code: "EISDIR" });
    }
    return createReadStream(path, { fd: file });
  } catch (e) {
    throw fileError(e, path, "read", again);
  }
}

/** Ends a read that waits when the signal is aborted, with its reason. */
export function readUntil(signal: AbortSignal, input: Readable): Readable {
  signal.addEventListener("abort", () => input.destroy(signal.reason), { once: true });
  return input;
}

/** Lines as bytes, numbered from 1, without their ends. DATA_INVALID for a line longer than 64 MiB. */
export async function* linesOfStream(
  input: AsyncIterable<Uint8Array>,
  name: string,
): AsyncGenerator<{ number: number; bytes: Buffer }> {
  const splitter = new LineSplitter(maxLineBytes);
  const whole = ({ number, bytes, ended }: RawLine) => {
    if (bytes === null) throw tooLong(name, number);
    return { number, bytes: ended ? bytes.subarray(0, -1) : bytes };
  };
  try {
    for await (const chunk of input) {
      const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
      for (const line of splitter.push(bytes)) yield whole(line);
      if (splitter.held > maxLineBytes) throw tooLong(name, splitter.number);
    }
  } catch (e) {
    const ours = e instanceof IsrDpoError || typeof (e as { code?: unknown }).code !== "string";
    throw ours ? e : fileError(e, name, "read", again);
  }
  for (const line of splitter.end()) yield whole(line);
}

const tooLong = (name: string, number: number): IsrDpoError =>
  new IsrDpoError("DATA_INVALID", `${name}:${number}: expected a line of at most ${maxLineBytes} bytes, got more`);

/** Something written whole or not at all. */
export interface Output {
  write(text: string): Promise<void>;
  commit(): Promise<void>;
  /** After commit it does nothing. */
  discard(): Promise<void>;
}

/**
 * Opens an output that appears under its name at commit. INVALID_ARGUMENT where something stands there: a file without
 * `overwrite`; and always what is no regular file, or a file whose first line has not the `keys` of such an output.
 */
export async function openOutput(path: string, overwrite: boolean, keys: readonly string[]): Promise<Output> {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found && !found.isFile())
    throw new IsrDpoError("INVALID_ARGUMENT", `${path}: expected a regular file or none, got something else`, {
      hint: "name a file",
      path,
    });
  if (found && !overwrite)
    throw new IsrDpoError("INVALID_ARGUMENT", `${path}: expected no file, got one`, {
      hint: "choose another name, or replace it (--force; overwrite: true)",
      path,
    });
  if (found)
    await refuseForeignFile(path, "an output of this command", (head) => {
      const given = keysOfFirstLine(head);
      return keys.every((key) => given.includes(key));
    });
  const target = found ? realpathSync(path) : path;
  const file = await AtomicFile.create(target, again);
  return { write: (text) => file.write(Buffer.from(text)), commit: () => file.commit(), discard: () => file.discard() };
}

/** One line of JSON without any control character, values unchanged. */
export const jsonLine = (value: unknown): string =>
  `${JSON.stringify(value).replace(/[\u007f-\u009f]/g, (c) => `\\u00${c.charCodeAt(0).toString(16)}`)}\n`;

/** Float32 values as the shortest numbers that give the same bits back. */
export const floatList = (values: Float32Array): number[] => Array.from(values, (x) => Number(x.toPrecision(9)));
