// Turns sequences and training items into ids and masks for the engine. The call resolves text and media
// (src/model/inputs.ts).
import type { NativePair, NativeSequence } from "../base/addon.js";
import { array, choice, floats, object, refuse } from "../base/check.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { renamedField } from "../base/renamed.js";
import {
  build,
  type Call,
  contextFits,
  type Expanded,
  expand,
  expandMask,
  fitsContext,
  known,
  messagesOf,
} from "./inputs.js";
import { type AnsweredPrompt, lastBegin, type Repairs } from "../text/answer-span.js";
import { inSlices } from "../text/pausable.js";
import type { Media, Message, ModelInfo, Sequence, TrainItem } from "../base/types.js";

/** A Sequence whose masks do not matter (forward). */
export async function plainSequence(call: Call, field: string, value: unknown): Promise<Expanded> {
  const s = object(field, value);
  return expand(call, field, s.ids, s.media);
}

/** What stands before an answer, and the messages it came from, if it came from words. */
export interface ResolvedPrompt {
  ids: Int32Array;
  messages: readonly Message[] | null;
}

export async function resolvePrompt(
  call: Call,
  field: string,
  prompt: unknown,
  media: unknown,
  words = false, // special tokens in its messages are words
): Promise<ResolvedPrompt> {
  const messages = messagesOf(field, prompt, media);
  if (!messages) return { ids: (await plainSequence(call, field, prompt)).ids, messages: null };
  return { ids: (await build(call, field, messages, { generate: true, words })).ids, messages };
}

function mask(field: string, value: unknown, length: number): Uint8Array {
  if (!(value instanceof Uint8Array) || value.length !== length)
    refuse(field, `a mask over the ids (Uint8Array of ${length})`, value);
  const lossMask = value as Uint8Array;
  if (lossMask[0]) refuse(`${field}[0]`, "0: nothing predicts the first token", lossMask[0]);
  if (!lossMask.some((x) => x !== 0)) refuse(field, "at least one scored token", "a mask of zeros");
  return lossMask;
}

function scoredRows(field: string, value: unknown, e: Expanded, info: ModelInfo): Uint8Array {
  return expandMask(field, mask(field, value, e.starts.length), e, info.vocabSize);
}

/** The mask of a Sequence, as it was given. */
const givenMask = (field: string, s: Readonly<Record<string, unknown>>): unknown =>
  renamedField((name) => key(field, name), s, "scored");

/** A sequence with its mask of scored tokens (logProbs, sides of a pair). */
export async function scoredSequence(call: Call, field: string, value: unknown): Promise<NativeSequence> {
  const s = object(field, value);
  for (const key of ["targets", "weights"])
    if (s[key] !== undefined) refuse(`${field}.${key}`, "nothing (it is for loss 'sft' only)", s[key]);
  const e = await plainSequence(call, field, value);
  contextFits(field, e.ids.length, call.info);
  return { ids: e.ids, scored: scoredRows(`${field}.lossMask`, givenMask(field, s), e, call.info) };
}

/** A sequence for supervised training: a mask, or targets of its own over the expanded rows; optional weights. */
async function supervisedSequence(call: Call, field: string, value: unknown): Promise<NativeSequence> {
  const { info } = call;
  const s = object(field || "item", value);
  const e = await plainSequence(call, field, value);
  const result: NativeSequence = { ids: e.ids };
  const T = e.ids.length;
  contextFits(field || "item", T, info);
  const lossMask = givenMask(field, s);
  if (s.targets === undefined) {
    result.scored = scoredRows(key(field, "lossMask"), lossMask, e, info);
  } else {
    if (lossMask !== undefined) refuse(key(field, "targets"), "nothing beside `lossMask`", s.targets);
    if (!(s.targets instanceof Int32Array) || s.targets.length !== T)
      refuse(key(field, "targets"), `an Int32Array of ${T}`, s.targets);
    const targets = s.targets as Int32Array;
    for (let t = 0; t < T; t++)
      if (targets[t]! < -1 || targets[t]! >= info.vocabSize)
        refuse(`${key(field, "targets")}[${t}]`, `an integer in [-1, ${info.vocabSize})`, targets[t]);
    if (targets.every((t) => t === -1)) refuse(key(field, "targets"), "at least one target", "none");
    result.targets = targets.slice();
  }
  if (s.weights !== undefined) {
    const weights = floats(key(field, "weights"), s.weights, T);
    for (let t = 0; t < T; t++)
      if (weights[t]! < 0) refuse(`${key(field, "weights")}[${t}]`, "a number of at least 0", weights[t]);
    result.weights = weights.slice();
  }
  return result;
}

