// Trainer: options and items are validated here; steps run on the model's own host, in turn with its other calls.
import { disposedError, type Host, type NativeTensor } from "../base/addon.js";
import {
  array,
  boolean,
  choice,
  integer,
  number,
  object,
  options,
  path,
  refuse,
  seed,
  signal,
  text,
} from "../base/check.js";
import type { Communicator } from "./communicator.js";
import { Disposable } from "../base/disposal.js";
import { IsrDpoError } from "../base/errors.js";
import type { Call } from "../model/inputs.js";
import { type LossOptions, lossKeys, lossNames, nativeLoss } from "./loss-options.js";
import { internalsOf, type ModelInternals } from "../model/model.js";
import type { VideoLM } from "../model/video-lm.js";
import { nativePairs, trainItems } from "../model/sequence.js";
import type { Cancel, ModelInfo, Pair, SequencePair, Tensor, TrainItem } from "../base/types.js";

/** Options of the loss, the optimizer (AdamW) and the schedule, and which parts are trained. */
export interface TrainerOptions extends LossOptions {
  /** Whether weight decay also applies to norms and biases; default true. */
  decayNorms?: boolean;
  /** Peak learning rate, at least 0; default 5e-7. */
  learningRate?: number;
  /** Course of the learning rate after the warm-up; default "constant". "linear" and "cosine" need `totalSteps`. */
  schedule?: "constant" | "linear" | "cosine";
  /** Share of `totalSteps` in which the rate rises from 0, from 0 to 1, rounded up to whole steps; default 0. */
  warmupRatio?: number;
  /** Number of steps in which the rate rises from 0; default 0. It excludes `warmupRatio`. */
  warmupSteps?: number;
  /** Length of the schedule in steps, at least 1; every schedule but "constant" needs it, and so does `warmupRatio`. */
  totalSteps?: number;
  /** AdamW's decay rates of the two moments, each at least 0 and below 1; default [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** AdamW's epsilon, above 0; default 1e-8. */
  eps?: number;
  /** Decoupled weight decay, at least 0; default 0. */
  weightDecay?: number;
  /** L2 norm of all gradients above which they are scaled down to it; default null: no clipping. */
  clipNorm?: number | null;
  /** Which parts of the model are trained. */
  train?: {
    /** The vision tower; default false. */
    vision?: boolean;
    /** The projector from the tower's features to tokens; default false. */
    projector?: boolean;
    /** The language model; default true. */
    decoder?: boolean;
  };
  /** Number of tokens that are computed at once, which bounds the memory of activations; default 4096. */
  microBatchTokens?: number;
  /** Whether activations are recomputed in the backward pass instead of kept; default: if they would not fit. */
  checkpointing?: boolean;
  /** Whether a common prefix of the items is computed once; default true. */
  sharePrefix?: boolean;
  /** Seed of the order of items in train(); default 0. createTrainer() makes no random draw in this version. */
  seed?: bigint | number;
  /** The ranks that train together; this version supports one. Default: this process alone. */
  communicator?: Communicator;
}

/** Metrics of one optimizer step. Rewards are beta times nats; losses and log-probs are in nats. */
export interface StepMetrics {
  /** Index of the step, from 0. */
  step: number;
  /** The loss that is minimised: mean over the step's pairs, or with loss "sft" over its scored tokens. */
  loss: number;
  /** The preference part of the loss. */
  dpoLoss: number;
  /** The cross-entropy of the chosen answers, which enters a preference loss with weight gamma. */
  sftLoss: number;
  /** L2 norm of all gradients, before clipping. */
  gradNorm: number;
  /** Learning rate of this step; 0 in the first step of a warm-up. */
  learningRate: number;
  /** Share of pairs whose chosen answer has the greater reward. */
  accuracy: number;
  /** beta * (log-prob - reference log-prob) of the chosen answer, mean over pairs. */
  chosenReward: number;
  /** The same for the rejected answer. */
  rejectedReward: number;
  /** chosenReward - rejectedReward. */
  margin: number;
  /** Log-prob of a whole chosen answer, mean over pairs. */
  chosenLogProb: number;
  /** Log-prob of a whole rejected answer, mean over pairs. */
  rejectedLogProb: number;
  /** Number of scored tokens of chosen answers, sum over the step. */
  chosenTokens: number;
  /** Number of scored tokens of rejected answers, sum over the step. */
  rejectedTokens: number;
  /** Number of rows that went through the decoder; a shared prefix counts once. */
  tokensComputed: number;
  /** FLOPs of the decoder's forward and backward on the computed tokens, without recomputation and the vision tower. */
  flops: number;
  /** Pearson's r of (chosen - rejected tokens) and margin over the step's pairs; 0 if fewer than two pairs differ. */
  lengthMarginCorrelation: number;
  /** Duration of the step in seconds. */
  seconds: number;
}

/**
 * Trains a model in place. Its calls are queued together with the other calls of the model. After the trainer or its model was
 * disposed of, every call rejects with DISPOSED.
 */
