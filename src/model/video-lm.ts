// VideoLM: the interface of a loaded model.
import type {
  Cancel,
  Features,
  ForwardOutput,
  Media,
  ModelInfo,
  Prompt,
  Sequence,
  Tensor,
  Tokenizer,
} from "../base/types.js";
import type { Generator, Session } from "./session.js";

/**
 * Names of the counters: decoded files (`decodes`), passes of the vision tower (`towerPasses`), features found in the cache
 * (`featureHits`) and not found (`featureMisses`), computed tokens of prompts (`prefillTokens`), of answers (`decodeTokens`) and of
 * training (`trainTokens`), and judged pairs (`judgeCalls`, only in iterations).
 */
export type CounterName =
  | "decodes"
  | "towerPasses"
  | "featureHits"
  | "featureMisses"
  | "prefillTokens"
  | "decodeTokens"
  | "trainTokens"
  | "judgeCalls";

/** The current load of a model; see {@link VideoLM.load}. */
export interface ModelLoad {
  /** Calls that wait for their turn, for instance behind a training step. */
  readonly queued: number;
  /** Calls that have begun: a single one, or all calls that share the running batch. */
  readonly running: number;
  /** Sequences that each step of the batch extends by a token. */
  readonly sequences: number;
  /** Sequences of running calls that wait for a place in the batch or for pages of keys and values. */
  readonly waiting: number;
}

/**
 * A loaded model. Calls begin in the order in which they are made, and generations share a batch. Disposing of the model cancels
 * its calls and waits for them. After that every call rejects with DISPOSED.
 */
export interface VideoLM extends Generator, AsyncDisposable {
  /** Facts about the model. */
  readonly info: ModelInfo;
  /**
   * The tokenizer of the checkpoint.
   * @throws {@link IsrDpoError} when it is read. NOT_FOUND: the checkpoint has no tokenizer; TOKENIZER: it cannot be used
   */
  readonly tokenizer: Tokenizer;
  /** Work that was done since the model was loaded. */
  readonly counters: Readonly<Record<CounterName, number>>;
  /** The current load, for a service that sheds load. */
  load(): ModelLoad;
  /** sha256, in hex, of config.json and of name, dtype, shape and bytes of every tensor in order of name; training changes it. */
  hash(): Promise<string>;
  /**
   * Reads a video or an image, and prepares its frames for the vision tower.
   * @throws {@link IsrDpoError} MEDIA_UNREADABLE, MEDIA_EMPTY, FFMPEG_MISSING, NOT_FOUND; INVALID_ARGUMENT: the model does not take
   * such media
   */
  preprocess(
    media: Media,
    o?: Cancel,
  ): Promise<{
    /** f32: normalised pixels of all frames, in the layout of the family (for instance (3, frames, height, width)). */
    pixels: Tensor;
    /** Index of each frame in its file. */
    sourceFrames: Int32Array;
    /** Patches along time, height and width, for families that have them. */
    gridThw?: readonly [number, number, number];
    /** Seconds per step of the grid along time, for families that have it. */
    secondsPerGrid?: number;
    /** Which pixels belong to the picture, for families that pad pictures. */
    pixelMask?: Tensor;
  }>;
  /**
   * Features of a video or an image, (n, C). Use them as a medium, to compute them only once.
   * @param media - the video or image
   * @param o - `stage`: "projected" (default) after the projector, "tower" before it
   * @throws {@link IsrDpoError} as {@link VideoLM.preprocess}; OUT_OF_MEMORY
   */
  encode(media: Media, o?: Cancel & { stage?: "projected" | "tower" }): Promise<Features>;
  /**
   * The token ids of a prompt, as generate() uses them; with an answer, its ids follow, scored up to and with one end token.
   * Corrections (a missing or a doubled end token, a prompt that the template has rendered already) are reported by a process
   * warning, once per model.
   * @param prompt - text, messages or ids
   * @param answer - the assistant's answer; default: none, and nothing is scored
   * @param o - `turns`: score everything that the assistant says ("all", default) or only the answer ("last")
   * @throws {@link IsrDpoError} TOKENIZER, CONTEXT_OVERFLOW, PLACEHOLDER_MISMATCH, INVALID_ARGUMENT
   */
  sequence(prompt: Prompt, answer?: string, o?: Cancel & { turns?: "last" | "all" }): Promise<Sequence>;
  /**
   * Computes one sequence without generating.
   * @param s - the sequence; its log-prob mask is not used
   * @param o - `outputs` (default logits); `rows`: [begin, end) of the rows to return, where a negative number counts from the end
   * (default: all rows)
   * @throws {@link IsrDpoError} INVALID_ARGUMENT, CONTEXT_OVERFLOW, PLACEHOLDER_MISMATCH, MEDIA_UNREADABLE, MEDIA_EMPTY,
   * FFMPEG_MISSING, OUT_OF_MEMORY
   */
  forward(
    s: Sequence,
    o?: Cancel & { outputs?: readonly ("logits" | "hidden" | "positions")[]; rows?: readonly [number, number] },
  ): Promise<ForwardOutput>;
  /** Opens a session, which keeps at most `maxBytes` bytes of keys and values; default: a quarter of the machine's memory. */
  session(o?: { maxBytes?: number }): Session;
  /**
   * A float32 copy of one tensor.
   * @param name - its name in the checkpoint
   * @throws {@link IsrDpoError} INVALID_ARGUMENT: there is no such tensor
   */
  parameter(name: string): Promise<Tensor>;
  /**
   * Saves the model in the layout and types of the checkpoint that it was loaded from. The folder appears only when it is complete.
   * @throws {@link IsrDpoError} INVALID_ARGUMENT, DISK_FULL, IO
   */
  save(
    dir: string,
    o?: Cancel,
  ): Promise<{
    /** Hash of the saved model; see {@link VideoLM.hash}. */
    hash: string;
    /** Bytes that were written. */
    bytes: number;
  }>;
  /**
   * Saves the model's adapter as PEFT does: adapter_config.json and adapter_model.safetensors, in float32. The folder appears complete
   * or not at all; other files in it stay.
   * @param dir - folder of the adapter
   * @param o - `signal` cancels
   * @throws {@link IsrDpoError} INVALID_ARGUMENT: the model has no adapter; DISK_FULL, IO
   */
  saveAdapter(
    dir: string,
    o?: Cancel,
  ): Promise<{
    /** Bytes that were written. */
    bytes: number;
  }>;
  /**
   * Cancels running calls, waits for them, and frees all memory. It may be called again. It is the same as
   * `[Symbol.asyncDispose]()`, for code without `await using`.
   */
  dispose(): Promise<void>;
}
