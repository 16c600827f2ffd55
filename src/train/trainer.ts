// Trainer: items are checked here; steps run on the model's own host, in turn with its other calls.
import { disposedError, type Host, type NativeTensor } from "../base/addon.js";
import { array, options, path, signal, text } from "../base/check.js";
import { Disposable } from "../base/disposal.js";
import { IsrDpoError } from "../base/errors.js";
import type { Call } from "../model/inputs.js";
import { internalsOf, type ModelInternals } from "../model/model.js";
import type { VideoLM } from "../model/video-lm.js";
import { nativePairs, trainItems } from "../model/sequence.js";
import { agreed } from "./ranks/agree.js";
import type { Communicator } from "./ranks/communicator.js";
import { explainedBy, rankHandleOf } from "./ranks/group.js";
import {
  checkParts,
  communicatorOf,
  nativeTrainer,
  type TrainerOptions,
  type TrainerSettings,
  trainerSettings,
} from "./trainer-options.js";
import type { Cancel, Pair, SequencePair, Tensor, TrainItem } from "../base/types.js";

/** Metrics of one optimizer step. Rewards are beta times nats; losses and log-probs are in nats. */
export interface StepMetrics {
  /** Index of the step, from 0. */
  step: number;
  /** The loss that is minimised: mean over the step's pairs, or with loss "sft" over its scored tokens. */
  loss: number;
  /** The preference part of the loss. */
  dpoLoss: number;
  /** The cross-entropy of the chosen answers, which enters a preference loss with weight sftWeight. */
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
  /** Of a step among several ranks, by rank; the other figures are of all ranks together. */
  ranks?: RankFigures[];
}

/** What one rank did in a step. */
export interface RankFigures {
  /** Number of rows that went through its decoder. */
  tokensComputed: number;
  /** Seconds of its forward and backward passes. */
  computeSeconds: number;
  /** Seconds that messages kept it waiting, for slower ranks too; new values that the step sends count in the next one. */
  communicationSeconds: number;
}

/**
 * Trains a model in place. Its calls are queued together with the other calls of the model. After the trainer or its model was
 * disposed of, every call rejects with DISPOSED.
 *
 * Among several ranks every rank makes the same calls in the same order, but for score(), which each makes for itself. The items of a
 * step are those of rank 0, then those of rank 1, and so on; a rank may have none. All ranks get the same figures and fail alike; a
 * call that is cancelled on one rank ends the work of all with RANK_LOST.
 */
export interface Trainer extends AsyncDisposable {
  /** Number of optimizer steps that were made. */
  readonly step: number;
  /**
   * Log-probs, in nats, of the scored tokens of both answers, computed by the code that trains. With `lora` they are those of the
   * reference, at any time: the model without its adapter.
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
   * Saves masters, moments and the number of steps. The state appears only when it is complete; ranks that share out masters write a
   * file each, into one folder that all of them see.
   * @throws {@link IsrDpoError} INVALID_ARGUMENT, DISK_FULL, IO
   */
  save(dir: string, o?: Cancel): Promise<void>;
  /**
   * Saves the model as {@link VideoLM.save} does. Among several ranks it is the way to save a model while its trainer lives: each
   * rank calls it, rank 0 writes, with the float32 values of all shards.
   * @throws {@link IsrDpoError} as {@link VideoLM.save}
   */
  saveModel(dir: string, o?: Cancel): ReturnType<VideoLM["save"]>;
  /**
   * Saves the adapter as {@link VideoLM.saveAdapter} does; among several ranks as {@link Trainer.saveModel} saves the model.
   * @throws {@link IsrDpoError} as {@link VideoLM.saveAdapter}
   */
  saveAdapter(dir: string, o?: Cancel): ReturnType<VideoLM["saveAdapter"]>;
  /**
   * Restores the state that save() wrote, by any number of ranks.
   * @throws {@link IsrDpoError} NOT_FOUND, CHECKPOINT_CORRUPT, IO; RUN_MISMATCH: it belongs to another model or to other options
   */
  load(dir: string, o?: Cancel): Promise<void>;
  /**
   * Frees masters and moments; the model keeps the trained weights. It may be called again. It is the same as
   * `[Symbol.asyncDispose]()`.
   */
  dispose(): Promise<void>;
}

/**
 * Makes a trainer, which changes the weights of a model in place. A model has at most one trainer at a time.
 *
 * @param model - a model from loadModel
 * @param o - loss, optimizer, schedule, and which parts are trained
 * @throws {@link IsrDpoError} INVALID_ARGUMENT: wrong options, a second trainer, or a part that the model lacks; OUT_OF_MEMORY;
 * DISPOSED; among several ranks also RUN_MISMATCH: other weights or options on another rank, and RANK_LOST
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
  internalsOf(model); // before the options: without a model they say little
  return openTrainer(model, trainerSettings("options", o, "given"), communicatorOf("options", o));
}

/** RUN_MISMATCH where another rank has other weights or options. */
async function checkRanks(model: VideoLM, settings: object, ranks: Communicator): Promise<void> {
  const hash = await agreed(ranks, () => model.hash());
  const text = JSON.stringify(settings, (_, value) => (typeof value === "bigint" ? String(value) : value));
  const mine = { "the model's SHA-256": hash, "the trainer's options": text };
  const all = await ranks.gather(mine);
  for (const [r, theirs] of all.entries())
    for (const [name, value] of Object.entries(theirs))
      if (value !== all[0]![name as keyof typeof mine])
        throw new IsrDpoError(
          "RUN_MISMATCH",
          `rank ${r}: ${name}: expected ${all[0]![name as keyof typeof mine]}, as on rank 0, got ${value}`,
          { hint: "give all ranks the same model and the same options" },
        );
}

