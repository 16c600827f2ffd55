// Values of the public surface. Row-major tensors; lengths in tokens, times in seconds, sizes in bytes, log-probs in nats.

export interface Tensor {
  readonly dtype: "f32" | "bf16" | "u8" | "i32";
  readonly shape: readonly number[];
  /** bf16 is a Uint16Array of bit patterns. */
  readonly data: Float32Array | Uint16Array | Uint8Array | Int32Array;
}

export type TokenIds = Int32Array | readonly number[];

/** With a signal, the call rejects with `signal.reason` and leaves the state as it was before the call. */
export interface Cancel {
  signal?: AbortSignal;
}

export interface FrameSampling {
  frames?: number;
  window?: readonly [fromS: number, toS: number];
  fps?: number;
  /** In place of a window: the clip cut into `of` stretches of equal length, and the one with this index. */
  part?: readonly [index: number, of: number];
}

/** A path of a video file or a folder of frames, frames in memory, normalised pixels, or features. */
export type Media =
  | string
  | { kind?: "video" | "image"; path: string; sample?: FrameSampling }
  | {
      kind?: "video" | "image";
      frames: Uint8Array;
      width: number;
      height: number;
      fps?: number;
      sample?: FrameSampling;
    }
  | {
      kind?: "video" | "image";
      pixels: Tensor;
      gridThw?: readonly [number, number, number];
      secondsPerGrid?: number;
      pixelMask?: Tensor;
    }
  | Features;

/** (n, C) after the projector, or before it. */
export interface Features extends Tensor {
  readonly key: string;
  /** Default "video". */
  readonly kind?: "video" | "image";
  /** Default "projected"; "tower": before the projector. */
  readonly stage?: "projected" | "tower";
  readonly gridThw?: readonly [number, number, number];
}

export interface Message {
  role: "system" | "user" | "assistant";
  content: string | readonly ({ type: "text"; text: string } | { type: "video" | "image"; media: Media })[];
}

export interface Sequence {
  ids: TokenIds;
  media?: readonly Media[];
  /** Mask over `ids` of the tokens whose log-prob counts; never the first. */
  scored?: Uint8Array;
  /** Loss "sft" only: a target of its own for each row (-1 = none) in place of the next token. */
  targets?: Int32Array;
  /** Loss "sft" only: the weight of each row's target. */
  weights?: Float32Array;
}

/** A string is one user turn. */
export type Prompt = string | readonly Message[] | Sequence;

export interface TokenizerOptions {
  /**
   * What a chat template's strftime_now prints: a Date (its local time), or YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, which print
   * alike in every time zone. Default: the clock when the tokenizer is loaded, once for all its texts.
   */
  templateDate?: Date | string;
}

export interface LoadOptions extends Cancel, TokenizerOptions {
  device?: "auto" | "cpu" | "cuda" | `cuda:${number}`;
  /** "auto": the file's own (float16 is computed in f32). */
  dtype?: "auto" | "f32" | "bf16";
  /** At most this many threads of the process's pool; default: all that the machine allows. */
  threads?: number;
  visionTower?: string;
  featureCache?: { dir: string; maxBytes?: number } | false;
  /** Milliseconds that opening and decoding a file may take; default 300,000. */
  mediaTimeoutMs?: number;
  /**
   * Share of a video's frames, of those that were looked at, that may be lost or damaged, from 0 to 1; above it the video is
   * MEDIA_UNREADABLE. Default 1: whatever can be decoded is used, and told; of train() 0.
   */
  mediaMaxLost?: number;
  onProgress?(p: { bytes: number; totalBytes: number }): void;
  /**
   * Told of every file or folder that was opened and what became of its frames. Without it, frames that could not be decoded
   * are a process warning (code ISR_DPO_MEDIA).
   */
  onMedia?(report: MediaReport): void;
}

export interface MediaReport {
  path: string;
  kind: "video" | "image";
  /** Frames of the file, folder or array. */
  count: number;
  /** Which of them are used, in order. */
  sourceFrames: Int32Array;
  /** Frames that stand for a second time because the clip is short. */
  repeated: number;
  /** Errors that the decoder reported and went on. */
  decodeErrors: number;
  /** Frames that should be there and could not be decoded. */
  lost: number;
  /** The file asks to be shown turned, and was. */
  rotated: boolean;
  /** Frames that were decoded with errors, or follow such a one; absent: none. */
  damaged?: number;
  /** Places of a long file that were sought, so that the rest was not decoded; absent: none. */
  seeks?: number;
  /** Why all of a long file was decoded though a part would have done; absent: it was not. */
  fallback?: string;
  /** Video streams that are not used, covers included; absent: none. */
  otherStreams?: number;
  /** Names of a folder's entries that are no frames and were left out; absent: none. */
  leftOut?: readonly string[];
  /** A folder's names have numbers of different length, so that its frames are in another order than these; absent: no. */
  unpadded?: boolean;
}

