// VideoLM: a loaded model. Calls are validated here and begin on its host in their order; generations share a batch.
import { availableParallelism } from "node:os";
import { disposedError, Host, type NativeCheckpoint, type NativeModel, type NativeTensor } from "../base/addon.js";
import { chooseDevice } from "../base/device.js";
import { array, choice, integer, options, path, refuse, signal, text } from "../base/check.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import type { GenerateTarget } from "./generate.js";
import { type BuiltSequence, build, type Call, expand, Inputs, messagesOf, rulesOf } from "./inputs.js";
import { mediaKinds, MediaRegistry, type MediaSettings, visualTokens } from "./media-registry.js";
import { Handler } from "../base/callback.js";
import type { CounterName, ModelLoad, VideoLM } from "./video-lm.js";
import { type LoadSettings, loadSettings } from "./load-options.js";
import { ownedMedia } from "../base/owned-arrays.js";
import { withOldName } from "../base/renamed.js";
import { ModelSession, type Session, TargetGenerator } from "./session.js";
import { answeredWords, plainSequence } from "./sequence.js";
import { endTokens } from "../text/stop-tokens.js";
import type { ModelTokenizer } from "../text/model-tokenizer.js";
import type {
  Cancel,
  Features,
  ForwardOutput,
  LoadOptions,
  Media,
  ModelInfo,
  Prompt,
  Sequence,
  Tensor,
  Tokenizer,
  TokenizerOptions,
} from "../base/types.js";

const internals = Symbol.for("isr-dpo.model"); // the same symbol in every copy of this package

export interface ModelInternals {
  readonly host: Host;
  readonly width: number;
  /** Numbers of a token's position. */
  readonly positionAxes: number;
  readonly inputs: Inputs;
  trainer: boolean; // whether one exists that is not disposed of
}

export function internalsOf(model: unknown): ModelInternals {
  const found = (model as { [internals]?: ModelInternals } | null | undefined)?.[internals];
  if (!found) refuse("model", "a model from loadModel", model);
  return found as ModelInternals;
}

/**
 * Loads a checkpoint: Llama, Qwen2, Qwen3, or one of the video layouts (docs/video.md). Dispose of the model when you no longer need it.
 *
 * @param dir - folder of the checkpoint
 * @param o - device, type, threads, and how media are read
 * @throws {@link IsrDpoError} NOT_FOUND, INVALID_CONFIG, CHECKPOINT_UNSUPPORTED, CHECKPOINT_CORRUPT, TOKENIZER, OUT_OF_MEMORY, IO,
 * DEVICE_UNAVAILABLE, BINARY_MISSING, INVALID_ARGUMENT
 *
 * @example
 * ```ts
 * import { loadModel } from "isr-dpo";
 *
 * const model = await loadModel("checkpoint");
 * const [answer] = await model.generate({ prompt: "What is a shadow?", maxTokens: 64 });
 * console.log(answer?.text);
 * await model.dispose();
 * ```
 */
export async function loadModel(dir: string, o?: LoadOptions): Promise<VideoLM> {
  const folder = path("dir", dir);
  const { device, dtype, threads = 0, visionTower, adapter, featureCache, ...rest } = loadSettings("options", o);
  const chosen = await chooseDevice("options.device", device);
  const { signal: cancel, mediaTimeoutMs, mediaMaxLost, templateDate, onProgress, onMedia } = rest;
  const progress = onProgress && new Handler(onProgress);

  const host = new Host("the model");
  try {
    const call = { signals: [cancel, progress?.signal], ...(progress ? { event: progress.call } : {}) };
    const [native, tokenizer] = await Promise.all([
      host.call<Omit<NativeModel, "device">>(
        "load",
        { dir: folder, device: chosen, dtype, threads, visionTower, adapter },
        call,
      ),
      tokenizerOf(folder, templateDate === undefined ? {} : { templateDate }),
    ]);
    await progress?.settled();
    const media: MediaSettings = {
      ...{ onMedia, timeoutMs: mediaTimeoutMs, maxLost: mediaMaxLost, threads: threads || availableParallelism() },
    };
    return new LoadedModel(host, { ...native, device: chosen }, folder, tokenizer, featureCache, media);
  } catch (e) {
    await host.dispose();
    progress?.check();
    throw e;
  }
}

/**
 * A model of which config.json and the headers of its tensors are read, and no weight: it counts the tokens of prompts and
 * knows its context window. What would compute with it fails.
 */
export async function outlineModel(dir: string): Promise<VideoLM> {
  const folder = path("dir", dir);
  const host = new Host("the model's outline");
  try {
    const [report, tokenizer] = await Promise.all([
      host.call<NativeCheckpoint>("inspect", { dir: folder }),
      tokenizerOf(folder, {}),
    ]);
    const native = { ...report, device: "", dtype: "f32" as const, isa: "" };
    return new LoadedModel(host, native, folder, tokenizer, undefined, {
      onMedia: undefined,
      timeoutMs: undefined,
      maxLost: undefined,
      threads: 1,
    });
  } catch (e) {
    await host.dispose();
    throw e;
  }
}

