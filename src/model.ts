// VideoLM: a loaded model. Calls are validated here, queued on its host, and answered in order.
import { asyncDispose, disposedError, Host, type NativeModel, type NativeTensor } from "./addon.js";
import { array, choice, integer, options, path, refuse, show, signal, text } from "./check.js";
import { IsrDpoError } from "./errors.js";
import { generate, type GenerateTarget, signalOf } from "./generate.js";
import { type Run, startRun } from "./run.js";
import { noMedia, plainIds, scoredSequence, tokenizerError } from "./sequence.js";
import type {
  Cancel,
  Completion,
  Features,
  ForwardOutput,
  GenerateEvent,
  GenerateRequest,
  LoadOptions,
  Media,
  Message,
  ModelInfo,
  Prompt,
  Sampling,
  Sequence,
  Tensor,
  Tokenizer,
} from "./types.js";

const microBatchTokens = 4096; // of logProbs: bounds the activations of one packed batch

/** Shared prefixes (same tokens) are found and computed once; nothing has to be declared. */
export interface Generator {
  generate(
    requests: GenerateRequest | readonly GenerateRequest[],
    o?: Cancel & { maxBytes?: number },
  ): Run<GenerateEvent, Completion[]>;
  /** One value per scored token. */
  logProbs(sequences: readonly Sequence[], o?: Cancel): Promise<Float32Array[]>;
}

/** Keeps prefixes until disposed. */
export interface Session extends Generator, AsyncDisposable {
  readonly cachedTokens: number;
  readonly bytes: number;
}

export type CounterName =
  | "decodes"
  | "towerPasses"
  | "featureHits"
  | "featureMisses"
  | "prefillTokens"
  | "decodeTokens"
  | "trainTokens"
  | "judgeCalls";

/** A loaded model. Calls are queued per model; disposing cancels and waits. */
export interface VideoLM extends Generator, AsyncDisposable {
  readonly info: ModelInfo;
  readonly tokenizer: Tokenizer;
  /** Work done since load. */
  readonly counters: Readonly<Record<CounterName, number>>;
  /** sha256 over name, dtype, shape and bytes of every tensor by name, and config.json; changes with training. */
  hash(): Promise<string>;
  preprocess(
    media: Media,
    o?: Cancel,
  ): Promise<{
    pixels: Tensor;
    sourceFrames: Int32Array;
    gridThw?: readonly [number, number, number];
    secondsPerGrid?: number;
    pixelMask?: Tensor;
  }>;
  encode(media: Media, o?: Cancel & { stage?: "projected" | "tower" }): Promise<Features>;
  sequence(prompt: Prompt, answer?: string): Promise<Sequence>;
  forward(
    s: Sequence,
    o?: Cancel & { outputs?: readonly ("logits" | "hidden" | "positions")[]; rows?: readonly [number, number] },
  ): Promise<ForwardOutput>;
  chat(messages: readonly Message[], o?: Sampling & Cancel): Run<string, Completion>;
  session(o?: { maxBytes?: number }): Session;
  /** A float32 copy, by the checkpoint's name. */
  parameter(name: string): Promise<Tensor>;
  /** Atomic; the source's layout and dtypes. */
  save(dir: string, o?: Cancel): Promise<{ hash: string; bytes: number }>;
}

const internals = Symbol.for("isr-dpo.model"); // of any copy of this package in the process

export interface ModelInternals {
  readonly host: Host;
  readonly width: number;
  trainer: boolean; // one is alive
}

export function internalsOf(model: unknown): ModelInternals {
  const found = (model as { [internals]?: ModelInternals } | null | undefined)?.[internals];
  if (!found) refuse("model", "a model from loadModel", model);
  return found as ModelInternals;
}

export async function loadModel(dir: string, o?: LoadOptions): Promise<VideoLM> {
  const given = options("options", o, [
    "signal",
    "device",
    "dtype",
    "threads",
    "visionTower",
    "featureCache",
    "onProgress",
  ]);
  const folder = path("dir", dir);
  const cancel = signal("options.signal", given.signal);
  checkDevice(given.device);
  const dtype = given.dtype === undefined ? "auto" : choice("options.dtype", given.dtype, ["auto", "f32", "bf16"]);
  const threads = given.threads === undefined ? 0 : integer("options.threads", given.threads, 1, 256);
  for (const key of ["visionTower", "featureCache"])
    if (given[key] !== undefined && given[key] !== false)
      refuse(`options.${key}`, "nothing: this version loads text models", given[key]);
  if (given.onProgress !== undefined && typeof given.onProgress !== "function")
    refuse("options.onProgress", "a function", given.onProgress);
  const onProgress = given.onProgress as LoadOptions["onProgress"];

  const host = new Host("the model");
  try {
    const call = { signals: [cancel], ...(onProgress ? { event: quietly(onProgress) } : {}) };
    const native = await host.call<NativeModel>("load", { dir: folder, dtype, threads }, call);
    return new TextModel(host, native);
  } catch (e) {
    await host.dispose();
    throw e;
  }
}

