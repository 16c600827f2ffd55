// judgeFile(): which of two answers a judge prefers, for a file of pairs. A row is a line of JSON:
//   {"id"?, "video"?, "question", "context"?, "responses": [first, second]}, or a line of pairs.jsonl.
import { isAbsolute, resolve } from "node:path";
import { array, object, options, text } from "../base/check.js";
import { isRowFault } from "../base/data-fault.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { resolved } from "../base/option-rows.js";
import type { JudgeFileSettings } from "../base/option-types.js";
import { linesOfStream } from "../base/line-files.js";
import { bareQuestion } from "../data/llava-hound.js";
import { foreignPlace, hasPlace } from "../data/media-placeholders.js";
import { type RowSink, type RowSource, RowWork, type RowWorkOptions, rowWorkKeys } from "../data/row-work.js";
import {
  compareBoth,
  compareOnce,
  type Decision,
  decide,
  type Judge,
  type JudgeItem,
  type PairStatus,
  type Verdict,
} from "./judge.js";
import { judgeFileRows } from "./judge-options.js";

/** Options of {@link judgeFile}. Relative paths of videos start from `folder`. */
export interface JudgeFileOptions extends RowWorkOptions, JudgeFileSettings {}

/** What {@link judgeFile} has done. */
export interface JudgeFileResult {
  /** Rows that were judged, one line of the output each. */
  rows: number;
  /** How many of them came to each status; a status that no row came to is missing. */
  counts: Readonly<Partial<Record<PairStatus, number>>>;
  /** Lines of the rows that were left out, ascending. */
  skipped: readonly number[];
}

const keys = ["id", "video", "question", "context", "responses"];

/** What an iteration's pairs hold beside what is judged; `chosen` is shown first. */
const pairKeys = [
  ...["id", "video", "prompt", "chosen", "rejected", "context", "chosen_ids", "rejected_ids", "iteration", "seeds"],
  ...["prompt_hash", "model_hash", "margin", "agreement", "chosen_length", "rejected_length"],
];

/** A row of pairs.jsonl as a row to judge. */
function judgeable(value: Record<string, unknown>): Record<string, unknown> {
  if (value.responses !== undefined || value.chosen === undefined || value.rejected === undefined)
    return options("row", value, keys);
  const { id, video, prompt, context, chosen, rejected } = options("row", value, pairKeys);
  return { id, video, question: prompt, context, responses: [chosen, rejected] };
}

/** The question without the place for its video; a place without a video is a fault of the row. */
function questionOf(question: string, video: boolean): string {
  if (!hasPlace(question) && foreignPlace(question) === undefined) return question;
  if (video) return bareQuestion("question", question);
  throw new IsrDpoError("DATA_INVALID", "question: expected a video for the place written in it, got none", {
    detail: { field: "question" },
  });
}

function itemOf(value: Record<string, unknown>, line: number, base: string): JudgeItem {
  const row = judgeable(value);
  const responses = array("responses", row.responses).map((r, i) => text(`responses[${i}]`, r));
  if (responses.length !== 2)
    throw new IsrDpoError("INVALID_ARGUMENT", `responses: expected two, got ${responses.length}`);
  const video = row.video == null ? "" : text("video", row.video);
  return {
    sample: {
      id: row.id == null ? String(line) : String(row.id),
      video: video === "" || isAbsolute(video) ? video : resolve(base, video),
      question: questionOf(text("question", row.question), video !== ""),
    },
    context: row.context == null || String(row.context).trim() === "" ? null : text("context", row.context),
    responses: responses as [string, string],
  };
}

async function* itemsOf(work: RowWork): AsyncGenerator<{ line: number; item: JudgeItem }> {
  for await (const { number, bytes } of linesOfStream(work.input, work.name)) {
    const line = bytes.toString("utf8");
    if (line.trim() === "") continue;
    let item: JudgeItem;
    try {
      item = itemOf(object("row", JSON.parse(line)), number, work.folder);
    } catch (e) {
      const fault = `expected JSON, got ${(e as Error).message}`;
      work.bad(number, isIsrDpoError(e) ? e : new IsrDpoError("DATA_INVALID", fault));
      continue;
    }
    yield { line: number, item };
  }
}

const policies = { tie: "drop", disagree: "drop", identical: "drop", unparsed: "drop", truncated: "drop" } as const;

/** What became of an item: the same words twice are nothing to prefer, and no judge is asked. */
const decisionOf = (verdicts: readonly Verdict[] | null): Decision =>
  verdicts === null ? { status: "identical" } : decide(verdicts, policies);

