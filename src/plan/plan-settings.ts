// Options of plan(), checked once: those of train() or of iterations, without the data.
import { choice, integer, object, options, path, refuse } from "../base/check.js";
import { readExamples } from "../data/read-examples.js";
import { readPairs } from "../data/read-pairs.js";
import { readSamples, type Sample } from "../data/read-samples.js";
import type { GatherOptions } from "../train/load-dataset.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { builtIn, type Prompts, promptsOf } from "../iterate/method-prompts.js";
import type { IterationOptions, RunIterationsOptions } from "../iterate/run-iterations.js";
import { type RunSettings, settingsOf } from "../iterate/iteration-settings.js";
import { loadKeys } from "../model/video-lm.js";
import { nativeTrainerOptions, type TrainerOptions } from "../train/trainer.js";
import type { TrainOptions } from "../train/run-events.js";

/**
 * Options of one iteration, or with `from` and `to` of several; the indices default to those of `config`. Files that `config`
 * names (samples, prompts, seedData, evaluate.samples) are read, as the run would.
 */
export type PlanIteration = Omit<IterationOptions, "samples" | "iteration"> &
  Partial<Pick<IterationOptions, "iteration"> & Pick<RunIterationsOptions, "from" | "to">>;

/** Options of iterations or of train(), and how much data there is. */
export type PlanOptions = (
  | PlanIteration
  | (Omit<TrainOptions, "data"> & {
      /** Path of a file of rows; default: `items` says how many there are. */
      data?: string;
    })
) & {
  /** Number of rows, or of samples for iterations. Default: those of the file that `data` or `config.samples` names. */
  items?: number;
  /**
   * Computed tokens per item: its prompt once, with the rows of its video, and its answers. Default: a video and 256
   * tokens of text, or 768 tokens of text.
   */
  tokensPerItem?: number;
  /** Tokens per answer; default: a sixth of the item for a pair, half of it for an example, as far as the video leaves room. */
  answerTokens?: number;
  /** Number of ranks; default 1. */
  ranks?: number;
  /** Bytes of memory of a rank, to plan for another card or host; default: the memory of this machine. */
  memory?: number;
};

export interface IterationFacts {
  models: number;
  /** Models that stay on disk. */
  kept: number;
  responseTokens: number;
  contextTokens: number;
  judged: 0 | 1 | 2; // passes of the model over each pair
  groupVideos: number;
}

export interface PlanSettings {
  kind: "sft" | "dpo" | "run";
  model: string;
  runDir: string;
  dtype: "auto" | "f32" | "bf16";
  threads: number; // 0: all
  visionTower: string | undefined;
  /** Laid out as on a card: one copy of the weights, no panels. */
  card: boolean;
  trainer: ReturnType<typeof nativeTrainerOptions>;
  items: number;
  tokensPerItem: number; // 0: a guess
  answerTokens: number; // 0: a guess
  ranks: number;
  memory: number | undefined;
  epochs: number;
  itemsPerStep: number;
  featureCache: boolean;
  iteration: IterationFacts | undefined;
  /** What the run would read: proven with the plan. */
  reads: Reads;
}

export type Reads =
  | { kind: "run"; settings: RunSettings; samples: readonly Sample[] | null; prompts: Prompts | undefined }
  | {
      kind: "train";
      trainer: TrainerOptions;
      files: Partial<Record<"data" | "evalData" | "videos", string>>;
      /** How the rows of `data` are read; null: they are not, for their number was given. */
      rows: RowReading | null;
    };

interface RowReading extends Pick<GatherOptions, "onBadRow" | "onLong" | "onEnd" | "turns"> {
  towerElsewhere: boolean;
}

