// writePairs: preference rows and where they come from, written completely or not at all.
import { choice, integer, number, object, options, path as checkPath, refuse, text } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";
import { writeAgain } from "../base/file-errors.js";
import { keysOfFirstLine, refuseForeignFile } from "../base/output-path.js";
import type { TokenIds } from "../base/types.js";
import { type AtomicFile, writeAtomically } from "../base/atomic-files.js";
import type { Columns } from "./pairs-parquet.js";
import { pathOf } from "./row-fields.js";
import { maxLineBytes } from "../base/lines.js";

/** A pair that an iteration made, and where it comes from. */
export interface PairRecord {
  /** Id of the row; default: the row has none. */
  id?: string;
  /** Path of the video, relative to the data folder. */
  video?: string;
  /** The question. */
  prompt: string;
  /** The preferred answer. */
  chosen: string;
  /** The other answer. */
  rejected: string;
  /** Token ids of the preferred answer as they were sampled; both answers have ids, or none. A reader uses them in place of the text. */
  chosenIds?: TokenIds;
  /** Token ids of the other answer. */
  rejectedIds?: TokenIds;
  /** Index of the iteration that made the pair. */
  iteration: number;
  /** Every seed that the answers depend on. */
  seeds: readonly (number | bigint)[];
  /** sha256 of the prompts. */
  promptHash: string;
  /** `hash()` of the model that answered. */
  modelHash: string;
  /** Margin of the chosen answer over the rejected one, in nats; null: the judge gave none. */
  margin: number | null;
  /** Whether the judge preferred the same answer in both orders; null: it was asked in one. */
  agreement: boolean | null;
  /** Lengths of the answers. */
  lengths: {
    /** Tokens of the preferred answer. */
    chosen: number;
    /** Tokens of the other answer. */
    rejected: number;
  };
}

/** Options for writing rows. */
export interface WriteOptions {
  /** The names of the columns: those of TRL or those of LLaVA-Hound. */
  format: "trl" | "hound";
}

function words(field: string, value: unknown): string {
  const s = text(field, value);
  if (s.trim() === "") refuse(field, "a text that is not empty", s);
  if (/\p{Surrogate}/u.test(s)) refuse(field, "well-formed text (no lone surrogates)", s);
  return s;
}

function tokens(field: string, value: unknown): number[] | null {
  if (value === undefined) return null;
  const list = value instanceof Int32Array || Array.isArray(value) ? Array.from(value as ArrayLike<unknown>) : null;
  if (!list || list.length === 0) return refuse(field, "token ids", value);
  const wrong = list.findIndex((id) => !Number.isInteger(id) || (id as number) < 0 || (id as number) >= 2 ** 31);
  if (wrong >= 0) refuse(`${field}[${wrong}]`, "a token id (an integer from 0 to 2^31 - 1)", list[wrong]);
  return list as number[];
}

function seedsOf(field: string, value: unknown): string[] {
  if (!Array.isArray(value)) refuse(field, "an array of seeds", value);
  return (value as unknown[]).map((s, i) => {
    const whole = typeof s === "bigint" ? s >= 0n && s < 1n << 64n : Number.isSafeInteger(s) && (s as number) >= 0;
    return whole ? String(s) : refuse(`${field}[${i}]`, "a whole number from 0 to 2^64 - 1", s);
  });
}

function provenance(at: string, r: Record<string, unknown>): Columns {
  const lengths = object(`${at}.lengths`, r.lengths);
  const chosen = tokens(`${at}.chosenIds`, r.chosenIds);
  const rejected = tokens(`${at}.rejectedIds`, r.rejectedIds);
  if ((chosen === null) !== (rejected === null))
    refuse(`${at}.rejectedIds`, "ids of both answers or of none", r.rejectedIds);
  if (r.agreement !== null && typeof r.agreement !== "boolean")
    refuse(`${at}.agreement`, "true, false or null", r.agreement);
  return {
    chosen_ids: chosen,
    rejected_ids: rejected,
    iteration: integer(`${at}.iteration`, r.iteration, 0, 2 ** 31 - 1),
    seeds: seedsOf(`${at}.seeds`, r.seeds),
    prompt_hash: words(`${at}.promptHash`, r.promptHash),
    model_hash: words(`${at}.modelHash`, r.modelHash),
    margin: r.margin === null ? null : number(`${at}.margin`, r.margin),
    agreement: r.agreement,
    chosen_length: integer(`${at}.lengths.chosen`, lengths.chosen, 0, 2 ** 31 - 1),
    rejected_length: integer(`${at}.lengths.rejected`, lengths.rejected, 0, 2 ** 31 - 1),
  };
}

