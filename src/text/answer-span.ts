// The span of an answer after its prompt in a template: where it begins, where it ends, and whether generation stops there. A
// sequence that ends where generation never stops would teach a model never to end.
import { IsrDpoError } from "../base/errors.js";
import type { Media, Message } from "../base/types.js";
import { sharedLength, type Turns } from "./conversation.js";
import { type PlaceholderRules, promptSteps } from "./media-prompt.js";
import { atOnce, type Steps } from "./pausable.js";
import type { ModelTokenizer } from "./model-tokenizer.js";
import { vicunaEnd } from "./vicuna-prompt.js";

/** Corrections in a row; each is 0 or 1 per sequence. */
export interface Repairs {
  /** No end token stood behind the answer: one was added. */
  endAdded: number;
  /** Behind the end token stood more of them: they are not scored. */
  endDoubled: number;
  /** The prompt held the template's own tokens: it was taken as it stands. */
  rendered: number;
  /** Prompt and answer share a token: it counts as the answer's. */
  merged: number;
  /** The answer was given as ids that do not end with an end token: they were left so. */
  endOpen: number;
}

/** What is told of them: the code of a warning, and its words for a number of rows. */
export const repairTexts: Readonly<Record<keyof Repairs, readonly [code: string, words: string]>> = {
  endAdded: ["END_ADDED", "answers had no end token behind them: one was added, so that the model learns to stop"],
  endDoubled: ["END_DOUBLED", "answers had more than one end token: the first is scored, what stands behind it is not"],
  rendered: [
    "PROMPT_RENDERED",
    "prompts hold the chat template's own tokens: they were taken as they stand, not rendered again",
  ],
  merged: ["BORDER_MERGED", "answers share their first token with the end of the prompt: it is scored as the answer's"],
  endOpen: ["END_OPEN", "answers given as ids do not end with an end token: they were left as they are"],
};

export const noRepairs = (): Repairs => ({ endAdded: 0, endDoubled: 0, rendered: 0, merged: 0, endOpen: 0 });

/** Throws for a text that cannot fit, by the fewest tokens that it can be. */
type Fits = ((fewest: number) => void) | undefined;

export interface AnsweredPrompt {
  /** With placeholders; they end with the last scored token. */
  ids: Int32Array;
  lossMask: Uint8Array;
  media: Media[];
  repairs: Repairs;
}

/** What a template writes around words. */
export interface TemplateShape {
  /** The end of what stands before the first user's words: "<|im_start|>user", "USER:". */
  opens: string;
  /** What stands between the user's words and the answer. */
  between: string;
  /** What stands behind an answer. */
  tail: string;
  /** The first special token of the tail; null: none. */
  end: number | null;
  /** Special tokens of a rendered conversation. */
  marks: readonly string[];
  /** Whether a rendered text begins with the bos token. */
  bos: boolean;
}

const [question, reply] = ["qprobe5d1c", "aprobe5d1c"];
const shapes = new WeakMap<ModelTokenizer, TemplateShape | null>();

const lastLine = (text: string): string => text.trimEnd().split("\n").at(-1)!.trim();

/** Whether a token ends an answer, by what the tokenizer says of it. */
const mayEnd = (t: ModelTokenizer, id: number): boolean => id === t.endId || (t.isSpecial(id) && id !== t.bosId);

function shapeOf(t: ModelTokenizer): TemplateShape | null {
  if (!t.template) return null;
  try {
    const user: Message = { role: "user", content: question };
    const asked = t.template.render([user], { generate: true });
    const whole = t.template.render([user, { role: "assistant", content: reply }], { generate: false });
    const [at, answer] = [asked.indexOf(question), whole.lastIndexOf(reply)];
    if (at < 0 || answer < 0) return null;
    const bosText = t.bosId === null ? null : t.piece(t.bosId);
    const bos = bosText !== null && asked.startsWith(bosText);
    const tail = whole.slice(answer + reply.length);
    const end = t.encode(tail, { special: false }).find((id) => mayEnd(t, id)) ?? null;
    const marks = new Set(t.encode(whole, { special: false }).filter((id) => t.isSpecial(id)));
    return {
      opens: lastLine(asked.slice(bos ? bosText.length : 0, at)),
      between: asked.slice(at + question.length),
      tail,
      end,
      marks: [...marks].map((id) => t.piece(id)!),
      bos,
    };
  } catch {
    return null; // a template of its own kind: nothing is known of it
  }
}

function vicunaShape(t: ModelTokenizer): TemplateShape {
  const marks = [t.bosId, t.tokenId(vicunaEnd)].flatMap((id) => (id === null ? [] : [t.piece(id)!]));
  const end = t.tokenId(vicunaEnd);
  return { opens: "USER:", between: " ASSISTANT:", tail: vicunaEnd, end, marks, bos: false };
}

/** null where the template cannot be told by a conversation of two turns. */
export function templateShape(t: ModelTokenizer, style: PlaceholderRules["style"]): TemplateShape | null {
  if (style === "original") return vicunaShape(t);
  if (!shapes.has(t)) shapes.set(t, shapeOf(t));
  return shapes.get(t)!;
}