const ownKeys = ["items", "tokensPerItem", "answerTokens", "ranks", "memory"];
const trainKeys = [
  ...["kind", "model", "data", "evalData", "evalEvery", "videos", "runDir", "epochs", "itemsPerStep", "trainer"],
  ...["onBadRow", "onLong", "onEnd", "turns", "saveEverySteps", "load", "signal", "finish"],
];
const iterationKeys = [
  ...["model", "runDir", "iteration", "from", "to", "context", "preset", "judge", "config", "prompts", "load"],
  ...["signal", "finish"],
];
const planLoadKeys = loadKeys.filter((key) => key !== "templateDate");

function loadSettings(value: unknown) {
  const o = options("options.load", value, planLoadKeys);
  const device = o.device ?? "auto";
  if (typeof device !== "string" || !/^(auto|cpu|cuda(:\d+)?)$/.test(device))
    refuse("options.load.device", "'auto', 'cpu', 'cuda' or 'cuda:N'", device);
  return {
    dtype: o.dtype === undefined ? "auto" : choice("options.load.dtype", o.dtype, ["auto", "f32", "bf16"]),
    threads: o.threads === undefined ? 0 : integer("options.load.threads", o.threads, 1, 256),
    visionTower: o.visionTower === undefined ? undefined : path("options.load.visionTower", o.visionTower),
    card: (device as string).startsWith("cuda"),
    featureCache: o.featureCache !== false,
  } as const;
}

type Count = (key: string, or: number, min?: number) => number;

function own(o: Record<string, unknown>, count: Count, rows: number | undefined) {
  return {
    model: path("options.model", o.model),
    runDir: path("options.runDir", o.runDir),
    items: o.items === undefined && rows !== undefined ? rows : integer("options.items", o.items, 1),
    tokensPerItem: count("tokensPerItem", 0),
    answerTokens: count("answerTokens", 0),
    ranks: count("ranks", 1),
    memory: o.memory === undefined ? undefined : integer("options.memory", o.memory, 1),
  };
}

/** Rows of a file of training data; those that the run would leave out are not counted. */
async function rowsOf(kind: "sft" | "dpo", data: string, onBadRow: unknown): Promise<number> {
  const o = { onBadRow: onBadRow === "skip" ? "skip" : "fail", onSkip: () => {} } as const;
  let rows = 0;
  for await (const _ of kind === "sft" ? readExamples(data, o) : readPairs(data, o)) rows += 1;
  if (rows > 0) return rows;
  throw new IsrDpoError("DATA_INVALID", `${data}: expected at least one row, got none`, { path: data });
}

function rowReading(o: Record<string, unknown>, kind: "sft" | "dpo"): RowReading {
  const chosen = <T extends string>(key: string, all: readonly [T, ...T[]], or: T = all[0]): T =>
    o[key] === undefined ? or : choice(`options.${key}`, o[key], all);
  return {
    onBadRow: chosen("onBadRow", ["fail", "skip"]),
    onLong: chosen("onLong", ["fail", "truncate"]),
    onEnd: chosen("onEnd", ["repair", "fail"]),
    turns: chosen("turns", ["all", "last"], kind === "sft" ? "all" : "last"),
    towerElsewhere: (o.load as { visionTower?: unknown } | undefined)?.visionTower !== undefined,
  };
}

async function training(o: Record<string, unknown>, count: Count): Promise<PlanSettings> {
  const kind = choice("options.kind", o.kind, ["sft", "dpo"]);
  const trainer = o.trainer === undefined ? {} : object("options.trainer", o.trainer);
  if (kind === "sft" && trainer.loss !== undefined && trainer.loss !== "sft")
    refuse("options.trainer.loss", "'sft' for a supervised run", trainer.loss);
  if (kind === "dpo" && trainer.loss === "sft")
    refuse("options.trainer.loss", "a loss of preferences in a run on pairs", "sft");
  const files = Object.fromEntries(
    (["data", "evalData", "videos"] as const).flatMap((key) =>
      o[key] === undefined ? [] : [[key, path(`options.${key}`, o[key])]],
    ),
  ) as { data?: string };
  const rows =
    o.items === undefined && files.data !== undefined ? await rowsOf(kind, files.data, o.onBadRow) : undefined;
  return {
    kind,
    reads: {
      kind: "train",
      trainer: trainer as TrainerOptions,
      files,
      rows: rows === undefined ? null : rowReading(o, kind),
    },
    ...own(o, count, rows),
    ...loadSettings(o.load),
    trainer: trainerSettings({ ...trainer, ...(kind === "sft" ? { loss: "sft" } : {}) }),
    epochs: count("epochs", 1),
    itemsPerStep: count("itemsPerStep", 8),
    iteration: undefined,
  };
}

