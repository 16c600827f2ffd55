// Reference log-probs of a set, by the trainer's own forward before its first step, so that the first step's margins are 0.
import { IsrDpoError } from "../base/errors.js";
import type { Trainer } from "./trainer.js";
import type { Pair, SequencePair } from "../base/types.js";
import type { ItemSet } from "./item-store.js";
import { MediaAhead, type OpenMedia } from "./media-ahead.js";
import { type Emit, Progress } from "./progress.js";
import { agreed, byFirst, portionOf, toldToStop } from "./ranks/agree.js";
import type { Communicator } from "./ranks/group.js";
import type { Reference, ReferenceStore } from "./reference-logprobs.js";

export interface Scoring {
  trainer: Trainer;
  items: ItemSet;
  open: OpenMedia;
  /** null on a rank that does not keep the file. */
  references: ReferenceStore | null;
  /** Items of one call. */
  batch: number;
  iteration: number;
  emit: Emit;
  signal: AbortSignal;
  /** Aborted: end in order, once the items at hand are scored. */
  finish: AbortSignal;
  /** The ranks that score together, each its part of a batch; rank 0 keeps the file. */
  ranks?: Communicator | undefined;
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

type Numbers = { chosen: number[]; rejected: number[] };

/** The references of all ranks' parts, in order; JSON holds a float32 exactly. */
async function ofAll(ranks: Communicator | undefined, mine: Reference[]): Promise<Reference[]> {
  if (!ranks) return mine;
  const parts = await ranks.gather<Numbers[]>(
    mine.map(({ chosen, rejected }) => ({ chosen: [...chosen], rejected: [...rejected] })),
  );
  return parts
    .flat()
    .map(({ chosen, rejected }) => ({ chosen: Float32Array.from(chosen), rejected: Float32Array.from(rejected) }));
}

/** Scores what is not scored yet, in the order of the items; durable when it ends. References that pairs bring are taken. */
export async function scoreReferences(s: Scoring): Promise<void> {
  const { items, references, signal, ranks } = s;
  const batch = s.batch * (ranks?.size ?? 1);
  let done = await byFirst(ranks, async () => references!.count);
  const progress = new Progress(s.emit, s.iteration, "score", items.length, done);
  const ahead = new MediaAhead(s.open, signal);
  const from = (first: number) =>
    portionOf(
      ranks,
      Array.from({ length: Math.max(0, Math.min(batch, items.length - first)) }, (_, k) => first + k),
    );
  try {
    while (done < items.length) {
      signal.throwIfAborted();
      const stop = await toldToStop(ranks, s.finish);
      if (stop) throw stop.reason;
      const all = await ofAll(ranks, await agreed(ranks, () => scored(s, ahead, from(done), from(done + batch))));
      await agreed(ranks, async () => references?.append(all));
      done += all.length;
      progress.tell(done);
    }
  } finally {
    ahead.end();
  }
  await agreed(ranks, async () => references?.sync());
}
