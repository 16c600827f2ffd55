// Tokenizers from a checkpoint's files: tokenizer.json (encoded by encoder.ts, decoded by detokenizer.ts) or a SentencePiece
// tokenizer.model. Both have the same interface.
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { path as checkedPath, isObject, type Json, refuse, show } from "../base/check.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { tellRenamed, withOldName } from "../base/renamed.js";
import type { Message, SpecialTokens, TokenIds, Tokenizer, TokenizerOptions } from "../base/types.js";
import { type AddedToken, type Literal, none, TokenFinder } from "./added-tokens.js";
import { applyTemplate, specialTokens } from "./conversation.js";
import { JsonEncoder, longestPiece } from "./encoder.js";
import { clockText, type WallClock, wallClock } from "./template-date.js";
import { stagesOf, type TextStream, textStream } from "./detokenizer.js";
import { limits, parseObject, parseText, readIfThere, requireFolder, tokenizerError } from "./tokenizer-files.js";
import type { Codec, ModelTokenizer } from "./model-tokenizer.js";
import { readSentencePiece } from "./sentencepiece.js";
import { checkTokenizerJson } from "./tokenizer-json.js";
import { withListed } from "./added-token-files.js";
import type { PatternLibrary } from "./pre-tokenizers.js";
import { slowCodec } from "./llama-sentencepiece.js";
import { atOnce, type Steps } from "./pausable.js";
import { compileTemplate, templateFault } from "./chat-template.js";
import { type ChatTemplate, withoutTemplate } from "./template.js";

const wellFormed = (text: string) => (text as string & { toWellFormed(): string }).toWellFormed();

/** Ids that grow in place: an array of them would have to be copied at the end. */
class IdList {
  private ids = new Int32Array(64);
  private length = 0;

  push(part: readonly number[]): void {
    const length = this.length + part.length;
    if (length > this.ids.length) {
      const grown = new Int32Array(Math.max(length, 2 * this.ids.length));
      grown.set(this.ids);
      this.ids = grown;
    }
    this.ids.set(part, this.length);
    this.length = length;
  }

  all(): Int32Array {
    return this.ids.slice(0, this.length);
  }
}

class CodecTokenizer implements ModelTokenizer {
  readonly vocabSize: number;
  readonly bosId: number | null;
  readonly endId: number | null;
  readonly template: ChatTemplate | null;
  readonly templateFault: IsrDpoError | null;
  private readonly reserved: ReadonlySet<number>;
  private readonly finders: { all?: TokenFinder; special?: TokenFinder } = {};

  constructor(
    private readonly path: string,
    private readonly codec: Codec,
    specials: Readonly<Record<string, string>>,
    template: ChatTemplate | IsrDpoError | null,
    readonly templateDate: string,
  ) {
    this.template = template instanceof IsrDpoError ? null : template;
    this.templateFault = template instanceof IsrDpoError ? template : null;
    this.vocabSize = codec.pieces.length;
    this.reserved = new Set([...codec.added].filter((id) => codec.special.has(id) || this.written(id)));
    this.bosId = this.tokenId(specials.bos_token);
    this.endId = this.tokenId(specials.eos_token);
  }

  tokenId(piece: string | undefined): number | null {
    return piece === undefined ? null : (this.codec.ids.get(piece) ?? null);
  }

  piece(id: number): string | null {
    return this.codec.pieces[id] ?? null;
  }

  isSpecial(id: number): boolean {
    return this.codec.special.has(id);
  }

  isReserved(id: number): boolean {
    return this.reserved.has(id);
  }

  /** Whether the template's text holds a token that is no word or blank. */
  private written(id: number): boolean {
    const piece = this.codec.pieces[id]!;
    return /[\p{P}\p{S}]/u.test(piece) && (this.template?.source.includes(piece) ?? false);
  }

