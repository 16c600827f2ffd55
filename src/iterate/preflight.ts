// Trials with the model before a run begins: whether prompts of full length fit, whether some videos can be read, and for a
// long run whether the largest step fits into memory.
import { join } from "node:path";
import { asyncDispose } from "../base/addon.js";
import type { Sample } from "../data/read-samples.js";
import { IsrDpoError } from "../base/errors.js";
import { internalsOf } from "../model/model.js";
import type { VideoLM } from "../model/video-lm.js";
import { openTrainer } from "../train/trainer.js";
import { stepPlan } from "../train/item-order.js";
import { agreed, byFirst } from "../train/ranks/agree.js";
import type { Communicator } from "../train/ranks/communicator.js";
import { longRun } from "../train/train-steps.js";
import type { Media, Pair } from "../base/types.js";
import { type Budgets, promptTokens, provenQuestion, proveBudgets, verdictTokens } from "./prompt-budget.js";
import { lookOf, type LookRule } from "./frame-policy.js";
import { type Prompts, responsePrompt } from "./method-prompts.js";
import { evaluationSamples } from "./check-inputs.js";
import type { RunSettings } from "./iteration-settings.js";

export interface Preflight {
  model: VideoLM;
  samples: readonly Sample[];
  settings: RunSettings;
  prompts: Prompts;
  looks: LookRule;
  signal: AbortSignal;
  /** The ranks that train together; each tries its part of the largest step. */
  ranks: Communicator | undefined;
}

const longestOf = (samples: readonly Sample[]): Sample =>
  samples.reduce((a, b) => (b.question.length > a.question.length ? b : a));

/** INVALID_CONFIG for a number of frames that the vision tower does not take. */
function proveFrames(model: VideoLM, frames: number | undefined): void {
  const { vision } = internalsOf(model).inputs;
  if (frames === undefined || !vision?.original || vision.frames === frames) return;
  throw new IsrDpoError(
    "INVALID_CONFIG",
    `video.frames: expected ${vision.frames}, as the vision tower has been trained with, got ${frames}`,
    { hint: `set video.frames to ${vision.frames}`, detail: { field: "video.frames" } },
  );
}

/** INVALID_CONFIG where the longest prompts of a run do not fit into the context window. */
export async function proveWindow({ model, samples, settings, prompts }: Omit<Preflight, "ranks">): Promise<void> {
  const longest = longestOf(samples).question;
  const budgets: Budgets = {
    context: settings.context.maxTokens,
    response: settings.response.maxTokens,
    verdict: verdictTokens,
    question: Math.min(provenQuestion, model.tokenizer.encode(longest, { special: false }).length),
  };
  const { frames } = settings.video;
  proveFrames(model, frames);
  const media: Media = { kind: "video", path: "budget", ...(frames && { sample: { frames } }) };
  await proveBudgets(model, prompts, budgets, settings.context.design !== "none", media);
}

const mediaOf = ({ settings, looks }: Preflight, { id, video }: Sample): Media => {
  const sample = lookOf(looks, id, "response", 0);
  return { kind: "video", path: join(settings.videos, video), ...(sample && { sample }) };
};

/** Decodes a few videos, spread over the samples; what they give is kept for the run. Faults are skipped by those who skip. */
async function decodeSome(p: Preflight): Promise<void> {
  const { model, samples, settings, signal } = p;
  const some = [...new Set([0, samples.length >> 1, samples.length - 1])].map((i) => mediaOf(p, samples[i]!));
  const { evaluate } = settings;
  if (evaluate) {
    const [first] = await evaluationSamples({ ...evaluate, count: 1 });
    const sample = p.looks.sample;
    const path = join(evaluate.videos ?? settings.videos, first!.video);
    some.push({ kind: "video", path, ...(sample && { sample }) });
  }
  for (const media of some)
    try {
      await model.encode(media, { stage: "tower", signal });
    } catch (e) {
      if (signal.aborted || settings.video.onError === "fail") throw e;
    }
}

/** Two answers of full length that differ from their first token on. */
function longestAnswers(model: VideoLM, { prompts, settings }: Preflight): [Int32Array, Int32Array] {
  const [a, b] = new Set(model.tokenizer.encode(prompts.judge.plain, { special: false }));
  return [a!, b ?? a!].map((id) => new Int32Array(settings.response.maxTokens).fill(id)) as [Int32Array, Int32Array];
}

/** As much of the largest step as is computed at once, without an update: OUT_OF_MEMORY now rather than after the first night. */
async function fullSizeStep(p: Preflight): Promise<void> {
  const { model, samples, settings, prompts, signal, ranks } = p;
  const { train, trainer: options } = settings;
  const plan = stepPlan(samples.length, train.pairsPerStep, train.epochs);
  if (plan.totalSteps < longRun) return;
  const [chosen, rejected] = longestAnswers(model, p);
  const longest = longestOf(samples);
  const prompt = responsePrompt(prompts, mediaOf(p, longest), longest.question);
  const tokens = (await promptTokens(model, prompt)) + chosen.length + rejected.length;
  const share = Math.ceil(train.pairsPerStep / (ranks?.size ?? 1));
  const count = Math.min(share, Math.ceil((options.microBatchTokens ?? tokens) / tokens) + 1);
  const pair: Pair = { prompt, chosen, rejected };
  const all = { ...options, seed: settings.seed, totalSteps: options.totalSteps ?? plan.totalSteps };
  const trainer = await openTrainer(model, all, ranks);
  try {
    const [reference] = await agreed(ranks, () => trainer.score([pair], { signal }));
    await trainer.tryStep(Array(count).fill({ ...pair, reference: reference! }), { signal });
  } finally {
    await trainer[asyncDispose]();
  }
}

/** Fails before anything is computed or written. */
export async function preflight(p: Preflight): Promise<void> {
  if (p.model.info.media.length === 0) return;
  await byFirst(p.ranks, async () => {
    await decodeSome(p);
    return null;
  });
  await fullSizeStep(p);
}
