// What can be tried before a run begins: whether the videos are there, whether some can be read, and for a long run whether
// the largest step fits into memory.
import { access } from "node:fs/promises";
import { join } from "node:path";
import { asyncDispose } from "../addon.js";
import type { Sample } from "../data/samples.js";
import { IsrDpoError } from "../errors.js";
import type { VideoLM } from "../model.js";
import { createTrainer } from "../trainer.js";
import { stepPlan } from "../training/order.js";
import type { Emit } from "../training/progress.js";
import { longRun } from "../training/steps.js";
import type { Media, Pair } from "../types.js";
import { promptTokens } from "./fit.js";
import type { RunFolder } from "./folder.js";
import { byVideo } from "./groups.js";
import { lookOf, type LookRule } from "./looks.js";
import { type Prompts, responsePrompt } from "./prompts.js";
import type { RunSettings } from "./settings.js";

export interface Preflight {
  model: VideoLM;
  folder: RunFolder;
  settings: RunSettings;
  prompts: Prompts;
  looks: LookRule;
  emit: Emit;
  signal: AbortSignal;
}

const atOnce = 64;

async function missingVideos({ folder, settings, signal }: Preflight): Promise<string[]> {
  const names = byVideo(folder.samples).map((v) => v.video);
  const missing: string[] = [];
  for (let i = 0; i < names.length; i += atOnce) {
    signal.throwIfAborted();
    const some = names.slice(i, i + atOnce);
    const there = await Promise.all(
      some.map((name) =>
        access(join(settings.videos, name)).then(
          () => true,
          () => false,
        ),
      ),
    );
    missing.push(...some.filter((_, k) => !there[k]));
  }
  return missing;
}

/** NOT_FOUND with the first of the missing videos, or a warning where they are to be skipped. */
async function checkVideos(p: Preflight): Promise<void> {
  const missing = await missingVideos(p);
  if (missing.length === 0) return;
  const { settings, emit } = p;
  const some = missing.slice(0, 5).join(", ") + (missing.length > 5 ? `, and ${missing.length - 5} more` : "");
  const message = `${settings.videos}: expected the videos of all samples, ${missing.length} are missing: ${some}`;
  const detail = { missing: missing.length };
  if (settings.video.onError === "skip") emit({ type: "warning", code: "MISSING_VIDEOS", message, detail });
  else
    throw new IsrDpoError("NOT_FOUND", message, {
      hint: 'set `videos` to the folder that the paths are relative to, or video.onError to "skip" to leave such samples out',
      path: settings.videos,
      detail,
    });
}

const mediaOf = ({ settings, looks }: Preflight, { id, video }: Sample): Media => {
  const sample = lookOf(looks, id, "response", 0);
  return { kind: "video", path: join(settings.videos, video), ...(sample && { sample }) };
};

/** Decodes a few videos, spread over the samples; what they give is kept for the run. Faults are skipped by those who skip. */
async function decodeSome(p: Preflight): Promise<void> {
  const { model, folder, settings, signal } = p;
  const { samples } = folder;
  for (const i of new Set([0, samples.length >> 1, samples.length - 1]))
    try {
      await model.encode(mediaOf(p, samples[i]!), { stage: "tower", signal });
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
  const { model, folder, settings, prompts, signal } = p;
  const { train, trainer: options } = settings;
  const plan = stepPlan(folder.samples.length, train.pairsPerStep, train.epochs);
  if (plan.totalSteps < longRun) return;
  const [chosen, rejected] = longestAnswers(model, p);
  const longest = folder.samples.reduce((a, b) => (b.question.length > a.question.length ? b : a));
  const prompt = responsePrompt(prompts, mediaOf(p, longest), longest.question);
  const tokens = (await promptTokens(model, prompt)) + chosen.length + rejected.length;
  const count = Math.min(train.pairsPerStep, Math.ceil((options.microBatchTokens ?? tokens) / tokens) + 1);
  const pair: Pair = { prompt, chosen, rejected };
  const trainer = await createTrainer(model, { totalSteps: plan.totalSteps, ...options });
  try {
    const [reference] = await trainer.score([pair], { signal });
    await trainer.tryStep(Array(count).fill({ ...pair, reference: reference! }), { signal });
  } finally {
    await trainer[asyncDispose]();
  }
}

/** Fails before anything is computed or written. */
export async function preflight(p: Preflight): Promise<void> {
  await checkVideos(p);
  if (p.model.info.visualTokens === null) return;
  await decodeSome(p);
  await fullSizeStep(p);
}
