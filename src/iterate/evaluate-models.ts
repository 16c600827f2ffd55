// The evaluation of a run: each of its models answers the same questions, greedily. It changes no bit of the training.
import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { sha256 } from "../base/sha256.js";
import { mean } from "../base/statistics.js";
import { wordCount } from "../base/counts.js";
import type { Sample } from "../data/read-samples.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import type { VideoLM } from "../model/video-lm.js";
import { makeFolders, readState, writeAtomic } from "../base/atomic-files.js";
import { canonicalJson } from "../runfolder/run-json.js";
import type { Emit } from "../train/progress.js";
import { agreed, byFirst, gathered, portionOf } from "../train/ranks/agree.js";
import type { Communicator } from "../train/ranks/communicator.js";
import { fitResponsePrompt, mediaFaults } from "./prompt-budget.js";
import { type Prompts, responsePrompt } from "./method-prompts.js";
import { evaluationSamples } from "./check-inputs.js";
import type { RunSettings } from "./iteration-settings.js";

export interface SliceOptions {
  model: VideoLM;
  /** Index of the model that answers; events carry `iteration`. */
  index: number;
  iteration: number;
  settings: RunSettings;
  prompts: Prompts;
  /** Folder of the run. */
  dir: string;
  emit: Emit;
  signal: AbortSignal;
  /** The ranks that answer together, each a part; rank 0 keeps the files. */
  ranks: Communicator | undefined;
}

type Answer = { sample: string; video: string; question: string } & (
  | { answer: string; tokens: number; end: string }
  | { skipped: string }
);

const rankBatch = 8; // questions of a rank until all have them: what a lost rank loses
const toldAnswers = 3; // answers of each model that the log shows

async function answerOf(o: SliceOptions, { id, video, question }: Sample): Promise<Answer> {
  const { model, settings, prompts, signal } = o;
  const { videos } = settings.evaluate!;
  const { frames, window, fps } = settings.video;
  const sampling = { ...(frames && { frames }), ...(window && { window }), ...(fps && { fps }) };
  const path = join(videos ?? settings.videos, video);
  const media = { kind: "video" as const, path, ...(Object.keys(sampling).length > 0 && { sample: sampling }) };
  const asked = { sample: id, video, question };
  const { maxTokens } = settings.response;
  try {
    await fitResponsePrompt(model, prompts, media, question, model.info.contextLength - maxTokens);
    const prompt = responsePrompt(prompts, media, question);
    const [done] = await model.generate([{ id, prompt, maxTokens, temperature: 0 }], { signal });
    return { ...asked, answer: done!.text, tokens: done!.ids.length, end: done!.finishReason };
  } catch (e) {
    const skip = isIsrDpoError(e) && (e.code === "CONTEXT_OVERFLOW" || mediaFaults.includes(e.code));
    if (!skip || settings.video.onError === "fail") throw e;
    return { ...asked, skipped: e.code };
  }
}

type Evaluate = NonNullable<RunSettings["evaluate"]>;

const fileOf = (dir: string, { name }: Evaluate, index: number, ending: "json" | "answers.jsonl"): string =>
  join(dir, "evaluation", `${name}.${index}.${ending}`);

/** What is asked: another set of questions under the same name would be another evaluation. */
const questionsOf = (samples: readonly Sample[]): string =>
  sha256(canonicalJson(samples.map(({ id, video, question }) => [id, video, question])));

/** Those of the models with these indices that have not answered the evaluation yet. */
export const unasked = (dir: string, evaluate: Evaluate | undefined, indices: readonly number[]): number[] =>
  evaluate ? indices.filter((index) => !existsSync(fileOf(dir, evaluate, index, "json"))) : [];

/** RUN_MISMATCH where a model of the folder was asked other questions under this name. */
export async function proveSameQuestions(dir: string, evaluate: Evaluate, indices: readonly number[]): Promise<void> {
  const asked = indices.filter((index) => !unasked(dir, evaluate, [index]).includes(index));
  if (asked.length === 0 || !existsSync(evaluate.samples)) return; // nothing is asked again, so nothing has to be there
  const now = questionsOf(await evaluationSamples(evaluate));
  for (const index of asked) {
    const path = fileOf(dir, evaluate, index, "json");
    const { questionsSha256: before } = (await readState(path)) ?? {};
    if (before === undefined || before === now) continue;
    const { mtime } = await stat(path);
    throw new IsrDpoError(
      "RUN_MISMATCH",
      `evaluate.samples: expected the questions that model ${index} was asked on ${mtime.toISOString()} as ${JSON.stringify(evaluate.name)}, got others`,
      {
        hint: "give the new questions a name of their own (evaluate.name), or restore the file and evaluate.count",
        path: evaluate.samples,
        detail: { field: "evaluate.samples", model: index },
      },
    );
  }
}

/**
 * Answers of one model to the first `count` questions: evaluation/<name>.<index>.answers.jsonl, and a row for the report beside
 * it. Does nothing where `evaluate` is not configured, or the model has been asked before.
 */
export async function evaluateSlice(o: SliceOptions): Promise<void> {
  const { ranks } = o;
  const { evaluate } = o.settings;
  const asked = await byFirst(ranks, async () => !evaluate || unasked(o.dir, evaluate, [o.index]).length === 0);
  if (!evaluate || asked) return;
  const answers: Answer[] = [];
  let told = 0;
  const samples = await agreed(ranks, () => evaluationSamples(evaluate));
  const batch = ranks ? rankBatch * ranks.size : 1;
  for (let first = 0; first < samples.length; first += batch) {
    const found = await gathered(ranks, () => answersOf(o, portionOf(ranks, samples.slice(first, first + batch))));
    answers.push(...found);
    for (const answer of found) {
      if (!("answer" in answer) || told++ >= toldAnswers) continue;
      const { sample: id, question, answer: text } = answer;
      o.emit({ type: "answer", iteration: o.iteration, model: o.index, sample: id, question, text });
    }
  }
  await byFirst(ranks, async () => {
    await keep(o, evaluate, samples, answers);
    return null;
  });
}

async function answersOf(o: SliceOptions, samples: readonly Sample[]): Promise<Answer[]> {
  const found: Answer[] = [];
  for (const sample of samples) found.push(await answerOf(o, sample));
  return found;
}

async function keep(
  o: SliceOptions,
  evaluate: Evaluate,
  samples: readonly Sample[],
  answers: readonly Answer[],
): Promise<void> {
  const given = answers.flatMap((a) => ("answer" in a ? [wordCount(a.answer)] : []));
  const row = {
    ...{ name: evaluate.name, title: `Answers to ${evaluate.name}`, kind: "answers", model: o.index },
    ...{ count: given.length, skipped: answers.length - given.length, questionsSha256: questionsOf(samples) },
    words: given.length === 0 ? null : mean(given),
  };
  await makeFolders(join(o.dir, "evaluation"));
  const lines = answers.map((a) => `${JSON.stringify(a)}\n`).join("");
  await writeAtomic(fileOf(o.dir, evaluate, o.index, "answers.jsonl"), lines);
  await writeAtomic(fileOf(o.dir, evaluate, o.index, "json"), `${JSON.stringify(row)}\n`);
}
