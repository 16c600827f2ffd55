// Finds and loads the binary, at first use and never at import. It holds the typed mirror of native/binding, and Host, which
// turns native jobs into promises: cancellation, the caller's stack on errors, disposal.
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { type ErrorCode, IsrDpoError, withFrames } from "./errors.js";

type Handle = { readonly external: unique symbol };
interface Failure {
  cancelled?: boolean;
  code?: ErrorCode;
  message?: string;
  hint?: string;
  path?: string;
  /** Indices of the call's items that it is about. */
  items?: number[];
}
type Settle = (failure: Failure | null, value?: unknown) => void;

export interface NativeMachine {
  machineIsa: string;
  isa?: string; // absent where ISR_DPO_ISA asks for what the machine lacks: `problem` says so
  problem?: string;
  threads: number;
  memoryBytes: number;
  poolThreads: number; // started so far
  devices: Record<string, boolean>; // kinds that the binary has code for -> whether there may be one here
}
export interface NativeTowerFacts {
  imageSize: number;
  rowsAFrame: number; // rows of the decoder per frame
  frames: number; // of a clip; 0: any number
  width: number; // of features before the projector
  withText: boolean; // such a medium is rows and text between them
  patch?: number; // of a tower that takes any grid of patches: edge of one
  merge?: number; // edge of the squares of patches that become one row
}
export interface NativeVision {
  original: boolean;
  imageToken: number;
  videoToken: number;
  perVideo: number;
  frames: number; // sampled from a video by default
  image?: NativeTowerFacts;
  video?: NativeTowerFacts;
}
export interface NativeCheckpoint {
  vision?: NativeVision;
  family: string;
  modelType: string;
  parameters: number;
  contextLength: number;
  vocabSize: number;
  width: number;
  positionAxes: number;
  levels: number; // features of each medium that go into later layers of the decoder, too
  endTokenIds: Int32Array;
  notes: string[];
}
export interface NativeModel extends NativeCheckpoint {
  device: string; // "cpu", "cuda:0"; told by who chose it
  dtype: "f32" | "bf16";
  isa: string;
  adapter?: { rank: number; alpha: number; rslora: boolean; modules: number; parameters: number };
}
export interface NativeReport extends NativeCheckpoint {
  parts: { name: string; parameters: number; dtypes: string[] }[];
  files: string[];
  missing: string[];
  unused: string[];
}
/** A training run's measured needs (native/train/plan.h); bytes, FLOPs. */
export interface NativePlan {
  family: string;
  dtype: "f32" | "bf16";
  towersUnknown: boolean; // a video model, and nothing describes its towers
  sizesGuessed: boolean; // media may have any size
  contextLength: number;
  parameters: number;
  trained: number;
  trainedElements: number; // padded as the optimizer's flat arrays are
  largestGroup: number; // elements
  blockElements: number; // of trainedElements, those whose gradients ranks may share out
  largestBlock: number;
  checkpointBytes: number;
  decoder: NativePlanPart;
  vision: NativePlanPart;
  activations: number;
  scratch: number;
  deviceMeasured: boolean; // scratch is that of the device's kernels; false: this binary has none for it
  media: number; // of one item
  kvPage: number; // 64 tokens, all layers
  checkpointing: boolean;
  tokens: number;
  answerTokens: number;
  microBatchItems: number;
  mediaTokens: number;
  featureBytes: number; // of one video in the cache
  flopsItem: number;
  flopsScore: number;
  flopsToken: number;
  flopsMedia: number;
  threads: number;
  flopsPerSecond: NativeRate; // 0: not measured
  bytesPerSecond: NativeRate;
}
export interface NativeRate {
  low: number;
  high: number;
}
export interface NativePlanPart {
  panels: number;
  rows: number; // row-major values beside the panels
  rowMajor: number; // one copy of everything
}
export interface NativeSequence {
  ids: Int32Array;
  scored?: Uint8Array; // or targets
  targets?: Int32Array;
  weights?: Float32Array;
}
export interface NativePair {
  id: string;
  chosen: NativeSequence;
  rejected: NativeSequence;
  refChosen?: Float32Array;
  refRejected?: Float32Array;
}
export interface NativeToken {
  request: number;
  copy: number;
  id: number;
}
export interface NativeCompletion {
  request: number;
  copy: number;
  ids: Int32Array;
  logProbs: Float32Array;
  stopped: boolean;
}
export interface NativeTensor {
  shape: number[];
  data: Float32Array;
}

