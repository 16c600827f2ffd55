// What ranks do alike: they all go on, or all fail with the same code.
import { type ErrorCode, IsrDpoError, isIsrDpoError } from "../../base/errors.js";
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

/** Rank 0 does `work`, the others wait for it; all get its result, which JSON has to hold, or all fail as it did. */
export async function byFirst<T>(ranks: Communicator | undefined, work: () => Promise<T>): Promise<T> {
  if (!ranks || ranks.size === 1) return await work();
  const mine = await agreed(ranks, async () => (ranks.rank === 0 ? await work() : undefined));
  return (await ranks.gather(mine))[0] as T;
}

/** This rank's part of a list: about equal parts, in order. */
export function portionOf<T>(ranks: Communicator | undefined, all: readonly T[]): readonly T[] {
  if (!ranks) return all;
  const at = (r: number) => Math.floor((all.length * r) / ranks.size);
  return all.slice(at(ranks.rank), at(ranks.rank + 1));
}