  encode(text: string, o: { special?: boolean; specialTokens?: SpecialTokens } = {}): Int32Array {
    if (typeof text !== "string") refuse("text", "a string", text);
    const words = specialTokens("options.specialTokens", o.specialTokens) === "text";
    return atOnce(this.encodeSteps(text, { special: o.special ?? true, literal: words ? [[0, text.length]] : [] }));
  }

  *encodeSteps(
    text: string,
    { special = true, literal = [] }: { special?: boolean; literal?: Literal } = {},
  ): Steps<Int32Array> {
    const ids = new IdList();
    try {
      for (const part of this.codec.encode(wellFormed(text), { special, literal, reserved: this.reserved })) {
        ids.push(part);
        yield;
      }
    } catch (e) {
      if (isIsrDpoError(e)) throw e;
      throw tokenizerError(this.path, `cannot encode ${show(text)}: ${e instanceof Error ? e.message : e}`, e);
    }
    return ids.all();
  }

  fewest(text: string): number {
    return this.codec.longest === null ? 0 : Math.ceil(text.length / this.codec.longest);
  }

  *reservedIn(text: string, { special }: { special: boolean }): Generator<{ from: number; to: number } | null> {
    const kind = special ? "special" : "all";
    this.finders[kind] ??= new TokenFinder(
      [...(special ? this.codec.special : this.reserved)].map((id) => [
        this.codec.pieces[id]!,
        { ...none, id, content: this.codec.pieces[id]! },
      ]),
    );
    for (const found of this.finders[kind].find(text, () => true)) yield found.token === none ? null : found;
  }

  decode(ids: TokenIds, o: { skipSpecial?: boolean } = {}): string {
    if (!(ids instanceof Int32Array) && !Array.isArray(ids)) refuse("ids", "token ids (Int32Array or an array)", ids);
    const { push, end } = this.stream(o);
    const text: string[] = [];
    for (const id of ids) text.push(push(id));
    text.push(end());
    return text.join("");
  }

  stream({ skipSpecial = false }: { skipSpecial?: boolean } = {}): { push(id: number): string; end(): string } {
    const { pieces, special, spoken, stages } = this.codec;
    const stream: TextStream = textStream(stages);
    return {
      push(id) {
        if (!Number.isInteger(id) || id < 0) refuse("id", "a token id (an integer of at least 0)", id);
        const piece = pieces[id]; // ids of a padded vocabulary have no text
        return piece === undefined || (skipSpecial && special.has(id)) ? "" : stream.push(spoken.get(id) ?? piece);
      },
      end: () => stream.end(),
    };
  }

  applyChatTemplate(messages: readonly Message[], o: { generate?: boolean; specialTokens?: SpecialTokens } = {}) {
    const words = specialTokens("options.specialTokens", o.specialTokens) === "text";
    const steps = applyTemplate(this, messages, { generate: o.generate ?? false, addBos: false, words });
    return withOldName(atOnce(steps), "scored");
  }

  apply(...args: Parameters<Tokenizer["apply"]>): ReturnType<Tokenizer["apply"]> {
    tellRenamed("apply");
    return this.applyChatTemplate(...args);
  }
}

/** A token that is found behind the normalizer is decoded as the normalizer writes it. */
function spokenTokens(
  added: readonly AddedToken[],
  normalizer: ((text: string) => string) | null,
): Map<number, string> {
  const spoken = new Map<number, string>();
  for (const { id, content, normalized } of added) {
    const text = normalized && normalizer ? normalizer(content) : content;
    if (text !== content) spoken.set(id, text);
  }
  return spoken;
}

