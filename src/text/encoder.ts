// The encoder of a tokenizer.json: added tokens, normalizer, pre-tokenizer, model and post-processor, piece by piece.
import { type Literal, none, type AddedToken, TokenFinder, touches } from "./added-tokens.js";
import { Bpe, type Parts } from "./bpe.js";
import { byteOfCharacter } from "./detokenizer.js";
import { isObject, type Json } from "../base/check.js";
import { tokenizerError } from "./tokenizer-files.js";
import {
  blanksAtStart,
  type Normalize,
  normalizerOf,
  type PatternLibrary,
  type PreTokenize,
  preTokenizerOf,
} from "./pre-tokenizers.js";
import { atOnce, type Steps } from "./pausable.js";

export interface EncodeOptions {
  /** With what the post-processor puts around a text. */
  special: boolean;
  literal: Literal;
  /** Tokens that are words in `literal`. */
  reserved: ReadonlySet<number>;
}

/** Parts of a text between two pauses. */
const slice = 4096;

export class JsonEncoder {
  private readonly plain: TokenFinder;
  private readonly normalized: TokenFinder;
  private readonly normalizedIds: readonly number[];
  private readonly bpe: Bpe;
  private readonly preTokenize: PreTokenize;
  private readonly normalizing: Normalize | null;
  readonly normalize: ((text: string) => string) | null;
  private readonly stripsStart: boolean;
  private readonly stripsMarks: boolean;
  private readonly front: readonly number[];
  private readonly back: readonly number[];

  constructor(
    path: string,
    json: Json,
    vocab: ReadonlyMap<string, number>,
    added: readonly AddedToken[],
    library: PatternLibrary,
  ) {
    const normalizing = normalizerOf(library, json.normalizer as Json | null);
    this.normalizing = normalizing;
    this.normalize = normalizing && ((text) => atOnce(normalizing(text)));
    this.preTokenize = preTokenizerOf(library, json.pre_tokenizer as Json | null);
    this.bpe = new Bpe(path, json.model as Json, vocab);
    const { normalize } = this;
    this.stripsStart = flat(json.normalizer as Json | null, "normalizers").some((n) => n.strip_left === true);
    this.stripsMarks = flat(json.normalizer as Json | null, "normalizers").some((n) => n.type === "StripAccents");
    const later = added.filter((t) => t.normalized); // matched in the text that the others leave, with or without a normalizer
    this.plain = new TokenFinder(added.filter((t) => !t.normalized).map((t) => [t.content, t]));
    this.normalized = new TokenFinder(later.map((t) => [normalize ? normalize(t.content) : t.content, t]));
    this.normalizedIds = later.map((t) => t.id);
    const around = postProcessor(path, json.post_processor as Json | null);
    this.front = around.front;
    this.back = around.back;
  }

  /** Ids in parts. Text is well-formed Unicode. */
  *encode(text: string, { special, literal, reserved }: EncodeOptions): Parts {
    if (special) yield this.front;
    let at = 0;
    const within = cutter(this.normalizedIds.some((id) => reserved.has(id)) ? literal : []);
    const part = (to: number) => this.part(text.slice(at, to), at === 0, within(at, to), reserved);
    for (const found of this.plain.find(text, (f) => !(reserved.has(f.token.id) && touches(literal, f.from, f.to)))) {
      if (found.token === none) {
        yield [];
        continue;
      }
      if (found.from > at) yield* part(found.from);
      yield [found.token.id];
      at = found.to;
    }
    if (at < text.length) yield* part(text.length);
    if (special) yield this.back;
  }

  /** Text between tokens that are found as they are; `first`: it begins the whole; `literal`: of this text. */
  private *part(given: string, first: boolean, literal: Literal, reserved: ReadonlySet<number>): Parts {
    const text = this.normalizing ? yield* paused(this.normalizing(given)) : given;
    yield [];
    const words = literal.length === 0 ? [] : yield* this.moved(given, text, literal);
    if (!words) {
      // Normalising joins a word with what stands beside it: it is kept from being a token by a cut behind its first character.
      const borders = [0, ...literal.map(([from]) => from + 1), given.length];
      for (let i = 1; i < borders.length; i++)
        yield* this.part(given.slice(borders[i - 1], borders[i]), first && i === 1, [], reserved);
      return;
    }
    const begins =
      first && !(this.stripsStart && blanksAtStart(given) > 0) && !(this.stripsMarks && /^\p{M}/u.test(given));
    let at = 0;
    for (const found of this.normalized.find(
      text,
      (f) => !(reserved.has(f.token.id) && touches(words, f.from, f.to)),
    )) {
      if (found.token === none) {
        yield [];
        continue;
      }
      if (found.from > at) yield* this.words(text.slice(at, found.from), begins && at === 0);
      yield [found.token.id];
      at = found.to;
    }
    if (at < text.length) yield* this.words(text.slice(at), begins && at === 0);
  }

