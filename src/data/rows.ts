// Rows of a file by its ending: .jsonl (an object a line), .json (an array of objects), .parquet. What a bad row does is
// decided here: it ends the reading, or is told and left out.
import { stat } from "node:fs/promises";
import { IsrDpoError, isIsrDpoError } from "../errors.js";
import { fileError, ioError, openForReading, type Place, refusePacked, rowError } from "./fault.js";
import { isRow, type Row } from "./fields.js";
import { maxLineBytes, scanLines } from "./lines.js";
import type { DataNote } from "./notes.js";
import { show } from "../check.js";

/** A row that was left out. */
export interface SkippedRow {
  /** Its file. */
  path: string;
  /** From 1: the line of a .jsonl file, the row of others. */
  line: number;
  /** Why. */
  message: string;
}

/** What happens to rows that cannot be read. */
export interface BadRowOptions {
  /** "fail" (default): the first bad row throws DATA_INVALID. "skip": bad rows are left out, each told to onSkip. */
  onBadRow?: "fail" | "skip";
  /** Without it, skipped rows are counted in a process warning (code ISR_DPO_DATA) at the end. */
  onSkip?(row: SkippedRow): void;
  /**
   * Told at the end of a file what is odd about it: rows that share an id (DUPLICATE_ID: later ones get the key `id#line`),
   * columns that look like media and are not read (MEDIA_COLUMN), rows without media beside rows with (NO_MEDIA). Without it
   * the first two are process warnings (code ISR_DPO_DATA).
   */
  onNote?(note: DataNote): void;
}

export interface NumberedRow {
  line: number;
  row: Row;
}

/** A row that could not be read. */
export interface UnreadRow {
  line: number;
  fault: unknown;
}

const maxDepth = 64;
const maxJsonBytes = 256 << 20;

/** What happens to bad rows of one file. */
export class BadRows {
  count = 0;
  #first: string | undefined;
  readonly unit: Place["unit"];

  constructor(
    readonly path: string,
    readonly options: BadRowOptions,
  ) {
    this.unit = /\.(json|parquet)$/i.test(path) ? "row" : "line";
  }

  /** Throws the row's error, or tells it. What is no fault of a row is always thrown. */
  take(line: number, e: unknown): void {
    const faulty = isIsrDpoError(e) && (e.code === "DATA_INVALID" || e.code === "INVALID_ARGUMENT");
    if (!faulty) throw e;
    const placed = e.path === undefined ? rowError(this.at(line), e.message, fieldOf(e), e) : e;
    if (this.options.onBadRow !== "skip") throw placed;
    this.count++;
    this.#first ??= placed.message;
    this.options.onSkip?.({ path: this.path, line, message: placed.message });
  }

  at(line: number): Place {
    return { path: this.path, line, unit: this.unit };
  }

  end(): void {
    if (this.count === 0 || this.options.onSkip) return;
    process.emitWarning(`${this.path}: ${this.count} bad rows were left out; the first: ${this.#first}`, {
      code: "ISR_DPO_DATA",
    });
  }
}

const fieldOf = (e: IsrDpoError): string | undefined => {
  const field = e.detail?.field;
  return typeof field === "string" ? field : undefined;
};

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
    if ("fault" in found) yield found;
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
      throw fileError(path, `expected a .json file of at most ${maxJsonBytes} bytes, got ${size}`, jsonHint);
    return new TextDecoder("utf-8", { fatal: true }).decode(await file.readFile());
  } catch (e) {
    if (e instanceof TypeError) throw fileError(path, "expected UTF-8 text, got other bytes", jsonHint, e);
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
    if (isIsrDpoError(e) && e.path === undefined) throw fileError(bad.path, e.message, jsonHint, e);
    throw e;
  }
  if (!Array.isArray(values)) throw fileError(bad.path, `expected an array of rows, got ${show(values)}`, jsonHint);
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
    throw fileError(
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
    if (known || isIsrDpoError(e, "DATA_INVALID")) throw e; // of another ending: told below
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
