// Values of the public surface. Row-major tensors; lengths in tokens, times in seconds, sizes in bytes, log-probs in nats.

/** A row-major array of numbers. */
export interface Tensor {
  /** Type of an element; `bf16` has the upper 16 bits of a float32. */
  readonly dtype: "f32" | "bf16" | "u8" | "i32";
  /** Elements along each dimension, outermost first. */
  readonly shape: readonly number[];
  /** bf16 is a Uint16Array of bit patterns. */
  readonly data: Float32Array | Uint16Array | Uint8Array | Int32Array;
}

/** Token ids, each from 0 to below the vocabulary's size. */
export type TokenIds = Int32Array | readonly number[];

/** With a signal, the call rejects with `signal.reason` and leaves the state as it was before the call. */
export interface Cancel {
  /** Ends the call; default: nothing does. */
  signal?: AbortSignal;
}

/** Which frames of a video are taken. Default: as many as the model's own recipe takes, evenly over all of it. */
export interface FrameSampling {
  /** How many are taken, 1 to 4096; default: as many as the model's recipe takes. */
  frames?: number;
  /** From and to, in seconds of the video from 0; default: all of it. */
  window?: readonly [fromS: number, toS: number];
  /** Frames a second to choose among, above 0 and at most 1000; default: every frame of the file. */
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
  /** Names what the features are of: equal keys are equal features, and their prefixes are shared. */
  readonly key: string;
  /** Default "video". */
  readonly kind?: "video" | "image";
  /** Default "projected"; "tower": before the projector. */
  readonly stage?: "projected" | "tower";
  /** Patches along time, height and width, for families that place them so (Qwen2-VL). */
  readonly gridThw?: readonly [number, number, number];
}

/** A turn of a conversation, as a chat template takes it. */
export interface Message {
  /** Whose turn it is. */
  role: "system" | "user" | "assistant";
  /** Its words, or its words and media in the order in which the model is shown them. */
  content: string | readonly ({ type: "text"; text: string } | { type: "video" | "image"; media: Media })[];
}

