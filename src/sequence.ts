// Sequences and training items as the engine takes them: ids and masks. What holds words or media is resolved by the call
// (src/inputs.ts).
import type { NativePair, NativeSequence } from "./addon.js";
import { array, floats, object, refuse } from "./check.js";
import { IsrDpoError, isIsrDpoError } from "./errors.js";
import { build, type Call, type Expanded, expand, expandMask, messagesOf } from "./inputs.js";
import type { Message, ModelInfo, TrainItem } from "./types.js";

function contextFits(field: string, length: number, info: ModelInfo): void {
  if (length <= info.contextLength) return;
  throw new IsrDpoError(
    "CONTEXT_OVERFLOW",
    `${field}: ${length} tokens do not fit into the context of ${info.contextLength}`,
    {
      hint: "shorten the sequence",
      detail: { field, tokens: length, contextLength: info.contextLength },
    },
  );
}

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
): Promise<ResolvedPrompt> {
  const messages = messagesOf(field, prompt, media);
  if (!messages) return { ids: (await plainSequence(call, field, prompt)).ids, messages: null };
  return { ids: (await build(call, field, messages, { generate: true })).ids, messages };
}

function mask(field: string, value: unknown, length: number): Uint8Array {
  if (!(value instanceof Uint8Array) || value.length !== length)
    refuse(field, `a mask over the ids (Uint8Array of ${length})`, value);
  const scored = value as Uint8Array;
  if (scored[0]) refuse(`${field}[0]`, "0: nothing predicts the first token", scored[0]);
  if (!scored.some((x) => x !== 0)) refuse(field, "at least one scored token", "a mask of zeros");
  return scored;
}

function scoredRows(field: string, value: unknown, e: Expanded, info: ModelInfo): Uint8Array {
  return expandMask(field, mask(field, value, e.starts.length), e, info.vocabSize);
}

/** A sequence with its mask of scored tokens (logProbs, sides of a pair). */
export async function scoredSequence(call: Call, field: string, value: unknown): Promise<NativeSequence> {
  const s = object(field, value);
  for (const key of ["targets", "weights"])
    if (s[key] !== undefined) refuse(`${field}.${key}`, "nothing (it is for loss 'sft' only)", s[key]);
  const e = await plainSequence(call, field, value);
  contextFits(field, e.ids.length, call.info);
  return { ids: e.ids, scored: scoredRows(`${field}.scored`, s.scored, e, call.info) };
}

/** A sequence for supervised training: a mask, or targets of its own over the expanded rows; optional weights. */
async function supervisedSequence(call: Call, field: string, value: unknown): Promise<NativeSequence> {
  const { info } = call;
  const s = object(field, value);
  const e = await plainSequence(call, field, value);
  const result: NativeSequence = { ids: e.ids };
  const T = e.ids.length;
  contextFits(field, T, info);
  if (s.targets === undefined) {
    result.scored = scoredRows(`${field}.scored`, s.scored, e, info);
  } else {
    if (s.scored !== undefined) refuse(`${field}.targets`, "nothing beside `scored`", s.targets);
    if (!(s.targets instanceof Int32Array) || s.targets.length !== T)
      refuse(`${field}.targets`, `an Int32Array of ${T}`, s.targets);
    const targets = s.targets as Int32Array;
    for (let t = 0; t < T; t++)
      if (targets[t]! < -1 || targets[t]! >= info.vocabSize)
        refuse(`${field}.targets[${t}]`, `an integer in [-1, ${info.vocabSize})`, targets[t]);
    if (targets.every((t) => t === -1)) refuse(`${field}.targets`, "at least one target", "none");
    result.targets = targets.slice();
  }
  if (s.weights !== undefined) {
    const weights = floats(`${field}.weights`, s.weights, T);
    for (let t = 0; t < T; t++)
      if (weights[t]! < 0) refuse(`${field}.weights[${t}]`, "a number of at least 0", weights[t]);
    result.weights = weights.slice();
  }
  return result;
}

/** Ids of an answer: as they are, or of a text as the template holds it, with its end token. */
async function answerTokens(call: Call, field: string, prompt: ResolvedPrompt, answer: unknown): Promise<Int32Array> {
  if (typeof answer !== "string") return (await expand(call, field, answer, undefined, { idsField: field })).ids;
  if (prompt.messages) {
    const { answerIds } = await import("./text/prompt.js");
    return answerIds(call.tokenizer(field), call.rules, prompt.messages, answer);
  }
  const tokenizer = call.tokenizer(field); // behind ids there is no template to follow: the text and the end token
  if (tokenizer.endId === null)
    throw new IsrDpoError("TOKENIZER", `${field}: the tokenizer names no end token`, {
      hint: "give the answer as ids",
    });
  return Int32Array.from([...tokenizer.encode(answer, { special: false }), tokenizer.endId]);
}

/** prompt + answer, the answer scored. */
async function answered(call: Call, field: string, prompt: ResolvedPrompt, answer: unknown): Promise<NativeSequence> {
  const tokens = await answerTokens(call, field, prompt, answer);
  contextFits(field, prompt.ids.length + tokens.length, call.info);
  const all = new Int32Array(prompt.ids.length + tokens.length);
  all.set(prompt.ids);
  all.set(tokens, prompt.ids.length);
  return { ids: all, scored: new Uint8Array(all.length).fill(1, prompt.ids.length) };
}

function label(field: string, id: unknown): string {
  if (id === undefined) return "";
  if (typeof id !== "string") refuse(`${field}.id`, "a string", id);
  return id as string;
}

