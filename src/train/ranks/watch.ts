// Whether other ranks live and their work goes on, as the heartbeats tell that the engine's threads exchange: they do so while JavaScript's
// own thread is busy, here or there.
import { createHash } from "node:crypto";
import { type HeartbeatHandle, type RankSign, ranksNative } from "../../base/addon.js";

const keyOf = (token: string): string => createHash("sha256").update(`heartbeats ${token}`).digest("hex");
/** The loopback address that a host is, or "". */
export const loopbackOf = (host: string): string =>
  host === "localhost" ? "127.0.0.1" : host === "127.0.0.1" || host === "::1" ? host : "";

/** What the heartbeats of a rank are held to, in milliseconds. */
export interface Limits {
  silenceMs: number;
  /** 0: never. */
  stuckMs: number;
}

const isStuck = ({ stuck, patience }: RankSign, { stuckMs }: Limits): boolean =>
  stuckMs > 0 && stuck > Math.max(stuckMs / 1000, patience);

/**
 * What is wrong with a rank, in words; undefined: nothing.
 * @param sinceMs - since all ranks were there
 * @param heardMs - since something else was heard of it; undefined: it is this rank itself
 */
export function troubleOf(sign: RankSign, limits: Limits, sinceMs: number, heardMs?: number): string | undefined {
  if (heardMs !== undefined) {
    const silent = Math.min(1000 * sign.silent, sinceMs, heardMs);
    if (silent > limits.silenceMs) return `nothing was heard of it for ${Math.round(silent / 1000)} s`;
    if (!sign.heard && sinceMs > Math.max(limits.silenceMs, 10_000)) return "its heartbeats do not come";
  }
  if (isStuck(sign, limits) && !sign.waiting) return `its work has not moved for ${Math.round(sign.stuck)} s`;
  return undefined;
}

/** Seconds for which all ranks have waited for each other, where that is too long. */
export function deadlockOf(signs: readonly RankSign[], limits: Limits): number | undefined {
  if (signs.length === 0 || !signs.every((s) => s.waiting && isStuck(s, limits))) return undefined;
  return Math.round(Math.min(...signs.map((s) => s.stuck)));
}

/** What is needed to beat. */
interface Beating extends Limits {
  rank: number;
  size: number;
  host: string;
  token: string;
}

export class Watch {
  readonly #m: Beating;
  readonly #heartbeat: HeartbeatHandle;
  #began = performance.now();
  #signs: readonly RankSign[] = [];

  private constructor(m: Beating, heartbeat: HeartbeatHandle) {
    this.#m = m;
    this.#heartbeat = heartbeat;
  }

  /** Rank 0's, which listens. */
  static lead(m: Beating): Watch {
    return new Watch(m, ranksNative().lead(m.size, keyOf(m.token), loopbackOf(m.host)));
  }
  /** Another rank's, which connects to an address of rank 0. */
  static join(m: Beating, address: string, port: number): Watch {
    return new Watch(m, ranksNative().join(m.rank, keyOf(m.token), address, port));
  }

  get port(): number {
    return ranksNative().beatPort(this.#heartbeat);
  }
  /** All ranks are there: silence counts from now. */
  begin(): void {
    this.#began = performance.now();
  }
  end(): void {
    ranksNative().stopBeating(this.#heartbeat);
  }

  /** Takes what the heartbeats tell now: trouble() and deadlock() speak of it. */
  look(): void {
    this.#signs = ranksNative().signs(this.#heartbeat);
  }

  /** What is wrong with a rank, in words, of which something else was heard at `heard` (performance.now()); undefined: nothing. */
  trouble(rank: number, heard: number): string | undefined {
    const sign = this.#signs[rank];
    if (!sign) return undefined; // this end is closed
    const now = performance.now();
    const what = troubleOf(sign, this.#m, now - this.#began, rank === this.#m.rank ? undefined : now - heard);
    return sign.heard ? what : what && `${what} (port ${this.port} of rank 0 has to be reached, too)`;
  }

  /** Seconds for which all of `ranks` have waited for each other, where that is too long. */
  deadlock(ranks: readonly number[]): number | undefined {
    return deadlockOf(
      ranks.map((r) => this.#signs[r]).filter((s) => s !== undefined),
      this.#m,
    );
  }
}