export interface Trainer extends AsyncDisposable {
  /** Number of optimizer steps that were made. */
  readonly step: number;
  /**
   * Log-probs, in nats, of the scored tokens of both answers, computed by the code that trains.
   * @throws {@link IsrDpoError} INVALID_ARGUMENT, CONTEXT_OVERFLOW, PLACEHOLDER_MISMATCH, MEDIA_UNREADABLE, OUT_OF_MEMORY
   */
  score(pairs: readonly (Pair | SequencePair)[], o?: Cancel): Promise<NonNullable<Pair["reference"]>[]>;
  /**
   * Makes one optimizer step over all items. The step is atomic: after a failure or a cancellation nothing has changed.
   * @throws {@link IsrDpoError} INVALID_ARGUMENT, CONTEXT_OVERFLOW, PLACEHOLDER_MISMATCH, MEDIA_UNREADABLE, OUT_OF_MEMORY; NUMERIC:
   * the loss is not finite, and `detail` names the items
   */
  trainStep(items: readonly TrainItem[], o?: Cancel): Promise<StepMetrics>;
  /**
   * Computes a step without its update, to see whether it fits into memory. Returns its metrics.
   * @throws {@link IsrDpoError} as {@link Trainer.trainStep}
   */
  tryStep(items: readonly TrainItem[], o?: Cancel): Promise<StepMetrics>;
  /**
   * The gradient of the mean loss, before clipping, without an update.
   * @param items - the items of the step
   * @param o - `names`: the tensors whose gradients are returned; default: all that are trained
   * @throws {@link IsrDpoError} as {@link Trainer.trainStep}
   */
  gradients(
    items: readonly TrainItem[],
    o?: Cancel & { names?: readonly string[] },
  ): Promise<{
    /** Metrics of the step. */
    metrics: StepMetrics;
    /** f32 gradients by the names of the checkpoint's tensors. */
    gradients: Map<string, Tensor>;
  }>;
  /**
   * Saves masters, moments and the number of steps. The folder appears only when it is complete.
   * @throws {@link IsrDpoError} INVALID_ARGUMENT, DISK_FULL, IO
   */
  save(dir: string, o?: Cancel): Promise<void>;
  /**
   * Restores the state that save() wrote.
   * @throws {@link IsrDpoError} NOT_FOUND, CHECKPOINT_CORRUPT, IO; RUN_MISMATCH: it belongs to another model or to other options
   */
  load(dir: string, o?: Cancel): Promise<void>;
  /**
   * Frees masters and moments; the model keeps the trained weights. It may be called again. It is the same as
   * `[Symbol.asyncDispose]()`.
   */
  dispose(): Promise<void>;
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

/** Options that have no effect beside others: why, with the options' names below `under`; false where they have one. */
export const trainerEffects: Readonly<
  Record<"totalSteps" | "decayNorms", (o: Readonly<Record<string, unknown>>, under: string) => string | false>
> = {
  totalSteps: (o, under) =>
    (o.schedule ?? "constant") === "constant" &&
    !o.warmupRatio &&
    `a constant ${under}schedule without warmupRatio has no length`,
  decayNorms: (o, under) => o.decayNorms === false && !o.weightDecay && `${under}weightDecay 0 lets nothing decay`,
};

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

function trainedParts(value: unknown, info: ModelInfo | undefined) {
  const o = options("options.train", value, ["vision", "projector", "decoder"]);
  const part = (key: string, or: boolean) => (o[key] === undefined ? or : boolean(`options.train.${key}`, o[key]));
  const parts = { vision: part("vision", false), projector: part("projector", false), decoder: part("decoder", true) };
  for (const key of ["vision", "projector"] as const)
    if (parts[key] && info && info.visualTokens === null)
      throw new IsrDpoError(
        "INVALID_ARGUMENT",
        `options.train.${key}: ${info.family} is a text model and has no ${key} to train`,
      );
  if (!parts.vision && !parts.projector && !parts.decoder)
    throw new IsrDpoError("INVALID_ARGUMENT", "options.train: nothing would be trained");
  return { trainVision: parts.vision, trainProjector: parts.projector, trainDecoder: parts.decoder };
}

function checkCommunicator(value: unknown): void {
  if (value === undefined) return;
  const size = integer("options.communicator.size", object("options.communicator", value).size, 1);
  if (size > 1)
    throw new IsrDpoError("DEVICE_UNAVAILABLE", `options.communicator: this version trains on one rank, not ${size}`, {
      hint: "leave communicator out, or use one of size 1",
    });
}

/** Options as the engine takes them. Without `info` the engine alone checks which parts the model has. */
export function nativeTrainerOptions(value: unknown, info?: ModelInfo) {
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
    ...trainedParts(o.train, info),
    microBatchTokens:
      o.microBatchTokens === undefined ? 4096 : integer("options.microBatchTokens", o.microBatchTokens, 1),
    checkpointing: o.checkpointing === undefined ? -1 : boolean("options.checkpointing", o.checkpointing) ? 1 : 0,
    sharePrefix: flag("sharePrefix", true),
  };
}

