// Communicators of data-parallel training. This version has only the communicator of a single process.
import { asyncDispose, disposedError } from "../base/addon.js";
import { choice, integer, options, refuse, signal, text } from "../base/check.js";
import { plural } from "../base/counts.js";
import { IsrDpoError } from "../base/errors.js";
import type { Cancel } from "../base/types.js";

/** The ranks that train together. Sums are in float32, in an order that is fixed for a given number of ranks. */
export interface Communicator extends AsyncDisposable {
  /** Index of this process, from 0. */
  readonly rank: number;
  /** Number of ranks. */
  readonly size: number;
  /** Replaces `x` by the sum over ranks. */
  allReduce(x: Float32Array): Promise<void>;
  /** Returns this rank's part of the sum. */
  reduceScatter(x: Float32Array): Promise<Float32Array>;
  /** Returns the arrays of all ranks, one after the other. */
  allGather(x: Float32Array): Promise<Float32Array>;
  /** Waits for all ranks. */
  barrier(): Promise<void>;
  /** Leaves the group. It may be called again. It is the same as `[Symbol.asyncDispose]()`. */
  dispose(): Promise<void>;
}

/** Options of a communicator. */
export interface CommunicatorOptions extends Cancel {
  /** Index of this process; default: the environment variable RANK, else 0. */
  rank?: number;
  /** Number of ranks; default: the environment variable WORLD_SIZE, else 1. */
  size?: number;
  /** Address at which the ranks meet; this version has one rank and does not use it. */
  address?: string;
  /** How ranks communicate; default "auto". "none": this process alone, whatever the environment says. */
  transport?: "auto" | "gloo" | "nccl" | "none";
  /** Longest wait for a rank in milliseconds; this version has one rank and never waits. */
  timeoutMs?: number;
}

/** A whole number from the launcher's environment (torchrun's names), if it is set. */
function fromEnvironment(name: string, min: number): number | undefined {
  const value = process.env[name];
  if (value === undefined || value === "") return undefined;
  if (!/^\d+$/.test(value) || Number(value) < min)
    refuse(`environment variable ${name}`, `a whole number of at least ${min}`, value);
  return Number(value);
}

/**
 * Joins a group of ranks. This version supports a group of one.
 * @param o - rank and size, by default from the environment (RANK and WORLD_SIZE, as torchrun sets them)
 * @throws {@link IsrDpoError} INVALID_ARGUMENT; DEVICE_UNAVAILABLE: several ranks, or a transport that this binary lacks
 */
export async function createCommunicator(o?: CommunicatorOptions): Promise<Communicator> {
  const given = options("options", o, ["signal", "rank", "size", "address", "transport", "timeoutMs"]);
  signal("options.signal", given.signal)?.throwIfAborted();
  const transport =
    given.transport === undefined
      ? "auto"
      : choice("options.transport", given.transport, ["auto", "gloo", "nccl", "none"]);
  const alone = transport === "none";
  const size =
    given.size !== undefined
      ? integer("options.size", given.size, 1)
      : alone
        ? 1
        : (fromEnvironment("WORLD_SIZE", 1) ?? 1);
  const rank =
    given.rank !== undefined ? integer("options.rank", given.rank, 0) : alone ? 0 : (fromEnvironment("RANK", 0) ?? 0);
  if (rank >= size) refuse("options.rank", `a rank below the size of ${size}`, rank);
  if (given.address !== undefined) text("options.address", given.address);
  if (given.timeoutMs !== undefined) integer("options.timeoutMs", given.timeoutMs, 1);
  if (alone && size > 1) refuse("options.size", "1 with transport 'none'", size);
  if (transport === "gloo" || transport === "nccl" || size > 1)
    throw new IsrDpoError(
      "DEVICE_UNAVAILABLE",
      `options.transport: ${plural(size, "rank")} over '${transport}' need a transport that this binary was built without`,
      { hint: "run one process: transport 'none', or leave rank, size, RANK and WORLD_SIZE unset" },
    );
  return new OneProcess();
}

class OneProcess implements Communicator {
  readonly rank = 0;
  readonly size = 1;
  #disposed = false;

  #check(x?: Float32Array): void {
    if (this.#disposed) throw disposedError("the communicator");
    if (x !== undefined && !(x instanceof Float32Array)) refuse("x", "a Float32Array", x);
  }
  async allReduce(x: Float32Array): Promise<void> {
    this.#check(x);
  }
  async reduceScatter(x: Float32Array): Promise<Float32Array> {
    this.#check(x);
    return x.slice();
  }
  async allGather(x: Float32Array): Promise<Float32Array> {
    this.#check(x);
    return x.slice();
  }
  async barrier(): Promise<void> {
    this.#check();
  }
  async dispose(): Promise<void> {
    this.#disposed = true;
  }
  [asyncDispose](): Promise<void> {
    return this.dispose();
  }
}
