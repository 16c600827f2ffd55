// Work that ranks share out piece by piece, each to whoever is free, and what a rank alone has seen of it, told by rank 0.
import { agreed, toldToStop } from "./agree.js";
import { type Communicator, Group } from "./group.js";

export interface SharedWork {
  /** Number of pieces; the same on all ranks. */
  count: number;
  /** Does one piece. */
  work(piece: number): Promise<void>;
  /** Called on rank 0 when a rank has done a piece. */
  done?(piece: number): void;
  /** Aborted: no new piece is begun, and the reason is thrown. */
  finish: AbortSignal;
}

/** What a rank says when it comes for a piece. */
interface Question {
  /** It is done with the piece that it had. */
  done: boolean;
  /** Nobody is to begin another one. */
  stop: boolean;
}

async function alone({ count, work, done, finish }: SharedWork): Promise<void> {
  for (let piece = 0; piece < count; piece++) {
    finish.throwIfAborted();
    await work(piece);
    done?.(piece);
  }
}

/** Deals the pieces in their order. */
function dealerOf({ count, done }: SharedWork) {
  const had = new Map<number, number>(); // by rank: the piece that it is at
  let next = 0;
  return (rank: number, question: unknown): number | null => {
    const { done: isDone, stop } = question as Question;
    const before = had.get(rank);
    had.delete(rank);
    if (isDone && before !== undefined) done?.(before);
    if (stop) next = count;
    if (next >= count) return null;
    had.set(rank, next);
    return next++;
  };
}

/**
 * Does every piece, each on one rank, and comes back when all are done. A rank whose piece fails, or that is told to stop, ends it for
 * all when they are done with the pieces that they have; they then fail alike.
 */
export async function shareOut(ranks: Communicator | undefined, shared: SharedWork): Promise<void> {
  if (!(ranks instanceof Group)) return alone(shared);
  const { work, finish } = shared;
  const { control } = ranks;
  const name = ranks.nextRound();
  control.hub?.deal(name, dealerOf(shared));
  const ask = (question: Question) => control.ask(name, question) as Promise<number | null>;
  try {
    await agreed(ranks, async () => {
      let piece = await ask({ done: false, stop: finish.aborted });
      while (piece !== null) {
        try {
          await work(piece);
        } catch (e) {
          await ask({ done: false, stop: true }).catch(() => {}); // lost ranks say why themselves
          throw e;
        }
        piece = await ask({ done: true, stop: finish.aborted });
      }
    });
  } finally {
    control.hub?.deal(name, null);
  }
  const stop = await toldToStop(ranks, finish);
  if (stop) throw stop.reason;
}

/** Two ways to tell an event. */
export interface Voices<E> {
  /** What all ranks see alike: rank 0 tells it. */
  common(event: E): void;
  /** What this rank alone has seen: rank 0 tells it, as JSON holds it. */
  own(event: E): void;
  /** Comes back when rank 0 has told all that ranks have seen so far; all of them call it. */
  settle(): Promise<void>;
}

/** How ranks tell events through `emit` of rank 0. */
export function voicesOf<E>(ranks: Communicator | undefined, emit: (event: E) => void): Voices<E> {
  if (!(ranks instanceof Group)) return { common: emit, own: emit, settle: async () => {} };
  const { control } = ranks;
  const name = ranks.nextRound();
  control.hub?.listenTo((event) => emit(event as E));
  return {
    common: control.hub ? emit : () => {},
    own: control.hub ? emit : (event) => control.report(event),
    settle: async () => void (await control.tell(name, null)), // comes behind all that was reported
  };
}