type AnswerTurns = "last" | "all";
type AnswerArguments = [call: Call, field: string, prompt: ResolvedPrompt, answer: unknown, turns: AnswerTurns];

/** prompt + ids of an answer, the answer scored, and with "all" what the assistant said before. */
async function answeredByIds(...[call, field, prompt, answer, turns]: AnswerArguments): Promise<NativeSequence> {
  const own = (await expand(call, field, answer, undefined, { idsField: field })).ids;
  if (!call.info.endTokenIds.includes(own.at(-1)!)) call.repaired({ endOpen: 1 });
  const sequence = joined(prompt.ids, own);
  contextFits(field, sequence.ids.length, call.info);
  if (turns === "last" || !prompt.messages?.some((m) => m.role === "assistant")) return sequence;
  const { lossMask } = await build(call, field, prompt.messages, { generate: true, turns });
  sequence.scored!.set(lossMask);
  return sequence;
}

function joined(prompt: Int32Array, answer: Int32Array): NativeSequence {
  const ids = new Int32Array(prompt.length + answer.length);
  ids.set(prompt);
  ids.set(answer, prompt.length);
  return { ids, scored: new Uint8Array(ids.length).fill(1, prompt.length) };
}

/** An answer's words behind a prompt of words, as the template holds them, with one end token. `whole`: it must fit. */
async function answerOf(
  call: Call,
  field: string,
  messages: readonly Message[],
  answer: string,
  { turns, whole }: { turns: AnswerTurns; whole: boolean },
): Promise<AnsweredPrompt> {
  const { answerSteps } = await import("../text/answer-span.js");
  const tokenizer = call.tokenizer(field);
  const ends = new Set(call.info.endTokenIds);
  const o = { turns, ends, ...(whole ? { fits: fitsContext(field, call.info) } : {}) };
  const built = await inSlices(answerSteps(tokenizer, call.rules, messages, answer, o), call.signal);
  known(field, tokenizer, built.ids, call.info);
  return built;
}

/** An answer's words behind ids: there is no template to follow, so the text and the end token. `whole`: it must fit. */
async function bareAnswerOf(call: Call, field: string, answer: string, whole: boolean) {
  const tokenizer = call.tokenizer(field);
  if (tokenizer.endId === null)
    throw new IsrDpoError("TOKENIZER", `${field}: the tokenizer names no end token`, {
      hint: "give the answer as ids",
    });
  const { bareAnswer } = await import("../text/answer-span.js");
  const ends = new Set(call.info.endTokenIds);
  const o = { ends, ...(whole ? { fits: fitsContext(field, call.info) } : {}) };
  return inSlices(bareAnswer(tokenizer, answer, o), call.signal);
}

function expandedMask(e: Expanded, lossMask: Uint8Array): Uint8Array {
  const all = new Uint8Array(e.ids.length);
  lossMask.forEach((x, i) => {
    if (x) all[e.starts[i]!] = 1;
  });
  return all;
}

/** answerOf(), as a Sequence holds it. */
export async function answeredWords(
  call: Call,
  field: string,
  messages: readonly Message[],
  answer: string,
  { turns, open = true }: { turns: AnswerTurns; open?: boolean },
): Promise<Expanded & { lossMask: Uint8Array; given: Int32Array; givenMask: Uint8Array; media: readonly Media[] }> {
  const built = await answerOf(call, field, messages, answer, { turns, whole: true });
  call.repaired(built.repairs);
  const e = await expand(call, field, built.ids, built.media, { onePlaceholder: true, open });
  const lossMask = expandedMask(e, built.lossMask);
  return { ...e, lossMask, given: built.ids, givenMask: built.lossMask, media: built.media };
}

