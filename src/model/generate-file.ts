// generateFile(): answers for a file of prompts. Rows stream through in batches, so that neither file need fit into memory; rows
// side by side that look at the same video are answered together and read it once.
import { object, options } from "../base/check.js";
import { isRowFault } from "../base/data-fault.js";
import { type IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { floatList } from "../base/line-files.js";
import { resolved } from "../base/option-rows.js";
import { renamed } from "../base/renamed.js";
import type { Completion, FrameSampling, Sampling } from "../base/types.js";
import { type RowSink, type RowSource, RowWork, type RowWorkOptions, rowWorkKeys } from "../data/row-work.js";
import { type Row, type RowOption, readRows } from "./generate-rows.js";
import { batchRow, requestRows, samplingKeys } from "./sampling-options.js";
import type { VideoLM } from "./video-lm.js";

/** Options of {@link generateFile}; sampling options apply to rows that have none of their own. */
export interface GenerateFileOptions extends Sampling, RowWorkOptions {
  /** Answers for each row; default 1. */
  n?: number;
  /** @deprecated Use `n`; removed in 0.3. */
  copies?: number;
  /** Frames of the videos that have no choice of frames of their own; default: the family's. */
  sample?: FrameSampling;
  /** Rows that are answered at the same time; default 64. */
  batch?: number;
  /** Called after each batch. */
  onProgress?(done: {
    /** Rows that were answered. */
    rows: number;
    /** Their answers. */
    answers: number;
  }): void;
}

/** What {@link generateFile} has done. */
export interface GenerateFileResult {
  /** Rows that were answered. */
  rows: number;
  /** Their answers, one line of the output each. */
  answers: number;
  /** Lines of the rows that were left out, ascending. */
  skipped: readonly number[];
  /** Names of the options that at least one row has taken; the others had no effect. */
  used: readonly string[];
}

/** Keys by which the answers of this version and of earlier ones are known. */
export const answerKeys = ["id", "copy", "text", "ids", "logProbs"];

/** At most `size` rows at a time; where it can, a batch ends where the media change. */
export async function* batches(rows: AsyncIterable<Row>, size: number): AsyncGenerator<Row[]> {
  let batch: Row[] = [];
  for await (const row of rows) {
    if (batch.length === size) {
      let others = size;
      while (others > 0 && batch[others - 1]!.looksAt === row.looksAt) others--;
      const cut = others > 0 ? others : size;
      yield batch.slice(0, cut);
      batch = batch.slice(cut);
    }
    batch.push(row);
  }
  if (batch.length > 0) yield batch;
}

type Outcome = Completion[] | IsrDpoError;

/** Rows that a failure of their call names, by place or by the path of a medium. */
function named(rows: readonly Row[], { detail, path }: IsrDpoError): Row[] {
  const row = rows[Number(detail?.request ?? Number.NaN)];
  if (row) return [row];
  return path === undefined ? [] : rows.filter((r) => r.looksAt.includes(JSON.stringify(path)));
}

/** Whether the model has a tokenizer: then what it or its template refuses is a row's fault. */
function usable(model: VideoLM): boolean {
  try {
    return model.tokenizer !== null;
  } catch {
    return false;
  }
}

/** Answers in one call. Rows that make it fail are found, by halves where nothing names them, and the others asked again. */
async function answer(model: VideoLM, rows: readonly Row[], signal: AbortSignal): Promise<Map<Row, Outcome>> {
  if (rows.length === 0) return new Map();
  try {
    const requests = rows.map((r) => r.request);
    const completions = await model.generate(requests, { signal });
    const answers = new Map<Row, Completion[]>(rows.map((row) => [row, []]));
    for (const c of completions) answers.get(rows[Number(c.request)]!)!.push(c);
    return answers;
  } catch (e) {
    if (!isRowFault(e) && !(isIsrDpoError(e, "TOKENIZER") && usable(model))) throw e;
    if (rows.length === 1) return new Map([[rows[0]!, e]]);
    const bad = named(rows, e);
    if (bad.length > 0) {
      const others = rows.filter((row) => !bad.includes(row));
      return new Map([...bad.map((row) => [row, e] as const), ...(await answer(model, others, signal))]);
    }
    const half = rows.length >> 1;
    return new Map([
      ...(await answer(model, rows.slice(0, half), signal)),
      ...(await answer(model, rows.slice(half), signal)),
    ]);
  }
}

const linesOf = (row: Row) => (answers: readonly Completion[]) =>
  answers.map(({ copy, text, ids, logProbs, finishReason }) => ({
    ...{ id: row.id, copy, text, ids: Array.from(ids), logProbs: floatList(logProbs), finishReason },
  }));

/**
 * Answers each row of a JSON Lines file, and writes one line per answer, `{id, copy, text, ids, logProbs, finishReason}`, in the order
 * of the rows. A row has a `prompt` (text or messages) or `ids`, and may have `id`, `video`, `image` (paths, one or a list) and sampling
 * options of its own. An output file appears only when all rows are answered.
 * @param model - the model that answers
 * @param input - path of the rows, or a stream of their bytes
 * @param output - path of the answers, or an object whose `write` takes each line
 * @param o - see {@link GenerateFileOptions}
 * @throws {@link IsrDpoError} DATA_INVALID and other codes with file and line for a bad row; DATA_INVALID when no row is usable;
 * INVALID_ARGUMENT: options, or a file at `output`; NOT_FOUND, DISK_FULL, IO; as {@link Generator.generate}
 * @example
 * ```ts
 * import { generateFile, loadModel } from "isr-dpo";
 *
 * const model = await loadModel("checkpoint");
 * const { rows, answers } = await generateFile(model, "prompts.jsonl", "answers.jsonl", { maxTokens: 64, onBadRow: "skip" });
 * console.log(rows, answers);
 * await model.dispose();
 * ```
 */
export async function generateFile(
  model: VideoLM,
  input: RowSource,
  output: RowSink,
  o: GenerateFileOptions = {},
): Promise<GenerateFileResult> {
  const known = [...samplingKeys, ...rowWorkKeys, "n", "sample", "batch", "onProgress"];
  const given = options("options", renamed("options", o, "stream", "copies"), known) as GenerateFileOptions;
  const { sample, onProgress } = given;
  const { n, batch } = resolved("options", { n: given.n, batch: given.batch }, { n: requestRows.n, batch: batchRow });
  if (sample !== undefined) object("options.sample", sample);
  const signal = given.signal ?? new AbortController().signal;
  const sampling = Object.fromEntries(Object.entries(given).filter(([k]) => samplingKeys.includes(k)));
  const used = new Set<RowOption>();
  const work = await RowWork.open(input, output, answerKeys, given);
  return work.after(async () => {
    const defaults = { sampling: sampling as Sampling, n, frames: sample, used };
    let [rows, answers] = [0, 0];
    for await (const some of batches(readRows(work.input, work, defaults), batch)) {
      signal.throwIfAborted();
      const outcomes = await answer(model, some, signal);
      for (const row of some) {
        const outcome = outcomes.get(row)!;
        if (!(await work.write(row.line, outcome, linesOf(row)))) continue;
        rows += 1;
        answers += (outcome as Completion[]).length;
      }
      onProgress?.({ rows, answers });
    }
    return { rows, answers, skipped: [...work.skipped].sort((a, b) => a - b), used: [...used] };
  });
}