/** Jobs of a host that wait for their turn, and that have begun; and sequences of generations: computed now, waiting for room. */
export interface NativeLoad {
  queued: number;
  running: number;
  sequences: number;
  waiting: number;
}

type Job = (host: Handle, args: object, settle: Settle, event?: (value: never) => void) => number;
type JobName =
  | (
      | "inspect"
      | "load"
      | "forward"
      | "logProbs"
      | "generate"
      | "closeSession"
      | "hash"
      | "parameter"
      | "save"
      | "dispose"
    )
  | ("addMedia" | "mediaFeatures" | "releaseMedia" | "towerHash")
  | (
      | "createTrainer"
      | "disposeTrainer"
      | "score"
      | "trainStep"
      | "tryStep"
      | "peak"
      | "gradients"
      | "saveTrainer"
      | "saveAmongRanks"
      | "saveAdapter"
      | "saveAdapterAmongRanks"
      | "loadTrainer"
      | "planTraining"
    )
  | ("connectRank" | "gatherText" | "reduceFloats" | "gatherFloats")
  | ("attentionForward" | "attentionBackward" | "sequenceLogProbs" | "preferenceLoss" | "preprocess");
interface Native extends Record<JobName, Job> {
  createHost(): Handle;
  cancel(host: Handle, job: number): boolean; // true: it had not begun, and will not settle
  close(host: Handle): void;
  endBranch(host: Handle, job: number, request: number, copy: number): void;
  counters(host: Handle): Record<"prefillTokens" | "decodeTokens" | "trainTokens" | "towerPasses", number>;
  hostLoad(host: Handle): NativeLoad;
  machine(): NativeMachine;
  transports(onCard: boolean): { name: string; missing: string; library: string }[];
  rankMachine(): string;
  openRank(transport: string, rank: number, size: number, host: string, card: number): RankHandle;
  rankAddress(rank: RankHandle): string;
  abortRank(rank: RankHandle, reason: string): void;
  leadHeartbeat(size: number, key: string, loopback: string): HeartbeatHandle;
  joinHeartbeat(rank: number, key: string, host: string, port: number): HeartbeatHandle;
  heartbeatPort(heartbeat: HeartbeatHandle): number;
  heartbeatSigns(heartbeat: HeartbeatHandle): RankSign[];
  closeHeartbeat(heartbeat: HeartbeatHandle): void;
  endProcessAfter(milliseconds: number, code: number): void;
  closeRank(rank: RankHandle): void;
  lockFile(path: string): Handle;
  unlockFile(lock: Handle): void;
  dpoLoss(args: object): { loss: number; dChosen: Float32Array[]; dRejected: Float32Array[] };
}

/** What should be the package's folder: above dist/, or above src/base/. "": this code has no address. */
function above(): string {
  try {
    const here = fileURLToPath(new URL(".", import.meta.url));
    return join(here, basename(here) === "base" ? "../.." : "..", sep);
  } catch {
    return ""; // a bundler has made this file CommonJS
  }
}

const root = above();

function isOurs(): boolean {
  try {
    return JSON.parse(readFileSync(join(root, "package.json"), "utf8")).name === "isr-dpo";
  } catch {
    return false;
  }
}

/** The package's folder. BINARY_MISSING where a bundler has taken the code out of it. */
export function packageRoot(): string {
  if (root !== "" && isOurs()) return root;
  throw new IsrDpoError(
    "BINARY_MISSING",
    `isr-dpo: expected its own folder, got ${root || "code without an address"}`,
    {
      hint: "the package was bundled, and its binary and files cannot be: mark it external (esbuild --external:isr-dpo, `external` of rollup and vite, `externals` of webpack, serverExternalPackages of Next.js)",
      path: root,
    },
  );
}

/** The version of this package. */
export const packageVersion = (): string =>
  (JSON.parse(readFileSync(join(packageRoot(), "package.json"), "utf8")) as { version: string }).version;

/**
 * Folder of the model that ships with the package: 1.1 M parameters, answers about clips of coloured shapes (docs/world.md).
 * Its prompts are in `prompts.json` there. The same as `import.meta.resolve("isr-dpo/models/world")`, as a path.
 */
export const worldModel: string = join(root, "models", "world");

let loaded: { native: Native; path: string } | undefined;

/** How the binary is built, where the package stands as it does. */
const buildHint = (dir: string): string =>
  `${dir.split(sep).includes("node_modules") ? "build it with `npm rebuild isr-dpo --foreground-scripts`" : "build it in the package's folder with `npm run build:native`"} (CMake 3.20+ and a C++20 compiler, Linux x64)`;