function markedPrompt(token: string): IsrDpoError {
  return new IsrDpoError("DATA_INVALID", `prompt: expected words, got text that holds ${token} of the chat template`, {
    hint: "give the question's words alone, messages, or the whole text as the template renders it, up to where the answer begins",
    detail: { field: "prompt" },
  });
}

/**
 * Whether a prompt of one user turn is a conversation that the template has rendered already, up to where the answer begins.
 * DATA_INVALID where it holds the template's tokens and is none, or has media beside it.
 */
function isRendered(shape: TemplateShape | null, messages: readonly Message[]): boolean {
  if (!shape || messages.length !== 1 || messages[0]!.role !== "user") return false;
  const { content } = messages[0]!;
  const parts = typeof content === "string" ? [{ type: "text" as const, text: content }] : content;
  const text = parts.map((p) => (p.type === "text" ? p.text : "")).join("");
  const mark = shape.marks.find((m) => text.includes(m));
  const [between, special] = [shape.between.trim(), shape.marks.some((m) => shape.between.includes(m))];
  const opened = shape.opens !== "" ? text.includes(shape.opens) : special;
  const whole = between !== "" && opened && text.trimEnd().endsWith(between);
  if (parts.some((p) => p.type !== "text")) {
    if (whole || mark !== undefined) throw markedPrompt(mark ?? JSON.stringify(between));
    return false;
  }
  if (!whole && mark !== undefined) throw markedPrompt(mark);
  return whole;
}

/** A rendered prompt and the answer as they stand, as TRL takes its plain form. */
function* asRendered(
  t: ModelTokenizer,
  rules: PlaceholderRules,
  shape: TemplateShape,
  { prompt, answer, fits }: { prompt: string; answer: string; fits: Fits },
): Steps<Omit<AnsweredPrompt, "repairs"> & { merged: number }> {
  const bosText = t.bosId === null ? null : t.piece(t.bosId);
  const begun = bosText !== null && prompt.startsWith(bosText);
  const text = shape.bos && !begun ? `${bosText}${prompt}` : prompt;
  const special = rules.style !== "none" && !begun && !shape.bos;
  fits?.(t.fewest(text + answer));
  const ids = yield* t.encodeSteps(text + answer, { special });
  const before = yield* t.encodeSteps(text, { special });
  const from = Math.max(1, sharedLength(ids, before));
  return { ids, lossMask: new Uint8Array(ids.length).fill(1, from), media: [], merged: from < before.length ? 1 : 0 };
}

interface Marked {
  ids: Int32Array;
  lossMask: Uint8Array;
}

/** The first words among ids, without the blanks around them: enough of them to be shown. */
function firstWords(t: ModelTokenizer, ids: Int32Array): string {
  const stream = t.stream();
  let text = "";
  for (const id of ids) {
    text = `${text}${stream.push(id)}`.trimStart();
    if (text.length > 240) return text;
  }
  return `${text}${stream.end()}`.trim();
}

/**
 * The scored part of each turn up to its first end token. Behind it may stand blanks and more end tokens, which are not
 * scored; words there would be learned as what follows an end: DATA_INVALID. Gives how many turns were cut.
 */
function cutAtEnds(t: ModelTokenizer, ends: ReadonlySet<number>, { ids, lossMask }: Marked): number {
  let cut = 0;
  for (let i = 0; i < ids.length; i++) {
    if (!lossMask[i] || !ends.has(ids[i]!)) continue;
    const behind = i + 1;
    for (; i + 1 < ids.length && lossMask[i + 1]; i++) lossMask[i + 1] = 0;
    const rest = ids.subarray(behind, i + 1);
    if (rest.length === 0) continue;
    const words = firstWords(
      t,
      rest.filter((id) => !t.isSpecial(id) && !ends.has(id)),
    );
    if (words !== "")
      throw new IsrDpoError(
        "DATA_INVALID",
        `answer: expected an end token at its end, got ${t.piece(ids[behind - 1]!)} before ${JSON.stringify(words.slice(0, 60))}`,
        { hint: "write the end token out of the answer's text", detail: { field: "answer" } },
      );
    cut = 1;
  }
  return cut;
}

const upTo = ({ ids, lossMask }: Marked): Marked => {
  const length = lossMask.lastIndexOf(1) + 1;
  return { ids: ids.slice(0, length), lossMask: lossMask.slice(0, length) };
};

