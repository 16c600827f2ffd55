// What ranks do alike: they all go on, or all fail with the same code.
import { type ErrorCode, IsrDpoError, isIsrDpoError } from "../../base/errors.js";
import { lostError } from "./control.js";
import type { Communicator } from "./group.js";

interface Failure {
  code: ErrorCode;
  message: string;
  hint?: string;
  path?: string;
}

function failureOf(e: unknown): Failure {
  if (!isIsrDpoError(e))
    return { code: "RANK_LOST", message: e instanceof Error ? e.message : String(e), hint: "start all ranks again" };
  const { code, message, hint, path } = e;
  return { code, message, ...(hint === undefined ? {} : { hint }), ...(path === undefined ? {} : { path }) };
}

/**
 * Runs `work` on every rank, and comes back on all of them or throws on all: a rank whose work failed its own error, the others one
 * with the code of the first such rank, which names it. Alone, or without ranks, it is the work itself.
 */
export async function agreed<T>(ranks: Communicator | undefined, work: () => Promise<T>): Promise<T> {
  if (!ranks || ranks.size === 1) return await work();
  let failure: { error: unknown } | undefined;
  let value: T | undefined;
  try {
    value = await work();
  } catch (error) {
    if (isIsrDpoError(error, "RANK_LOST")) throw error; // nobody listens any more
    failure = { error };
  }
  const all = await ranks.gather<Failure | null>(failure ? failureOf(failure.error) : null);
  if (failure) throw failure.error;
  const r = all.findIndex((f) => f !== null);
  if (r < 0) return value as T;
  const { code, message, ...facts } = all[r]!;
  throw new IsrDpoError(code, `rank ${r}: ${message}`, facts);
}

/** Whether this process writes what the ranks make. */
export const leads = (ranks: Communicator | undefined): boolean => !ranks || ranks.rank === 0;

/** Rank 0 does `work`, the others wait for it; all get its result, which they get as JSON holds it, or all fail as it did. */
export async function byFirst<T>(ranks: Communicator | undefined, work: () => Promise<T>): Promise<T> {
  if (!ranks || ranks.size === 1) return await work();
  const mine = await agreed(ranks, async () => (ranks.rank === 0 ? await work() : undefined));
  const [first] = await ranks.gather(mine ?? null);
  return (ranks.rank === 0 ? mine : first) as T;
}

/** Rank 0 does `work` first, then the others do, each for itself: they read what it has written. */
export async function inTurn<T>(ranks: Communicator | undefined, work: (leads: boolean) => Promise<T>): Promise<T> {
  const first = await agreed(ranks, async () => (leads(ranks) ? await work(true) : undefined));
  const others = await agreed(ranks, async () => (leads(ranks) ? undefined : await work(false)));
  return (leads(ranks) ? first : others) as T;
}

/** Whether any rank was told to stop; asked by all. What it then ends with: the reason that it was told, or who was. */
export async function toldToStop(
  ranks: Communicator | undefined,
  finish: AbortSignal,
): Promise<{ reason: unknown } | null> {
  const told = ranks ? await ranks.gather(finish.aborted) : [];
  if (finish.aborted) return { reason: finish.reason };
  return told.includes(true) ? { reason: lostError(`rank ${told.indexOf(true)} was told to stop`) } : null;
}

/** What each rank has found of its part, in the order of all; as JSON holds it where there are several. */
export async function gathered<T>(ranks: Communicator | undefined, work: () => Promise<T[]>): Promise<T[]> {
  const mine = await agreed(ranks, work);
  return ranks ? (await ranks.gather(mine)).flat() : mine;
}

/** Counters of all ranks together. */
export async function summed<K extends string>(
  ranks: Communicator | undefined,
  mine: Readonly<Record<K, number>>,
): Promise<Record<K, number>> {
  if (!ranks) return { ...mine };
  const total: Record<K, number> = { ...mine };
  for (const [r, theirs] of (await ranks.gather(mine)).entries())
    for (const key of Object.keys(total) as K[]) if (r !== ranks.rank) total[key] += theirs[key];
  return total;
}

/** This rank's part of a list: about equal parts, in order. */
export function portionOf<T>(ranks: Communicator | undefined, all: readonly T[]): readonly T[] {
  if (!ranks) return all;
  const at = (r: number) => Math.floor((all.length * r) / ranks.size);
  return all.slice(at(ranks.rank), at(ranks.rank + 1));
}