function load(): { native: Native; path: string } {
  const root = packageRoot();
  const require = createRequire(import.meta.url);
  const target = `${process.platform}-${process.arch}`;
  const places = [
    join(root, "build", "Release", "isr_dpo.node"),
    join(root, "build", "Debug", "isr_dpo.node"),
    join(root, "prebuilds", target, "isr-dpo.node"),
  ];
  let path = "";
  let cause: unknown;
  try {
    const finder = require("node-gyp-build") as { resolve(dir: string): string };
    path = finder.resolve(root);
    return { native: require(path) as Native, path };
  } catch (e) {
    cause = e;
  }
  const reason = cause instanceof Error ? cause.message.split("\n")[0] : String(cause);
  if (path !== "" && !places.includes(path)) places.push(path);
  const tried = places.map((p) => `  ${p}: ${p === path ? reason : existsSync(p) ? "not reached" : "not there"}`);
  throw new IsrDpoError(
    "BINARY_MISSING",
    `no usable native binary for ${target}, node ${process.version}; tried\n${tried.join("\n")}`,
    {
      hint: buildHint(root),
      ...(path === "" ? {} : { path }),
      detail: { tried: places },
      cause,
    },
  );
}

function binary(): { native: Native; path: string } {
  loaded ??= load();
  return loaded;
}

export const binaryPath = (): string => binary().path;
export const machine = (): NativeMachine => binary().native.machine();

/** A synchronous native call: its errors become ours. */
export function dpoLossNative(args: object): ReturnType<Native["dpoLoss"]> {
  const { native } = binary();
  try {
    return native.dpoLoss(args);
  } catch (e) {
    throw errorOf(e as Failure, dpoLossNative);
  }
}

/** A rank's end of a transport (native/binding/rank_jobs.cc). */
export type RankHandle = Handle & { readonly rank: unique symbol };

/** A thread that shows that this rank lives, and hears whether others do (native/dist/heartbeat.h). */
export type HeartbeatHandle = Handle & { readonly heartbeat: unique symbol };

/** What a rank's heartbeats tell; in seconds. */
export interface RankSign {
  /** At least once. */
  heard: boolean;
  /** Since something was heard. */
  silent: number;
  /** For which a job of its engine has given no sign of progress; 0: none runs, or it goes on. */
  stuck: number;
  /** Five times the longest between two signs of it. */
  patience: number;
  /** Its job waits for other ranks. */
  waiting: boolean;
}

/** What carries messages between ranks. Errors are ours. */
export function ranksNative() {
  const { native } = binary();
  const ours = <T>(work: () => T): T => {
    try {
      return work();
    } catch (e) {
      throw errorOf(e as Failure, ranksNative);
    }
  };
  return {
    /** `machine`: ranks for which it is equal can share memory. `onCard`: whether this rank has a card; else no NCCL is looked for. */
    facts: (onCard: boolean) => ours(() => ({ machine: native.rankMachine(), transports: native.transports(onCard) })),
    /** `card`: its number, of a transport between cards. */
    open: (transport: string, rank: number, size: number, host: string, card: number) =>
      ours(() => native.openRank(transport, rank, size, host, card)),
    address: (rank: RankHandle) => ours(() => native.rankAddress(rank)),
    abort: (rank: RankHandle, reason: string) => ours(() => native.abortRank(rank, reason)),
    close: (rank: RankHandle) => ours(() => native.closeRank(rank)),
    lead: (size: number, key: string, loopback: string) => ours(() => native.leadHeartbeat(size, key, loopback)),
    join: (rank: number, key: string, host: string, port: number) =>
      ours(() => native.joinHeartbeat(rank, key, host, port)),
    beatPort: (heartbeat: HeartbeatHandle) => native.heartbeatPort(heartbeat),
    signs: (heartbeat: HeartbeatHandle) => native.heartbeatSigns(heartbeat),
    stopBeating: (heartbeat: HeartbeatHandle) => native.closeHeartbeat(heartbeat),
    /** Ends this process by then, whatever its threads wait for. */
    endProcessAfter: (milliseconds: number, code: number) => ours(() => native.endProcessAfter(milliseconds, code)),
  };
}

/** Locks a file for this process; the result unlocks it. RUN_LOCKED while somebody else has it. */
export function lockFileNative(path: string): () => void {
  const { native } = binary();
  try {
    const held = native.lockFile(path);
    return () => native.unlockFile(held);
  } catch (e) {
    throw errorOf(e as Failure, lockFileNative);
  }
}