async function jsonCodec(path: string, bytes: Uint8Array, beside: Parameters<typeof withListed>[2]): Promise<Codec> {
  const { json, vocab, added: own, decoder } = checkTokenizerJson(path, parseObject(path, bytes));
  const added = withListed(vocab, own, beside);
  const stages = stagesOf(path, decoder);
  const library = (await import("@huggingface/tokenizers")) as unknown as PatternLibrary;
  let encoder: JsonEncoder;
  let spoken: Map<number, string>;
  try {
    encoder = new JsonEncoder(path, json, vocab, added, library);
    for (const _ of encoder.encode("a b\n1", { special: true, literal: [], reserved: new Set() })); // refused here if it cannot encode
    spoken = spokenTokens(added, encoder.normalize);
  } catch (e) {
    if (isIsrDpoError(e)) throw e;
    throw tokenizerError(path, `not a tokenizer that can be used: ${e instanceof Error ? e.message : e}`, e);
  }
  const ids = new Map(vocab);
  const pieces: (string | undefined)[] = [];
  for (const [piece, id] of vocab) pieces[id] = piece;
  for (const token of added) {
    ids.set(token.content, token.id);
    pieces[token.id] = token.content;
  }
  return {
    pieces,
    ids,
    spoken,
    stages,
    special: new Set(added.filter((token) => token.special).map((token) => token.id)),
    added: new Set(added.map((token) => token.id)),
    longest: longestPiece(json, vocab, added),
    encode: (text, o) => encoder.encode(text, o),
  };
}

const tokenText = (x: unknown) =>
  typeof x === "string" ? x : isObject(x) && typeof x.content === "string" ? x.content : null;

/** The special tokens that the configuration names: bos_token, eos_token, ... */
function namedSpecials(...sources: readonly Json[]): Record<string, string> {
  const named: Record<string, string> = {};
  for (const source of sources)
    for (const [key, value] of Object.entries(source)) {
      const text = /^[a-z]+_token$/.test(key) ? tokenText(value) : null;
      if (text !== null) named[key] ??= text;
    }
  return named;
}

interface FoundTemplate {
  path: string;
  source: string;
  /** Names of templates that stand beside it. */
  others: readonly string[];
}

/** Chooses the default one of several named templates, as transformers does. */
function chosenTemplate(path: string, value: unknown): FoundTemplate {
  if (typeof value === "string") return { path, source: value, others: [] };
  const named = Array.isArray(value)
    ? new Map(value.flatMap((x) => (isObject(x) && typeof x.name === "string" ? [[x.name, x.template] as const] : [])))
    : null;
  const source = named?.get("default");
  if (named && typeof source === "string")
    return { path, source, others: [...named.keys()].filter((name) => name !== "default") };
  const names = named && named.size > 0 ? `templates named ${[...named.keys()].map(show).join(", ")}` : show(value);
  throw templateFault(
    path,
    0,
    `cannot be used: expected a string or one named "default", got ${names}`,
    withoutTemplate,
  );
}

/** The names of templates in files of their own: additional_chat_templates/NAME.jinja. */
async function additionalTemplates(dir: string): Promise<string[]> {
  const entries = await readdir(join(dir, additional)).catch((e: NodeJS.ErrnoException) => {
    if (e.code === "ENOENT" || e.code === "ENOTDIR") return [];
    throw new IsrDpoError("IO", `${join(dir, additional)}: cannot be read (${e.code})`, { path: dir, cause: e });
  });
  return entries
    .filter((name) => name.endsWith(".jinja"))
    .map((name) => name.slice(0, -".jinja".length))
    .sort();
}

const additional = "additional_chat_templates";

/**
 * The source of a chat template and the file it stands in: a file of its own, or a field of a JSON file. Where there is a
 * folder of further templates, the JSON files do not count, as in transformers: the default one must be a file too.
 */