/**
 * Makes a trainer, which changes the weights of a model in place. A model has at most one trainer at a time.
 *
 * @param model - a model from loadModel
 * @param o - loss, optimizer, schedule, and which parts are trained
 * @throws {@link IsrDpoError} INVALID_ARGUMENT: wrong options, a second trainer, or a part that the model lacks; OUT_OF_MEMORY;
 * DISPOSED; DEVICE_UNAVAILABLE: several ranks
 *
 * @example
 * ```ts
 * import { createTrainer, loadModel } from "isr-dpo";
 *
 * const model = await loadModel("checkpoint");
 * const trainer = await createTrainer(model, { beta: 0.1, learningRate: 5e-7 });
 * const pair = { prompt: "What is a shadow?", chosen: "A place without light.", rejected: "A colour." };
 * const { loss, margin } = await trainer.trainStep([pair]);
 * console.log(loss, margin);
 * await trainer.dispose();
 * await model.save("trained");
 * await model.dispose();
 * ```
 */
export async function createTrainer(model: VideoLM, o?: TrainerOptions): Promise<Trainer> {
  const internals = internalsOf(model);
  const native = nativeTrainerOptions(o, model.info);
  if (internals.host.disposed) throw disposedError("the model");
  if (internals.trainer)
    throw new IsrDpoError("INVALID_ARGUMENT", "model: it has a trainer already", {
      hint: "dispose that trainer first",
    });
  internals.trainer = true;
  try {
    await internals.inputs.call("createTrainer", native, [], { alone: true });
    internals.inputs.media.towerTrains = native.trainVision;
  } catch (e) {
    internals.trainer = false;
    throw e;
  }
  return new ModelTrainer(internals, native.loss === "sft");
}

class ModelTrainer extends Disposable implements Trainer {
  readonly #internals: ModelInternals;
  readonly #supervised: boolean;
  readonly #life = new AbortController();
  #step = 0;

  constructor(internals: ModelInternals, supervised: boolean) {
    super();
    this.#internals = internals;
    this.#supervised = supervised;
  }

  get step(): number {
    return this.#step;
  }

  #call<R>(
    job: Parameters<Host["call"]>[0],
    prepare: (call: Call) => Promise<object>,
    cancel: AbortSignal | undefined,
  ): Promise<R> {
    const { host, inputs } = this.#internals;
    const signals = [cancel, this.#life.signal];
    const submit = async (call: Call) => {
      const args = await prepare(call);
      return { result: host.call<R>(job, args, { signals }) };
    };
    return inputs.run(signals, submit, { alone: true });
  }

  async score(pairs: readonly (Pair | SequencePair)[], o?: Cancel): Promise<NonNullable<Pair["reference"]>[]> {
    const cancel = signal("options.signal", options("options", o, ["signal"]).signal);
    return this.#call<NonNullable<Pair["reference"]>[]>(
      "score",
      async (call) => ({ pairs: await nativePairs(call, "pairs", pairs) }),
      cancel,
    );
  }

  async trainStep(items: readonly TrainItem[], o?: Cancel): Promise<StepMetrics> {
    const cancel = signal("options.signal", options("options", o, ["signal"]).signal);
    const done = await this.#call<{ metrics: StepMetrics; step: number }>(
      "trainStep",
      (call) => trainItems(call, items, this.#supervised),
      cancel,
    );
    this.#step = done.step;
    return done.metrics;
  }

  async tryStep(items: readonly TrainItem[], o?: Cancel): Promise<StepMetrics> {
    const cancel = signal("options.signal", options("options", o, ["signal"]).signal);
    return this.#call<StepMetrics>("tryStep", (call) => trainItems(call, items, this.#supervised), cancel);
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
    const done = await this.#call<{ metrics: StepMetrics; gradients: (NativeTensor & { name: string })[] }>(
      "gradients",
      async (call) => ({ ...(await trainItems(call, items, this.#supervised)), names }),
      cancel,
    );
    const gradients = new Map<string, Tensor>();
    for (const { name, shape, data } of done.gradients) gradients.set(name, { dtype: "f32", shape, data });
    return { metrics: done.metrics, gradients };
  }

  async save(dir: string, o?: Cancel): Promise<void> {
    const cancel = signal("options.signal", options("options", o, ["signal"]).signal);
    const folder = path("dir", dir);
    await this.#call("saveTrainer", async () => ({ dir: folder }), cancel);
  }

  async load(dir: string, o?: Cancel): Promise<void> {
    const cancel = signal("options.signal", options("options", o, ["signal"]).signal);
    const folder = path("dir", dir);
    this.#step = await this.#call<number>("loadTrainer", async () => ({ dir: folder }), cancel);
  }

  protected override async close(): Promise<void> {
    this.#life.abort(disposedError("the trainer"));
    const { host } = this.#internals;
    if (!host.disposed)
      await host.call("disposeTrainer", {}).catch((e) => {
        if (!host.disposed) throw e; // else the model took the trainer with it
      });
    this.#internals.inputs.media.towerTrains = false;
    this.#internals.trainer = false;
  }
}