/** An error whose stack is that of the call, since a job ends with nobody's frames on the stack. */
function errorOf(failure: Failure, above: (...args: never[]) => unknown, trace?: { stack?: string }): IsrDpoError {
  const { code = "BUG", message = "", hint, path, items } = failure;
  const facts = { ...(hint ? { hint } : {}), ...(path ? { path } : {}), ...(items ? { detail: { items } } : {}) };
  const error = new IsrDpoError(code, message, facts);
  const here: { stack?: string } = {};
  if (!trace) Error.captureStackTrace(here, above);
  withFrames(error, (trace ?? here).stack ?? "");
  return error;
}

export interface CallOptions {
  signals?: readonly (AbortSignal | undefined)[]; // the first to abort gives the reason
  event?: (value: never) => void;
  /** Given at once: ends a branch of a generation, which then stops after its last token. */
  control?: (endBranch: (request: number, copy: number) => void) => void;
}

/**
 * One job thread of the engine and what it owns. Jobs begin in the order of the calls; generations go on side by side, and
 * between two of their tokens begins what does not change weights (native/binding/host.h).
 */
export class Host {
  readonly #native: Native;
  readonly #handle: Handle;
  readonly #name: string;
  #disposal: Promise<void> | undefined;

  constructor(name: string) {
    this.#name = name;
    this.#native = binary().native;
    this.#handle = this.#native.createHost();
  }

  get disposed(): boolean {
    return this.#disposal !== undefined;
  }
  get counters(): ReturnType<Native["counters"]> {
    return this.#native.counters(this.#handle);
  }

  get load(): NativeLoad {
    return this.#native.hostLoad(this.#handle);
  }

  call<R>(job: JobName, args: object, o: CallOptions = {}): Promise<R> {
    if (this.#disposal) return Promise.reject(disposedError(this.#name));
    return this.#call(job, args, o);
  }

  #call<R>(job: JobName, args: object, { signals = [], event, control }: CallOptions): Promise<R> {
    const given = signals.filter((s) => s !== undefined);
    const aborted = given.find((s) => s.aborted);
    if (aborted) return Promise.reject(aborted.reason);
    const trace: { stack?: string } = {};
    Error.captureStackTrace(trace, this.call);
    return new Promise((resolve, reject) => {
      let fault: { error: unknown } | undefined; // what `event` threw: the engine calls it where nothing can catch it
      const told =
        event &&
        ((value: never) => {
          if (fault) return;
          try {
            event(value);
          } catch (error) {
            fault = { error };
            abort();
          }
        });
      const settle: Settle = (failure, value) => {
        for (const s of given) s.removeEventListener("abort", abort);
        if (fault) reject(fault.error);
        else if (!failure) resolve(value as R);
        else if (failure.cancelled) reject(given.find((s) => s.aborted)?.reason ?? disposedError(this.#name));
        else reject(errorOf(failure, this.call, trace));
      };
      const abort = () => {
        if (this.#native.cancel(this.#handle, id)) settle({ cancelled: true });
      };
      let id: number;
      try {
        id = this.#native[job](this.#handle, args, settle, told);
      } catch (e) {
        return reject(errorOf(e as Failure, this.call, trace));
      }
      control?.((request, copy) => this.#native.endBranch(this.#handle, id, request, copy));
      for (const s of given) s.addEventListener("abort", abort, { once: true });
    });
  }

  /** Cancels what runs and waits, then frees everything; calling it again gives the same promise. */
  dispose(): Promise<void> {
    this.#disposal ??= this.#call<void>("dispose", {}, {}).then(() => this.#native.close(this.#handle));
    return this.#disposal;
  }
}

export function disposedError(name: string): IsrDpoError {
  return new IsrDpoError("DISPOSED", `${name} was disposed`, { hint: "keep it until its last call has settled" });
}

let shared: Host | undefined;

/** The host of calls that belong to no model. Its thread sleeps between calls and ends with the environment. */
export function sharedHost(): Host {
  shared ??= new Host("isr-dpo");
  return shared;
}

// Node before 20.5 has no such symbol; compilers that lower `await using` look for this one there.
export const asyncDispose: typeof Symbol.asyncDispose =
  Symbol.asyncDispose ?? (Symbol.for("Symbol.asyncDispose") as typeof Symbol.asyncDispose);
