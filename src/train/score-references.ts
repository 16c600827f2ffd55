// Reference log-probs of a set, by the trainer's own forward before its first step, so that the first step's margins are 0.
import { IsrDpoError } from "../base/errors.js";
import type { Trainer } from "./trainer.js";
import type { Pair, SequencePair } from "../base/types.js";
import type { ItemSet } from "./item-store.js";
import { MediaAhead, type OpenMedia } from "./media-ahead.js";
import { type Emit, Progress } from "./progress.js";
import type { Reference, ReferenceStore } from "./reference-logprobs.js";

export interface Scoring {
  trainer: Trainer;
  items: ItemSet;
  open: OpenMedia;
  references: ReferenceStore;
  /** Items of one call. */
  batch: number;
  iteration: number;
  emit: Emit;
  signal: AbortSignal;
  /** Aborted: end in order, once the items at hand are scored. */
  finish: AbortSignal;
}

const finite = ({ chosen, rejected }: Reference) => chosen.every(Number.isFinite) && rejected.every(Number.isFinite);

const withoutReference = async (items: ItemSet, indices: readonly number[]) =>
  ((await items.items(indices)) as (Pair | SequencePair)[]).filter((p) => !p.reference);

async function scored(
  s: Scoring,
  ahead: MediaAhead,
  indices: readonly number[],
  next: readonly number[],
): Promise<Reference[]> {
  const pairs = (await s.items.items(indices)) as (Pair | SequencePair)[];
  const missing = pairs.filter((p) => !p.reference);
  const score = () =>
    ahead.during(s.trainer.score(missing, { signal: s.signal }), () => withoutReference(s.items, next));
  const found = missing.length > 0 ? await score() : [];
  const all = pairs.map((p) => p.reference ?? found.shift()!);
  const bad = all.findIndex((r) => !finite(r));
  if (bad >= 0)
    throw new IsrDpoError("NUMERIC", `reference log-probs of ${pairs[bad]!.id ?? `item ${indices[bad]}`}: not finite`, {
      hint: "the start model gives no finite probability to this pair: look at the pair and at the checkpoint",
      detail: { samples: [pairs[bad]!.id ?? `item ${indices[bad]}`] },
    });
  return all;
}

/** Scores what is not scored yet, in the order of the items; durable when it ends. References that pairs bring are taken. */
export async function scoreReferences(s: Scoring): Promise<void> {
  const { items, references, batch, signal } = s;
  const progress = new Progress(s.emit, s.iteration, "score", items.length, references.count);
  const ahead = new MediaAhead(s.open, signal);
  const from = (first: number) =>
    Array.from({ length: Math.max(0, Math.min(batch, items.length - first)) }, (_, k) => first + k);
  try {
    while (references.count < items.length) {
      signal.throwIfAborted();
      s.finish.throwIfAborted();
      const first = references.count;
      await references.append(await scored(s, ahead, from(first), from(first + batch)));
      progress.tell(references.count);
    }
  } finally {
    ahead.end();
  }
  await references.sync();
}
