// The values of the public functions. Tensors are row-major; lengths in tokens, times in seconds, sizes in bytes, log-probs in nats.
import type { FeatureCacheOptions, FrameSampling, Sampling, WeightOptions } from "./option-types.js";

export type { FrameSampling, Sampling };

/** A row-major array of numbers. */
export interface Tensor {
  /** Type of an element; `bf16` is the upper 16 bits of a float32. */
  readonly dtype: "f32" | "bf16" | "u8" | "i32";
  /** Elements along each dimension, outermost first. */
  readonly shape: readonly number[];
  /** The elements; `bf16` is a Uint16Array of bit patterns. */
  readonly data: Float32Array | Uint16Array | Uint8Array | Int32Array;
}

/** Token ids; each is at least 0 and below the size of the vocabulary. */
export type TokenIds = Int32Array | readonly number[];

/** Cancellation: when the signal is aborted, the call rejects with `signal.reason` and leaves the state as it was before the call. */
export interface Cancel {
  /** Cancels the call; default: the call cannot be cancelled. */
  signal?: AbortSignal;
}

/**
 * A video or an image: the path of a file or of a folder of frames, a path with options, frames in memory, normalised pixels,
 * or features.
 */
export type Media =
  | string
  | {
      /** Default: the kind of the file's content; INVALID_ARGUMENT if it is another. */
      kind?: "video" | "image";
      /** Path of a video or image file, or of a folder of JPEG and PNG frames. */
      path: string;
      /** Which frames are used; default: as in the model's recipe. */
      sample?: FrameSampling;
    }
  | {
      /** Default "video"; "image" for one frame that is a picture. */
      kind?: "video" | "image";
      /** Frames one after another, (frames, height, width, 3): RGB bytes. */
      frames: Uint8Array;
      /** Width of each frame in pixels. */
      width: number;
      /** Height of each frame in pixels. */
      height: number;
      /** Frames per second, above 0 and at most 1000; `sample.window` and `sample.fps` need it. Default: the frames have no times. */
      fps?: number;
      /** Which frames are used; default: as in the model's recipe. */
      sample?: FrameSampling;
    }
  | {
      /** Default: the kind that the shape of the pixels implies. */
      kind?: "video" | "image";
      /** Normalised pixels, in the shape that {@link VideoLM.preprocess} returns. */
      pixels: Tensor;
      /** Patches along time, height and width; required by families that take pictures of any size (Qwen-VL), and by no others. */
      gridThw?: readonly [number, number, number];
      /** Seconds per step of the grid along time, for Qwen2.5-VL's videos; default: as at 2 frames a second. */
      secondsPerGrid?: number;
      /** Which pixels belong to the picture, for families that pad pictures; as `gridThw`. */
      pixelMask?: Tensor;
    }
  | Features;

/** Output of the vision part for one video or image, (n, C): n visual tokens of width C, after the projector or before it. */
export interface Features extends Tensor {
  /** Identifies the content: media with equal keys must have equal features, and share prefixes. */
  readonly key: string;
  /** Default "video". */
  readonly kind?: "video" | "image";
  /** "projected" (default): after the projector; "tower": before it. */
  readonly stage?: "projected" | "tower";
  /** Patches along time, height and width, for families that take pictures of any size (Qwen-VL). */
  readonly gridThw?: readonly [number, number, number];
  /** Seconds per step of the grid along time, as with pixels. */
  readonly secondsPerGrid?: number;
}

/** One turn of a conversation, as a chat template receives it. */
export interface Message {
  /** Who speaks in this turn. */
  role: "system" | "user" | "assistant";
  /** The text of the turn, or its texts and media in the order in which the model sees them. */
  content:
    | string
    | readonly (
        | {
            /** A part of text. */
            type: "text";
            /** The text; placeholders such as `<video>` in it are ordinary text. */
            text: string;
          }
        | {
            /** A part that is a video or an image. */
            type: "video" | "image";
            /** The video or image. */
            media: Media;
          }
      )[];
}