/** Makes a trainer of options that are checked. */
export async function openTrainer(
  model: VideoLM,
  settings: TrainerSettings,
  communicator?: Communicator,
): Promise<Trainer> {
  const internals = internalsOf(model);
  checkParts(settings, model.info);
  const native = nativeTrainer(settings);
  const handle = rankHandleOf(communicator);
  const ranks = handle && communicator;
  if (ranks) await checkRanks(model, native, ranks);
  if (internals.host.disposed) throw disposedError("the model");
  if (internals.trainer)
    throw new IsrDpoError("INVALID_ARGUMENT", "model: it has a trainer already", {
      hint: "dispose that trainer first",
    });
  internals.trainer = true;
  try {
    const args = handle ? { ...native, ranks: handle } : native;
    await internals.inputs.call("createTrainer", args, [], { alone: true });
    internals.inputs.media.towerTrains = native.trainVision;
  } catch (e) {
    internals.trainer = false;
    throw e;
  }
  return new ModelTrainer(internals, native.loss === "sft", ranks);
}

class ModelTrainer extends Disposable implements Trainer {
  readonly #internals: ModelInternals;
  readonly #supervised: boolean;
  readonly #ranks: Communicator | undefined;
  readonly #life = new AbortController();
  #step = 0;

  constructor(internals: ModelInternals, supervised: boolean, ranks: Communicator | undefined) {
    super();
    this.#internals = internals;
    this.#supervised = supervised;
    this.#ranks = ranks;
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

  /** A call that all ranks make: they begin it when all are ready for it, and who leaves it alone ends the work of all. */
  async #together<R>(
    job: Parameters<Host["call"]>[0],
    prepare: (call: Call) => Promise<object>,
    cancel: AbortSignal | undefined,
  ): Promise<R> {
    const ranks = this.#ranks;
    if (!ranks) return this.#call(job, prepare, cancel);
    try {
      return await this.#call<R>(job, (call) => agreed(ranks, () => prepare(call)), cancel);
    } catch (e) {
      if (cancel?.aborted || this.#life.signal.aborted) ranks.abort("its work was cancelled");
      throw await explainedBy(ranks, e);
    }
  }

  async #items(call: Call, items: readonly TrainItem[]): Promise<object> {
    if (this.#ranks && Array.isArray(items) && items.length === 0)
      return this.#supervised ? { sequences: [] } : { pairs: [] };
    return await trainItems(call, items, this.#supervised);
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
    const done = await this.#together<{ metrics: StepMetrics; step: number }>(
      "trainStep",
      (call) => this.#items(call, items),
      cancel,
    );
    this.#step = done.step;
    return done.metrics;
  }

  async tryStep(items: readonly TrainItem[], o?: Cancel): Promise<StepMetrics> {
    const cancel = signal("options.signal", options("options", o, ["signal"]).signal);
    return this.#together<StepMetrics>("tryStep", (call) => this.#items(call, items), cancel);
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
    const done = await this.#together<{ metrics: StepMetrics; gradients: (NativeTensor & { name: string })[] }>(
      "gradients",
      async (call) => ({ ...(await this.#items(call, items)), names }),
      cancel,
    );
    const gradients = new Map<string, Tensor>();
    for (const { name, shape, data } of done.gradients) gradients.set(name, { dtype: "f32", shape, data });
    return { metrics: done.metrics, gradients };
  }

  async save(dir: string, o?: Cancel): Promise<void> {
    const cancel = signal("options.signal", options("options", o, ["signal"]).signal);
    const folder = path("dir", dir);
    await this.#together("saveTrainer", async () => ({ dir: folder }), cancel);
  }

  async saveModel(dir: string, o?: Cancel): Promise<{ hash: string; bytes: number }> {
    const cancel = signal("options.signal", options("options", o, ["signal"]).signal);
    const folder = path("dir", dir);
    return this.#together("saveAmongRanks", async () => ({ dir: folder }), cancel);
  }

  async saveAdapter(dir: string, o?: Cancel): Promise<{ bytes: number }> {
    const cancel = signal("options.signal", options("options", o, ["signal"]).signal);
    const folder = path("dir", dir);
    return { bytes: await this.#together<number>("saveAdapterAmongRanks", async () => ({ dir: folder }), cancel) };
  }

  async load(dir: string, o?: Cancel): Promise<void> {
    const cancel = signal("options.signal", options("options", o, ["signal"]).signal);
    const folder = path("dir", dir);
    this.#step = await this.#together<number>("loadTrainer", async () => ({ dir: folder }), cancel);
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