/** A callback of the caller's: what it throws is the caller's uncaught exception, never a failure of ours. */
function quietly<A>(callback: (value: A) => void): (value: A) => void {
  return (value) => {
    try {
      callback(value);
    } catch (e) {
      queueMicrotask(() => {
        throw e;
      });
    }
  };
}

function checkDevice(device: unknown): void {
  if (device === undefined || device === "auto" || device === "cpu") return;
  if (device !== "cuda" && !(typeof device === "string" && /^cuda:\d+$/.test(device)))
    refuse("options.device", "'auto', 'cpu', 'cuda' or 'cuda:N'", device);
  throw new IsrDpoError(
    "DEVICE_UNAVAILABLE",
    `options.device: ${show(device)} is not available: this binary has no CUDA`,
    {
      hint: "use device 'cpu' or 'auto'",
    },
  );
}

function modelInfo(native: NativeModel): ModelInfo {
  return Object.freeze({
    family: native.family,
    modelType: native.modelType,
    device: "cpu",
    dtype: native.dtype,
    parameters: native.parameters,
    trainable: native.parameters,
    contextLength: native.contextLength,
    vocabSize: native.vocabSize,
    endTokenIds: Object.freeze([...native.endTokenIds]),
    visualTokens: null,
    isa: native.isa,
  });
}

async function logProbs(target: GenerateTarget, sequences: unknown, o: unknown): Promise<Float32Array[]> {
  const given = options("options", o, ["signal"]);
  const cancel = signal("options.signal", given.signal);
  const list = array("sequences", sequences).map((s, i) => scoredSequence(`sequences[${i}]`, s, target.info));
  if (list.length === 0) return [];
  const args = { sequences: list, microBatchTokens };
  return target.host.call<Float32Array[]>("logProbs", args, { signals: [cancel, target.life] });
}

/** [begin, end) of `length` rows: negative values count from the end, and an end of 0 is the end. */
function resolveRows(rows: unknown, length: number): [number, number] {
  if (rows === undefined) return [0, length];
  const pair = array("options.rows", rows);
  if (pair.length !== 2) refuse("options.rows", "[begin, end]", rows);
  const given = pair.map((x, i) => integer(`options.rows[${i}]`, x, Number.MIN_SAFE_INTEGER));
  const begin = given[0]! < 0 ? given[0]! + length : given[0]!;
  const end = given[1]! <= 0 ? given[1]! + length : given[1]!;
  if (begin < 0 || end > length || begin > end)
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `options.rows: expected rows inside the ${length} of the sequence but received [${given.join(", ")}]`,
    );
  return [begin, end];
}

class TextModel implements VideoLM {
  readonly info: ModelInfo;
  readonly [internals]: ModelInternals;
  #sessions = 0;

  constructor(host: Host, native: NativeModel) {
    this.info = modelInfo(native);
    this[internals] = { host, width: native.width, trainer: false };
  }