/** A record as a row of the format; INVALID_ARGUMENT for what could not be read back. */
class RowMaker {
  readonly #seen = new Set<string>();
  #count = 0;

  constructor(readonly format: WriteOptions["format"]) {}

  make(record: unknown): Columns {
    const at = `rows[${this.#count++}]`;
    const r = object(at, record);
    const id = r.id === undefined ? null : words(`${at}.id`, r.id);
    if (id !== null && this.#seen.has(id)) refuse(`${at}.id`, "an id that no row before has", id);
    if (id !== null) this.#seen.add(id);
    const video =
      r.video === undefined ? null : pathOf(`${at}.video`, words(`${at}.video`, r.video), "INVALID_ARGUMENT");
    if (video === null && this.format === "hound")
      refuse(`${at}.video`, "a path (format hound has one per row)", r.video);
    const texts = { prompt: this.#prompt(`${at}.prompt`, r.prompt), ...this.#answers(at, r) };
    const media = this.format === "hound" ? { video } : { videos: video === null ? null : [video] };
    return { id, ...media, ...texts, ...provenance(at, r) };
  }

  #prompt(field: string, value: unknown): string {
    const s = words(field, value);
    return /<video>|<image>/.test(s) ? refuse(field, "text without <video> and <image>", s) : s;
  }

  #answers(at: string, r: Record<string, unknown>): Columns {
    return { chosen: words(`${at}.chosen`, r.chosen), rejected: words(`${at}.rejected`, r.rejected) };
  }
}

/** Columns that are null say nothing and are left out of a line. */
function lineOf(row: Columns): string {
  const line = `${JSON.stringify(Object.fromEntries(Object.entries(row).filter(([, value]) => value !== null)))}\n`;
  if (Buffer.byteLength(line) > maxLineBytes)
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `rows: expected a row of at most ${maxLineBytes} bytes, got ${line.length}`,
    );
  return line;
}

/** Rows to write, in order. */
export type Rows = AsyncIterable<PairRecord> | Iterable<PairRecord>;

async function writeLines(file: AtomicFile, rows: Rows, maker: RowMaker): Promise<void> {
  let held = "";
  for await (const record of rows) {
    held += lineOf(maker.make(record));
    if (held.length < 1 << 20) continue;
    await file.write(Buffer.from(held));
    held = "";
  }
  await file.write(Buffer.from(held));
}

/**
 * Writes pairs to a .jsonl or .parquet file, in the form of TRL (prompt, chosen, rejected, videos) or LLaVA-Hound (video,
 * prompt, chosen, rejected), with the columns iteration, seeds, prompt_hash, model_hash, chosen_ids, rejected_ids, margin,
 * agreement, chosen_length, rejected_length. The file appears complete or not at all, and replaces an earlier one.
 * {@link readPairs} reads the same pairs.
 * @param path - the file; its ending decides the format
 * @param rows - the pairs, in order
 * @param o - names of the columns
 * @throws {@link IsrDpoError} INVALID_ARGUMENT: a row that could not be read again, or a file that this package did not write;
 * DISK_FULL, IO
 */
export async function writePairs(path: string, rows: Rows, o: WriteOptions): Promise<void> {
  checkPath("path", path);
  const format = choice("options.format", options("options", o, ["format"]).format, ["trl", "hound"]);
  const maker = new RowMaker(format);
  const iterable = rows as Partial<AsyncIterable<unknown> & Iterable<unknown>> | null | undefined;
  if (typeof rows === "string" || (!iterable?.[Symbol.asyncIterator] && !iterable?.[Symbol.iterator]))
    refuse("rows", "an iterable of pair records", rows);
  await refuseForeignFile(path, "pairs that were written before", (head, tail) =>
    (head.startsWith("PAR1") ? tail : keysOfFirstLine(head).join(" ")).includes("prompt_hash"),
  );
  if (/\.jsonl$/i.test(path)) return writeAtomically(path, (file) => writeLines(file, rows, maker), writeAgain);
  if (!/\.parquet$/i.test(path)) refuse("path", "a .jsonl or .parquet file", path);
  const { writeTable } = await import("./pairs-parquet.js");
  return writeAtomically(path, (file) => writeTable(file, rows, (record) => maker.make(record), format), writeAgain);
}
