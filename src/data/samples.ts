// readSamples: the questions about videos that an iteration works on.
import { bad, given, has, idOf, listOf, pathOf, type Row, rowOf } from "./fields.js";
import { bareQuestion } from "./hound.js";
import { type Format, readItems } from "./items.js";
import type { BadRowOptions } from "./rows.js";
import { conversationOf } from "./turns.js";

/** A question about a video. */
export interface Sample {
  /** Names it in the records of a run; no two samples share one. */
  id: string;
  /** A file or a folder of frames, relative to the folder of videos. */
  video: string;
  /** In words, without a placeholder for the video. */
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
 * Streams the samples of a .jsonl, .json or .parquet file: rows with question, with prompt (LLaVA-Hound preferences) or
 * with conversations of one question and its answer (LLaVA-Hound test rows), beside video. `id`: the row's id or idx;
 * default `${video}#${line}`. Bad rows and errors as with readPairs.
 */
export const readSamples = (path: string, o?: BadRowOptions): AsyncIterable<Sample> =>
  readItems(path, o, formats, false);
