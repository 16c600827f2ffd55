// A group of ranks that have met, and a process alone, as the same interface.
import { disposedError, Host, ranksNative, type RankHandle } from "../../base/addon.js";
import { refuse } from "../../base/check.js";
import { Disposable } from "../../base/disposal.js";
import type { LoadOptions } from "../../base/types.js";
import { maxLine } from "./control-lines.js";
import { type Control, lostError } from "./control.js";

/** The ranks that train together. Sums are in float32, in an order that is fixed for a given number of ranks. */
export interface Communicator extends AsyncDisposable {
  /** Index of this process, from 0. */
  readonly rank: number;
  /** Number of ranks. */
  readonly size: number;
  /** Index among the ranks of this machine, from 0. */
  readonly localRank: number;
  /** Number of the ranks of this machine, which share its cores and cards. */
  readonly localSize: number;
  /** What carries the messages: "shared" (memory of one machine), "gloo", "nccl", or "none" of a process alone. */
  readonly transport: string;
  /** Where a model of this rank belongs: "cpu", or a card as "cuda:1"; "auto" for a process alone. */
  readonly device: NonNullable<LoadOptions["device"]>;
  /** Why messages between cards pass through the host's memory, where they do. */
  readonly notice: string | undefined;
  /** Aborted when a rank is lost or has given up, with the RANK_LOST that every later call rejects with. */
  readonly lost: AbortSignal;
  /**
   * Replaces `x` by the sum over ranks.
   * @throws {@link IsrDpoError} INVALID_ARGUMENT: another length on another rank; RANK_LOST, DISPOSED
   */
  allReduce(x: Float32Array): Promise<void>;
  /** Returns this rank's part of the sum: equal parts, the first ones one longer where the length does not divide. */
  reduceScatter(x: Float32Array): Promise<Float32Array>;
  /** Returns the arrays of all ranks, one after the other. */
  allGather(x: Float32Array): Promise<Float32Array>;
  /** Returns a value of each rank, by rank; any value that JSON holds, and all ranks wait for all. */
  gather<T>(value: T): Promise<T[]>;
  /** Waits for all ranks. */
  barrier(): Promise<void>;
  /** Ends the work of all ranks with RANK_LOST and this reason. */
  abort(reason: string): void;
  /** Leaves the group. It may be called again. It is the same as `[Symbol.asyncDispose]()`. */
  dispose(): Promise<void>;
}

type Place = Pick<Communicator, "rank" | "size" | "localRank" | "localSize" | "transport" | "device" | "notice">;

export class Group extends Disposable implements Communicator {
  readonly notice: string | undefined;
  readonly device: NonNullable<LoadOptions["device"]>;
  readonly transport: string;
  readonly localSize: number;
  readonly localRank: number;
  readonly size: number;
  readonly rank: number;
  readonly handle: RankHandle;
  readonly #control: Control;
  readonly #host = new Host("the communicator");
  #left = false;
  #rounds = 0;

  constructor(place: Place, control: Control, handle: RankHandle) {
    super();
    this.rank = place.rank;
    this.size = place.size;
    this.localRank = place.localRank;
    this.localSize = place.localSize;
    this.transport = place.transport;
    this.device = place.device;
    this.notice = place.notice;
    this.handle = handle;
    this.#control = control;
    control.lost.addEventListener("abort", () => ranksNative().abort(handle, String(control.lost.reason?.message)), {
      once: true,
    });
  }

  get lost(): AbortSignal {
    return this.#control.lost;
  }
  set stage(stage: string) {
    this.#control.stage = stage;
  }

  /** A name for the next thing that ranks do through the control: the same on all of them, who begin these in one order. */
  nextRound(): string {
    return `round ${this.#rounds++}`;
  }
  get control(): Pick<Control, "ask" | "report" | "tell" | "hub"> {
    return this.#control;
  }

  async connect(addresses: readonly string[]): Promise<void> {
    await this.#call("connectRank", { addresses });
    await this.#control.tell("connected", true); // nobody's end is needed any more
  }

  /** A job whose failure, where a rank is lost, is what the control says of it: that names process and machine. */
  async #call<R>(job: "connectRank" | "gatherText" | "reduceFloats" | "gatherFloats", args: object): Promise<R> {
    if (this.#left) throw disposedError("the communicator");
    this.lost.throwIfAborted();
    try {
      return await this.#host.call<R>(job, { rank: this.handle, ...args });
    } catch (e) {
      // Who cannot be connected to may have ended, which this rank has yet to hear of.
      throw await this.explained(e, job === "connectRank");
    }
  }

