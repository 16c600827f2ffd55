// Loss, accuracy and margin on a fixed set, between steps. It only scores: training gives the same bits with and without it.
import { mean, sum } from "../base/statistics.js";
import { show } from "../base/check.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { type LossOptions, lossKeys } from "./loss-options.js";
import type { TrainerSettings } from "./trainer-options.js";
import { internalsOf } from "../model/model.js";
import type { VideoLM } from "../model/video-lm.js";
import { dpoLoss } from "./preference-loss.js";
import { type FittedItem, fitItem, trainItems } from "../model/sequence.js";
import { readText, writeAtomic } from "../base/atomic-files.js";
import type { Trainer } from "./trainer.js";
import type { Pair, SequencePair, TrainItem } from "../base/types.js";
import type { ItemSet } from "./item-store.js";
import type { Emit } from "./progress.js";
import { agreed, byFirst, gathered, leads, portionOf } from "./ranks/agree.js";
import type { Communicator } from "./ranks/group.js";
import type { Reference, ReferenceStore } from "./reference-logprobs.js";

export interface Evaluation {
  loss: number;
  /** Share of pairs whose chosen answer gained more than the rejected one; 0 for supervised runs. */
  accuracy: number;
  /** Mean over the pairs, in reward (beta times nats); 0 for supervised runs. */
  margin: number;
}

const batch = 8; // items scored in one call: it bounds memory and changes no bit

/** This rank's items, in batches. */
async function* batches(set: ItemSet, ranks: Communicator | undefined): AsyncGenerator<readonly TrainItem[]> {
  const mine = portionOf(
    ranks,
    Array.from({ length: set.length }, (_, i) => i),
  );
  for (let first = 0; first < mine.length; first += batch) yield await set.items(mine.slice(first, first + batch));
}

async function preferences(
  trainer: Trainer,
  set: ItemSet,
  references: ReferenceStore,
  options: TrainerSettings,
  signal: AbortSignal,
  ranks: Communicator | undefined,
): Promise<Evaluation> {
  const found = await gathered(ranks, async () => {
    const mine: { chosen: number[]; rejected: number[] }[] = [];
    for await (const items of batches(set, ranks))
      for (const { chosen, rejected } of await trainer.score(items as (Pair | SequencePair)[], { signal }))
        mine.push({ chosen: [...chosen], rejected: [...rejected] });
    return mine;
  });
  const f32 = (x: number[]) => Float32Array.from(x);
  const now: Reference[] = found.map((r) => ({ chosen: f32(r.chosen), rejected: f32(r.rejected) }));
  const then: Reference[] = [];
  for (let i = 0; i < set.length; i++) then.push(await references.get(i));
  const given = Object.entries(options).filter(([key]) => lossKeys.includes(key));
  const side = (list: readonly Reference[], key: keyof Reference) => list.map((r) => r[key]);
  const { loss } = dpoLoss(
    side(now, "chosen"),
    side(now, "rejected"),
    side(then, "chosen"),
    side(then, "rejected"),
    Object.fromEntries(given) as LossOptions,
  );
  const gain = (key: keyof Reference, i: number) => sum(now[i]![key]) - sum(then[i]![key]);
  const margins = now.map((_, i) => options.beta * (gain("chosen", i) - gain("rejected", i)));
  return {
    loss,
    accuracy: margins.filter((m) => m > 0).length / margins.length,
    margin: mean(margins),
  };
}

async function supervised(
  model: VideoLM,
  set: ItemSet,
  signal: AbortSignal,
  ranks: Communicator | undefined,
): Promise<Evaluation> {
  const { host, inputs } = internalsOf(model);
  const signals = [signal];
  const scored = async (items: readonly TrainItem[]) => {
    const logProbs = await inputs.run(signals, async (call) => ({
      result: host.call<Float32Array[]>(
        "logProbs",
        { ...(await trainItems(call, items, true)), microBatchTokens: 4096 },
        { signals },
      ),
    }));
    return logProbs.map((x) => ({ total: sum(x), count: x.length }));
  };
  const all = await gathered(ranks, async () => {
    const mine: { total: number; count: number }[] = [];
    for await (const items of batches(set, ranks)) mine.push(...(await scored(items)));
    return mine;
  });
  let [total, count] = [0, 0];
  for (const x of all) {
    total += x.total;
    count += x.count;
  }
  return { loss: -total / count, accuracy: 0, margin: 0 };
}

export interface EvaluatorOptions {
  model: VideoLM;
  trainer: Trainer;
  set: ItemSet;
  /** Log-probs under the model at the start of the run; null: supervised training. */
  references: ReferenceStore | null;
  options: TrainerSettings;
  /** In steps; 0: before the first and after the last. */
  every: number;
  totalSteps: number;
  /** One line per evaluation. */
  path: string;
  iteration: number;
  emit: Emit;
  /** The ranks that evaluate together, each a part of the set; rank 0 keeps the file. */
  ranks: Communicator | undefined;
}

function stepOf(path: string, line: string): number {
  try {
    const { step } = JSON.parse(line) as { step: number };
    if (Number.isSafeInteger(step)) return step;
  } catch {}
  throw new IsrDpoError("JOURNAL_CORRUPT", `${path}: expected evaluations as they were written, got ${show(line)}`, {
    hint: "the file was changed: delete it, and the evaluations from here on are made again",
    path,
  });
}

export class Evaluator {
  readonly #o: EvaluatorOptions;
  readonly #lines = new Map<number, string>();

  private constructor(o: EvaluatorOptions) {
    this.#o = o;
  }

  /** Takes up what earlier processes have written. */
  static async open(o: EvaluatorOptions): Promise<Evaluator> {
    const evaluator = new Evaluator(o);
    const text = await byFirst(o.ranks, () =>
      readText(o.path).catch((e) => {
        if (isIsrDpoError(e, "NOT_FOUND")) return "";
        throw e;
      }),
    );
    for (const line of text.split("\n")) if (line !== "") evaluator.#lines.set(stepOf(o.path, line), line);
    return evaluator;
  }

  /** Before step `step`, where one is due. What is known of an earlier process is not computed again. */
  async at(step: number, signal: AbortSignal): Promise<void> {
    const { every, totalSteps, model, trainer, set, references, options, path, iteration, emit, ranks } = this.#o;
    const due = step === 0 || step === totalSteps || (every > 0 && step % every === 0);
    if (!due || this.#lines.has(step)) return;
    const found = references
      ? await preferences(trainer, set, references, options, signal, ranks)
      : await supervised(model, set, signal, ranks);
    this.#lines.set(step, JSON.stringify({ step, ...found }));
    const lines = [...this.#lines].sort(([a], [b]) => a - b).map(([, line]) => line);
    await agreed(ranks, async () => (leads(ranks) ? writeAtomic(path, `${lines.join("\n")}\n`) : undefined));
    emit({ type: "evaluation", iteration, step, ...found });
  }
}

/** An item checked against the model's context, for gather(). */
export async function fitted(
  model: VideoLM,
  item: TrainItem,
  { supervised, cut, signal }: { supervised: boolean; cut: boolean; signal: AbortSignal },
): Promise<FittedItem> {
  const { inputs } = internalsOf(model);
  return inputs.run([signal], async (call) => ({ result: fitItem(call, item, supervised, cut) }));
}