export interface ModelInfo {
  family: string;
  modelType: string;
  device: string;
  dtype: "f32" | "bf16";
  parameters: number;
  trainable: number;
  contextLength: number;
  vocabSize: number;
  /** Where a generation ends: the ids of config.json and generation_config.json, the tokenizer's eos, the template's end. */
  endTokenIds: readonly number[];
  visualTokens: number | null;
  isa: string;
}

/**
 * Special tokens that stand in somebody's words (an `<|im_end|>` typed by a user): "parse" takes them for tokens, as
 * transformers does; "text" leaves them words, and with them added tokens that are not marked as special but written by the
 * chat template (<think>), except in the assistant's own turns. What the template writes is a token either way.
 */
export type SpecialTokens = "parse" | "text";

export interface Tokenizer {
  /** The date that its chat template prints, as the option of that name takes it (YYYY-MM-DDTHH:MM:SS). */
  readonly templateDate: string;
  /** `special`: with what the tokenizer puts around a text (default true). `specialTokens` default "parse". */
  encode(text: string, o?: { special?: boolean; specialTokens?: SpecialTokens }): Int32Array;
  decode(ids: TokenIds, o?: { skipSpecial?: boolean }): string;
  stream(): { push(id: number): string; end(): string };
  /**
   * A conversation by the chat template. `scored` (over ids: what the assistant said, with its end tokens) is found when it
   * is read; reading it throws TOKENIZER for a template that renders earlier turns otherwise once others follow.
   */
  apply(
    messages: readonly Message[],
    o?: { generate?: boolean; specialTokens?: SpecialTokens },
  ): { text: string; ids: Int32Array; readonly scored: Uint8Array };
}

export interface ForwardOutput {
  rows: readonly [number, number];
  logits?: Tensor;
  hidden?: Tensor;
  positions?: Tensor;
  ids: Int32Array;
}

export interface Sampling {
  /** Default 0: greedy. */
  temperature?: number;
  topP?: number;
  topK?: number;
  /** Default 256, or what the context has room for. */
  maxTokens?: number;
  stop?: readonly string[];
  suppress?: readonly number[];
  /**
   * Tokens that an answer has at least; default 0. End tokens and stopIds are not drawn before, and a stop string counts when
   * a token behind the first `minTokens` completes it.
   */
  minTokens?: number;
  /** Besides the model's end tokens. */
  stopIds?: readonly number[];
  /** A draw is a function of seed, stream, copy and position alone. */
  seed?: bigint | number;
  stream?: string;
  /** Of the prompt's words; default "parse", of chat() "text". */
  specialTokens?: SpecialTokens;
}

export interface GenerateRequest extends Sampling {
  /** Default: its index in the call. */
  id?: string;
  prompt: Prompt;
  media?: readonly Media[];
  copies?: number;
}

export interface Completion {
  request: string;
  copy: number;
  /** As sampled, with the end or stop token. */
  ids: Int32Array;
  text: string;
  /** One value an id, at temperature 1, before truncation and suppression. */
  logProbs: Float32Array;
  end: "stop" | "length";
}

export type GenerateEvent =
  | { type: "text"; request: string; copy: number; text: string }
  | { type: "completion"; completion: Completion };

export interface Pair {
  id?: string;
  prompt: Prompt;
  media?: readonly Media[];
  /** Ids end with the end token if it is scored. */
  chosen: string | TokenIds;
  rejected: string | TokenIds;
  /** Log-probs per scored token; missing: scored by trainStep while step is 0. */
  reference?: { chosen: Float32Array; rejected: Float32Array };
}

export interface SequencePair {
  id?: string;
  chosen: Sequence;
  rejected: Sequence;
  reference?: Pair["reference"];
}

export interface Example {
  id?: string;
  prompt: Prompt;
  media?: readonly Media[];
  answer: string | TokenIds;
  /** What is scored of a prompt of several turns: all that the assistant says (default), or the answer alone. */
  turns?: "last" | "all";
}

/** One kind a call; Example and Sequence only with loss "sft". */
export type TrainItem = Pair | SequencePair | Example | Sequence;