/** How a row is told: what was preferred, how sure, and by whom. */
function told({ sample: { id } }: JudgeItem, verdicts: readonly Verdict[] | null, judge: string): object {
  const { status, chosen, margin } = decisionOf(verdicts);
  const raw = (verdicts ?? []).flatMap((v) => (v.raw === undefined ? [] : [v.raw]));
  return { id, prefer: chosen ?? null, status, margin: margin ?? null, ...(raw.length > 0 ? { raw } : {}), judge };
}

type Outcome = readonly Verdict[] | null | IsrDpoError;

/** Verdicts in the order of the items. Items that make a call fail are found by halves, and the others judged. */
async function ask(
  asked: Judge,
  items: readonly JudgeItem[],
  orders: "one" | "both",
  signal: AbortSignal,
): Promise<Outcome[]> {
  if (items.length === 0) return [];
  try {
    return orders === "both"
      ? await compareBoth(asked, items, { signal })
      : (await compareOnce(asked, items, { signal })).map((v) => [v]);
  } catch (e) {
    if (!isRowFault(e)) throw e;
    if (items.length === 1) return [e];
    const half = items.length >> 1;
    const first = await ask(asked, items.slice(0, half), orders, signal);
    return [...first, ...(await ask(asked, items.slice(half), orders, signal))];
  }
}

/** What becomes of a batch in its order; null for answers of the same words. */
async function verdictsOf(
  asked: Judge,
  batch: readonly JudgeItem[],
  orders: "one" | "both",
  signal: AbortSignal,
): Promise<Outcome[]> {
  const open = batch.filter(({ responses: [a, b] }) => a.trim() !== b.trim());
  const found = await ask(asked, open, orders, signal);
  const byItem = new Map<JudgeItem, Outcome>(open.map((item, i) => [item, found[i]!]));
  return batch.map((item) => byItem.get(item) ?? null);
}

/**
 * Judges each row of a JSON Lines file, and writes one line per row, `{id, prefer, status, margin, raw?, judge}`, in the order of the
 * rows: `prefer` is 0 or 1, the place of the preferred response, or null. Answers of the same words are "identical", and no judge is
 * asked about them. An output file appears only when all rows are judged.
 * @param judge - for instance of {@link openaiJudge}, {@link modelJudge} or your own
 * @param input - path of the rows (or of an iteration's pairs.jsonl), or a stream of their bytes
 * @param output - path of the verdicts, or an object whose `write` takes each line
 * @param o - see {@link JudgeFileOptions}
 * @throws {@link IsrDpoError} DATA_INVALID and other codes with file and line for a bad row; DATA_INVALID when no row is usable;
 * INVALID_ARGUMENT: options, or a file at `output`; NOT_FOUND, DISK_FULL, IO; JUDGE_FAILED, and what the judge throws
 * @example
 * ```ts
 * import { judgeFile, openaiJudge } from "isr-dpo";
 *
 * const judge = openaiJudge({ url: "http://127.0.0.1:8000/v1", model: "judge" });
 * const { rows, counts } = await judgeFile(judge, "pairs.jsonl", "verdicts.jsonl");
 * console.log(rows, counts);
 * ```
 */
export async function judgeFile(
  judge: Judge,
  input: RowSource,
  output: RowSink,
  o: JudgeFileOptions = {},
): Promise<JudgeFileResult> {
  const given = options("options", o, [...rowWorkKeys, ...Object.keys(judgeFileRows)]) as JudgeFileOptions;
  const { orders, batch: size } = resolved("options", { orders: given.orders, batch: given.batch }, judgeFileRows);
  const signal = given.signal ?? new AbortController().signal;
  const work = await RowWork.open(input, output, ["id", "prefer", "status"], given);
  const counts = new Map<PairStatus, number>();
  let rows = 0;
  const flush = async (batch: readonly { line: number; item: JudgeItem }[]) => {
    signal.throwIfAborted();
    const items = batch.map(({ item }) => item);
    const outcomes = await verdictsOf(judge, items, orders, signal);
    for (const [i, { line, item }] of batch.entries()) {
      const outcome = outcomes[i]!;
      if (!(await work.write(line, outcome, (verdicts) => [told(item, verdicts, judge.id)]))) continue;
      const { status } = decisionOf(outcome as readonly Verdict[] | null);
      counts.set(status, (counts.get(status) ?? 0) + 1);
      rows++;
    }
  };
  return work.after(async () => {
    let batch: { line: number; item: JudgeItem }[] = [];
    for await (const found of itemsOf(work)) {
      batch.push(found);
      if (batch.length < size) continue;
      await flush(batch);
      batch = [];
    }
    if (batch.length > 0) await flush(batch);
    return { rows, counts: Object.fromEntries(counts), skipped: [...work.skipped].sort((a, b) => a - b) };
  });
}
