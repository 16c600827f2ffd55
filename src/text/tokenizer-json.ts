// The shape of a tokenizer.json, checked before the tokenizer library sees it: that library trusts its input. Model BPE,
// and the normalizers, pre-tokenizers and post-processors that byte-level and SentencePiece-like BPE tokenizers use.
import { isObject, type Json, show } from "../base/check.js";
import { type AddedToken, idsHeld } from "./added-tokens.js";
import { tokenizerError } from "./tokenizer-files.js";

const maxId = 1 << 22;
const maxParts = 64; // of one component
const maxDepth = 8;
const maxPattern = 4096; // characters

export interface TokenizerJson {
  /** As the library takes it. */
  json: Json;
  vocab: ReadonlyMap<string, number>;
  added: readonly AddedToken[];
  decoder: unknown;
}

type Field = (value: unknown) => boolean;
const string: Field = (x) => typeof x === "string" && x.length <= maxPattern;
const character: Field = (x) => typeof x === "string" && [...x].length === 1;
const flag: Field = (x) => typeof x === "boolean";
const optional =
  (field: Field): Field =>
  (x) =>
    x === undefined || x === null || field(x);
const pattern: Field = (x) => isObject(x) && (string(x.String) || string(x.Regex));
const labelled: Field = (x) => Array.isArray(x) && x.length === 2 && string(x[0]) && Number.isSafeInteger(x[1]);
const oneOf =
  (...words: string[]): Field =>
  (x) =>
    words.includes(x as string);
const behaviors = oneOf("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous");
const piece: Field = (x) =>
  isObject(x) && [x.SpecialToken, x.Sequence].filter((o) => isObject(o) && string(o.id)).length === 1;
const pieces: Field = (x) => Array.isArray(x) && x.length <= maxParts && x.every(piece);

type Types = Record<string, Record<string, Field>>;
const normalizers: Types = {
  NFC: {},
  NFD: {},
  NFKC: {},
  NFKD: {},
  Lowercase: {},
  StripAccents: {},
  Strip: { strip_left: flag, strip_right: flag },
  Prepend: { prepend: string },
  Replace: { pattern, content: string },
};
const preTokenizers: Types = {
  ByteLevel: { add_prefix_space: optional(flag), use_regex: optional(flag), trim_offsets: optional(flag) },
  Split: { pattern, behavior: behaviors, invert: flag },
  Digits: { individual_digits: flag },
  Punctuation: { behavior: optional(behaviors) },
  Whitespace: {},
  WhitespaceSplit: {},
  Metaspace: {
    replacement: character,
    add_prefix_space: optional(flag),
    split: optional(flag),
    str_rep: optional(string),
    prepend_scheme: optional(oneOf("always", "first", "never")),
  },
};
const anything: Field = () => true;
const postProcessors: Types = {
  ByteLevel: { add_prefix_space: optional(flag), use_regex: optional(flag) },
  TemplateProcessing: { single: pieces, pair: optional(pieces), special_tokens: anything },
  RobertaProcessing: { cls: labelled, sep: labelled, add_prefix_space: optional(flag) },
  BertProcessing: { cls: labelled, sep: labelled },
};

/** Keys that change offsets only, which nobody asks for here. */
const withoutEffect: Record<string, Field> = { trim_offsets: optional(flag) };

/** A component: null, one of `types`, or a Sequence of them under `key`. */
function checkComponent(path: string, where: string, value: unknown, types: Types, key: string): void {
  let parts = 0;
  const check = (at: string, part: unknown, depth: number): void => {
    if (!isObject(part) || typeof part.type !== "string")
      throw tokenizerError(path, `${at}: expected an object with a type, got ${show(part)}`);
    if (++parts > maxParts || depth > maxDepth) throw tokenizerError(path, `${where}: more than ${maxParts} parts`);
    if (part.type === "Sequence") {
      const inner = part[key];
      if (!Array.isArray(inner)) throw tokenizerError(path, `${at}.${key}: expected an array, got ${show(inner)}`);
      inner.forEach((x, i) => {
        check(`${at}.${key}[${i}]`, x, depth + 1);
      });
      return;
    }
    if (!Object.hasOwn(types, part.type))
      throw tokenizerError(
        path,
        `${at}: ${show(part.type)} is not supported; known types: Sequence, ${Object.keys(types).join(", ")}`,
      );
    const fields = { ...types[part.type]!, ...withoutEffect };
    const unknown = Object.keys(part).find((name) => name !== "type" && !Object.hasOwn(fields, name));
    if (unknown !== undefined)
      throw tokenizerError(path, `${at}.${unknown}: ${part.type} has no key of that name here`);
    if (part.type === "Metaspace" && part.add_prefix_space === false && part.prepend_scheme !== "never")
      throw tokenizerError(path, `${at}.add_prefix_space: expected true, or prepend_scheme "never", got false`);
    for (const [name, field] of Object.entries(types[part.type]!))
      if (!field(part[name]))
        throw tokenizerError(path, `${at}.${name}: not as ${part.type} has it, ${show(part[name])}`);
  };
  if (value !== null) check(where, value, 0);
}