/** Token ids that are used as they are, without a template and without anything added. */
export interface Sequence {
  /** The token ids, with one visual placeholder for each of `media`. */
  ids: TokenIds;
  /** The media of the placeholders, in order; PLACEHOLDER_MISMATCH if the numbers differ. Default: none. */
  media?: readonly Media[];
  /** Mask over `ids`: 1 for tokens whose log-prob counts, 0 for the others; the first token cannot count. */
  lossMask?: Uint8Array;
  /** @deprecated Use `lossMask`; removed in 0.3. In results it is not enumerable. */
  scored?: Uint8Array;
  /** Loss "sft" only: for each row the target id (-1: none), in place of the next token. */
  targets?: Int32Array;
  /** Loss "sft" only: for each row the weight of its target. */
  weights?: Float32Array;
}

/** A prompt: text (one user turn, put into the chat template), messages of a conversation, or token ids. */
export type Prompt = string | readonly Message[] | Sequence;

/** Options for loading a tokenizer. */
export interface TokenizerOptions {
  /**
   * The time that `strftime_now` prints in a chat template: a Date (its local time), or YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, which
   * print alike in every time zone. Default: the time at which the tokenizer is loaded, for all its texts.
   */
  templateDate?: Date | string;
}

/** Options for loading a model. */
export interface LoadOptions extends Cancel, TokenizerOptions, WeightOptions {
  /** Keeps the vision tower's features of videos on disk. Default: false, nothing is kept on disk. */
  featureCache?: FeatureCacheOptions | false;
  /** Called with the bytes that were read and their total number. If it throws or rejects, the call rejects with that error. */
  onProgress?(p: { bytes: number; totalBytes: number }): void;
  /**
   * Called for every opened file or folder with a report about its frames. Without it, frames that could not be decoded
   * cause a process warning (code ISR_DPO_MEDIA).
   */
  onMedia?(report: MediaReport): void;
}

/** A report about the frames of one video or image. */
export interface MediaReport {
  /** The file or folder, as it was given. */
  path: string;
  /** Whether it was read as a video or as an image. */
  kind: "video" | "image";
  /** Number of frames of the file, folder or array. */
  count: number;
  /** Indices of the frames that are used, in order. */
  sourceFrames: Int32Array;
  /** Number of frames that are used again because the clip is short. */
  repeated: number;
  /** Number of errors that the decoder reported and survived. */
  decodeErrors: number;
  /** Number of frames that should exist and could not be decoded. */
  lost: number;
  /** Whether the file asks to be shown rotated; the frames were rotated. */
  rotated: boolean;
  /** Number of frames that were decoded with errors, or depend on such a frame; absent: none. */
  damaged?: number;
  /** Number of seeks in a long file, the rest of which was not decoded; absent: none. */
  seeks?: number;
  /** Why a long file was decoded whole although a part would have been enough; absent: it was not. */
  fallback?: string;
  /** Number of video streams that are not used, cover pictures included; absent: none. */
  otherStreams?: number;
  /** Names of a folder's entries that are not frames and were left out; absent: none. */
  leftOut?: readonly string[];
  /** Whether a folder's file names have numbers of different length, so that frames are not in numeric order; absent: no. */
  unpadded?: boolean;
}

/** Facts about a model. */
export interface ModelInfo {
  /** Family of the model, such as "llama", "qwen2", "llava_hound". */
  family: string;
  /** `model_type` of config.json. */
  modelType: string;
  /** Device that the model computes on. */
  device: string;
  /** Type that the weights are kept in. */
  dtype: "f32" | "bf16";
  /** Number of parameters. */
  parameters: number;
  /** Number of parameters that a trainer may change. */
  trainable: number;
  /** Length of the context in tokens. */
  contextLength: number;
  /** Number of rows of the embedding; every id is below it. */
  vocabSize: number;
  /** Ids at which generation ends: those of config.json and generation_config.json, the tokenizer's eos, the template's end token. */
  endTokenIds: readonly number[];
  /**
   * Number of tokens of a video (or of an image, if the model takes no videos) in the model's own recipe; null: it is a text
   * model, or the number depends on the file.
   */
  visualTokens: number | null;
  /** Kinds of media that the model takes; none: it is a text model, or its towers are not there. */
  media: readonly ("video" | "image")[];
  /** Instruction-set level in use, such as "avx2". */
  isa: string;
  /** The adapter that the model was loaded with; null: none. */
  adapter: AdapterInfo | null;
}