/** Tokens as they are, with no template and nothing added. */
export interface Sequence {
  /** Its tokens; a visual placeholder for each of `media`. */
  ids: TokenIds;
  /** What the placeholders stand for, in order; PLACEHOLDER_MISMATCH where their numbers differ. Default: none. */
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

/** What may be said when a tokenizer is loaded. */
export interface TokenizerOptions {
  /**
   * What a chat template's strftime_now prints: a Date (its local time), or YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, which print
   * alike in every time zone. Default: the clock when the tokenizer is loaded, once for all its texts.
   */
  templateDate?: Date | string;
}

/** What may be said when a model is loaded. */
export interface LoadOptions extends Cancel, TokenizerOptions {
  /** Default "auto". This version computes on the CPU; DEVICE_UNAVAILABLE for others. */
  device?: "auto" | "cpu" | "cuda" | `cuda:${number}`;
  /** "auto": the file's own (float16 is computed in f32). */
  dtype?: "auto" | "f32" | "bf16";
  /** At most this many threads of the process's pool; default: all that the machine allows. */
  threads?: number;
  /**
   * Folder of the vision tower, for checkpoints that only name it; default: the one that the checkpoint has or names.
   */
  visionTower?: string;
  /**
   * Keeps features of videos on disk: in `dir`, of at most `maxBytes` bytes (default: no bound). Default: none on disk.
   */
  featureCache?: { dir: string; maxBytes?: number } | false;
  /** Milliseconds that opening and decoding a file may take; default 300,000. */
  mediaTimeoutMs?: number;
  /**
   * Share of a video's frames, of those that were looked at, that may be lost or damaged, from 0 to 1; above it the video is
   * MEDIA_UNREADABLE. Default 1: whatever can be decoded is used, and told; of train() 0.
   */
  mediaMaxLost?: number;
  /** Told of bytes that are read, of all. What it throws or rejects with rejects the call. */
  onProgress?(p: { bytes: number; totalBytes: number }): void;
  /**
   * Told of every file or folder that was opened and what became of its frames. Without it, frames that could not be decoded
   * are a process warning (code ISR_DPO_MEDIA).
   */
  onMedia?(report: MediaReport): void;
}

/** What became of a video's frames. */
export interface MediaReport {
  /** The file or folder, as it was given. */
  path: string;
  /** As what it was read. */
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

/** What a model is. */
export interface ModelInfo {
  /** Kind of the model, such as "llama", "qwen2", "llava_hound". */
  family: string;
  /** `model_type` of config.json. */
  modelType: string;
  /** Where it computes. */
  device: string;
  /** In which type its weights are kept. */
  dtype: "f32" | "bf16";
  /** Numbers in all its tensors. */
  parameters: number;
  /** Those of them that a trainer may change. */
  trainable: number;
  /** Longest sequence, in tokens. */
  contextLength: number;
  /** Rows of the embedding: ids are below it. */
  vocabSize: number;
  /** Where a generation ends: the ids of config.json and generation_config.json, the tokenizer's eos, the template's end. */
  endTokenIds: readonly number[];
  /**
   * Tokens of a video (or image, where it takes no videos) in the model's own recipe; null: a text model, or it depends
   * on the file.
   */
  visualTokens: number | null;
  /** Level of instructions in use, such as "avx2". */
  isa: string;
}

/**
 * Special tokens that stand in somebody's words (an `<|im_end|>` typed by a user): "parse" takes them for tokens, as
 * transformers does; "text" leaves them words, and with them added tokens that are not marked as special but written by the
 * chat template (<think>), except in the assistant's own turns. What the template writes is a token either way.
 */
export type SpecialTokens = "parse" | "text";

/** Text to token ids and back. TOKENIZER for what it cannot do. */
export interface Tokenizer {
  /** The date that its chat template prints, as the option of that name takes it (YYYY-MM-DDTHH:MM:SS). */
  readonly templateDate: string;
  /** `special`: with what the tokenizer puts around a text (default true). `specialTokens` default "parse". */
  encode(text: string, o?: { special?: boolean; specialTokens?: SpecialTokens }): Int32Array;
  /** The text of ids; `skipSpecial` (default false) leaves special tokens out. */
  decode(ids: TokenIds, o?: { skipSpecial?: boolean }): string;
  /** Text of ids that come one by one: `push` gives what is certain by now, `end` the rest. */
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

/** What a forward pass gives. Only what was asked for is there. */
export interface ForwardOutput {
  /** First row, and the one behind the last. */
  rows: readonly [number, number];
  /** f32 (rows, vocabSize): of the token behind each row. */
  logits?: Tensor;
  /** f32 (rows, C): behind the last norm. */
  hidden?: Tensor;
  /** i32 (1, tokens): position of each token of the sequence. */
  positions?: Tensor;
  /** The sequence, with its visual tokens spelled out. */
  ids: Int32Array;
}

/** How tokens are drawn. */
export interface Sampling {
  /** Default 0: greedy. */
  temperature?: number;
  /** Tokens are drawn of the fewest whose probabilities sum to this, above 0 and at most 1; default 1: of all. */
  topP?: number;
  /** Tokens are drawn of this many most probable ones; default 0: of all. */
  topK?: number;
  /** Default 256, or what the context has room for. */
  maxTokens?: number;
  /** Texts that end an answer; they are not part of its text. Default: none. */
  stop?: readonly string[];
  /** Tokens that are never drawn; default: none. */
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
  /** Names the row of draws: other names give other draws of the same seed. Default: "". */
  stream?: string;
  /** Of the prompt's words; default "parse", of chat() "text". */
  specialTokens?: SpecialTokens;
}

/** One prompt and how it is answered. */
export interface GenerateRequest extends Sampling {
  /** Default: its index in the call. */
  id?: string;
  /** What is answered. */
  prompt: Prompt;
  /** Of the prompt, where its text or ids have placeholders; default: those of its messages. */
  media?: readonly Media[];
  /** Answers that are drawn, 1 to 65536; default 1. */
  copies?: number;
}

/** An answer. */
export interface Completion {
  /** `id` of its request. */
  request: string;
  /** Which of the request's answers it is, from 0. */
  copy: number;
  /** As sampled, with the end or stop token. */
  ids: Int32Array;
  /** Without special tokens; cut before a stop string; "" without a tokenizer. */
  text: string;
  /** One value an id, at temperature 1, before truncation and suppression. */
  logProbs: Float32Array;
  /** Why it ended: at an end token, a stop id or a stop string, or at maxTokens. */
  end: "stop" | "length";
}

/** A piece of an answer's text as it comes, or an answer as it ends. Pieces of an answer in order are its text. */
export type GenerateEvent =
  | { type: "text"; request: string; copy: number; text: string }
  | { type: "completion"; completion: Completion };

/** A prompt with a preferred and another answer. */
export interface Pair {
  /** Names it in errors and records; default: its place in the call. */
  id?: string;
  /** What was answered. */
  prompt: Prompt;
  /** Of the prompt, where its text or ids have placeholders; default: those of its messages. */
  media?: readonly Media[];
  /** Ids end with the end token if it is scored. */
  chosen: string | TokenIds;
  /** The other answer, as `chosen`. */
  rejected: string | TokenIds;
  /** Log-probs per scored token; missing: scored by trainStep while step is 0. */
  reference?: { chosen: Float32Array; rejected: Float32Array };
}

/** A preference of tokens as they are. */
export interface SequencePair {
  /** Names it in errors and records; default: its place in the call. */
  id?: string;
  /** The preferred sequence, with what is scored of it. */
  chosen: Sequence;
  /** The other one. */
  rejected: Sequence;
  /** As of a {@link Pair}. */
  reference?: Pair["reference"];
}

/** A prompt and the answer to learn. */
export interface Example {
  /** Names it in errors and records; default: its place in the call. */
  id?: string;
  /** What is answered. */
  prompt: Prompt;
  /** Of the prompt, where its text or ids have placeholders; default: those of its messages. */
  media?: readonly Media[];
  /** Its words, or its ids with the end token. */
  answer: string | TokenIds;
  /** What is scored of a prompt of several turns: all that the assistant says (default), or the answer alone. */
  turns?: "last" | "all";
}

/** One kind a call; Example and Sequence only with loss "sft". */
export type TrainItem = Pair | SequencePair | Example | Sequence;
