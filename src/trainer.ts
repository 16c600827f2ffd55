// Trainer: options and items are validated here, steps run on the model's own host, in turn with its other calls.
import { asyncDispose, disposedError, type Host, type NativeTensor } from "./addon.js";
import { array, boolean, choice, integer, number, object, options, path, refuse, seed, signal, text } from "./check.js";
import type { Communicator } from "./communicator.js";
import { IsrDpoError } from "./errors.js";
import type { Call } from "./inputs.js";
import { type LossOptions, lossKeys, lossNames, nativeLoss } from "./loss.js";
import { internalsOf, type ModelInternals, type VideoLM } from "./model.js";
import { nativePairs, trainItems } from "./sequence.js";
import type { Cancel, ModelInfo, Pair, SequencePair, Tensor, TrainItem } from "./types.js";

/** Loss, optimizer (AdamW), schedule, and what is trained. */
export interface TrainerOptions extends LossOptions {
  /** Default true: weight decay also on norms and biases. */
  decayNorms?: boolean;
  /** Default 5e-7. */
  learningRate?: number;
  /** Default "constant"; "linear" and "cosine" need totalSteps. */
  schedule?: "constant" | "linear" | "cosine";
  /** Of totalSteps, rounded up. */
  warmupRatio?: number;
  /** Steps in which the rate rises from 0; default 0; not beside warmupRatio. */
  warmupSteps?: number;
  /** Steps of the schedule; needed by all schedules but "constant", and by warmupRatio. */
  totalSteps?: number;
  /** Default [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Default 1e-8. */
  eps?: number;
  /** Default 0; decoupled. */
  weightDecay?: number;
  /** Default null: no clipping. */
  clipNorm?: number | null;
  /** Which parts change; default: the decoder alone. */
  train?: { vision?: boolean; projector?: boolean; decoder?: boolean };
  /** Default 4096. */
  microBatchTokens?: number;
  /** Default: off while activations fit. */
  checkpointing?: boolean;
  /** Default true. */
  sharePrefix?: boolean;
  /** Of train(): the order of items, default 0. createTrainer() draws nothing in this version. */
  seed?: bigint | number;
  /** Ranks that train together; this version has one. Default: this process alone. */
  communicator?: Communicator;
}

/** What a step says. Rewards are beta times nats; losses and log-probs are in nats. */
export interface StepMetrics {
  /** From 0. */
  step: number;
  /** What is minimised: mean over the step's pairs, or with loss "sft" over its scored tokens. */
  loss: number;
  /** The preference part of it. */
  dpoLoss: number;
  /** Cross-entropy; it enters a preference loss times gamma. */
  sftLoss: number;
  /** L2 norm of all gradients, before clipping. */
  gradNorm: number;
  /** The one of this step; 0 in the first step of a warm-up. */
  learningRate: number;
  /** Share of pairs whose chosen answer has the greater reward. */
  accuracy: number;
  /** beta * (log-prob - reference log-prob) of the chosen answer, mean over pairs. */
  chosenReward: number;
  /** The same of the rejected answer. */
  rejectedReward: number;
  /** chosenReward - rejectedReward. */
  margin: number;
  /** Of whole chosen answers, mean over pairs. */
  chosenLogProb: number;
  /** Of whole rejected answers, mean over pairs. */
  rejectedLogProb: number;
  /** Scored tokens of chosen answers, sum over the step. */
  chosenTokens: number;
  /** Scored tokens of rejected answers, sum over the step. */
  rejectedTokens: number;
  /** Rows that went through the decoder, shared prefixes once. */
  tokensComputed: number;
  /** Of the decoder's forward and backward on the computed tokens; recomputation and the vision tower not counted. */
  flops: number;
  /** Pearson's r of (chosen - rejected tokens) and margin over the step's pairs; 0 below two different pairs. */
  lengthMarginCorrelation: number;
  /** Length of the step. */
  seconds: number;
}

/**
 * Trains a model in place. Calls are queued with the model's others. Throws INVALID_ARGUMENT, CONTEXT_OVERFLOW, NUMERIC
 * (with the items of a loss that is not finite), OUT_OF_MEMORY, MEDIA_*, DISPOSED.
 */
export interface Trainer extends AsyncDisposable {
  /** Steps that were done. */
  readonly step: number;
  /** Log-probs of the scored tokens of both sides, by the same code path as training. */
  score(pairs: readonly (Pair | SequencePair)[], o?: Cancel): Promise<NonNullable<Pair["reference"]>[]>;
  /** One optimizer step over all items; atomic: on failure or cancellation nothing has changed. */
  trainStep(items: readonly TrainItem[], o?: Cancel): Promise<StepMetrics>;
  /** All of a step but its update: whether it fits into memory, and its metrics. */
  tryStep(items: readonly TrainItem[], o?: Cancel): Promise<StepMetrics>;
  /** The mean loss's gradient before clipping; no update. */
  gradients(
    items: readonly TrainItem[],
    o?: Cancel & { names?: readonly string[] },
  ): Promise<{ metrics: StepMetrics; gradients: Map<string, Tensor> }>;
  /** Masters, moments, step. */
  save(dir: string, o?: Cancel): Promise<void>;
  /** Takes up what save() wrote. NOT_FOUND, RUN_MISMATCH for another model's or other options', CHECKPOINT_CORRUPT, IO. */
  load(dir: string, o?: Cancel): Promise<void>;
  /** Frees masters and moments; the model keeps the trained weights. The same as `[Symbol.asyncDispose]()`. Idempotent. */
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
 * A trainer of a model's weights, in place; one a model at a time. INVALID_ARGUMENT for wrong options, a second trainer, and parts
 * that the model lacks; OUT_OF_MEMORY; DISPOSED; DEVICE_UNAVAILABLE for several ranks.
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

class ModelTrainer implements Trainer {
  readonly #internals: ModelInternals;
  readonly #supervised: boolean;
  readonly #life = new AbortController();
  #step = 0;
  #disposal: Promise<void> | undefined;

  constructor(internals: ModelInternals, supervised: boolean) {
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

  dispose(): Promise<void> {
    this.#disposal ??= this.#close();
    return this.#disposal;
  }

  [asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #close(): Promise<void> {
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