  /** Where parts of a text are once it is normalised; null where that cannot be told. */
  private *moved(given: string, text: string, literal: Literal): Generator<readonly number[], Literal | null> {
    const { normalize, normalizing } = this;
    if (!normalize || !normalizing || text === given) return literal;
    const prefix = normalize("x").slice(0, -1); // put in front of every text
    const parts = [prefix];
    let [length, at] = [prefix.length, 0];
    const to = function* (end: number): Generator<readonly number[], number> {
      const piece = at === end ? prefix : yield* paused(normalizing(given.slice(at, end)));
      at = end;
      if (!piece.startsWith(prefix)) return length;
      length += piece.length - prefix.length;
      if (parts.push(piece.slice(prefix.length)) % slice === 0) yield [];
      return length;
    };
    const words: [number, number][] = [];
    for (const [from, end] of literal) words.push([yield* to(from), yield* to(end)]);
    yield* to(given.length);
    return parts.join("") === text ? words : null;
  }

  private *words(text: string, first: boolean): Parts {
    for (const piece of this.preTokenize(text, first)) {
      if (piece === "") yield [];
      else yield* this.bpe.encode(piece);
    }
  }
}

/** Asked in order: the parts of [from, to), counted from there. */
function cutter(literal: Literal): (from: number, to: number) => Literal {
  let next = 0;
  return (from, to) => {
    const parts: [number, number][] = [];
    while (next < literal.length && literal[next]![1] <= from) next++;
    for (let i = next; i < literal.length && literal[i]![0] < to; i++)
      parts.push([Math.max(literal[i]![0], from) - from, Math.min(literal[i]![1], to) - from]);
    return parts;
  };
}

/** Steps without ids. */
function* paused<T>(steps: Steps<T>): Generator<readonly number[], T> {
  for (;;) {
    const next = steps.next();
    if (next.done) return next.value;
    yield [];
  }
}

/** The ids that a post-processor puts in front of a text and behind it. */
function postProcessor(path: string, p: Json | null): { front: readonly number[]; back: readonly number[] } {
  if (p === null) return { front: [], back: [] };
  const fault = (what: string) => tokenizerError(path, `post_processor: ${what}`);
  const known = (given: unknown) => {
    const list = Array.isArray(given) ? given : [];
    if (list.length === 0 || !list.every((id) => Number.isInteger(id) && id >= 0)) throw fault("a token without ids");
    return list as number[];
  };
  switch (p.type) {
    case "Sequence": {
      const adding = (p.processors as Json[]).filter((x) => x.type !== "ByteLevel");
      if (adding.length > 1) throw fault("more than one part that adds tokens is not supported");
      return postProcessor(path, adding[0] ?? null);
    }
    case "BertProcessing":
    case "RobertaProcessing":
      return {
        front: known([(p.cls as [string, number])[1]]),
        back: known([(p.sep as [string, number])[1]]),
      };
    case "TemplateProcessing": {
      const single = p.single as Json[];
      const at = single.findIndex((x) => isObject(x.Sequence));
      if (
        at < 0 ||
        single.filter((x) => isObject(x.Sequence)).length !== 1 ||
        (single[at]!.Sequence as Json).id !== "A"
      )
        throw fault("single: expected the text once, as sequence A");
      const specials = isObject(p.special_tokens) ? p.special_tokens : {};
      const idsOf = (list: Json[]) =>
        list.flatMap((x) => {
          const { id } = x.SpecialToken as { id: string };
          const token = specials[id];
          if (!isObject(token)) throw fault(`the token ${JSON.stringify(id)} is not among its special_tokens`);
          return known(token.ids);
        });
      return { front: idsOf(single.slice(0, at)), back: idsOf(single.slice(at + 1)) };
    }
    default:
      return { front: [], back: [] };
  }
}

const lossless = new Set(["Prepend", "NFC", "NFD"]);
/** Characters that composing may make one of. */
const composed = 4;

function flat(p: Json | null, key: string): Json[] {
  if (p === null) return [];
  return p.type === "Sequence" ? (p[key] as Json[]).flatMap((x) => flat(x, key)) : [p];
}

/**
 * The most UTF-16 units of a text that one token can stand for, or null where nothing is known: parts of the text may vanish
 * or be taken along.
 */
export function longestPiece(
  json: Json,
  vocab: ReadonlyMap<string, number>,
  added: readonly AddedToken[],
): number | null {
  if (added.some((t) => t.lstrip || t.rstrip)) return null;
  const model = json.model as Json;
  const pre = flat(json.pre_tokenizer as Json | null, "pretokenizers");
  const bytes = pre.some((p) => p.type === "ByteLevel") && [...byteOfCharacter.keys()].every((c) => vocab.has(c));
  const unknownIsOne = model.byte_fallback !== true && (typeof model.unk_token !== "string" || model.fuse_unk === true);
  if (unknownIsOne && !bytes) return null;
  if (pre.some((p) => p.behavior === "Removed" || p.type === "Whitespace" || p.type === "WhitespaceSplit")) return null;
  let shrink = 1;
  for (const n of flat(json.normalizer as Json | null, "normalizers")) {
    const from = isObject(n.pattern) ? n.pattern.String : undefined;
    const grows = n.type === "Replace" && typeof from === "string" && from.length <= (n.content as string).length;
    if (!grows && !lossless.has(n.type as string)) return null;
    if (n.type === "NFC") shrink *= composed;
  }
  let longest = 1;
  for (const piece of vocab.keys()) longest = Math.max(longest, piece.length);
  for (const { content } of added) longest = Math.max(longest, content.length);
  return longest * shrink;
}
