// Files of a tokenizer folder: they are read whole, up to a limit.
import { open, stat } from "node:fs/promises";
import { isObject, type Json } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";
import { parsePythonJson } from "../base/python-json.js";

/** Bytes; the largest published tokenizer.json are about 35 MB. */
export const limits = { json: 128 << 20, model: 64 << 20, small: 4 << 20 } as const;

export function tokenizerError(path: string, message: string, cause?: unknown): IsrDpoError {
  return new IsrDpoError("TOKENIZER", `${path}: ${message}`, {
    hint: "take the tokenizer files of the published checkpoint as they are",
    path,
    ...(cause === undefined ? {} : { cause }),
  });
}

export async function requireFolder(dir: string): Promise<void> {
  const facts = await stat(dir).catch(() => null);
  if (facts?.isDirectory()) return;
  throw new IsrDpoError("NOT_FOUND", `${dir}: expected a folder, got ${facts ? "a file" : "nothing"}`, {
    hint: "give the folder that holds tokenizer.json or tokenizer.model",
    path: dir,
  });
}

/** The bytes of a file, or null where there is none. */
export async function readIfThere(path: string, maxBytes: number): Promise<Buffer | null> {
  const file = await open(path).catch((e: NodeJS.ErrnoException) => {
    if (e.code === "ENOENT" || e.code === "ENOTDIR") return null;
    throw new IsrDpoError("IO", `${path}: cannot be opened (${e.code})`, { path, cause: e });
  });
  if (!file) return null;
  try {
    const facts = await file.stat();
    if (!facts.isFile()) throw tokenizerError(path, "expected a file, got something else");
    if (facts.size > maxBytes) throw tokenizerError(path, `expected at most ${maxBytes} bytes, got ${facts.size}`);
    return await file.readFile();
  } catch (e) {
    if (e instanceof IsrDpoError) throw e;
    throw new IsrDpoError("IO", `${path}: cannot be read`, { path, cause: e });
  } finally {
    await file.close();
  }
}

export function parseText(path: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (e) {
    throw tokenizerError(path, "expected UTF-8 text, got other bytes", e);
  }
}

/** A JSON object out of bytes. */
export function parseObject(path: string, bytes: Uint8Array): Json {
  let value: unknown;
  try {
    value = parsePythonJson(parseText(path, bytes));
  } catch (e) {
    if (e instanceof IsrDpoError) throw e;
    throw tokenizerError(path, `expected JSON, got a fault: ${e instanceof Error ? e.message : e}`, e);
  }
  if (!isObject(value)) throw tokenizerError(path, "expected a JSON object, got another value");
  return value;
}