function checkVocab(path: string, model: Json): Map<string, number> {
  if (!isObject(model.vocab)) throw tokenizerError(path, `model.vocab: expected an object, got ${show(model.vocab)}`);
  const vocab = new Map<string, number>();
  const seen = new Set<number>();
  for (const [token, id] of Object.entries(model.vocab)) {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= maxId)
      throw tokenizerError(path, `model.vocab[${show(token)}]: expected an id in [0, ${maxId}), got ${show(id)}`);
    if (seen.has(id as number)) throw tokenizerError(path, `model.vocab: two tokens have the id ${id}`);
    seen.add(id as number);
    vocab.set(token, id as number);
  }
  return vocab;
}

function checkMerges(path: string, merges: unknown): void {
  if (!Array.isArray(merges)) throw tokenizerError(path, `model.merges: expected an array, got ${show(merges)}`);
  const pairs = Array.isArray(merges[0]);
  const ok = (m: unknown) =>
    pairs
      ? Array.isArray(m) && m.length === 2 && typeof m[0] === "string" && typeof m[1] === "string"
      : typeof m === "string" && m.includes(" ");
  const wrong = merges.findIndex((m) => !ok(m));
  if (wrong >= 0)
    throw tokenizerError(
      path,
      `model.merges[${wrong}]: expected ${pairs ? "two strings" : '"left right"'}, got ${show(merges[wrong])}`,
    );
}

const modelKeys = new Set([
  ...["type", "vocab", "merges", "unk_token", "dropout", "byte_fallback", "fuse_unk", "ignore_merges"],
  ...["continuing_subword_prefix", "end_of_word_suffix"],
]);
const topKeys = new Set([
  ...["version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"],
  "model",
]);

function checkModel(path: string, model: unknown): Map<string, number> {
  if (!isObject(model)) throw tokenizerError(path, `model: expected an object, got ${show(model)}`);
  if (model.type !== "BPE" && !(model.type === undefined && Array.isArray(model.merges)))
    throw tokenizerError(path, `model.type: only BPE is supported, got ${show(model.type)}`);
  for (const key of ["byte_fallback", "fuse_unk", "ignore_merges"])
    if (!optional(flag)(model[key]))
      throw tokenizerError(path, `model.${key}: expected a boolean, got ${show(model[key])}`);
  for (const key of ["continuing_subword_prefix", "end_of_word_suffix"])
    if (!optional(string)(model[key]))
      throw tokenizerError(path, `model.${key}: expected a string, got ${show(model[key])}`);
  const unknown = Object.keys(model).find((key) => !modelKeys.has(key));
  if (unknown !== undefined) throw tokenizerError(path, `model.${unknown}: a BPE model has no key of that name here`);
  if (model.dropout !== undefined && model.dropout !== null && model.dropout !== 0)
    throw tokenizerError(path, `model.dropout: expected none, got ${show(model.dropout)}`);
  const vocab = checkVocab(path, model);
  checkMerges(path, model.merges);
  if (!optional((x) => vocab.has(x as string))(model.unk_token))
    throw tokenizerError(path, `model.unk_token: expected a token of the vocabulary, got ${show(model.unk_token)}`);
  return vocab;
}

function checkAdded(path: string, value: unknown, vocab: ReadonlyMap<string, number>): AddedToken[] {
  if (!Array.isArray(value)) throw tokenizerError(path, `added_tokens: expected an array, got ${show(value)}`);
  const held = idsHeld(vocab);
  return value.map((token, i) => {
    const at = `added_tokens[${i}]`;
    if (!isObject(token) || !string(token.content) || token.content === "")
      throw tokenizerError(path, `${at}: expected a token with content, got ${show(token)}`);
    const id = token.id as number;
    if (!Number.isInteger(id) || id < 0 || id >= maxId)
      throw tokenizerError(path, `${at}.id: expected an id in [0, ${maxId}), got ${show(token.id)}`);
    for (const key of ["special", "lstrip", "rstrip", "normalized", "single_word"])
      if (!optional(flag)(token[key]))
        throw tokenizerError(path, `${at}.${key}: expected a boolean, got ${show(token[key])}`);
    held.take(path, at, token.content as string, id);
    return {
      id,
      content: token.content as string,
      special: token.special === true,
      lstrip: token.lstrip === true,
      rstrip: token.rstrip === true,
      normalized: (token.normalized ?? !token.special) === true,
      singleWord: token.single_word === true,
    };
  });
}

export function checkTokenizerJson(path: string, json: Json): TokenizerJson {
  const unknown = Object.keys(json).find((key) => !topKeys.has(key));
  if (unknown !== undefined) throw tokenizerError(path, `${unknown}: a tokenizer.json has no key of that name here`);
  const vocab = checkModel(path, json.model);
  const added = checkAdded(path, json.added_tokens ?? [], vocab);
  const parts = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, ...json };
  checkComponent(path, "normalizer", parts.normalizer, normalizers, "normalizers");
  checkComponent(path, "pre_tokenizer", parts.pre_tokenizer, preTokenizers, "pretokenizers");
  checkComponent(path, "post_processor", parts.post_processor, postProcessors, "processors");
  const model = { ...(json.model as Json), type: "BPE" };
  return {
    json: { ...parts, model, added_tokens: json.added_tokens ?? [], decoder: null },
    vocab,
    added,
    decoder: parts.decoder,
  };
}