/** prompt + answer, the answer scored. */
async function answered(...args: AnswerArguments): Promise<NativeSequence> {
  const [call, field, prompt, answer, turns] = args;
  if (typeof answer !== "string") return answeredByIds(...args);
  if (prompt.messages) {
    const { ids, lossMask } = await answeredWords(call, field, prompt.messages, answer, { turns });
    return { ids, scored: lossMask };
  }
  const bare = await bareAnswerOf(call, field, answer, true);
  call.repaired(bare.repairs);
  const sequence = joined(prompt.ids, bare.ids);
  contextFits(field, sequence.ids.length, call.info);
  return sequence;
}

function label(field: string, id: unknown): string {
  if (id === undefined) return "";
  if (typeof id !== "string") refuse(key(field, "id"), "a string", id);
  return id as string;
}

const scoredCount = (s: NativeSequence): number => s.scored!.reduce((n, x) => n + x, 0);

/** The name of an item's field; an item without a name of its own has fields alone. */
const key = (field: string, name: string): string => (field === "" ? name : `${field}.${name}`);

async function sides(call: Call, field: string, item: Record<string, unknown>) {
  if (item.prompt === undefined)
    return {
      chosen: await scoredSequence(call, key(field, "chosen"), item.chosen),
      rejected: await scoredSequence(call, key(field, "rejected"), item.rejected),
    };
  const prompt = await resolvePrompt(call, key(field, "prompt"), item.prompt, item.media);
  return {
    chosen: await answered(call, key(field, "chosen"), prompt, item.chosen, "last"),
    rejected: await answered(call, key(field, "rejected"), prompt, item.rejected, "last"),
  };
}

async function nativePair(call: Call, field: string, item: Record<string, unknown>): Promise<NativePair> {
  const pair: NativePair = { id: label(field, item.id), ...(await sides(call, field, item)) };
  if (item.reference !== undefined) {
    const reference = object(key(field, "reference"), item.reference);
    const side = (name: "chosen" | "rejected") =>
      floats(`${key(field, "reference")}.${name}`, reference[name], scoredCount(pair[name]));
    pair.refChosen = side("chosen");
    pair.refRejected = side("rejected");
  }
  return pair;
}

type ItemType = "Pair" | "SequencePair" | "Example" | "Sequence";

function itemType(field: string, item: Record<string, unknown>): ItemType {
  if (item.chosen !== undefined || item.rejected !== undefined)
    return item.prompt === undefined ? "SequencePair" : "Pair";
  if (item.prompt !== undefined) return "Example";
  if (item.ids !== undefined) return "Sequence";
  return refuse(field, "a Pair, SequencePair, Example or Sequence", item);
}

/** All at once, so that media are opened side by side; the first item that fails gives the error. */
export async function each<T, R>(items: readonly T[], resolve: (item: T, i: number) => Promise<R>): Promise<R[]> {
  const settled = await Promise.allSettled(items.map(resolve));
  const failed = settled.find((s) => s.status === "rejected");
  if (failed) throw (failed as PromiseRejectedResult).reason;
  return settled.map((s) => (s as PromiseFulfilledResult<R>).value);
}

export async function scoredSequences(call: Call, field: string, value: unknown): Promise<NativeSequence[]> {
  return each(array(field, value), (s, i) => scoredSequence(call, `${field}[${i}]`, s));
}

/** How the items of a call are called in its errors. */
export type Naming = (i: number) => string;
const inList =
  (field: string): Naming =>
  (i) =>
    `${field}[${i}]`;

export async function nativePairs(
  call: Call,
  field: string,
  value: unknown,
  naming: Naming = inList(field),
): Promise<NativePair[]> {
  const items = array(field, value);
  if (items.length === 0) refuse(field, "at least one pair", value);
  return each(items, async (item, i) => {
    const name = naming(i);
    const o = object(name || "item", item);
    const kind = itemType(name || "item", o);
    if (kind !== "Pair" && kind !== "SequencePair") refuse(name || "item", "a Pair or SequencePair", o);
    return nativePair(call, name, o);
  });
}

async function nativeExample(call: Call, field: string, o: Record<string, unknown>): Promise<NativeSequence> {
  const turns = o.turns === undefined ? "all" : choice(key(field, "turns"), o.turns, ["last", "all"]);
  const prompt = await resolvePrompt(call, key(field, "prompt"), o.prompt, o.media);
  return answered(call, key(field, "answer"), prompt, o.answer, turns);
}

