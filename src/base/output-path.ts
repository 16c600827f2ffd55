// Files that are written for users to keep: names for unfinished files, which no other program uses, and a check of what a
// path holds already, so that no file of another program is replaced.
import { randomBytes } from "node:crypto";
import { open } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { isObject } from "./check.js";
import { IsrDpoError } from "./errors.js";

/** A name of our own beside `path`, new with each call; what is written there is put in place at the end. */
export const temporaryOf = (path: string): string =>
  join(dirname(path), `.${basename(path)}.isr-dpo-${randomBytes(6).toString("hex")}.tmp`);

/** Names that temporaryOf() and the engine (native/io/file.cc) give, and no other program. */
export const isTemporary = (name: string): boolean => /^\..+\.isr-dpo-[0-9a-f]{12}\.tmp$/.test(name);

const lookBytes = 64 << 10;

/** The first and the last bytes of a file, as latin1; null where there is no regular file. */
async function endsOf(path: string): Promise<{ head: string; tail: string } | null> {
  const file = await open(path).catch(() => null);
  if (!file) return null;
  try {
    const facts = await file.stat();
    if (!facts.isFile()) return null;
    const bytes = Buffer.alloc(Math.min(lookBytes, facts.size));
    const read = async (at: number) =>
      bytes.toString("latin1", 0, (await file.read(bytes, 0, bytes.length, at)).bytesRead);
    return { head: await read(0), tail: await read(facts.size - bytes.length) };
  } finally {
    await file.close();
  }
}

/** INVALID_ARGUMENT for a place where a file stands that is not one of `what`. An empty file is anybody's. */
export async function refuseForeignFile(
  path: string,
  what: string,
  isOurs: (head: string, tail: string) => boolean,
): Promise<void> {
  const ends = await endsOf(path);
  if (!ends || ends.head === "" || isOurs(ends.head, ends.tail)) return;
  throw new IsrDpoError("INVALID_ARGUMENT", `${path}: expected no file, or ${what}, got another file`, {
    hint: "name another file; this one was not changed",
    path,
  });
}

/** The keys of the first line, where that is a JSON object; none else. A line longer than what was looked at counts by its beginning. */
export function keysOfFirstLine(head: string): string[] {
  const [line] = head.split("\n", 1) as [string];
  try {
    const value: unknown = JSON.parse(line);
    return isObject(value) ? Object.keys(value) : [];
  } catch {
    if (line.length < lookBytes || !line.startsWith("{")) return [];
    return [...line.matchAll(/[{,]"(\w+)":/g)].map(([, key]) => key!);
  }
}
