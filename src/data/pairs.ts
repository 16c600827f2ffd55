// readPairs: preference rows of LLaVA-Hound, TRL and ShareGPT form.
import type { Pair } from "../types.js";
import { has, given, type Row } from "./fields.js";
import { houndPair } from "./hound.js";
import { type Format, type Prepare, readItems } from "./items.js";
import type { BadRowOptions } from "./rows.js";
import { shareGptPair } from "./sharegpt.js";
import { trlPair } from "./trl.js";

/** How rows are read. */
export interface ReadOptions extends BadRowOptions {
  /** Default "auto": each row by its keys. */
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
 * Streams the pairs of a .jsonl, .json or .parquet file. Token ids (columns chosen_ids and rejected_ids) win over text.
 * Media paths stay relative, as the row gives them. Throws DATA_INVALID with path, line and field for a bad row (missing
 * or wrong field, empty answer, an id for the second time, a path that leaves the data folder, no JSON, no UTF-8, a line
 * above 16 MiB), unless onBadRow is "skip"; DATA_INVALID for a format that is unknown or ambiguous; NOT_FOUND, IO.
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
