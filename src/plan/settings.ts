// Options of plan(), checked once: those of train() or of iterations, without the data.
import { choice, integer, object, options, path, refuse } from "../check.js";
import { resolveConfig } from "../config/read.js";
import { nativeTrainerOptions } from "../trainer.js";
import type { TrainOptions } from "../training/events.js";
import type { LoadOptions } from "../types.js";

/** Options of iterations, as far as a plan depends on them. */
export interface PlanIteration {
  runDir: string;
  model: string;
  /** One iteration; or `from` and `to` for several. Default: as in `config`. */
  iteration?: number;
  from?: number;
  to?: number;
  context?: "none" | "fixed" | "renew" | "retrospective";
  preset?: "paper";
  judge?: unknown;
  /** Keys of the configuration of a run. */
  config?: Readonly<Record<string, unknown>>;
  load?: LoadOptions;
}

export type PlanOptions = (PlanIteration | Omit<TrainOptions, "data">) & {
  /** Rows of the data; for iterations: samples. */
  items: number;
  /**
   * Computed tokens of an item: its prompt once, with the rows of its video, and its answers. Default: a video and 256
   * tokens of text, or 768 tokens of text.
   */
  tokensPerItem?: number;
  /** Of one answer; default: a sixth of the item for a pair, a quarter for an example, at most 256. */
  answerTokens?: number;
  /** Default 1. */
  ranks?: number;
  /** Bytes of a card or host, in place of this machine's. */
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
}

const ownKeys = ["items", "tokensPerItem", "answerTokens", "ranks", "memory"];
const trainKeys = [
  ...["kind", "model", "evalData", "evalEvery", "videos", "runDir", "epochs", "itemsPerStep", "trainer"],
  ...["onBadRow", "onLong", "saveEverySteps", "load", "signal"],
];
const iterationKeys = [
  ...["model", "runDir", "iteration", "from", "to", "context", "preset", "judge", "config", "load", "signal"],
];
const loadKeys = ["device", "dtype", "threads", "visionTower", "featureCache", "onProgress", "onMedia", "signal"];

function loadSettings(value: unknown) {
  const o = options("options.load", value, loadKeys);
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

function own(o: Record<string, unknown>, count: Count) {
  return {
    model: path("options.model", o.model),
    runDir: path("options.runDir", o.runDir),
    items: integer("options.items", o.items, 1),
    tokensPerItem: count("tokensPerItem", 0),
    answerTokens: count("answerTokens", 0),
    ranks: count("ranks", 1),
    memory: o.memory === undefined ? undefined : integer("options.memory", o.memory, 1),
  };
}

function training(o: Record<string, unknown>, count: Count): PlanSettings {
  const kind = choice("options.kind", o.kind, ["sft", "dpo"]);
  const trainer = o.trainer === undefined ? {} : object("options.trainer", o.trainer);
  if (kind === "sft" && trainer.loss !== undefined && trainer.loss !== "sft")
    refuse("options.trainer.loss", "'sft' for a supervised run", trainer.loss);
  if (kind === "dpo" && trainer.loss === "sft")
    refuse("options.trainer.loss", "a loss of preferences in a run on pairs", "sft");
  return {
    kind,
    ...own(o, count),
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

function iterations(o: Record<string, unknown>, count: Count): PlanSettings {
  const known = own(o, count);
  const given = o.config === undefined ? {} : object("options.config", o.config);
  const named = { model: known.model, runDir: known.runDir, samples: "-" };
  const { config } = resolveConfig("run", {
    ...given,
    ...named,
    ...(o.preset === undefined ? {} : { preset: o.preset }),
    ...(o.load === undefined ? {} : { load: withoutCallbacks(o.load) }),
  });
  const design = o.context ?? config.context.design;
  choice("options.context", design, ["none", "fixed", "renew", "retrospective"]);
  const from = count("from", config.from, 0);
  const to = o.iteration === undefined ? count("to", config.to) : count("iteration", 1, 0) + 1;
  const models = o.iteration === undefined ? to - from : 1;
  if (models < 1) refuse("options.to", `an iteration after ${from}`, to);
  const {
    epochs,
    pairsPerStep,
    saveEverySteps: _,
    trainPrompt: __,
    seed: ___,
    ...trainer
  } = config.train as Record<string, unknown> & { epochs: number; pairsPerStep: number };
  const self = o.judge === undefined ? config.judge.kind === "self" : o.judge === "self";
  return {
    kind: "run",
    ...known,
    ...loadSettings(config.load),
    featureCache: config.features !== false,
    trainer: trainerSettings(trainer),
    epochs,
    itemsPerStep: pairsPerStep,
    iteration: {
      models,
      kept: config.keep === "all" ? models : config.keep === "last" ? 1 : Math.min(models, config.keep),
      responseTokens: config.response.maxTokens,
      contextTokens: design === "none" ? 0 : config.context.maxTokens,
      judged: !self ? 0 : config.judge.orders === "both" ? 2 : 1,
      groupVideos: config.groupVideos ?? 1,
    },
  };
}

function withoutCallbacks(load: unknown): Record<string, unknown> {
  const {
    onProgress: _,
    onMedia: __,
    signal: ___,
    featureCache: ____,
    ...rest
  } = options("options.load", load, loadKeys);
  return rest;
}

export function planSettings(value: unknown): PlanSettings {
  if (value === undefined) refuse("options", "an object", value);
  const trains = Object.hasOwn(object("options", value), "kind");
  const o = options("options", value, [...ownKeys, ...(trains ? trainKeys : iterationKeys)]);
  const count: Count = (key, or, min = 1) =>
    o[key] === undefined ? or : integer(`options.${key}`, o[key], min, Number.MAX_SAFE_INTEGER);
  return trains ? training(o, count) : iterations(o, count);
}
