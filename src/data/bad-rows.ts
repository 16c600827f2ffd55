// Bad rows of a file: they end the reading, or are reported and left out. And the notes of a reader about a whole file.
import { isIsrDpoError, type IsrDpoError } from "../base/errors.js";
import { type Place, rowError } from "../base/data-fault.js";
import { oneOf } from "../base/option-rows.js";
import type { Row } from "./row-fields.js";

/** DUPLICATE_ID: rows share an id. MEDIA_COLUMN: a column that is not read has a name that suggests media. NO_MEDIA: some rows have no medium. */
export type NoteCode = "DUPLICATE_ID" | "MEDIA_COLUMN" | "NO_MEDIA";

/** A note about a file of rows: something that is unusual, but no fault. */
export interface DataNote {
  /** The file. */
  path: string;
  /** Kind of the note. */
  code: NoteCode;
  /** Number of rows that it is about. */
  count: number;
  /** Line (or row) of the first of them, from 1. */
  line: number;
  /** The note in words. */
  message: string;
}

/** A row that was left out. */
export interface SkippedRow {
  /** The file of the row. */
  path: string;
  /** Line of a .jsonl file, row of other files, from 1. */
  line: number;
  /** Where it stands, and why it was left out. */
  message: string;
  /** Why it was left out: the message without the place. */
  reason: string;
}

/** What a row that cannot be used does. */
export const onBadRow = oneOf(
  "What a row that cannot be used does: it ends the call, or is left out and counted.",
  "fail",
  "skip",
).or("fail");

/** Options for rows that cannot be read. */
export interface BadRowOptions {
  /** "fail" (default): the first bad row throws DATA_INVALID. "skip": bad rows are left out, and `onSkip` is called for each. */
  onBadRow?: "fail" | "skip";
  /** Called for each row that is left out. Without it, a process warning (code ISR_DPO_DATA) counts them at the end. */
  onSkip?(row: SkippedRow): void;
  /**
   * Called at the end of a file with each note: rows that share an id (DUPLICATE_ID; later ones get the key `id#line`), columns that
   * look like media and are not read (MEDIA_COLUMN), rows without media in a file with media (NO_MEDIA). Without it the first two
   * are process warnings (code ISR_DPO_DATA).
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

/** Whether an error of reading a row says that the row does not have the form of one. */
const isFaultOfForm = (e: unknown): e is IsrDpoError =>
  isIsrDpoError(e) && (e.code === "DATA_INVALID" || e.code === "INVALID_ARGUMENT");

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

  /** Throws the row's error, or tells it. What is no fault of a row is always thrown; `isFault` tells it from others. */
  take(line: number, e: unknown, isFault = isFaultOfForm): void {
    if (!isFault(e)) throw e;
    const placed = this.placed(line, e);
    if (this.options.onBadRow !== "skip") throw placed;
    this.count++;
    this.#first ??= placed.message;
    this.options.onSkip?.({ path: this.path, line, message: placed.message, reason: e.message });
  }

  /** A row's fault with its place. */
  placed(line: number, e: IsrDpoError): IsrDpoError {
    return rowError({ path: this.path, line, unit: this.unit }, e.message, fieldOf(e), e);
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