/** The items of a step: pairs, or with loss "sft" sequences; one kind a call. */
export async function trainItems(
  call: Call,
  value: unknown,
  supervised: boolean,
  naming: Naming = inList("items"),
): Promise<{ pairs: NativePair[] } | { sequences: NativeSequence[] }> {
  const items = array("items", value);
  if (items.length === 0) refuse("items", "at least one item", value);
  const name = (i: number) => naming(i) || "item";
  const kinds = items.map((item, i) => itemType(name(i), object(name(i), item)));
  const other = kinds.findIndex((kind) => kind !== kinds[0]);
  if (other >= 0)
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `${name(other)}: expected a ${kinds[0]} as the items before it, got a ${kinds[other]}`,
    );
  const isPair = kinds[0] === "Pair" || kinds[0] === "SequencePair";
  if (isPair === supervised)
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `${name(0)}: expected ${supervised ? "an Example or Sequence (loss 'sft')" : "a Pair or SequencePair (a preference loss)"}, got a ${kinds[0]}`,
    );
  if (isPair) return { pairs: await nativePairs(call, "items", value, naming) };
  const sequences = await each(items, async (item, i) => {
    const o = item as Record<string, unknown>;
    return kinds[0] === "Sequence" ? supervisedSequence(call, naming(i), o) : nativeExample(call, naming(i), o);
  });
  return { sequences };
}

export interface FittedItem {
  item: TrainItem;
  /** Lengths of chosen and rejected, or of the one sequence; each includes the prompt. */
  tokens: number[];
  /** Number of scored tokens of all these sequences. */
  scoredTokens: number;
  /** Answers were shortened to fit. */
  cut: boolean;
  /** Both answers of a pair are the same tokens, or the same words: there is nothing to prefer. */
  identical: boolean;
  /** What was put right in its sequences. */
  repairs: Repairs;
}

const sameIds = (a: Int32Array, b: Int32Array): boolean => a.length === b.length && a.every((id, i) => id === b[i]);

function sameWords(call: Call, { chosen, rejected }: Record<string, unknown>): boolean {
  const words = (answer: unknown): string | null => {
    if (typeof answer === "string") return answer.trim();
    const tokenizer = call.tokenizerOrNull;
    const ids = answer instanceof Int32Array || Array.isArray(answer) ? (answer as number[]) : null;
    return tokenizer && ids ? tokenizer.decode(ids, { skipSpecial: true }).trim() : null;
  };
  const [a, b] = [words(chosen), words(rejected)];
  return a !== null && a !== "" && a === b;
}

const scoredOf = (sequence: NativeSequence): number =>
  sequence.scored ? scoredCount(sequence) : sequence.targets!.reduce((n, t) => n + (t >= 0 ? 1 : 0), 0);

/** What is known of an item that fits. */
async function measured(call: Call, item: unknown, supervised: boolean): Promise<Omit<FittedItem, "item" | "cut">> {
  call.repairs = null;
  const native = await trainItems(call, [item], supervised, () => "");
  const { noRepairs } = await import("../text/answer-span.js");
  const repairs = call.repairs ?? noRepairs();
  if ("sequences" in native) {
    const [s] = native.sequences;
    return { tokens: [s!.ids.length], scoredTokens: scoredOf(s!), identical: false, repairs };
  }
  const { chosen, rejected } = native.pairs[0]!;
  return {
    tokens: [chosen.ids.length, rejected.ids.length],
    scoredTokens: scoredOf(chosen) + scoredOf(rejected),
    identical:
      (sameIds(chosen.ids, rejected.ids) && scoredOf(chosen) === scoredOf(rejected)) ||
      sameWords(call, item as Record<string, unknown>),
    repairs,
  };
}