/** The marked ids with an end token, which the template does not write: what it writes behind an answer is left out. */
function* withEnd(
  t: ModelTokenizer,
  ends: ReadonlySet<number>,
  shape: TemplateShape | null,
  text: string | null,
  marked: Marked,
): Steps<Marked> {
  const end = t.endId !== null && ends.has(t.endId) ? t.endId : [...ends][0];
  if (end === undefined)
    throw new IsrDpoError("DATA_INVALID", "answer: expected a model with an end token, got one without", {
      hint: "name eos_token_id in config.json, or give the answer as ids",
      detail: { field: "answer" },
    });
  const from = marked.lossMask.lastIndexOf(1) + 1;
  let body = marked.ids.subarray(0, from);
  const foreign = t.isSpecial(body.at(-1)!); // another special token: it stays, and the end behind it
  if (text !== null && !foreign) {
    const tail = shape?.tail ?? "";
    const bare = tail.trim() !== "" && text.endsWith(tail) ? text.slice(0, text.length - tail.length) : text.trimEnd();
    const bos = t.bosId !== null && marked.ids[0] === t.bosId && !bare.startsWith(t.piece(t.bosId)!);
    const again = yield* t.encodeSteps(bare, { special: bos });
    const begin = lastBegin(marked.lossMask);
    if (sharedLength(again, marked.ids) >= begin) body = again;
  }
  const ids = Int32Array.from([...body, end]);
  const lossMask = new Uint8Array(ids.length);
  lossMask.set(marked.lossMask.subarray(0, Math.min(marked.lossMask.length, ids.length)));
  lossMask.fill(1, lastBegin(marked.lossMask));
  return { ids, lossMask };
}

/** Where the last run of scored tokens begins. */
export function lastBegin(lossMask: Uint8Array): number {
  let at = lossMask.lastIndexOf(1);
  while (at > 0 && lossMask[at - 1]) at--;
  return at;
}

function checkScored(lossMask: Uint8Array): void {
  if (lossMask.includes(1)) return;
  throw new IsrDpoError("DATA_INVALID", "answer: expected an answer with a token of its own, got none", {
    hint: "the template leaves the answer out: look at the row",
    detail: { field: "answer" },
  });
}

export interface AnswerOptions {
  turns: Exclude<Turns, "none">;
  /** Where generation stops. */
  ends: ReadonlySet<number>;
  fits?: Fits;
}

/**
 * The ids of `messages` (which end with a user turn) and an answer of words, with exactly one end token, and the mask of what
 * the assistant says: in the last turn, or in all. A prompt that the template has rendered already is taken as it stands.
 * Throws DATA_INVALID for what cannot be put right, what buildPrompt throws, and what `fits` throws before any text is cut
 * into tokens.
 */
export function* answerSteps(
  tokenizer: ModelTokenizer,
  rules: PlaceholderRules,
  messages: readonly Message[],
  answer: string,
  { turns, ends, fits }: AnswerOptions,
): Steps<AnsweredPrompt> {
  const repairs = noRepairs();
  const shape = templateShape(tokenizer, rules.style);
  let built: Marked & { media: Media[]; text: string | null };
  if (shape && isRendered(shape, messages)) {
    const content = messages[0]!.content;
    const prompt =
      typeof content === "string" ? content : content.map((p) => (p.type === "text" ? p.text : "")).join("");
    const { merged, ...taken } = yield* asRendered(tokenizer, rules, shape, { prompt, answer, fits });
    Object.assign(repairs, { rendered: 1, merged });
    built = { ...taken, text: null };
  } else {
    const whole = [...messages, { role: "assistant" as const, content: answer }];
    const o = { generate: false, turns, ...(fits ? { fits } : {}) };
    const { ids, media, text, marking } = yield* promptSteps(tokenizer, rules, whole, o);
    const { lossMask, merged } = yield* marking();
    repairs.merged = merged > 0 ? 1 : 0;
    built = { ids, lossMask, media, text: rules.style === "original" ? null : text };
  }
  checkScored(built.lossMask);
  repairs.endDoubled = cutAtEnds(tokenizer, ends, built);
  let marked = upTo(built);
  if (!ends.has(marked.ids.at(-1)!)) {
    const rendered = repairs.rendered > 0;
    const own = rendered && shape!.end !== null && ends.has(shape!.end) ? new Set([shape!.end]) : ends;
    marked = yield* withEnd(tokenizer, own, shape, built.text, marked);
    if (!rendered) repairs.endAdded = 1;
  }
  return { ...marked, media: built.media, repairs };
}

/** answerSteps() at once. */
export function answeredPrompt(
  tokenizer: ModelTokenizer,
  rules: PlaceholderRules,
  messages: readonly Message[],
  answer: string,
  o: AnswerOptions,
): AnsweredPrompt {
  return atOnce(answerSteps(tokenizer, rules, messages, answer, o));
}

/** Ids of an answer behind a prompt of ids: there is no template to follow, so the text and one end token. */
export function* bareAnswer(
  tokenizer: ModelTokenizer,
  answer: string,
  { ends, fits }: { ends: ReadonlySet<number>; fits?: Fits },
): Steps<{ ids: Int32Array; repairs: Repairs }> {
  fits?.(tokenizer.fewest(answer));
  const text = yield* tokenizer.encodeSteps(answer, { special: false });
  const marked = {
    ids: Int32Array.from([...text, tokenizer.endId!]),
    lossMask: new Uint8Array(text.length + 1).fill(1),
  };
  const all = ends.has(tokenizer.endId!) ? ends : new Set([...ends, tokenizer.endId!]);
  const endDoubled = cutAtEnds(tokenizer, all, marked);
  return { ids: upTo(marked).ids, repairs: { ...noRepairs(), endDoubled } };
}