const scoredCount = (s: NativeSequence): number => s.scored!.reduce((n, x) => n + x, 0);

async function sides(call: Call, field: string, item: Record<string, unknown>) {
  if (item.prompt === undefined)
    return {
      chosen: await scoredSequence(call, `${field}.chosen`, item.chosen),
      rejected: await scoredSequence(call, `${field}.rejected`, item.rejected),
    };
  const prompt = await resolvePrompt(call, `${field}.prompt`, item.prompt, item.media);
  return {
    chosen: await answered(call, `${field}.chosen`, prompt, item.chosen),
    rejected: await answered(call, `${field}.rejected`, prompt, item.rejected),
  };
}

async function nativePair(call: Call, field: string, item: Record<string, unknown>): Promise<NativePair> {
  const pair: NativePair = { id: label(field, item.id), ...(await sides(call, field, item)) };
  if (item.reference !== undefined) {
    const reference = object(`${field}.reference`, item.reference);
    const side = (key: "chosen" | "rejected") =>
      floats(`${field}.reference.${key}`, reference[key], scoredCount(pair[key])).slice();
    pair.refChosen = side("chosen");
    pair.refRejected = side("rejected");
  }
  return pair;
}

type Kind = "Pair" | "SequencePair" | "Example" | "Sequence";

function kindOf(field: string, item: Record<string, unknown>): Kind {
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

export async function nativePairs(call: Call, field: string, value: unknown): Promise<NativePair[]> {
  const items = array(field, value);
  if (items.length === 0) refuse(field, "at least one pair", value);
  return each(items, async (item, i) => {
    const o = object(`${field}[${i}]`, item);
    const kind = kindOf(`${field}[${i}]`, o);
    if (kind !== "Pair" && kind !== "SequencePair") refuse(`${field}[${i}]`, "a Pair or SequencePair", o);
    return nativePair(call, `${field}[${i}]`, o);
  });
}

/** The items of a step: pairs, or with loss "sft" sequences; one kind a call. */
export async function trainItems(
  call: Call,
  value: unknown,
  supervised: boolean,
): Promise<{ pairs: NativePair[] } | { sequences: NativeSequence[] }> {
  const items = array("items", value);
  if (items.length === 0) refuse("items", "at least one item", value);
  const kinds = items.map((item, i) => kindOf(`items[${i}]`, object(`items[${i}]`, item)));
  const other = kinds.findIndex((kind) => kind !== kinds[0]);
  if (other >= 0)
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `items[${other}]: expected a ${kinds[0]} as the items before it but received a ${kinds[other]}`,
    );
  const isPair = kinds[0] === "Pair" || kinds[0] === "SequencePair";
  if (isPair === supervised)
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `items[0]: expected ${supervised ? "an Example or Sequence (loss 'sft')" : "a Pair or SequencePair (a preference loss)"} but received a ${kinds[0]}`,
    );
  if (isPair) return { pairs: await nativePairs(call, "items", value) };
  const sequences = await each(items, async (item, i) => {
    const field = `items[${i}]`;
    const o = item as Record<string, unknown>;
    if (kinds[0] === "Sequence") return supervisedSequence(call, field, o);
    const prompt = await resolvePrompt(call, `${field}.prompt`, o.prompt, o.media);
    return answered(call, `${field}.answer`, prompt, o.answer);
  });
  return { sequences };
}

export interface FittedItem {
  item: TrainItem;
  /** Of chosen and rejected, or of the one sequence, prompt included. */
  tokens: number[];
  /** Answers were shortened to fit. */
  cut: boolean;
}

/** Answers behind a prompt, each as long as the context has room for; null where the prompt leaves none. */
async function shortened(call: Call, field: string, item: Record<string, unknown>, keys: readonly string[]) {
  const prompt = await resolvePrompt(call, `${field}.prompt`, item.prompt, item.media);
  const room = call.info.contextLength - prompt.ids.length;
  if (room < 1) return null;
  const ids = await Promise.all(keys.map((key) => answerTokens(call, `${field}.${key}`, prompt, item[key])));
  const cut = ids.map((x) => x.slice(0, room));
  return {
    item: { ...item, ...Object.fromEntries(keys.map((key, i) => [key, cut[i]])) } as unknown as TrainItem,
    tokens: cut.map((x) => prompt.ids.length + x.length),
    cut: true,
  };
}

/**
 * How an item stands to the model's context, before anything is opened: its faults are thrown, CONTEXT_OVERFLOW among them
 * unless `cut` is allowed and its answers can be shortened. Visual tokens and prompts are never cut.
 */
export async function fitItem(call: Call, item: unknown, supervised: boolean, cut: boolean) {
  call.counting = true;
  try {
    const native = await trainItems(call, [item], supervised);
    const tokens =
      "pairs" in native
        ? [native.pairs[0]!.chosen.ids.length, native.pairs[0]!.rejected.ids.length]
        : [native.sequences[0]!.ids.length];
    return { item: item as TrainItem, tokens, cut: false } satisfies FittedItem;
  } catch (e) {
    const given = item as Record<string, unknown>;
    if (!cut || !isIsrDpoError(e, "CONTEXT_OVERFLOW") || given.prompt === undefined) throw e;
    const keys = supervised ? ["answer"] : ["chosen", "rejected"];
    const fitted = await shortened(call, "items[0]", given, keys);
    if (!fitted) throw e;
    return fitted satisfies FittedItem;
  }
}
