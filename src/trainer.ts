// Trainer: options and items are validated here, steps run on the model's own host, in turn with its other calls.
import { asyncDispose, disposedError, type Host, type NativeTensor } from "./addon.js";
import { array, boolean, choice, integer, number, object, options, path, refuse, seed, signal, text } from "./check.js";
import type { Communicator } from "./communicator.js";
import { IsrDpoError } from "./errors.js";
import { type LossOptions, lossKeys, lossNames, nativeLoss } from "./loss.js";
import { internalsOf, type ModelInternals, type VideoLM } from "./model.js";
import { nativePairs, trainItems } from "./sequence.js";
import type { Cancel, ModelInfo, Pair, SequencePair, Tensor, TrainItem } from "./types.js";

export interface TrainerOptions extends LossOptions {
  /** Default true: weight decay also on norms and biases. */
  decayNorms?: boolean;
  /** Default 5e-7. */
  learningRate?: number;
  /** Default "constant"; "linear" and "cosine" need totalSteps. */
  schedule?: "constant" | "linear" | "cosine";
  /** Of totalSteps, rounded up. */
  warmupRatio?: number;
  warmupSteps?: number;
  totalSteps?: number;
  /** Default [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Default 1e-8. */
  eps?: number;
  /** Default 0; decoupled. */
  weightDecay?: number;
  /** Default null: no clipping. */
  clipNorm?: number | null;
  train?: { vision?: boolean; projector?: boolean; decoder?: boolean };
  /** Default 4096. */
  microBatchTokens?: number;
  /** Default: off while activations fit. */
  checkpointing?: boolean;
  /** Default true. */
  sharePrefix?: boolean;
  seed?: bigint | number;
  communicator?: Communicator;
}

export interface StepMetrics {
  step: number;
  loss: number;
  dpoLoss: number;
  sftLoss: number;
  gradNorm: number;
  learningRate: number;
  accuracy: number;
  chosenReward: number;
  rejectedReward: number;
  margin: number;
  chosenLogProb: number;
  rejectedLogProb: number;
  chosenTokens: number;
  rejectedTokens: number;
  tokensComputed: number;
  seconds: number;
}

export interface Trainer extends AsyncDisposable {
  readonly step: number;
  /** Log-probs of the scored tokens of both sides, by the same code path as training. */
  score(pairs: readonly (Pair | SequencePair)[], o?: Cancel): Promise<NonNullable<Pair["reference"]>[]>;
  /** One optimizer step over all items; atomic: on failure or cancellation nothing has changed. */
  trainStep(items: readonly TrainItem[], o?: Cancel): Promise<StepMetrics>;
  /** The mean loss's gradient before clipping; no update. */
  gradients(
    items: readonly TrainItem[],
    o?: Cancel & { names?: readonly string[] },
  ): Promise<{ metrics: StepMetrics; gradients: Map<string, Tensor> }>;
  /** Masters, moments, step. */
  save(dir: string, o?: Cancel): Promise<void>;
  load(dir: string, o?: Cancel): Promise<void>;
}

const optionKeys = [
  ...lossKeys,
  ...[
    "decayNorms",
    "learningRate",
    "schedule",
    "warmupRatio",
    "warmupSteps",
    "totalSteps",
    "betas",
    "eps",
    "weightDecay",
  ],
  ...["clipNorm", "train", "microBatchTokens", "checkpointing", "sharePrefix", "seed", "communicator"],
];

function schedule(o: Record<string, unknown>) {
  const name =
    o.schedule === undefined ? "constant" : choice("options.schedule", o.schedule, ["constant", "linear", "cosine"]);
  const totalSteps = o.totalSteps === undefined ? 0 : integer("options.totalSteps", o.totalSteps, 1);
  const warmupSteps = o.warmupSteps === undefined ? 0 : integer("options.warmupSteps", o.warmupSteps, 0);
  const warmupRatio =
    o.warmupRatio === undefined ? 0 : number("options.warmupRatio", o.warmupRatio, { min: 0, max: 1 });
  if (name !== "constant" && totalSteps === 0)
    refuse("options.totalSteps", `a number of steps for schedule '${name}'`, o.totalSteps);
  if (warmupRatio > 0 && totalSteps === 0)
    refuse("options.totalSteps", "a number of steps for warmupRatio", o.totalSteps);
  if (warmupRatio > 0 && warmupSteps > 0) refuse("options.warmupRatio", "nothing beside warmupSteps", o.warmupRatio);
  return { schedule: name, totalSteps, warmupSteps, warmupRatio };
}

function trainedParts(value: unknown, info: ModelInfo): boolean {
  const o = options("options.train", value, ["vision", "projector", "decoder"]);
  for (const part of ["vision", "projector"])
    if (o[part] !== undefined && boolean(`options.train.${part}`, o[part]))
      throw new IsrDpoError(
        "INVALID_ARGUMENT",
        `options.train.${part}: ${info.family} is a text model and has no ${part} to train`,
      );
  const decoder = o.decoder === undefined ? true : boolean("options.train.decoder", o.decoder);
  if (!decoder) throw new IsrDpoError("INVALID_ARGUMENT", "options.train: nothing would be trained");
  return decoder;
}

function checkCommunicator(value: unknown): void {
  if (value === undefined) return;
  const size = integer("options.communicator.size", object("options.communicator", value).size, 1);
  if (size > 1)
    throw new IsrDpoError("DEVICE_UNAVAILABLE", `options.communicator: this version trains on one rank, not ${size}`, {
      hint: "leave communicator out, or use one of size 1",
    });
}

