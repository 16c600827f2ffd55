// readPairs: preference rows of LLaVA-Hound, TRL and ShareGPT form.
import type { Pair } from "../base/types.js";
import { has, given, type Row } from "./row-fields.js";
import { houndPair } from "./llava-hound.js";
import { type Format, type Prepare, readItems } from "./read-items.js";
import type { BadRowOptions } from "./bad-rows.js";
import { shareGptPair } from "./sharegpt.js";
import { trlPair } from "./trl.js";

/** Options for reading rows. */
export interface ReadOptions extends BadRowOptions {
  /** Form of the rows; default "auto": each row is read by the form of its keys. */
  format?: "auto" | "hound" | "trl" | "sharegpt";
}

const any = (row: Row, ...keys: string[]) => keys.some((key) => has(row, key));
const isList = (row: Row, key: string) => Array.isArray(given(row, key));
const prefers = (row: Row) => any(row, "chosen", "rejected", "chosen_ids", "rejected_ids");
const single = (row: Row) => any(row, "video", "image");
const columns = (row: Row) => any(row, "videos", "images");

const formats: readonly Format<Pair>[] = [
  {
    name: "hound",
    holds: "video, prompt or conversations, chosen, rejected",
    fits: (row) => single(row) && prefers(row) && !isList(row, "prompt") && any(row, "prompt", "conversations"),
    lacks: (row) =>
      prefers(row) &&
      !single(row) &&
      !columns(row) &&
      ["prompt", "chosen", "rejected"].every((key) => !isList(row, key)) &&
      any(row, "prompt", "conversations"),
    read: houndPair,
  },
  {
    name: "trl",
    holds: "prompt, chosen, rejected, and videos or images",
    fits: (row) =>
      prefers(row) &&
      (any(row, "prompt") || isList(row, "chosen")) &&
      (!single(row) || columns(row) || isList(row, "prompt") || isList(row, "chosen")),
    read: trlPair,
  },
  {
    name: "sharegpt",
    holds: "conversations, chosen, rejected, and videos or images",
    fits: (row) => prefers(row) && any(row, "conversations") && (!single(row) || columns(row)),
    read: shareGptPair,
  },
];

/**
 * Reads the pairs of a .jsonl, .json or .parquet file (docs/data.md), one after another. Token ids (columns chosen_ids and
 * rejected_ids) are used in place of the text. Media paths stay relative, as in the row.
 * @param path - the file
 * @param o - form of the rows, and what happens to bad ones
 * @throws {@link IsrDpoError} DATA_INVALID with file, line and field: a bad row (unless `onBadRow` is "skip"), or a file of an unknown
 * form; NOT_FOUND, IO
 *
 * @example
 * ```ts
 * import { readPairs } from "isr-dpo";
 *
 * const onSkip = ({ line, message }: { line: number; message: string }) => console.warn(line, message);
 * for await (const pair of readPairs("pairs.jsonl", { onBadRow: "skip", onSkip })) console.log(pair.id, pair.chosen);
 * ```
 */
export const readPairs = (path: string, o?: ReadOptions): AsyncIterable<Pair> => readItems(path, o, formats);

/** readPairs with a step of the caller's on each item, whose faults are the row's. */
export const readPairsWith = (path: string, o: ReadOptions, prepare: Prepare<Pair>): AsyncIterable<Pair> =>
  readItems(path, o, formats, true, prepare);
