// Makes the tiny model from nothing, by supervised training alone. The tower first learns to name what each patch shows,
// under a thin decoder of its own; then a decoder learns to describe, to judge by words, to judge what it sees.
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { loadModel } from "../../src/model/model.js";
import type { VideoLM } from "../../src/model/video-lm.js";
import { temporaryOf } from "../../src/base/output-path.js";
import { refuseForeign } from "../../src/runfolder/folder-claim.js";
import { writeAtomic } from "../../src/base/atomic-files.js";
import { createTrainer } from "../../src/train/trainer.js";
import type { TrainerOptions } from "../../src/train/trainer-options.js";
import type { Cancel, Sequence, Tensor } from "../../src/base/types.js";
import { clipOf, renderShot, shots, someThings, view } from "../../src/synthetic/clip.js";
import { alignExamples, lookExamples, textExamples } from "../../src/synthetic/teaching-examples.js";
import { initCheckpoint } from "../../src/synthetic/init-checkpoint.js";
import { worldPrompts } from "../../src/synthetic/world-prompts.js";
import { Random } from "../../src/synthetic/seeded-draws.js";
import { patchSequences, pixelsOf, sequenceOf } from "./teaching-sequences.js";
import { towerSpec, worldSpec } from "../../src/synthetic/vocabulary.js";

type Batch = (random: Random, step: number) => Sequence[];

export interface TrainStage {
  name: "tower" | "align" | "words" | "looks" | "mix";
  steps: number;
  learningRate: number;
  train: TrainerOptions["train"];
  batch: Batch;
}

const many = (n: number, make: () => Sequence[]): Sequence[] => Array.from({ length: n }, make).flat();

const towerBatch: Batch = (random) =>
  many(32, () => {
    const things = someThings(random, random.pick([1, 2, 3, 3, 4]));
    return patchSequences(renderShot(random, things), things);
  });

const alignBatch: Batch = (random) =>
  many(24, () => {
    const things = someThings(random, random.pick([1, 1, 1, 2, 3, 4]));
    const pixels = pixelsOf(renderShot(random, things));
    return alignExamples(random, things).map((e) => sequenceOf(e, pixels));
  });

const wordsBatch: Batch = (random) => many(16, () => textExamples(random, 6).map((e) => sequenceOf(e, null)));

const looksBatch =
  (count: number, verdicts: number, odds: readonly number[]): Batch =>
  (random) =>
    many(count, () => {
      const clip = clipOf(random);
      const shot = random.below(shots);
      const pixels = pixelsOf(renderShot(random, view(clip, shot)));
      return lookExamples(random, clip, shot, odds, verdicts).map((e) => sequenceOf(e, pixels));
    });

const mixLooks = looksBatch(14, 4, [0.1, 0.3, 0.3, 0.3]);
const mixBatch: Batch = (random, step) => (step % 3 === 0 ? wordsBatch : mixLooks)(random, step);

const reader = { decoder: true, projector: true };

export const trainStages: readonly TrainStage[] = [
  { name: "tower", steps: 700, learningRate: 2e-3, train: { ...reader, vision: true }, batch: towerBatch },
  { name: "align", steps: 450, learningRate: 2e-3, train: reader, batch: alignBatch },
  { name: "words", steps: 300, learningRate: 2e-3, train: { decoder: true }, batch: wordsBatch },
  {
    name: "looks",
    steps: 750,
    learningRate: 1.5e-3,
    train: reader,
    batch: looksBatch(16, 3, [0.15, 0.35, 0.25, 0.25]),
  },
  { name: "mix", steps: 600, learningRate: 1.2e-3, train: reader, batch: mixBatch },
];

export interface WorldProgress {
  stage: TrainStage["name"];
  step: number;
  steps: number;
  loss: number;
  seconds: number;
}

export interface WorldTrainOptions extends Cancel {
  /** Where the finished checkpoint goes; must not be there yet. */
  out: string;
  /** Default 0. Equal seeds give equal bytes on machines with the same instructions. */
  seed?: number | bigint;
  threads?: number;
  /** Default 1: of the steps of every stage. */
  share?: number;
  onProgress?(p: WorldProgress): void;
  /** After each stage of the decoder. */
  onStage?(stage: TrainStage["name"], model: VideoLM): Promise<void>;
}

async function runStage(model: VideoLM, stage: TrainStage, o: WorldTrainOptions): Promise<void> {
  const steps = Math.max(1, Math.round(stage.steps * (o.share ?? 1)));
  const began = performance.now();
  const trainer = await createTrainer(model, {
    loss: "sft",
    train: stage.train ?? {},
    learningRate: stage.learningRate,
    schedule: "cosine",
    totalSteps: steps,
    warmupSteps: Math.min(50, Math.ceil(steps / 10)),
    betas: [0.9, 0.98],
    weightDecay: 0.01,
    decayNorms: false,
    clipNorm: 1,
    microBatchTokens: 16384,
  });
  try {
    for (let step = 0; step < steps; step++) {
      const random = new Random("sft", o.seed ?? 0, stage.name, step);
      const { loss } = await trainer.trainStep(stage.batch(random, step), o.signal ? { signal: o.signal } : {});
      const seconds = (performance.now() - began) / 1000;
      o.onProgress?.({ stage: stage.name, step: step + 1, steps, loss, seconds });
    }
  } finally {
    await trainer[Symbol.asyncDispose]();
  }
}

const load = (dir: string, o: WorldTrainOptions) =>
  loadModel(dir, { device: "cpu", ...(o.threads === undefined ? {} : { threads: o.threads }) });

/** What both models have in common: the tower, its projector, and the words' embeddings. */
const shared = (name: string) => !name.startsWith("model.layers.") && name !== "model.norm.weight";

async function trainedTower(dir: string, o: WorldTrainOptions): Promise<Map<string, Tensor>> {
  const { names } = await initCheckpoint(dir, towerSpec, o.seed ?? 0);
  const model = await load(dir, o);
  try {
    await runStage(model, trainStages[0]!, o);
    const tensors = new Map<string, Tensor>();
    for (const name of names.filter(shared)) tensors.set(name, await model.parameter(name));
    return tensors;
  } finally {
    await model[Symbol.asyncDispose]();
  }
}

/** Trains the model and saves it at `out`, with the prompts that it was taught. Takes some minutes on two cores. */
export async function trainWorld(o: WorldTrainOptions): Promise<{ hash: string; bytes: number }> {
  const names = await readdir(o.out).catch(() => []);
  if (names.length > 0) refuseForeign(o.out, "no folder of a model yet", names);
  const begun = temporaryOf(o.out);
  try {
    const tower = await trainedTower(begun, o);
    await rm(begun, { recursive: true });
    await initCheckpoint(begun, worldSpec, o.seed ?? 0, tower);
    const model = await load(begun, o);
    try {
      for (const stage of trainStages.slice(1)) {
        await runStage(model, stage, o);
        await o.onStage?.(stage.name, model);
      }
      const saved = await model.save(o.out);
      await writeAtomic(join(o.out, "prompts.json"), `${JSON.stringify(worldPrompts, null, 2)}\n`);
      return saved;
    } finally {
      await model[Symbol.asyncDispose]();
    }
  } finally {
    await rm(begun, { recursive: true, force: true });
  }
}
