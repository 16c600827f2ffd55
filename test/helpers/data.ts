// Data files of one test: written, read whole, and their refusals.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import * as assert from "uvu/assert";
import { type IsrDpoError, isIsrDpoError } from "../../src/base/errors.js";
import { temporaryFolder } from "./files.js";

/** The IsrDpoError that `work` ends with; anything else fails the test. */
export async function caught(work: () => Promise<unknown>): Promise<IsrDpoError> {
  const e = await work().then(
    () => assert.unreachable("expected an error, got none"),
    (e: unknown) => e,
  );
  if (!isIsrDpoError(e)) throw e;
  return e;
}

export async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

/** A file of rows: strings and bytes as they are, other values as JSON. */
export function rowsFile(rows: readonly unknown[], name = "rows.jsonl"): string {
  const path = join(temporaryFolder(), name);
  const lines = rows.map((row) =>
    Buffer.isBuffer(row) ? row : Buffer.from(typeof row === "string" ? row : JSON.stringify(row)),
  );
  writeFileSync(path, Buffer.concat(lines.flatMap((line) => [line, Buffer.from("\n")])));
  return path;
}