  get #host(): Host {
    return this[internals].host;
  }
  get #target(): GenerateTarget {
    return { host: this.#host, info: this.info, session: 0 };
  }

  get tokenizer(): Tokenizer {
    throw tokenizerError("tokenizer");
  }

  get counters(): Readonly<Record<CounterName, number>> {
    const text = this.#host.counters;
    return { decodes: 0, towerPasses: 0, featureHits: 0, featureMisses: 0, judgeCalls: 0, ...text };
  }

  hash(): Promise<string> {
    return this.#host.call("hash", {});
  }

  async preprocess(): Promise<never> {
    throw noMedia("media", this.info);
  }

  async encode(): Promise<never> {
    throw noMedia("media", this.info);
  }

  async sequence(prompt: Prompt, answer?: string): Promise<Sequence> {
    if (typeof prompt === "string" || Array.isArray(prompt)) throw tokenizerError("prompt");
    if (answer !== undefined) throw tokenizerError("answer");
    return { ids: plainIds("prompt", prompt, this.info) };
  }

  async forward(s: Sequence, o?: Parameters<VideoLM["forward"]>[1]): Promise<ForwardOutput> {
    const given = options("options", o, ["signal", "outputs", "rows"]);
    const cancel = signal("options.signal", given.signal);
    const ids = plainIds("sequence", s, this.info);
    const outputs =
      given.outputs === undefined
        ? ["logits" as const]
        : array("options.outputs", given.outputs).map((x, i) =>
            choice(`options.outputs[${i}]`, x, ["logits", "hidden", "positions"]),
          );
    const [begin, end] = resolveRows(given.rows, ids.length);

    const rows = end - begin;
    const tensor = (name: (typeof outputs)[number], cols: number): Tensor | undefined =>
      outputs.includes(name) ? { dtype: "f32", shape: [rows, cols], data: new Float32Array(rows * cols) } : undefined;
    const logits = tensor("logits", this.info.vocabSize);
    const hidden = tensor("hidden", this[internals].width);
    const positions: Tensor | undefined = outputs.includes("positions")
      ? { dtype: "i32", shape: [1, ids.length], data: new Int32Array(ids.length) }
      : undefined;
    const args = { ids, begin, end, logits: logits?.data, hidden: hidden?.data, positions: positions?.data };
    await this.#host.call("forward", args, { signals: [cancel] });
    return {
      rows: [begin, end],
      ids,
      ...(logits && { logits }),
      ...(hidden && { hidden }),
      ...(positions && { positions }),
    };
  }

  generate(
    requests: GenerateRequest | readonly GenerateRequest[],
    o?: Cancel & { maxBytes?: number },
  ): Run<GenerateEvent, Completion[]> {
    return generate(this.#target, requests, o);
  }

  logProbs(sequences: readonly Sequence[], o?: Cancel): Promise<Float32Array[]> {
    return logProbs(this.#target, sequences, o);
  }

  chat(_messages: readonly Message[], o?: Sampling & Cancel): Run<string, Completion> {
    return startRun<string, Completion>(signalOf(o), async () => {
      throw tokenizerError("messages");
    });
  }

  session(o?: { maxBytes?: number }): Session {
    const given = options("options", o, ["maxBytes"]);
    const maxBytes = given.maxBytes === undefined ? undefined : integer("options.maxBytes", given.maxBytes, 1);
    if (this.#host.disposed) throw disposedError("the model");
    this.#sessions += 1;
    return new TextSession(this.#host, this.info, this.#sessions, maxBytes);
  }

  async parameter(name: string): Promise<Tensor> {
    const tensor = await this.#host.call<NativeTensor>("parameter", { name: text("name", name) });
    return { dtype: "f32", shape: tensor.shape, data: tensor.data };
  }

  async save(dir: string, o?: Cancel): Promise<{ hash: string; bytes: number }> {
    const given = options("options", o, ["signal"]);
    const cancel = signal("options.signal", given.signal);
    return this.#host.call("save", { dir: path("dir", dir) }, { signals: [cancel] });
  }

  [asyncDispose](): Promise<void> {
    return this.#host.dispose();
  }
}

class TextSession implements Session {
  readonly #target: GenerateTarget;
  readonly #life = new AbortController();
  #held = { cachedTokens: 0, bytes: 0 };
  #disposal: Promise<void> | undefined;

  constructor(host: Host, info: ModelInfo, session: number, maxBytes: number | undefined) {
    const held = (state: { cachedTokens: number; bytes: number }) => {
      this.#held = state;
    };
    this.#target = {
      host,
      info,
      session,
      life: this.#life.signal,
      held,
      ...(maxBytes === undefined ? {} : { maxBytes }),
    };
  }

  get cachedTokens(): number {
    return this.#held.cachedTokens;
  }
  get bytes(): number {
    return this.#held.bytes;
  }

  generate(
    requests: GenerateRequest | readonly GenerateRequest[],
    o?: Cancel & { maxBytes?: number },
  ): Run<GenerateEvent, Completion[]> {
    return generate(this.#target, requests, o);
  }

  logProbs(sequences: readonly Sequence[], o?: Cancel): Promise<Float32Array[]> {
    return logProbs(this.#target, sequences, o);
  }

  [asyncDispose](): Promise<void> {
    this.#disposal ??= this.#close();
    return this.#disposal;
  }

  async #close(): Promise<void> {
    this.#life.abort(disposedError("the session"));
    const { host, session } = this.#target;
    if (!host.disposed)
      await host.call("closeSession", { session }).catch((e) => {
        if (!host.disposed) throw e; // else the model took the session with it
      });
    this.#held = { cachedTokens: 0, bytes: 0 };
  }
}
