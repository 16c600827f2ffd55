// Loss, accuracy and margin on a fixed set, between steps. It only scores: training gives the same bits with and without it.
import { type LossOptions, lossKeys } from "../loss.js";
import { dpoLoss } from "../native.js";
import type { Trainer, TrainerOptions } from "../trainer.js";
import type { Pair, SequencePair } from "../types.js";
import type { ItemSet } from "./items.js";
import type { Reference } from "./refs.js";

export interface Evaluation {
  loss: number;
  /** Share of pairs whose chosen answer gained more than the rejected one. */
  accuracy: number;
  margin: number;
}

const sum = (x: Float32Array) => x.reduce((a, b) => a + b, 0);

/** `references`: of the model as it was at the start of the run, one a pair. */
export async function evaluatePairs(
  trainer: Trainer,
  set: ItemSet,
  references: readonly Reference[],
  options: TrainerOptions,
  signal: AbortSignal,
  batch: number,
): Promise<Evaluation> {
  const now: Reference[] = [];
  for (let i = 0; i < set.length; i += batch) {
    const indices = Array.from({ length: Math.min(batch, set.length - i) }, (_, k) => i + k);
    now.push(...(await trainer.score((await set.items(indices)) as (Pair | SequencePair)[], { signal })));
  }
  const given = Object.entries(options).filter(([key]) => lossKeys.includes(key));
  const { loss } = dpoLoss(
    now.map((r) => r.chosen),
    now.map((r) => r.rejected),
    references.map((r) => r.chosen),
    references.map((r) => r.rejected),
    Object.fromEntries(given) as LossOptions,
  );
  const gain = (side: keyof Reference, i: number) => sum(now[i]![side]) - sum(references[i]![side]);
  const margins = now.map((_, i) => (options.beta ?? 0.1) * (gain("chosen", i) - gain("rejected", i)));
  return {
    loss,
    accuracy: margins.filter((m) => m > 0).length / margins.length,
    margin: margins.reduce((a, b) => a + b, 0) / margins.length,
  };
}
