// Files of run folders that may be missing: a missing file is null, an unreadable one is reported and left out.
import { readdir, stat } from "node:fs/promises";
import { isObject, type Json } from "../base/check.js";
import { scanLines } from "../base/lines.js";
import { isIsrDpoError } from "../base/errors.js";
import { readState } from "../base/atomic-files.js";

export type Tell = (problem: string) => void;

export const textOr = <T>(v: unknown, other: T): string | T => (typeof v === "string" ? v : other);
export const numberOr = <T>(v: unknown, other: T): number | T =>
  typeof v === "number" && Number.isFinite(v) ? v : other;

export const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

/** Names in a folder, sorted; none where there is no folder. */
export async function namesIn(dir: string): Promise<string[]> {
  return (await readdir(dir).catch(() => [] as string[])).sort();
}

export async function jsonOf(path: string, name: string, tell: Tell): Promise<Json | null> {
  try {
    return await readState(path);
  } catch (e) {
    if (!isIsrDpoError(e)) throw e;
    tell(`${name} could not be read (${e.code}) and was left out.`);
    return null;
  }
}

const maxLineBytes = 17 << 20;

/** Objects of a file of JSON lines; nothing where there is no file. Lines that are none are counted and told. */
export async function* linesOf(path: string, name: string, tell: Tell): AsyncGenerator<Json> {
  if (!(await isThere(path))) return;
  let bad = 0;
  for await (const line of scanLines(path, maxLineBytes)) {
    const text = "text" in line ? line.text : null;
    if (text?.trim() === "") continue;
    let value: unknown;
    try {
      value = text === null ? undefined : JSON.parse(text);
    } catch {
      value = undefined;
    }
    if (isObject(value)) yield value;
    else bad += 1;
  }
  if (bad > 0) tell(`${name}: ${bad} of its lines could not be read and were left out.`);
}