/** The folder's tokenizer; why there is none is told when words are used, for ids need none. */
async function tokenizerOf(dir: string, o: TokenizerOptions): Promise<ModelTokenizer | IsrDpoError> {
  try {
    const { loadTokenizer } = await import("../text/tokenizer.js");
    return await loadTokenizer(dir, o);
  } catch (e) {
    if (isIsrDpoError(e, "NOT_FOUND"))
      return new IsrDpoError("TOKENIZER", `${dir} has no tokenizer (tokenizer.json or tokenizer.model)`, {
        hint: "give token ids (a Sequence), or put the tokenizer's files beside the weights",
        path: dir,
      });
    if (isIsrDpoError(e)) return e;
    throw e;
  }
}

function modelInfo(native: NativeModel, endTokenIds: readonly number[]): ModelInfo {
  return Object.freeze({
    family: native.family,
    modelType: native.modelType,
    device: native.device,
    dtype: native.dtype,
    parameters: native.parameters,
    trainable: native.parameters,
    contextLength: native.contextLength,
    vocabSize: native.vocabSize,
    endTokenIds: Object.freeze([...endTokenIds]),
    visualTokens: visualTokens(native),
    media: mediaKinds(native),
    isa: native.isa,
    adapter: native.adapter ? Object.freeze(native.adapter) : null,
  });
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
      `options.rows: expected rows inside the ${length} of the sequence, got [${given.join(", ")}]`,
    );
  return [begin, end];
}

function memoised<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => {
    made ??= make();
    return made;
  };
}

class LoadedModel extends TargetGenerator implements VideoLM {
  readonly info: ModelInfo;
  readonly [internals]: ModelInternals;
  readonly #inputs: Inputs;
  readonly #media: MediaRegistry;
  #sessions = 0;

