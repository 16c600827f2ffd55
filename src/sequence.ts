// Prompts, sequences and training items as the engine takes them: ids and masks. What needs words (strings, messages) is
// refused with TOKENIZER, what needs eyes (media) with INVALID_ARGUMENT: text models have neither here.
import type { NativePair, NativeSequence } from "./addon.js";
import { array, floats, ids, object, refuse } from "./check.js";
import { IsrDpoError } from "./errors.js";
import type { ModelInfo } from "./types.js";

export function tokenizerError(what: string): IsrDpoError {
  return new IsrDpoError("TOKENIZER", `${what}: this version takes token ids, not text`, {
    hint: "give a Sequence: { ids: Int32Array }",
  });
}

export function noMedia(field: string, info: ModelInfo): IsrDpoError {
  return new IsrDpoError("INVALID_ARGUMENT", `${field}: ${info.family} is a text model and takes no media`, {
    hint: "leave media out, or load a video model",
    detail: { field },
  });
}

function refuseMedia(field: string, value: unknown, info: ModelInfo): void {
  if (value === undefined) return;
  if (array(field, value).length > 0) throw noMedia(field, info);
}

/** The ids of a sequence: at least one, inside the vocabulary and the context window. */
function checkedIds(field: string, value: unknown, info: ModelInfo): Int32Array {
  const checked = ids(field, value, info.vocabSize);
  if (checked.length === 0) refuse(field, "at least one token id", value);
  contextFits(field, checked.length, info);
  return checked;
}

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

/** Ids of a Sequence whose masks do not matter (forward). */
export function plainIds(field: string, value: unknown, info: ModelInfo): Int32Array {
  const s = object(field, value);
  refuseMedia(`${field}.media`, s.media, info);
  return checkedIds(`${field}.ids`, s.ids, info);
}

/** Ids of a prompt; `media` is what stands beside it. */
export function promptIds(field: string, prompt: unknown, media: unknown, info: ModelInfo): Int32Array {
  if (typeof prompt === "string" || Array.isArray(prompt)) throw tokenizerError(field);
  const result = plainIds(field, prompt, info);
  if (media !== undefined)
    throw new IsrDpoError("INVALID_ARGUMENT", `${field}: media beside a prompt goes with a string prompt only`, {
      detail: { field },
    });
  return result;
}

function mask(field: string, value: unknown, length: number): Uint8Array {
  if (!(value instanceof Uint8Array) || value.length !== length)
    refuse(field, `a mask over the ids (Uint8Array of ${length})`, value);
  const scored = value as Uint8Array;
  if (scored[0]) refuse(`${field}[0]`, "0: nothing predicts the first token", scored[0]);
  if (!scored.some((x) => x !== 0)) refuse(field, "at least one scored token", "a mask of zeros");
  return Uint8Array.from(scored, (x) => (x ? 1 : 0));
}

/** A sequence with its mask of scored tokens (logProbs, sides of a pair). */
export function scoredSequence(field: string, value: unknown, info: ModelInfo): NativeSequence {
  const s = object(field, value);
  const sequence = plainIds(field, value, info);
  for (const key of ["targets", "weights"])
    if (s[key] !== undefined) refuse(`${field}.${key}`, "nothing (it is for loss 'sft' only)", s[key]);
  return { ids: sequence, scored: mask(`${field}.scored`, s.scored, sequence.length) };
}

/** A sequence for supervised training: a mask, or targets of its own; optional weights. */
function supervisedSequence(field: string, value: unknown, info: ModelInfo): NativeSequence {
  const s = object(field, value);
  const result: NativeSequence = { ids: plainIds(field, value, info) };
  const T = result.ids.length;
  if (s.targets === undefined) {
    result.scored = mask(`${field}.scored`, s.scored, T);
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

/** prompt + answer, the answer scored. */
function answered(field: string, prompt: Int32Array, answer: unknown, info: ModelInfo): NativeSequence {
  if (typeof answer === "string") throw tokenizerError(field);
  const tokens = checkedIds(field, answer, info);
  contextFits(field, prompt.length + tokens.length, info);
  const all = new Int32Array(prompt.length + tokens.length);
  all.set(prompt);
  all.set(tokens, prompt.length);
  return { ids: all, scored: new Uint8Array(all.length).fill(1, prompt.length) };
}

function label(field: string, id: unknown): string {
  if (id === undefined) return "";
  if (typeof id !== "string") refuse(`${field}.id`, "a string", id);
  return id as string;
}

const scoredCount = (s: NativeSequence): number => s.scored!.reduce((n, x) => n + x, 0);

function nativePair(field: string, item: Record<string, unknown>, info: ModelInfo): NativePair {
  const pair: NativePair =
    item.prompt === undefined
      ? {
          id: label(field, item.id),
          chosen: scoredSequence(`${field}.chosen`, item.chosen, info),
          rejected: scoredSequence(`${field}.rejected`, item.rejected, info),
        }
      : (() => {
          const prompt = promptIds(`${field}.prompt`, item.prompt, item.media, info);
          const side = (key: "chosen" | "rejected") => answered(`${field}.${key}`, prompt, item[key], info);
          return { id: label(field, item.id), chosen: side("chosen"), rejected: side("rejected") };
        })();
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

export function nativePairs(field: string, value: unknown, info: ModelInfo): NativePair[] {
  const items = array(field, value);
  if (items.length === 0) refuse(field, "at least one pair", value);
  return items.map((item, i) => {
    const o = object(`${field}[${i}]`, item);
    const kind = kindOf(`${field}[${i}]`, o);
    if (kind !== "Pair" && kind !== "SequencePair") refuse(`${field}[${i}]`, "a Pair or SequencePair", o);
    return nativePair(`${field}[${i}]`, o, info);
  });
}

/** The items of a step: pairs, or with loss "sft" sequences; one kind a call. */
export function trainItems(
  value: unknown,
  supervised: boolean,
  info: ModelInfo,
): { pairs: NativePair[] } | { sequences: NativeSequence[] } {
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
  if (isPair) return { pairs: nativePairs("items", value, info) };
  const sequences = items.map((item, i) => {
    const field = `items[${i}]`;
    const o = item as Record<string, unknown>;
    if (kinds[0] === "Sequence") return supervisedSequence(field, o, info);
    return answered(`${field}.answer`, promptIds(`${field}.prompt`, o.prompt, o.media, info), o.answer, info);
  });
  return { sequences };
}