/** A run finds out its number of steps by itself: a schedule without it is fine here. */
const trainerSettings = (o: Record<string, unknown>) =>
  nativeTrainerOptions({ totalSteps: 1, ...o, communicator: undefined });

/** Models that are made. */
function modelsOf(o: Record<string, unknown>, count: Count, config: { from: number; to: number }): number {
  if (o.iteration !== undefined) {
    integer("options.iteration", o.iteration, 0);
    return 1;
  }
  const from = count("from", config.from, 0);
  const to = count("to", config.to);
  if (to <= from) refuse("options.to", `an iteration after ${from}`, to);
  return to - from;
}

/** null: not here, where the plan is for another machine. */
async function samplesOf(file: string, elsewhere: boolean): Promise<Sample[] | null> {
  const samples: Sample[] = [];
  try {
    for await (const sample of readSamples(file)) samples.push(sample);
  } catch (e) {
    if (elsewhere && isIsrDpoError(e, "NOT_FOUND")) return null;
    throw e;
  }
  if (samples.length > 0) return samples;
  throw new IsrDpoError("DATA_INVALID", `${file}: expected at least one sample, got none`, { path: file });
}

async function iterations(o: Record<string, unknown>, count: Count): Promise<PlanSettings> {
  const given = o.config === undefined ? {} : object("options.config", o.config);
  const context = {
    ...(given.context as object | undefined),
    ...(o.context === undefined ? {} : { design: o.context }),
  };
  const run = await settingsOf({
    ...given,
    ...(o.preset === undefined ? {} : { preset: o.preset }),
    context,
    ...{ model: path("options.model", o.model), runDir: path("options.runDir", o.runDir) },
    samples: given.samples ?? "-",
  });
  const samples =
    given.samples === undefined ? null : await samplesOf(run.samples, o.memory !== undefined && o.items !== undefined);
  const known = own(o, count, samples?.length);
  const models = modelsOf(o, count, run);
  const self = o.judge === undefined ? run.judge.kind === "self" : o.judge === "self";
  const prompts = o.prompts === undefined ? undefined : promptsOf(o.prompts, builtIn(run.preset));
  return {
    kind: "run",
    reads: { kind: "run", settings: run, samples, prompts },
    ...known,
    ...loadSettings({ ...run.load, ...(o.load === undefined ? {} : object("options.load", o.load)) }),
    featureCache: run.features !== false,
    trainer: trainerSettings({ ...run.trainer }),
    epochs: run.train.epochs,
    itemsPerStep: run.train.pairsPerStep,
    iteration: {
      models,
      kept: run.keep === "all" ? models : run.keep === "last" ? 1 : Math.min(models, run.keep),
      responseTokens: run.response.maxTokens,
      contextTokens: run.context.design === "none" ? 0 : run.context.maxTokens,
      judged: !self ? 0 : run.judge.orders === "both" ? 2 : 1,
      groupVideos: run.groupVideos ?? 1,
    },
  };
}

export async function planSettings(value: unknown): Promise<PlanSettings> {
  if (value === undefined) refuse("options", "an object", value);
  const trains = Object.hasOwn(object("options", value), "kind");
  const o = options("options", value, [...ownKeys, ...(trains ? trainKeys : iterationKeys)]);
  const count: Count = (key, or, min = 1) =>
    o[key] === undefined ? or : integer(`options.${key}`, o[key], min, Number.MAX_SAFE_INTEGER);
  return trains ? training(o, count) : iterations(o, count);
}