  constructor(
    host: Host,
    native: NativeModel,
    dir: string,
    tokenizer: ModelTokenizer | IsrDpoError,
    cache: LoadSettings["featureCache"],
    media: MediaSettings,
  ) {
    super();
    const { vision } = native;
    const known = tokenizer instanceof IsrDpoError ? null : tokenizer;
    const ends = endTokens(known, rulesOf(vision).style, [...native.endTokenIds], native.vocabSize);
    this.info = modelInfo(native, ends.ids);
    const tower = vision?.video ?? vision?.image;
    const spec = memoised(async () => {
      const { readVisionSpec } = await import("../video/tower-spec.js");
      return readVisionSpec(dir, native.family, { ...tower!, frames: vision!.frames });
    });
    const features = cache && import("../video/feature-cache.js").then(({ FeatureCache }) => new FeatureCache(cache));
    features?.catch(() => undefined); // the first use reports it
    this.#media = new MediaRegistry(
      host,
      { ...this.info, width: native.width * (1 + native.levels) },
      vision,
      spec,
      features,
      media,
    );
    this.#inputs = new Inputs(host, this.info, vision, this.#media, tokenizer, {
      ...ends,
      beyond: Int32Array.from(ends.ids.slice(native.endTokenIds.length)),
    });
    this[internals] = {
      host,
      width: native.width,
      positionAxes: native.positionAxes,
      inputs: this.#inputs,
      trainer: false,
    };
  }

  get #host(): Host {
    return this[internals].host;
  }
  protected get target(): GenerateTarget {
    return { inputs: this.#inputs, session: 0 };
  }

  get tokenizer(): Tokenizer {
    return this.#inputs.tokenizer("tokenizer");
  }

  get counters(): Readonly<Record<CounterName, number>> {
    return { judgeCalls: 0, ...this.#media.counters, ...this.#host.counters };
  }

  load(): ModelLoad {
    return this.#host.load;
  }

  hash(): Promise<string> {
    return this.#inputs.call("hash", {});
  }

  async preprocess(media: Media, o?: Cancel): ReturnType<VideoLM["preprocess"]> {
    const cancel = signal("options.signal", options("options", o, ["signal"]).signal);
    const { pixels, sourceFrames, grid } = await this.#media.open("media", ownedMedia(media), cancel);
    return { pixels, sourceFrames, ...grid };
  }

  async encode(media: Media, o?: Cancel & { stage?: "projected" | "tower" }): Promise<Features> {
    const own = ownedMedia(media);
    const given = options("options", o, ["signal", "stage"]);
    const cancel = signal("options.signal", given.signal);
    const stage =
      given.stage === undefined ? "projected" : choice("options.stage", given.stage, ["projected", "tower"]);
    return this.#inputs.run([cancel], async (call) => {
      const placed = await call.place("media", own);
      const features = this.#media.features(placed, stage, cancel);
      const { key, kind, grid } = placed;
      return { result: features.then((t) => ({ ...t, key: `${stage} ${key}`, kind, stage, ...grid })) };
    });
  }

  async sequence(prompt: Prompt, answer?: string, o?: Cancel & { turns?: "last" | "all" }): Promise<Sequence> {
    const given = options("options", o, ["signal", "turns"]);
    const cancel = signal("options.signal", given.signal);
    const turns = given.turns === undefined ? "all" : choice("options.turns", given.turns, ["last", "all"]);
    if (answer !== undefined) text("answer", answer);
    const messages = messagesOf("prompt", prompt, undefined);
    if (!messages) {
      if (answer !== undefined)
        refuse("answer", "nothing beside a Sequence: it holds the answer's ids already", answer);
      const { ids, media } = prompt as Sequence;
      const rows = async (call: Call) => ({ result: expand(call, "prompt", ids, media, { open: false }) });
      await this.#inputs.run([cancel], rows);
      return prompt as Sequence;
    }
    return this.#inputs.run([cancel], async (call) => {
      const original = call.rules.style === "original"; // such a family has one placeholder per medium in a Sequence too
      const sequenceOf = ({ given, shown, media }: Pick<BuiltSequence, "given" | "shown" | "media">): Sequence => ({
        ids: original ? given : shown,
        ...(media.length > 0 ? { media } : {}),
      });
      if (answer === undefined)
        return {
          result: Promise.resolve(sequenceOf(await build(call, "prompt", messages, { generate: true, open: false }))),
        };
      const built = await answeredWords(call, "prompt", messages, answer, { turns, open: false });
      const sequence = { ...sequenceOf(built), lossMask: original ? built.givenMask : built.lossMask };
      return { result: Promise.resolve(withOldName(sequence, "scored")) };
    });
  }

  async forward(s: Sequence, o?: Parameters<VideoLM["forward"]>[1]): Promise<ForwardOutput> {
    const given = options("options", o, ["signal", "outputs", "rows"]);
    const cancel = signal("options.signal", given.signal);
    const outputs =
      given.outputs === undefined
        ? ["logits" as const]
        : array("options.outputs", given.outputs).map((x, i) =>
            choice(`options.outputs[${i}]`, x, ["logits", "hidden", "positions"]),
          );
    return this.#inputs.run([cancel], async (call) => {
      const { ids, shown } = await plainSequence(call, "sequence", s);
      const [begin, end] = resolveRows(given.rows, ids.length);
      const rows = end - begin;
      const axes = this[internals].positionAxes;
      const tensor = (name: (typeof outputs)[number], cols: number): Tensor | undefined =>
        outputs.includes(name) ? { dtype: "f32", shape: [rows, cols], data: new Float32Array(rows * cols) } : undefined;
      const logits = tensor("logits", this.info.vocabSize);
      const hidden = tensor("hidden", this[internals].width);
      const positions: Tensor | undefined = outputs.includes("positions")
        ? { dtype: "i32", shape: [axes, ids.length], data: new Int32Array(axes * ids.length) }
        : undefined;
      const args = { ids, begin, end, logits: logits?.data, hidden: hidden?.data, positions: positions?.data };
      const done = this.#host.call("forward", args, { signals: [cancel] });
      const output: ForwardOutput = {
        rows: [begin, end],
        ids: shown,
        ...(logits && { logits }),
        ...(hidden && { hidden }),
        ...(positions && { positions }),
      };
      return { result: done.then(() => output) };
    });
  }

  session(o?: { maxBytes?: number }): Session {
    const given = options("options", o, ["maxBytes"]);
    const maxBytes = given.maxBytes === undefined ? undefined : integer("options.maxBytes", given.maxBytes, 1);
    if (this.#host.disposed) throw disposedError("the model");
    this.#sessions += 1;
    return new ModelSession(this.#inputs, this.#sessions, maxBytes);
  }

  async parameter(name: string): Promise<Tensor> {
    const tensor = await this.#inputs.call<NativeTensor>("parameter", { name: text("name", name) });
    return { dtype: "f32", shape: tensor.shape, data: tensor.data };
  }

  async save(dir: string, o?: Cancel): Promise<{ hash: string; bytes: number }> {
    const given = options("options", o, ["signal"]);
    const cancel = signal("options.signal", given.signal);
    return this.#inputs.call("save", { dir: path("dir", dir) }, [cancel]);
  }

  async saveAdapter(dir: string, o?: Cancel): Promise<{ bytes: number }> {
    const given = options("options", o, ["signal"]);
    const cancel = signal("options.signal", given.signal);
    return { bytes: await this.#inputs.call<number>("saveAdapter", { dir: path("dir", dir) }, [cancel]) };
  }

  protected override close(): Promise<void> {
    return this.#host.dispose();
  }
}
