// From rows to items of one kind: the format is found by the first row, ids are unique in a file.
import { choice, options as checkOptions, path as checkPath, refuse } from "../check.js";
import { type ErrorCode, type IsrDpoError, isIsrDpoError } from "../errors.js";
import { fileError, rowError } from "./fault.js";
import { given, type Row } from "./fields.js";
import { BadRows, type BadRowOptions, type NumberedRow, readRows } from "./rows.js";

/** One way to write a kind of item as a row. */
export interface Format<T> {
  name: string;
  /** For messages: what its rows hold. */
  holds: string;
  fits(row: Row): boolean;
  read(row: Row, line: number): T;
}

/** Every column that some format reads. */
const columns = [
  ...["id", "idx", "video", "image", "videos", "images", "system"],
  ...["prompt", "chosen", "rejected", "chosen_ids", "rejected_ids", "completion"],
  ...["conversations", "messages", "question"],
];

function choose<T>(bad: BadRows, { row, line }: NumberedRow, formats: readonly Format<T>[]): Format<T> {
  const fitting = formats.filter((f) => f.fits(row));
  if (fitting.length === 1) return fitting[0]!;
  const keys = Object.keys(row).filter((key) => given(row, key) !== undefined);
  const found = `got keys ${keys.slice(0, 20).join(", ") || "(none)"}`;
  const known = `known: ${formats.map((f) => `${f.name} (${f.holds})`).join("; ")}`;
  if (fitting.length === 0)
    throw rowError(bad.at(line), `expected a row of a known format, ${found}; ${known}`, "format");
  const names = fitting.map((f) => f.name).join(" and ");
  throw fileError(bad.path, `expected rows of one format, ${found}, which fit ${names}; ${known}`, "say which: format");
}

function checkId(seen: Map<string, number>, id: string | undefined, line: number): void {
  if (id === undefined) return;
  const before = seen.get(id);
  if (before !== undefined) refuse("id", `an id of its own (row ${before} has it)`, id, "DATA_INVALID");
  seen.set(id, line);
}

export type FormatOptions = BadRowOptions & { format?: string };

function checked(path: unknown, o: unknown, formats: readonly string[]): { path: string; options: FormatOptions } {
  const known = ["onBadRow", "onSkip", ...(formats.length > 0 ? ["format"] : [])];
  const given = checkOptions("options", o, known) as FormatOptions;
  if (given.format !== undefined) choice("options.format", given.format, ["auto", ...formats]);
  if (given.onBadRow !== undefined) choice("options.onBadRow", given.onBadRow, ["fail", "skip"]);
  if (given.onSkip !== undefined && typeof given.onSkip !== "function")
    refuse("options.onSkip", "a function", given.onSkip);
  return { path: checkPath("path", path), options: given };
}

/** What a caller makes of an item before it counts; what it throws of these codes is the row's fault. */
export type Prepare<T> = (item: T) => T | Promise<T>;

const rowFaults: readonly ErrorCode[] = [
  "DATA_INVALID",
  "INVALID_ARGUMENT",
  "CONTEXT_OVERFLOW",
  "PLACEHOLDER_MISMATCH",
  "MEDIA_UNREADABLE",
  "MEDIA_EMPTY",
  "NOT_FOUND",
];

/** Whether an error of preparing an item is the item's own fault: nothing else is ever left out. */
export const isRowFault = (e: unknown): e is IsrDpoError => isIsrDpoError(e) && rowFaults.includes(e.code);

async function prepared<T>(prepare: Prepare<T>, item: T, bad: BadRows, line: number): Promise<T> {
  try {
    return await prepare(item);
  } catch (e) {
    if (!isRowFault(e)) throw e;
    const field = e.detail?.field;
    throw rowError(bad.at(line), e.message, typeof field === "string" ? field : undefined, e);
  }
}

/** The formats among which one is found by the first row; `named`: whether the caller may name one. */
export async function* readItems<T extends { id?: string }>(
  givenPath: string,
  o: FormatOptions | undefined,
  formats: readonly Format<T>[],
  named = true,
  prepare?: Prepare<T>,
): AsyncGenerator<T> {
  const { path, options } = checked(givenPath, o, named ? formats.map((f) => f.name) : []);
  const bad = new BadRows(path, options);
  const seen = new Map<string, number>();
  let format = formats.find((f) => f.name === options.format);
  let unknown: IsrDpoError | undefined;
  try {
    for await (const numbered of readRows(bad, columns)) {
      let item: T;
      try {
        format ??= choose(bad, numbered, formats);
        item = format.read(numbered.row, numbered.line);
        checkId(seen, item.id, numbered.line);
        if (prepare) item = await prepared(prepare, item, bad, numbered.line);
      } catch (e) {
        if (!format && isIsrDpoError(e) && e.detail?.field !== "format") throw e; // ambiguous: no row can help
        if (!format) unknown ??= e as IsrDpoError;
        bad.take(numbered.line, e);
        continue;
      }
      yield item;
    }
    if (!format && unknown) throw unknown;
  } finally {
    bad.end();
  }
}
