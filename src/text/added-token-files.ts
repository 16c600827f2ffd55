// Added tokens in files beside a tokenizer.json: tokenizer_config.json, special_tokens_map.json and added_tokens.json. As in
// transformers, a known token keeps its id and gets the flags given here, and a new token gets the next id.
import { isObject, type Json, show } from "../base/check.js";
import type { AddedToken } from "./added-tokens.js";
import { tokenizerError } from "./tokenizer-files.js";

interface Listed {
  content: string;
  /** The id that the file gives it; null: none. */
  id: number | null;
  flags: Json;
  special: boolean;
}

const named = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

function flagsOf(path: string, at: string, value: unknown): { content: string; flags: Json } {
  if (typeof value === "string") return { content: value, flags: {} };
  if (!isObject(value) || typeof value.content !== "string")
    throw tokenizerError(path, `${at}: expected a token with its content, got ${show(value)}`);
  for (const key of ["lstrip", "rstrip", "single_word", "normalized", "special"])
    if (value[key] !== undefined && value[key] !== null && typeof value[key] !== "boolean")
      throw tokenizerError(path, `${at}.${key}: expected a boolean, got ${show(value[key])}`);
  return { content: value.content, flags: value };
}

function decoderTokens(path: string, config: Json): Listed[] {
  const listed = config.added_tokens_decoder ?? {};
  if (!isObject(listed)) throw tokenizerError(path, `added_tokens_decoder: expected an object, got ${show(listed)}`);
  return Object.entries(listed)
    .map(([id, value]) => {
      if (!/^\d{1,7}$/.test(id)) throw tokenizerError(path, `added_tokens_decoder: expected ids, got ${show(id)}`);
      const { content, flags } = flagsOf(path, `added_tokens_decoder[${id}]`, value);
      return { content, id: Number(id), flags, special: flags.special === true };
    })
    .sort((a, b) => a.id - b.id);
}

function specialTokens(path: string, source: Json): Listed[] {
  const list: Listed[] = [];
  const add = (at: string, value: unknown) => {
    if (value === undefined || value === null) return;
    const { content, flags } = flagsOf(path, at, value);
    if (content !== "") list.push({ content, id: null, flags, special: true });
  };
  for (const key of named) add(key, source[key]);
  for (const key of ["additional_special_tokens", "extra_special_tokens"]) {
    const value = source[key] ?? [];
    const items = Array.isArray(value) ? value : isObject(value) ? Object.values(value) : [value];
    items.forEach((x, i) => {
      add(`${key}[${i}]`, x);
    });
  }
  return list;
}

/** A file that stands beside the tokenizer, or null. */
export interface Beside {
  path: string;
  json: Json | null;
}

/**
 * The added tokens of a tokenizer with those of the files beside it. Throws TOKENIZER where a file gives a token another id
 * than it has, or a new one an id that is not the next.
 */
export function withListed(
  vocab: ReadonlyMap<string, number>,
  own: readonly AddedToken[],
  files: { config: Beside; map: Beside; added: Beside },
): AddedToken[] {
  const tokens = new Map(own.map((t) => [t.content, t]));
  const ids = new Map([...vocab, ...own.map((t) => [t.content, t.id] as const)]);
  let next = 0;
  for (const id of ids.values()) next = Math.max(next, id + 1);
  const put = (path: string, { content, id, flags, special }: Listed, replace: boolean) => {
    const has = ids.get(content);
    if (id !== null && (has ?? next) !== id)
      throw tokenizerError(
        path,
        `the token ${show(content)}: expected the id ${has ?? next}${has === undefined ? ", the next one," : " that tokenizer.json gives it"}, got ${id}`,
      );
    if (has !== undefined && tokens.has(content) && !replace) return;
    const at = has ?? next++;
    ids.set(content, at);
    tokens.set(content, {
      id: at,
      content,
      special,
      lstrip: flags.lstrip === true,
      rstrip: flags.rstrip === true,
      normalized: (flags.normalized ?? !special) === true,
      singleWord: flags.single_word === true,
    });
  };
  const { config, map, added } = files;
  const decoder = decoderTokens(config.path, config.json ?? {});
  const extra = [...specialTokens(config.path, config.json ?? {}), ...specialTokens(map.path, map.json ?? {})];
  const names = new Set(extra.map((t) => t.content));
  for (const token of decoder) put(config.path, { ...token, special: token.special || names.has(token.content) }, true);
  for (const [content, id] of Object.entries(added.json ?? {}).sort(([, a], [, b]) => Number(a) - Number(b))) {
    if (!Number.isInteger(id) || (id as number) < 0)
      throw tokenizerError(added.path, `${show(content)}: expected an id, got ${show(id)}`);
    put(added.path, { content, id: id as number, flags: {}, special: names.has(content) }, false);
  }
  for (const token of extra) put(config.path, token, false);
  return [...tokens.values()];
}
