// Turns rows into items of one kind: each row is read by its own form, and each item gets a key of its own.
import { Handler } from "../base/callback.js";
import type { DataNote } from "./bad-rows.js";
import type { SkippedRow } from "./bad-rows.js";
import { choice, options as checkOptions, path as checkPath, refuse } from "../base/check.js";
import { isRowFault } from "../base/data-fault.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { given, has, type Row } from "./row-fields.js";
import { namesMedia, Notes } from "./file-notes.js";
import { checkTemplateColumns } from "./conversation-turns.js";
import { readRows } from "./read-rows.js";
import { BadRows, type BadRowOptions, type NumberedRow, type UnreadRow } from "./bad-rows.js";

/** One way to write a kind of item as a row. */
export interface Format<T> {
  name: string;
  /** For messages: what its rows hold. */
  holds: string;
  fits(row: Row): boolean;
  /** Whether a row is of this form but for its medium: among rows of this form that is its fault. */
  lacks?(row: Row): boolean;
  read(row: Row, line: number): T;
}

/** Every column that some format reads. */
const columns = [
  ...["id", "idx", "video", "image", "videos", "images", "system"],
  ...["prompt", "chosen", "rejected", "chosen_ids", "rejected_ids", "completion"],
  ...["conversations", "messages", "question", "tools", "chat_template_kwargs"],
];

const media = ["video", "image", "videos", "images"];
const hasMedia = (row: Row) =>
  media.some((key) => has(row, key) && !(Array.isArray(row[key]) && row[key].length === 0)) ||
  ["prompt", "messages", "chosen"].some((key) => Array.isArray(row[key]) && hasMediaParts(row[key]));

const hasMediaParts = (turns: readonly unknown[]): boolean =>
  turns.some((turn) => {
    const content = (turn as { content?: unknown } | null)?.content;
    return Array.isArray(content) && content.some((part) => part?.type === "video" || part?.type === "image");
  });

/** Rows that are looked at before the first is read, so that none of them decides alone. */
const lookahead = 32;

/** The first rows of a file, and what ended their reading before the rows after them. */
interface Beginning {
  rows: (NumberedRow | UnreadRow)[];
  failure?: { error: unknown };
}

async function begin(rows: AsyncIterator<NumberedRow | UnreadRow>): Promise<Beginning> {
  const found: (NumberedRow | UnreadRow)[] = [];
  try {
    while (found.length < lookahead) {
      const next = await rows.next();
      if (next.done) break;
      found.push(next.value);
    }
  } catch (error) {
    return { rows: found, failure: { error } };
  }
  return { rows: found };
}

const wrongFormat = (message: string): IsrDpoError =>
  new IsrDpoError("DATA_INVALID", message, { detail: { field: "format" } });

/** The form of each row of a file. */
class Forms<T> {
  /** The form of most of the first rows. */
  readonly #usual: Format<T> | undefined;
  /** Whether some row had a form. */
  known: boolean;
  readonly #formats: readonly Format<T>[];