/** Facts about an adapter. */
export interface AdapterInfo {
  /** Rank of its products, where no pattern gives another one. */
  rank: number;
  /** What its products count for: alpha / rank times, or with `rslora` alpha / sqrt(rank) times. */
  alpha: number;
  /** Whether it is scaled by the root of the rank (rsLoRA). */
  rslora: boolean;
  /** Number of matrices that it changes. */
  modules: number;
  /** Number of its parameters. */
  parameters: number;
}

/**
 * How special tokens in a text are read, for instance an `<|im_end|>` that a user typed. "parse" reads them as tokens, as
 * transformers does. "text" reads them as ordinary text, and so added tokens that are not marked as special but written by the
 * chat template (`<think>`), except in the assistant's own turns. What the template itself writes is a token in both cases.
 */
export type SpecialTokens = "parse" | "text";

/** Converts text to token ids and back. */
export interface Tokenizer {
  /** The time that the chat template prints (YYYY-MM-DDTHH:MM:SS); see {@link TokenizerOptions.templateDate}. */
  readonly templateDate: string;
  /**
   * The token ids of a text.
   * @param text - the text; lone surrogates are read as U+FFFD
   * @param o - `special` (default true) adds the tokens that the tokenizer puts around a text; `specialTokens` defaults to "parse"
   * @throws {@link IsrDpoError} TOKENIZER: the text cannot be encoded
   */
  encode(text: string, o?: { special?: boolean; specialTokens?: SpecialTokens }): Int32Array;
  /**
   * The text of token ids.
   * @param ids - token ids; ids outside the vocabulary have no text
   * @param o - `skipSpecial` (default false) leaves special tokens out
   * @throws {@link IsrDpoError} INVALID_ARGUMENT: an id is not an integer of at least 0
   */
  decode(ids: TokenIds, o?: { skipSpecial?: boolean }): string;
  /** Decodes ids that arrive one by one. */
  stream(): {
    /** Takes the next id; returns the text that no later id can change. */
    push(id: number): string;
    /** Returns the rest of the text. */
    end(): string;
  };
  /**
   * Renders a conversation with the chat template, and tokenizes it.
   * @param messages - the turns
   * @param o - `generate` (default false) adds the beginning of the assistant's next turn; `specialTokens` defaults to "parse"
   * @throws {@link IsrDpoError} TOKENIZER: there is no chat template, or it refuses the conversation
   */
  applyChatTemplate(
    messages: readonly Message[],
    o?: { generate?: boolean; specialTokens?: SpecialTokens },
  ): {
    /** The rendered text. */
    text: string;
    /** Its token ids. */
    ids: Int32Array;
    /**
     * Mask over `ids`: 1 for what the assistant said, end tokens included. It is computed when it is read; reading it throws
     * TOKENIZER if the template renders earlier turns differently once others follow.
     */
    readonly lossMask: Uint8Array;
    /** @deprecated Use `lossMask`; removed in 0.3. It is not enumerable. */
    readonly scored: Uint8Array;
  };
  /** @deprecated Use {@link Tokenizer.applyChatTemplate}; removed in 0.3. */
  apply(...args: Parameters<Tokenizer["applyChatTemplate"]>): ReturnType<Tokenizer["applyChatTemplate"]>;
}

