// The interface that the package needs of a tokenizer beyond the public one, and what the two kinds of files provide.
import type { IsrDpoError } from "../base/errors.js";
import type { Tokenizer } from "../base/types.js";
import type { Literal } from "./added-tokens.js";
import type { Parts } from "./bpe.js";
import type { ChatTemplate } from "./template.js";
import type { StageFactory } from "./detokenizer.js";
import type { EncodeOptions } from "./encoder.js";
import type { Steps } from "./pausable.js";

export interface ModelTokenizer extends Tokenizer {
  /** One more than the largest id; a model's own vocabulary may be padded beyond it. */
  readonly vocabSize: number;
  readonly bosId: number | null;
  /** The token that ends an answer: the eos token of the tokenizer's configuration. */
  readonly endId: number | null;
  readonly template: ChatTemplate | null;
  /** Why there is no template though the files hold one; all that needs none works. */
  readonly templateFault: IsrDpoError | null;
  tokenId(piece: string): number | null;
  /** The text of a token as the files spell it. */
  piece(id: number): string | null;
  /** Special tokens are those that `skipSpecial` leaves out. */
  isSpecial(id: number): boolean;
  stream(o?: { skipSpecial?: boolean }): { push(id: number): string; end(): string };
  /** encode() in steps; `literal`: parts of the text in which special tokens are words. */
  encodeSteps(text: string, o?: { special?: boolean; literal?: Literal }): Steps<Int32Array>;
  /** At least so many tokens are in a text, by its length alone; 0 where nothing is known. */
  fewest(text: string): number;
  /** Special tokens, and added ones that the chat template writes: whoever types them would speak as the template does. */
  isReserved(id: number): boolean;
  /** The reserved tokens that stand in a text, in order; `special`: the special ones only. null: a place to pause. */
  reservedIn(text: string, o: { special: boolean }): Iterable<{ from: number; to: number } | null>;
}

/** What the two kinds of files differ in. */
export interface Codec {
  pieces: readonly (string | undefined)[];
  ids: ReadonlyMap<string, number>;
  special: ReadonlySet<number>;
  /** The special ones and others. */
  added: ReadonlySet<number>;
  /** What decoding sees in place of a token's text. */
  spoken: ReadonlyMap<number, string>;
  stages: readonly StageFactory[];
  /** The most UTF-16 units of a text that one token stands for, or null where nothing is known. */
  longest: number | null;
  /** Text is well-formed Unicode. */
  encode(text: string, o: EncodeOptions): Parts;
}