function nativeOptions(value: unknown, info: ModelInfo) {
  const o = options("options", value, optionKeys);
  const real = (key: string, or: number, range: Parameters<typeof number>[2]) =>
    o[key] === undefined ? or : number(`options.${key}`, o[key], range);
  const flag = (key: string, or: boolean) => (o[key] === undefined ? or : boolean(`options.${key}`, o[key]));
  const betas = o.betas === undefined ? [0.9, 0.999] : array("options.betas", o.betas);
  if (betas.length !== 2) refuse("options.betas", "two numbers", o.betas);
  const beta = (i: number) => number(`options.betas[${i}]`, betas[i], { min: 0, below: 1 });
  seed("options.seed", o.seed); // no draw depends on it in this version
  checkCommunicator(o.communicator);
  return {
    ...nativeLoss("options", o, [...lossNames, "sft"]),
    ...schedule(o),
    learningRate: real("learningRate", 5e-7, { min: 0 }),
    beta1: beta(0),
    beta2: beta(1),
    eps: real("eps", 1e-8, { above: 0 }),
    weightDecay: real("weightDecay", 0, { min: 0 }),
    decayNorms: flag("decayNorms", true),
    clipNorm: o.clipNorm === null ? 0 : real("clipNorm", 0, { above: 0 }),
    trainDecoder: trainedParts(o.train, info),
    microBatchTokens:
      o.microBatchTokens === undefined ? 4096 : integer("options.microBatchTokens", o.microBatchTokens, 1),
    checkpointing: o.checkpointing === undefined ? -1 : boolean("options.checkpointing", o.checkpointing) ? 1 : 0,
    sharePrefix: flag("sharePrefix", true),
  };
}

/** Takes the model's weights; one trainer a model at a time. */
export async function createTrainer(model: VideoLM, o?: TrainerOptions): Promise<Trainer> {
  const internals = internalsOf(model);
  const native = nativeOptions(o, model.info);
  if (internals.host.disposed) throw disposedError("the model");
  if (internals.trainer)
    throw new IsrDpoError("INVALID_ARGUMENT", "model: it has a trainer already", {
      hint: "dispose that trainer first",
    });
  internals.trainer = true;
  try {
    await internals.host.call("createTrainer", native);
  } catch (e) {
    internals.trainer = false;
    throw e;
  }
  return new ModelTrainer(internals, model.info, native.loss === "sft");
}

class ModelTrainer implements Trainer {
  readonly #internals: ModelInternals;
  readonly #info: ModelInfo;
  readonly #supervised: boolean;
  readonly #life = new AbortController();
  #step = 0;
  #disposal: Promise<void> | undefined;

  constructor(internals: ModelInternals, info: ModelInfo, supervised: boolean) {
    this.#internals = internals;
    this.#info = info;
    this.#supervised = supervised;
  }

  get step(): number {
    return this.#step;
  }

  #call<R>(job: Parameters<Host["call"]>[0], args: object, cancel?: AbortSignal): Promise<R> {
    return this.#internals.host.call<R>(job, args, { signals: [cancel, this.#life.signal] });
  }

  async score(pairs: readonly (Pair | SequencePair)[], o?: Cancel): Promise<NonNullable<Pair["reference"]>[]> {
    const cancel = signal("options.signal", options("options", o, ["signal"]).signal);
    return this.#call("score", { pairs: nativePairs("pairs", pairs, this.#info) }, cancel);
  }

  async trainStep(items: readonly TrainItem[], o?: Cancel): Promise<StepMetrics> {
    const cancel = signal("options.signal", options("options", o, ["signal"]).signal);
    const args = trainItems(items, this.#supervised, this.#info);
    const done = await this.#call<{ metrics: StepMetrics; step: number }>("trainStep", args, cancel);
    this.#step = done.step;
    return done.metrics;
  }

  async gradients(
    items: readonly TrainItem[],
    o?: Cancel & { names?: readonly string[] },
  ): Promise<{ metrics: StepMetrics; gradients: Map<string, Tensor> }> {
    const given = options("options", o, ["signal", "names"]);
    const cancel = signal("options.signal", given.signal);
    const names =
      given.names === undefined
        ? []
        : array("options.names", given.names).map((n, i) => text(`options.names[${i}]`, n));
    const args = { ...trainItems(items, this.#supervised, this.#info), names };
    const done = await this.#call<{ metrics: StepMetrics; gradients: (NativeTensor & { name: string })[] }>(
      "gradients",
      args,
      cancel,
    );
    const gradients = new Map<string, Tensor>();
    for (const { name, shape, data } of done.gradients) gradients.set(name, { dtype: "f32", shape, data });
    return { metrics: done.metrics, gradients };
  }

  async save(dir: string, o?: Cancel): Promise<void> {
    const cancel = signal("options.signal", options("options", o, ["signal"]).signal);
    await this.#call("saveTrainer", { dir: path("dir", dir) }, cancel);
  }

  async load(dir: string, o?: Cancel): Promise<void> {
    const cancel = signal("options.signal", options("options", o, ["signal"]).signal);
    this.#step = await this.#call<number>("loadTrainer", { dir: path("dir", dir) }, cancel);
  }

  [asyncDispose](): Promise<void> {
    this.#disposal ??= this.#close();
    return this.#disposal;
  }

  async #close(): Promise<void> {
    this.#life.abort(disposedError("the trainer"));
    const { host } = this.#internals;
    if (!host.disposed)
      await host.call("disposeTrainer", {}).catch((e) => {
        if (!host.disposed) throw e; // else the model took the trainer with it
      });
    this.#internals.trainer = false;
  }
}