/** The result of a forward pass. It holds only the outputs that were asked for. */
export interface ForwardOutput {
  /** Index of the first row, and the index after the last row. */
  rows: readonly [number, number];
  /** f32 (rows, vocabSize): logits of the token after each row. */
  logits?: Tensor;
  /** f32 (rows, C): hidden states after the last norm. */
  hidden?: Tensor;
  /** i32 (1, tokens): position of each token of the sequence; (3, tokens), of time, row and column, where a family has such (Qwen-VL). */
  positions?: Tensor;
  /** The ids of the sequence, with one id for each visual token. */
  ids: Int32Array;
}

/** One prompt, and how it is answered. */
export interface GenerateRequest extends Sampling {
  /** Identifies the request in its completions; default: its index in the call. */
  id?: string;
  /** The prompt to answer. */
  prompt: Prompt;
  /** Media of the placeholders in the prompt's text or ids; default: the media of its messages. */
  media?: readonly Media[];
  /** Number of answers, 1 to 65536; default 1. */
  n?: number;
  /** @deprecated Use `n`; removed in 0.3. */
  copies?: number;
}

/** One answer. */
export interface Completion {
  /** `id` of its request. */
  request: string;
  /** Index of the answer among the answers of its request, from 0. */
  copy: number;
  /** The sampled ids, with the end or stop token. */
  ids: Int32Array;
  /** The text without special tokens, cut before a stop string; "" without a tokenizer. */
  text: string;
  /** Log-prob of each id in nats, at temperature 1, before `topP`, `topK` and `suppress`. */
  logProbs: Float32Array;
  /** Why the answer ended: "stop" at an end token, a stop id or a stop string; "length" at `maxTokens`. */
  finishReason: "stop" | "length";
  /** @deprecated Use `finishReason`; removed in 0.3. It is not enumerable. */
  readonly end: "stop" | "length";
}

/** A piece of an answer's text when it is known, or an answer when it ends. The pieces of an answer, in order, are its text. */
export type GenerateEvent =
  | {
      /** A piece of text. */
      type: "text";
      /** `id` of the request. */
      request: string;
      /** Index of the answer among the answers of its request. */
      copy: number;
      /** The next piece of the answer's text. */
      text: string;
    }
  | {
      /** The end of an answer. */
      type: "completion";
      /** The whole answer. */
      completion: Completion;
    };

/** A prompt with a preferred answer and another one. */
export interface Pair {
  /** Identifies the pair in errors and records; default: its position in the call. */
  id?: string;
  /** The prompt that was answered. */
  prompt: Prompt;
  /** Media of the placeholders in the prompt's text or ids; default: the media of its messages. */
  media?: readonly Media[];
  /** The preferred answer, as text or as ids; ids include the end token if it is to be scored. */
  chosen: string | TokenIds;
  /** The other answer, in the same form. */
  rejected: string | TokenIds;
  /** Log-probs of the answers under the reference; if missing, trainStep scores them while its step is 0. */
  reference?: {
    /** Log-prob of each scored token of the preferred answer, in nats. */
    chosen: Float32Array;
    /** Log-prob of each scored token of the other answer, in nats. */
    rejected: Float32Array;
  };
}

/** A preference between two sequences of token ids. */
export interface SequencePair {
  /** Identifies the pair in errors and records; default: its position in the call. */
  id?: string;
  /** The preferred sequence, with its mask of scored tokens. */
  chosen: Sequence;
  /** The other sequence, with its mask of scored tokens. */
  rejected: Sequence;
  /** Log-probs under the reference, as in a {@link Pair}. */
  reference?: Pair["reference"];
}

/** A prompt and the answer to learn. */
export interface Example {
  /** Identifies the example in errors and records; default: its position in the call. */
  id?: string;
  /** The prompt that is answered. */
  prompt: Prompt;
  /** Media of the placeholders in the prompt's text or ids; default: the media of its messages. */
  media?: readonly Media[];
  /** The answer as text, or as ids with the end token. */
  answer: string | TokenIds;
  /** In a prompt of several turns: everything that the assistant says is scored ("all", default), or only the answer ("last"). */
  turns?: "last" | "all";
}

/** One item to train on. All items of a call have the same kind; Example and Sequence need loss "sft". */
export type TrainItem = Pair | SequencePair | Example | Sequence;
