// readSamples: the questions about videos that an iteration works on.
import { bad, given, has, idOf, listOf, pathOf, type Row, rowOf } from "./row-fields.js";
import { bareQuestion } from "./llava-hound.js";
import { type Format, readItems } from "./read-items.js";
import type { BadRowOptions } from "./bad-rows.js";
import { conversationOf } from "./conversation-turns.js";

/** A question about a video. */
export interface Sample {
  /** Identifies the sample in the records of a run; no two samples have the same. */
  id: string;
  /** Path of a video file or a folder of frames, relative to the folder of videos. */
  video: string;
  /** The question, without a placeholder for the video. */
  question: string;
}

/** The first turn of at most one question and its answer. */
function askedOf(value: unknown): string {
  const turns = conversationOf("conversations", value);
  if (turns.length === 0 || turns.length > 2) bad("conversations", "a question and at most its answer", value);
  if (turns[0]!.role !== "user") bad("conversations[0].from", "human or user", turns[0]!.role);
  return bareQuestion(
    "conversations[0].value",
    given(rowOf("conversations[0]", listOf("conversations", value)[0]), "value"),
  );
}

const sample =
  (question: (row: Row) => string) =>
  (row: Row, line: number): Sample => {
    const video = pathOf("video", given(row, "video"));
    return { id: idOf(row, ["id", "idx"]) ?? `${video}#${line}`, video, question: question(row) };
  };

const format = (name: string, key: string, question: (row: Row) => string): Format<Sample> => ({
  name,
  holds: `video, ${key}`,
  fits: (row) => has(row, "video") && has(row, key),
  read: sample(question),
});

const formats: readonly Format<Sample>[] = [
  format("plain", "question", (row) => bareQuestion("question", given(row, "question"))),
  format("hound", "prompt", (row) => bareQuestion("prompt", given(row, "prompt"))),
  format("test", "conversations", (row) => askedOf(given(row, "conversations"))),
];

/**
 * Reads the samples of a .jsonl, .json or .parquet file, one after another. A row has `video`, and `question`, `prompt` (LLaVA-Hound's
 * preferences) or `conversations` with a question and its answer (LLaVA-Hound's test rows). The id of a sample is the row's `id` or
 * `idx`; default `${video}#${line}`.
 * @param path - the file
 * @param o - what happens to bad rows
 * @throws {@link IsrDpoError} as {@link readPairs}
 */
export const readSamples = (path: string, o?: BadRowOptions): AsyncIterable<Sample> =>
  readItems(path, o, formats, false);
