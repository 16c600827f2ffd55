// readExamples: supervised rows of LLaVA-Hound, TRL and ShareGPT form.
import type { Example } from "../base/types.js";
import { has, type Row } from "./row-fields.js";
import { houndExample } from "./llava-hound.js";
import { type Format, type Prepare, readItems } from "./read-items.js";
import type { ReadOptions } from "./read-pairs.js";
import { shareGptExample } from "./sharegpt.js";
import { trlExample } from "./trl.js";

const single = (row: Row) => has(row, "video") || has(row, "image");
const columns = (row: Row) => has(row, "videos") || has(row, "images");

const formats: readonly Format<Example>[] = [
  {
    name: "hound",
    holds: "video or image, conversations",
    fits: (row) => single(row) && has(row, "conversations"),
    lacks: (row) => has(row, "conversations") && !single(row) && !columns(row),
    read: houndExample,
  },
  {
    name: "trl",
    holds: "messages, or prompt and completion, and videos or images",
    fits: (row) => has(row, "messages") || has(row, "completion"),
    read: trlExample,
  },
  {
    name: "sharegpt",
    holds: "conversations, and videos or images",
    fits: (row) => has(row, "conversations") && (!single(row) || columns(row)),
    read: shareGptExample,
  },
];

/**
 * Reads the examples of a .jsonl, .json or .parquet file (docs/data.md), one after another. The last turn is the assistant's answer,
 * all turns before it are the prompt. Media paths stay relative, as in the row.
 * @param path - the file
 * @param o - form of the rows, and what happens to bad ones
 * @throws {@link IsrDpoError} as {@link readPairs}
 */
export const readExamples = (path: string, o?: ReadOptions): AsyncIterable<Example> => readItems(path, o, formats);

/** readExamples with a step of the caller's on each item, whose faults are the row's. */
export const readExamplesWith = (path: string, o: ReadOptions, prepare: Prepare<Example>): AsyncIterable<Example> =>
  readItems(path, o, formats, true, prepare);
