// Files that commands read and write: lines of bounded length in, whole files or none out; "-" is stdin and stdout.
import { createReadStream, realpathSync, statSync } from "node:fs";
import { type FileHandle, open, rename, unlink } from "node:fs/promises";
import type { Readable } from "node:stream";
import { IsrDpoError } from "../errors.js";
import { keysOfFirstLine, refuseForeignFile, temporaryOf } from "../outputs.js";

const maxLineBytes = 64 << 20;

function failure(path: string, e: unknown, doing: string): IsrDpoError {
  const code = (e as { code?: string }).code ?? "";
  const facts = { path, cause: e };
  if (code === "ENOENT" || code === "ENOTDIR")
    return new IsrDpoError("NOT_FOUND", `${path}: expected to ${doing} it, but there is no such file or folder`, facts);
  if (["ENOSPC", "EDQUOT", "EFBIG"].includes(code))
    return new IsrDpoError("DISK_FULL", `${path}: expected to ${doing} it, but the disk is full`, {
      hint: "free space, and run the command again",
      ...facts,
    });
  return new IsrDpoError("IO", `${path}: expected to ${doing} it, but ${(e as Error).message}`, facts);
}

/** Opens a file for reading now, so that a missing one is told before anything else is done. */
export async function openInput(path: string): Promise<Readable> {
  if (path === "-") return process.stdin;
  try {
    const file = await open(path);
    if ((await file.stat()).isDirectory()) {
      await file.close();
      throw Object.assign(new Error("it is a folder"), { code: "EISDIR" });
    }
    return createReadStream(path, { fd: file });
  } catch (e) {
    throw failure(path, e, "read");
  }
}

/** Ends a read that waits when the signal is aborted, with its reason. */
export function readUntil(signal: AbortSignal, input: Readable): Readable {
  signal.addEventListener("abort", () => input.destroy(signal.reason), { once: true });
  return input;
}

/** Lines as bytes, numbered from 1, without their ends. DATA_INVALID for a line longer than 64 MiB. */
export async function* readLines(input: Readable, name: string): AsyncGenerator<{ number: number; bytes: Buffer }> {
  let parts: Buffer[] = [];
  let held = 0;
  let number = 1;
  const take = (last: Buffer) => {
    const bytes = parts.length === 0 ? last : Buffer.concat([...parts, last]);
    parts = [];
    held = 0;
    return { number: number++, bytes };
  };
  try {
    for await (const chunk of input as AsyncIterable<Buffer>) {
      let from = 0;
      for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, from)) {
        yield take(chunk.subarray(from, at));
        from = at + 1;
      }
      parts.push(chunk.subarray(from));
      held += chunk.length - from;
      if (held > maxLineBytes)
        throw new IsrDpoError(
          "DATA_INVALID",
          `${name}:${number}: expected a line of at most ${maxLineBytes} bytes, got more`,
        );
    }
  } catch (e) {
    const ours = e instanceof IsrDpoError || typeof (e as { code?: unknown }).code !== "string";
    throw ours ? e : failure(name, e, "read");
  }
  if (held > 0) yield take(Buffer.alloc(0));
}

/** Something written whole or not at all. */
export interface Output {
  write(text: string): Promise<void>;
  commit(): Promise<void>;
  /** After commit it does nothing. */
  discard(): Promise<void>;
}

const toStdout: Output = {
  write: async (text) => {
    process.stdout.write(text);
  },
  commit: async () => {},
  discard: async () => {},
};

class FileOutput implements Output {
  #open = true;

  constructor(
    readonly path: string,
    readonly temporary: string,
    readonly file: FileHandle,
  ) {}

  async #guarded(work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
    } catch (e) {
      throw failure(this.path, e, "write");
    }
  }

  write(text: string): Promise<void> {
    return this.#guarded(() => this.file.appendFile(text));
  }

  async commit(): Promise<void> {
    await this.#guarded(async () => {
      await this.file.sync();
      await rename(this.temporary, this.path);
    });
    this.#open = false;
    await this.file.close();
  }

  async discard(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.file.close();
    await unlink(this.temporary).catch(() => {});
  }
}

/**
 * Opens an output that appears under its name at commit. INVALID_ARGUMENT where something stands there: a file without
 * `force`; and always what is no regular file, or a file whose first line has not the `keys` of such an output.
 */
export async function openOutput(path: string, force: boolean, keys: readonly string[]): Promise<Output> {
  if (path === "-" && force)
    throw new IsrDpoError("INVALID_ARGUMENT", "--force: expected --out with a file beside it, got none", {
      hint: "stdout replaces nothing: leave --force out",
    });
  if (path === "-") return toStdout;
  const found = statSync(path, { throwIfNoEntry: false });
  if (found && !found.isFile())
    throw new IsrDpoError("INVALID_ARGUMENT", `${path}: expected a regular file or none, got something else`, {
      hint: "name a file; - is stdout",
      path,
    });
  if (found && !force)
    throw new IsrDpoError("INVALID_ARGUMENT", `${path}: expected no file, got one`, {
      hint: "choose another name, or replace it with --force",
      path,
    });
  if (found)
    await refuseForeignFile(path, "an output of this command", (head) => {
      const given = keysOfFirstLine(head);
      return keys.every((key) => given.includes(key));
    });
  const target = found ? realpathSync(path) : path;
  const temporary = temporaryOf(target);
  try {
    return new FileOutput(target, temporary, await open(temporary, "wx"));
  } catch (e) {
    throw failure(path, e, "write");
  }
}
