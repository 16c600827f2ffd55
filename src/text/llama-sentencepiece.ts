// A SentencePiece model as Llama's tokenizer class uses it: special tokens cut out of the text first, <s> in front, and
// `legacy`, which says whether the dummy space also goes in front of what follows a special token.
import { isObject, type Json, show } from "../base/check.js";
import { replace, sentencePieceBytes, strip } from "./detokenizer.js";
import { tokenizerError } from "./tokenizer-files.js";
import { idsHeld, type Literal, touches } from "./added-tokens.js";
import type { Parts } from "./bpe.js";
import type { EncodeOptions } from "./encoder.js";
import { longestOf, type SentencePieceModel, SentencePieceEncoder } from "./sentencepiece.js";
import type { AddedToken as ListedToken } from "./added-tokens.js";
import type { Codec } from "./model-tokenizer.js";

type AddedToken = Omit<ListedToken, "normalized" | "singleWord">;

const maxAdded = 1 << 16;

function token(path: string, id: number, content: unknown, facts: Json, pieces: number): AddedToken {
  if (typeof content !== "string" || content === "")
    throw tokenizerError(path, `added token ${id}: expected its text, got ${show(content)}`);
  if (!Number.isInteger(id) || id < 0 || id >= pieces + maxAdded)
    throw tokenizerError(
      path,
      `added token ${show(content)}: expected an id below ${pieces + maxAdded}, got ${show(id)}`,
    );
  return { id, content, special: facts.special === true, lstrip: facts.lstrip === true, rstrip: facts.rstrip === true };
}

/** Special tokens of the model, then those of added_tokens.json and of tokenizer_config.json, which has the last word. */
function addedTokens(path: string, model: SentencePieceModel, config: Json, added: Json): Map<string, AddedToken> {
  const own = [model.unkId, model.bosId, model.eosId].filter((id) => id !== null);
  const n = model.pieces.length;
  const all = own.map((id) => token(path, id, model.pieces[id], { special: true }, n));
  for (const [content, id] of Object.entries(added)) all.push(token(path, id as number, content, {}, n));
  const listed = config.added_tokens_decoder ?? {};
  if (!isObject(listed)) throw tokenizerError(path, `added_tokens_decoder: expected an object, got ${show(listed)}`);
  for (const [id, facts] of Object.entries(listed)) {
    if (!isObject(facts))
      throw tokenizerError(path, `added_tokens_decoder[${id}]: expected an object, got ${show(facts)}`);
    all.push(token(path, Number(id), facts.content, facts, n));
  }
  const held = idsHeld(model.pieces.map((p, id) => [p, id] as const));
  for (const t of all) held.take(path, "added tokens", t.content, t.id);
  return new Map(all.map((t) => [t.content, t]));
}

type Segment = { text: string } | { token: AddedToken };

/** The text in parts, each found when it is asked for. */
function* segments(
  text: string,
  tokens: ReadonlyMap<string, AddedToken>,
  pattern: RegExp | null,
  literal: Literal,
  reserved: ReadonlySet<number>,
): Generator<Segment> {
  let at = 0;
  let trim = false; // the token before strips what follows it
  const plain = (to: number, trimEnd: boolean): Segment[] => {
    let part = text.slice(at, to);
    if (trim) part = part.trimStart();
    if (trimEnd) part = part.trimEnd();
    return part === "" ? [] : [{ text: part }];
  };
  for (const m of pattern ? text.matchAll(pattern) : []) {
    const found = tokens.get(m[0])!;
    if (reserved.has(found.id) && touches(literal, m.index, m.index + m[0].length)) continue;
    yield* plain(m.index!, found.lstrip);
    yield { token: found };
    at = m.index! + m[0].length;
    trim = found.rstrip;
  }
  yield* plain(text.length, false);
}

function flag(path: string, config: Json, key: string, otherwise: boolean): boolean {
  const value = config[key] ?? otherwise;
  if (typeof value !== "boolean") throw tokenizerError(path, `${key}: expected a boolean, got ${show(value)}`);
  return value;
}

/**
 * Config keys: add_bos_token (default true), add_eos_token (false), legacy (true), add_prefix_space (true). `bare`: nothing
 * stands beside the model, and text without special tokens is what SentencePiece itself makes of it ("</s>" is text).
 */
export function slowCodec(
  path: string,
  model: SentencePieceModel,
  { config, added: addedJson, bare }: { config: Json; added: Json; bare: boolean },
): Codec {
  const added = addedTokens(path, model, config, addedJson);
  const pieces: (string | undefined)[] = [...model.pieces];
  const ids = new Map(model.pieces.map((p, id) => [p, id]));
  for (const t of added.values()) {
    pieces[t.id] = t.content;
    ids.set(t.content, t.id);
  }
  const encoder = new SentencePieceEncoder(model);
  const pattern = longestOf([...added.keys()]);
  const legacy = flag(path, config, "legacy", true);
  const prefix = flag(path, config, "add_prefix_space", true) && (legacy ? model.addDummyPrefix : true);
  const front = flag(path, config, "add_bos_token", true) && model.bosId !== null ? [model.bosId] : [];
  const back = flag(path, config, "add_eos_token", false) && model.eosId !== null ? [model.eosId] : [];
  function* encodeBody(text: string, { literal, reserved }: EncodeOptions): Parts {
    let first = true;
    for (const segment of segments(text, added, pattern, literal, reserved)) {
      const begins = first;
      first = false;
      if ("text" in segment) {
        yield* encoder.encode(segment.text, prefix && (legacy || begins));
        continue;
      }
      // Without `legacy` the space goes in front of the whole text, and only a special token swallows it.
      if (begins && prefix && !legacy && !segment.token.special) yield* encoder.encode(" ", false);
      yield [segment.token.id];
    }
  }
  const swallows = [...added.values()].some((t) => t.lstrip || t.rstrip);
  return {
    pieces,
    ids,
    special: new Set([...added.values()].filter((t) => t.special).map((t) => t.id)),
    added: new Set([...added.values()].map((t) => t.id)),
    spoken: new Map(),
    stages: [replace("▁", " "), sentencePieceBytes, ...(prefix ? [strip(" ", 1, 0)] : [])],
    longest: swallows || !model.byteFallback ? null : pieces.reduce((n, p) => Math.max(n, p?.length ?? 0), 2),
    *encode(text, o) {
      const { special } = o;
      if (special) yield front;
      if (bare && !special) yield* encoder.encode(text, prefix);
      else yield* encodeBody(text, o);
      if (special) yield back;
    },
  };
}