  /** The control hears of a lost rank at about the time that the transport does. `any`: another error may be about that, too. */
  async explained(e: unknown, any = false): Promise<unknown> {
    if (!any && (e as { code?: unknown })?.code !== "RANK_LOST") return e;
    if (!this.lost.aborted)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 1000);
        this.lost.addEventListener(
          "abort",
          () => {
            clearTimeout(timer);
            resolve();
          },
          { once: true },
        );
      });
    return this.lost.aborted ? this.lost.reason : e;
  }

  async allReduce(x: Float32Array): Promise<void> {
    const copy = floatsOf(x);
    await this.#call("reduceFloats", { x: copy, gather: true });
    x.set(copy);
  }
  async reduceScatter(x: Float32Array): Promise<Float32Array> {
    const copy = floatsOf(x);
    const { begin, end } = await this.#call<{ begin: number; end: number }>("reduceFloats", { x: copy, gather: false });
    return copy.slice(begin, end);
  }
  async allGather(x: Float32Array): Promise<Float32Array> {
    const parts = await this.#call<Float32Array[]>("gatherFloats", { x: floatsOf(x) });
    const all = new Float32Array(parts.reduce((sum, p) => sum + p.length, 0));
    let at = 0;
    for (const part of parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }
  /** Characters of a rank's JSON, so that those of all ranks, quoted once more, fit into one line of the control. */
  get #shortText(): number {
    return Math.min(4096, Math.floor(maxLine / (4 * this.size)));
  }
  async gather<T>(value: T): Promise<T[]> {
    if (this.#left) throw disposedError("the communicator");
    const given = JSON.stringify(value) ?? "null";
    // Short ones go by the control, beside the values of a step that may still be on their way between the engines.
    const said = await this.#control.tell(this.nextRound(), given.length <= this.#shortText ? given : null);
    const all = said.includes(null) ? await this.#call<string[]>("gatherText", { text: given }) : (said as string[]);
    return all.map((one) => JSON.parse(one) as T);
  }
  async barrier(): Promise<void> {
    await this.gather(null);
  }
  abort(reason: string): void {
    if (!this.#left) this.#control.abort(`rank ${this.rank}: ${reason}`);
  }
  protected override async close(): Promise<void> {
    this.#left = true;
    await this.#host.dispose();
    await this.#control.leave();
    ranksNative().close(this.handle);
  }
}

/** `e`, or what the control knows of the lost rank that it is about. */
export async function explainedBy(communicator: Communicator | undefined, e: unknown): Promise<unknown> {
  return communicator instanceof Group ? await communicator.explained(e) : e;
}

function floatsOf(x: unknown): Float32Array {
  if (!(x instanceof Float32Array)) refuse("x", "a Float32Array", x);
  return (x as Float32Array).slice();
}

export class OneProcess extends Disposable implements Communicator {
  readonly rank = 0;
  readonly size = 1;
  readonly localRank = 0;
  readonly localSize = 1;
  readonly transport = "none";
  readonly device = "auto";
  readonly notice = undefined;
  readonly #life = new AbortController();
  #disposed = false;

  get lost(): AbortSignal {
    return this.#life.signal;
  }
  #check(): void {
    if (this.#disposed) throw disposedError("the communicator");
    this.lost.throwIfAborted();
  }
  async allReduce(x: Float32Array): Promise<void> {
    this.#check();
    floatsOf(x);
  }
  async reduceScatter(x: Float32Array): Promise<Float32Array> {
    this.#check();
    return floatsOf(x);
  }
  async allGather(x: Float32Array): Promise<Float32Array> {
    this.#check();
    return floatsOf(x);
  }
  async gather<T>(value: T): Promise<T[]> {
    this.#check();
    return [JSON.parse(JSON.stringify(value) ?? "null") as T];
  }
  async barrier(): Promise<void> {
    this.#check();
  }
  abort(reason: string): void {
    this.#life.abort(lostError(`rank 0: ${reason}`));
  }
  protected override async close(): Promise<void> {
    this.#disposed = true;
  }
}

/** The engine's handle of a communicator of several ranks, for jobs that speak with them; undefined: a process alone. */
export function rankHandleOf(communicator: Communicator | undefined): RankHandle | undefined {
  return communicator instanceof Group ? communicator.handle : undefined;
}

/** A communicator that createCommunicator() of this copy of the package made. */
export const isCommunicator = (value: unknown): value is Communicator =>
  value instanceof Group || value instanceof OneProcess;

/** Tells the others what this rank is at, for their message if it is lost. */
export function atStage(communicator: Communicator | undefined, stage: string): void {
  if (communicator instanceof Group) communicator.stage = stage;
}