  constructor(formats: readonly Format<T>[], first: readonly (NumberedRow | UnreadRow)[], named: string | undefined) {
    this.#formats = formats;
    const given = formats.find((f) => f.name === named);
    const votes = formats.map((f) => first.filter((r) => "row" in r && this.#fitting(r.row).join() === f.name).length);
    const most = votes.indexOf(Math.max(...votes)); // on a tie the earlier form wins: the one with media
    this.#usual = given ?? (votes[most]! > 0 ? formats[most] : undefined);
    this.#formats = given ? [given] : formats;
    this.known = given !== undefined;
  }

  #fitting(row: Row): string[] {
    return this.#formats.filter((f) => f.fits(row)).map((f) => f.name);
  }

  of(row: Row): Format<T> {
    const usual = this.#usual;
    if (usual && (this.#formats.length === 1 || usual.fits(row) || usual.lacks?.(row))) return this.#take(usual);
    const names = this.#fitting(row);
    if (names.length === 1) return this.#take(this.#formats.find((f) => f.name === names[0])!);
    const keys = Object.keys(row).filter((key) => given(row, key) !== undefined);
    const found = `got keys ${keys.slice(0, 20).join(", ") || "(none)"}`;
    const known = `known: ${this.#formats.map((f) => `${f.name} (${f.holds})`).join("; ")}`;
    if (names.length > 1)
      throw wrongFormat(
        `expected a row of one format, ${found}, which fit ${names.join(" and ")} (say which: format); ${known}`,
      );
    if (usual) return usual; // reading the row by it says what is missing
    throw wrongFormat(`expected a row of a known format, ${found}; ${known}`);
  }

  #take(format: Format<T>): Format<T> {
    this.known = true;
    return format;
  }
}

/** The item with a key of its own, where an earlier item has its id. */
export function withOwnId<T extends { id?: string }>(item: T, taken: ReadonlySet<string>, line: number): T {
  if (item.id === undefined || !taken.has(item.id)) return item;
  let id = item.id;
  while (taken.has(id)) id = `${id}#${line}`;
  return { ...item, id };
}

function noteColumns(row: Row, line: number, notes: Notes): void {
  const unread = Object.keys(row).find((key) => !columns.includes(key) && has(row, key) && namesMedia(key));
  if (unread !== undefined) notes.add("MEDIA_COLUMN", line, unread);
}

export type FormatOptions = BadRowOptions & { format?: string };

function checked(path: unknown, o: unknown, formats: readonly string[]): { path: string; options: FormatOptions } {
  const known = ["onBadRow", "onSkip", "onNote", ...(formats.length > 0 ? ["format"] : [])];
  const given = checkOptions("options", o, known) as FormatOptions;
  if (given.format !== undefined) choice("options.format", given.format, ["auto", ...formats]);
  if (given.onBadRow !== undefined) choice("options.onBadRow", given.onBadRow, ["fail", "skip"]);
  for (const key of ["onSkip", "onNote"] as const)
    if (given[key] !== undefined && typeof given[key] !== "function")
      refuse(`options.${key}`, "a function", given[key]);
  return { path: checkPath("path", path), options: given };
}

/** What a caller makes of an item before it counts; what it throws of these codes is the row's fault. */
export type Prepare<T> = (item: T) => T | Promise<T>;

/** Rows of a file in order, each with the form that it has. */
async function* formed<T>(
  bad: BadRows,
  formats: readonly Format<T>[],
  named: string | undefined,
  notes: Notes,
): AsyncGenerator<{ numbered: NumberedRow; format: Format<T> }> {
  const rows = readRows(bad, columns, (others, count) => {
    const unread = others.find(namesMedia);
    for (let i = 0; unread !== undefined && i < count; i++) notes.add("MEDIA_COLUMN", 1, unread);
  });
  let unknown: unknown;
  try {
    const first = await begin(rows);
    const forms = new Forms(formats, first.rows, named);
    const one = (read: NumberedRow | UnreadRow) => {
      if ("fault" in read) return bad.take(read.line, read.fault);
      try {
        return { numbered: read, format: forms.of(read.row) };
      } catch (e) {
        if (isIsrDpoError(e)) unknown ??= bad.placed(read.line, e);
        return bad.take(read.line, e);
      }
    };
    for (const numbered of first.rows) {
      const found = one(numbered);
      if (found) yield found;
    }
    if (first.failure) throw first.failure.error;
    for await (const numbered of rows) {
      const found = one(numbered);
      if (found) yield found;
    }
    if (!forms.known && unknown) throw unknown;
  } finally {
    await rows.return(undefined);
  }
}

/** The formats that rows may have; `named`: whether the caller may name one. */
export async function* readItems<T extends { id?: string }>(
  givenPath: string,
  o: FormatOptions | undefined,
  formats: readonly Format<T>[],
  named = true,
  prepare?: Prepare<T>,
): AsyncGenerator<T> {
  const { path, options: given } = checked(givenPath, o, named ? formats.map((f) => f.name) : []);
  const handlers = (["onSkip", "onNote"] as const).flatMap((key) => {
    const handler = given[key] as ((told: SkippedRow | DataNote) => void) | undefined;
    return handler ? [[key, new Handler(handler)] as const] : [];
  });
  const options = { ...given, ...Object.fromEntries(handlers.map(([key, handler]) => [key, handler.call])) };
  const bad = new BadRows(path, options);
  const notes = new Notes(path, options);
  const seen = new Set<string>();
  try {
    for await (const { numbered, format } of formed(bad, formats, options.format, notes)) {
      const { row, line } = numbered;
      let item: T;
      let preparing = false;
      try {
        noteColumns(row, line, notes);
        checkTemplateColumns(row);
        const read = format.read(row, line);
        item = withOwnId(read, seen, line);
        if (item !== read) notes.add("DUPLICATE_ID", line, item.id);
        preparing = true;
        if (prepare) item = await prepare(item);
      } catch (e) {
        bad.take(line, e, preparing ? isRowFault : undefined);
        for (const [, handler] of handlers) handler.check();
        continue;
      }
      if (item.id !== undefined) seen.add(item.id);
      notes.row(line, hasMedia(row));
      yield item;
    }
    notes.end();
    for (const [, handler] of handlers) await handler.settled();
  } finally {
    bad.end();
  }
}
