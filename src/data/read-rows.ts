// Rows of a file by its ending: .jsonl (one object per line), .json (an array of objects), .parquet. A bad row ends the
// reading, or is reported and left out.
import { stat } from "node:fs/promises";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { fileFault, openForReading, refusePacked } from "../base/data-fault.js";
import { ioError } from "../base/file-errors.js";
import type { BadRows, NumberedRow, UnreadRow } from "./bad-rows.js";
import { isRow, type Row } from "./row-fields.js";
import { maxLineBytes, scanLines } from "../base/lines.js";
import { show } from "../base/check.js";

const maxDepth = 64;
const maxJsonBytes = 256 << 20;

/** Whether brackets outside strings nest deeper than `maxDepth`: JSON.parse would build what nobody can walk. */
function tooDeep(text: string): boolean {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 0x22) {
      for (i++; i < text.length && text.charCodeAt(i) !== 0x22; i++) if (text.charCodeAt(i) === 0x5c) i++;
    } else if (c === 0x7b || c === 0x5b) {
      if (++depth > maxDepth) return true;
    } else if (c === 0x7d || c === 0x5d) depth--;
  }
  return false;
}

function parse(text: string): unknown {
  if (tooDeep(text)) throw new IsrDpoError("DATA_INVALID", `expected JSON nested at most ${maxDepth} deep, got deeper`);
  try {
    return JSON.parse(text);
  } catch (e) {
    throw new IsrDpoError("DATA_INVALID", `expected JSON, got a fault: ${(e as Error).message}`, { cause: e });
  }
}

function requireRow(value: unknown): Row {
  if (!isRow(value)) throw new IsrDpoError("DATA_INVALID", `expected a JSON object, got ${show(value)}`);
  return value;
}

function rowOrFault(line: number, read: () => unknown): NumberedRow | UnreadRow {
  try {
    return { line, row: requireRow(read()) };
  } catch (fault) {
    return { line, fault };
  }
}

async function* rowsOfLines(bad: BadRows): AsyncGenerator<NumberedRow | UnreadRow> {
  for await (const found of scanLines(bad.path, maxLineBytes)) {
    if ("fault" in found) yield { line: found.line, fault: new IsrDpoError("DATA_INVALID", found.fault) };
    else if (found.text.trim() !== "") yield rowOrFault(found.line, () => parse(found.text)); // an empty line is no row
  }
}

const jsonHint =
  "give an array of rows in UTF-8; rows that stand in lines belong into a .jsonl file, which has no size limit";

async function readWhole(path: string): Promise<string> {
  const file = await openForReading(path);
  try {
    const { size } = await file.stat();
    if (size > maxJsonBytes)
      throw fileFault(path, `expected a .json file of at most ${maxJsonBytes} bytes, got ${size}`, jsonHint);
    return new TextDecoder("utf-8", { fatal: true }).decode(await file.readFile());
  } catch (e) {
    if (e instanceof TypeError) throw fileFault(path, "expected UTF-8 text, got other bytes", jsonHint, e);
    throw ioError(path, e, "read");
  } finally {
    await file.close();
  }
}

async function* rowsOfArray(bad: BadRows): AsyncGenerator<NumberedRow | UnreadRow> {
  let values: unknown;
  try {
    values = parse(await readWhole(bad.path));
  } catch (e) {
    if (isIsrDpoError(e) && e.path === undefined) throw fileFault(bad.path, e.message, jsonHint, e);
    throw e;
  }
  if (!Array.isArray(values)) throw fileFault(bad.path, `expected an array of rows, got ${show(values)}`, jsonHint);
  for (const [i, value] of values.entries()) yield rowOrFault(i + 1, () => value);
}

/** What tells a file from one that was written or put in its place since; null: there is none. */
const stampOf = (path: string): Promise<string | null> =>
  stat(path, { bigint: true }).then(
    (s) => [s.dev, s.ino, s.size, s.mtimeNs].join(" "),
    () => null,
  );

/** rowsOf(), and at the end DATA_INVALID for a file that has changed meanwhile: rows of two contents are no data. */
export async function* readRows(...args: Parameters<typeof rowsOf>): ReturnType<typeof rowsOf> {
  const { path } = args[0];
  const before = await stampOf(path);
  yield* rowsOf(...args);
  if ((await stampOf(path)) !== before)
    throw fileFault(
      path,
      "expected a file that stays as it is, got one that changed while it was read",
      "read it again when nothing writes to it",
    );
}

/** Rows in order, those that cannot be read with their fault; of a .parquet file only `columns` are read, and `others` is told its other columns. */
async function* rowsOf(
  bad: BadRows,
  columns: readonly string[],
  others: (names: readonly string[], rows: number) => void,
): AsyncGenerator<NumberedRow | UnreadRow> {
  const { path } = bad;
  const known = /\.(jsonl|ndjson|json|parquet)$/i.test(path);
  await refusePacked(path).catch((e) => {
    if (known || isIsrDpoError(e, "DATA_INVALID")) throw e; // a file with another ending is refused below
  });
  if (/\.(jsonl|ndjson)$/i.test(path)) yield* rowsOfLines(bad);
  else if (/\.json$/i.test(path)) yield* rowsOfArray(bad);
  else if (/\.parquet$/i.test(path)) {
    const { rowsOfParquet } = await import("./parquet.js");
    yield* rowsOfParquet(path, columns, others);
  } else
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `${path}: expected a .jsonl, .json or .parquet file, got another ending`,
      {
        hint: "rename the file after what it holds",
        path,
      },
    );
}