/** The longest beginning of a built sequence that fits; throws CONTEXT_OVERFLOW where that leaves nothing of the answer. */
async function beginning(call: Call, field: string, { ids, lossMask, media }: AnsweredPrompt): Promise<Sequence> {
  const expanded = (length: number) =>
    expand(call, field, ids.subarray(0, length), media, { onePlaceholder: true, open: false });
  const begin = lastBegin(lossMask);
  const before = (await expanded(begin)).ids.length;
  contextFits(field, before + 1, call.info);
  const length = Math.min(ids.length, begin + call.info.contextLength - before);
  const e = await expanded(length);
  const own = lossMask.subarray(0, length);
  const given =
    call.rules.style === "original" // such a family has one placeholder per medium in a Sequence too
      ? { ids: ids.slice(0, length), lossMask: own.slice() }
      : { ids: e.shown, lossMask: expandedMask(e, own) };
  return { ...given, ...(media.length > 0 ? { media } : {}) };
}

interface Shortened {
  item: Record<string, unknown>;
  repairs: Partial<Repairs>;
}

/**
 * Answers as ids behind their prompt, each as long as the context has room for; null where the prompt leaves none. Where an
 * answer shares a token with its prompt, or the prompt is a rendered one, no answer can be cut alone: the item is given as
 * whole sequences.
 */
async function shortened(
  call: Call,
  item: Record<string, unknown>,
  keys: readonly string[],
  turns: AnswerTurns,
): Promise<Shortened | null> {
  const messages = messagesOf("prompt", item.prompt, item.media);
  const built = new Map<string, AnsweredPrompt>();
  for (const key of keys)
    if (messages && typeof item[key] === "string")
      built.set(key, await answerOf(call, key, messages, item[key], { turns, whole: false }));
  const all = [...built.values()].map(({ repairs }) => repairs);
  const repairs = {
    merged: Math.max(0, ...all.map((r) => r.merged)),
    rendered: Math.max(0, ...all.map((r) => r.rendered)),
  };
  const { prompt: _, media: __, turns: ___, answer: ____, ...rest } = item;
  if (repairs.merged + repairs.rendered > 0 && built.size === keys.length) {
    const sequences = await Promise.all(keys.map((key) => beginning(call, key, built.get(key)!)));
    if (keys[0] === "answer") return { item: { ...rest, ...sequences[0]! }, repairs };
    return { item: { ...rest, chosen: sequences[0], rejected: sequences[1] }, repairs };
  }
  const prompt = await resolvePrompt(call, "prompt", item.prompt, item.media);
  const room = call.info.contextLength - prompt.ids.length;
  if (room < 1) return null;
  const cut: Record<string, Int32Array> = {};
  for (const key of keys) {
    const words = built.get(key);
    const answer = item[key];
    const own = async () => (await bareAnswerOf(call, key, answer as string, false)).ids;
    const ids = words ? words.ids.slice(lastBegin(words.lossMask)) : typeof answer === "string" ? await own() : answer;
    const fitting = ArrayBuffer.isView(ids) || Array.isArray(ids) ? (ids as Int32Array).slice(0, room) : ids;
    cut[key] = (await expand(call, key, fitting, undefined, { idsField: key })).ids;
  }
  return { item: { ...item, ...cut }, repairs: {} };
}

/**
 * How an item stands to the model's context, before anything is opened: its faults are thrown, with its fields by their own
 * names, CONTEXT_OVERFLOW among them unless `cut` is allowed and its answers can be shortened. Visual tokens and prompts are
 * never cut. Long texts are cut into tokens in slices, between which the call's signal is heard.
 */
export async function fitItem(call: Call, item: unknown, supervised: boolean, cut: boolean): Promise<FittedItem> {
  call.counting = true;
  try {
    return { item: item as TrainItem, cut: false, ...(await measured(call, item, supervised)) };
  } catch (e) {
    const given = item as Record<string, unknown>;
    if (!cut || !isIsrDpoError(e, "CONTEXT_OVERFLOW") || given.prompt === undefined) throw e;
    const turns = supervised ? ((given.turns ?? "all") as AnswerTurns) : "last";
    const short = await shortened(call, given, supervised ? ["answer"] : ["chosen", "rejected"], turns);
    if (!short) throw e;
    const { repairs, ...facts } = await measured(call, short.item, supervised);
    const all = { ...repairs, ...short.repairs, endOpen: 0 };
    return { item: short.item as unknown as TrainItem, cut: true, ...facts, repairs: all };
  }
}