async function findTemplate(dir: string, config: Json): Promise<FoundTemplate | null> {
  const own = join(dir, "chat_template.jinja");
  const names = await additionalTemplates(dir);
  const others = names.filter((name) => name !== "default");
  for (const path of [...(names.length > others.length ? [join(dir, additional, "default.jinja")] : []), own]) {
    const bytes = await readIfThere(path, limits.small);
    if (bytes) return { path, source: parseText(path, bytes), others };
  }
  const processor = join(dir, "chat_template.json");
  const json = await readIfThere(processor, limits.small);
  if (others.length > 0)
    throw templateFault(
      join(dir, additional),
      0,
      `cannot be used: expected chat_template.jinja beside the templates named ${others.map(show).join(", ")}, got none`,
      "put the template that is to be used into chat_template.jinja, or remove the folder",
    );
  const places: [string, unknown][] = [
    [processor, json ? parseObject(processor, json).chat_template : undefined],
    [join(dir, "tokenizer_config.json"), config.chat_template],
  ];
  for (const [path, value] of places) if (value !== undefined && value !== null) return chosenTemplate(path, value);
  return null;
}

const hasTemplate = async (dir: string): Promise<boolean> =>
  (await additionalTemplates(dir)).length > 0 ||
  (await readIfThere(join(dir, "chat_template.jinja"), limits.small)) !== null ||
  (await readIfThere(join(dir, "chat_template.json"), limits.small)) !== null;

/** The template, or why what is there cannot be used: it costs what needs a template, and nothing else. */
async function readTemplate(
  dir: string,
  config: Json,
  specials: Readonly<Record<string, string>>,
  clock: WallClock,
): Promise<ChatTemplate | IsrDpoError | null> {
  try {
    const found = await findTemplate(dir, config);
    return found && { ...compileTemplate(found.path, found.source, specials, clock), others: found.others };
  } catch (e) {
    if (isIsrDpoError(e)) return e;
    throw e;
  }
}

async function optionalObject(path: string): Promise<Json | null> {
  const bytes = await readIfThere(path, limits.small);
  return bytes && parseObject(path, bytes);
}

/**
 * The tokenizer of a folder: tokenizer.json, or else a SentencePiece tokenizer.model; beside it, where they are there,
 * tokenizer_config.json, special_tokens_map.json, added_tokens.json and a chat template (chat_template.jinja,
 * additional_chat_templates/, chat_template.json or a field of tokenizer_config.json). Throws NOT_FOUND without folder or tokenizer, TOKENIZER for
 * files that are malformed or of a kind that is not supported.
 */
export async function loadTokenizer(dir: string, o: TokenizerOptions = {}): Promise<ModelTokenizer> {
  const clock = wallClock("options.templateDate", o.templateDate);
  await requireFolder(checkedPath("dir", dir));
  const file = (name: string) => join(dir, name);
  const json = await readIfThere(file("tokenizer.json"), limits.json);
  const model = json ? null : await readIfThere(file("tokenizer.model"), limits.model);
  if (!json && !model)
    throw new IsrDpoError("NOT_FOUND", `${dir}: expected tokenizer.json or tokenizer.model, got neither`, {
      hint: "copy the tokenizer files of the checkpoint into its folder",
      path: dir,
    });
  const config = await optionalObject(file("tokenizer_config.json"));
  const map = await optionalObject(file("special_tokens_map.json"));
  const specials = namedSpecials(config ?? {}, map ?? {});
  const path = file(json ? "tokenizer.json" : "tokenizer.model");
  let codec: Codec;
  const addedPath = file("added_tokens.json");
  const addedJson = await optionalObject(addedPath);
  if (json)
    codec = await jsonCodec(path, json, {
      config: { path: file("tokenizer_config.json"), json: config },
      map: { path: file("special_tokens_map.json"), json: map },
      added: { path: addedPath, json: addedJson },
    });
  else {
    const read = readSentencePiece(path, model!);
    const bare = !config && !map && !addedJson && !(await hasTemplate(dir));
    codec = slowCodec(path, read, { config: config ?? {}, added: addedJson ?? {}, bare });
    if (read.bosId !== null) specials.bos_token ??= read.pieces[read.bosId]!;
    if (read.eosId !== null) specials.eos_token ??= read.pieces[read.eosId]!;
  }
  const template = await readTemplate(dir, config ?? {}, specials, clock);
  return new CodecTokenizer(path, codec, specials, template, clockText(clock));
}
