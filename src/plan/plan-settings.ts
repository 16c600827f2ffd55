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
import { loadSettings } from "../model/load-options.js";
import { resolved } from "../base/option-rows.js";
import { givenTrainer, trainKeys, trainRows, trainRules } from "../train/train-options.js";
import { nativeTrainer, type TrainerOptions, type TrainerSettings, trainerSettings } from "../train/trainer-options.js";
import type { TrainOptions } from "../train/run-events.js";
import type { LoadOptions } from "../base/types.js";

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
  trainer: ReturnType<typeof nativeTrainer>;
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
      trainer: TrainerSettings;
      /** The trainer's options that were given. */
      givenTrainer: TrainerOptions;
      files: Partial<Record<"data" | "evalData" | "videos", string>>;
      /** How the rows of `data` are read; null: they are not, for their number was given. */
      rows: RowReading | null;
    };

interface RowReading extends Pick<GatherOptions, "onBadRow" | "onLong" | "onEnd" | "turns"> {
  towerElsewhere: boolean;
}

const ownKeys = ["items", "tokensPerItem", "answerTokens", "ranks", "memory"];
const iterationKeys = [
  ...["model", "runDir", "iteration", "from", "to", "context", "preset", "judge", "config", "prompts", "load"],
  ...["signal", "finish"],
];
function loading(value: unknown) {
  const { device, dtype, threads = 0, visionTower, templateDate } = loadSettings("options.load", value);
  if (templateDate !== undefined)
    refuse("options.load.templateDate", "nothing, for a plan renders no template", templateDate);
  return { dtype, threads, visionTower, card: device.startsWith("cuda") };
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

async function training(o: Record<string, unknown>, count: Count): Promise<PlanSettings> {
  const kind = choice("options.kind", o.kind, ["sft", "dpo"]);
  const trainer = givenTrainer(kind, o.trainer);
  const loads = loading(o.load);
  const run = resolved("options", pick(o, Object.keys(trainRows)), trainRows, trainRules);
  const data = o.data === undefined ? undefined : path("options.data", o.data);
  const files = Object.entries({ data, evalData: run.evalData, videos: run.videos }).filter(
    ([, file]) => file !== undefined,
  );
  const rows = o.items === undefined && data !== undefined ? await rowsOf(kind, data, run.onBadRow) : undefined;
  const { onBadRow, onLong, onEnd, turns = kind === "sft" ? "all" : "last" } = run;
  const towerElsewhere = loads.visionTower !== undefined;
  const settings = trainerSettings("options.trainer", trainer, "later");
  return {
    kind,
    reads: {
      kind: "train",
      trainer: settings,
      givenTrainer: trainer,
      files: Object.fromEntries(files),
      rows: rows === undefined ? null : { onBadRow, onLong, onEnd, turns, towerElsewhere },
    },
    ...own(o, count, rows),
    ...loads,
    featureCache: (o.load as LoadOptions | undefined)?.featureCache !== false, // a run caches unless it is told not to
    trainer: planned(settings),
    epochs: run.epochs,
    itemsPerStep: run.itemsPerStep,
    iteration: undefined,
  };
}

const pick = (o: Record<string, unknown>, keys: readonly string[]) =>
  Object.fromEntries(Object.entries(o).filter(([key]) => keys.includes(key)));

/** The trainer as the engine measures it, where a schedule need not know its length. */
const planned = (settings: Omit<TrainerSettings, "seed">) =>
  nativeTrainer({ ...settings, seed: 0n, totalSteps: settings.totalSteps ?? 1 });

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
  });
  const elsewhere = o.memory !== undefined && o.items !== undefined;
  const samples = run.samples === undefined ? null : await samplesOf(run.samples, elsewhere);
  const loads = loading({ ...run.load, ...(o.load === undefined ? {} : object("options.load", o.load)) });
  const known = own(o, count, samples?.length);
  const models = modelsOf(o, count, run);
  const self = o.judge === undefined ? run.judge.kind === "self" : o.judge === "self";
  const prompts = o.prompts === undefined ? undefined : promptsOf(o.prompts, builtIn(run.preset));
  return {
    kind: "run",
    reads: { kind: "run", settings: run, samples, prompts },
    ...known,
    ...loads,
    featureCache: run.features !== false,
    trainer: planned(run.trainer),
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
