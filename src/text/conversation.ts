// Turns conversations into token ids by the checkpoint's chat template, and finds the ids that the assistant said.
import { array, choice, object, refuse, text as string } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";
import type { Message, SpecialTokens } from "../base/types.js";
import type { Literal } from "./added-tokens.js";
import { atOnce, type Steps } from "./pausable.js";
import { type ChatTemplate, withoutTemplate } from "./template.js";
import type { ModelTokenizer } from "./model-tokenizer.js";

const roles = ["system", "user", "assistant"] as const;

/** Messages from outside: roles, and contents that are a string or parts. */
export function checkedMessages(field: string, value: unknown): readonly Message[] {
  const messages = array(field, value);
  if (messages.length === 0) refuse(field, "at least one message", value);
  messages.forEach((given, i) => {
    const m = object(`${field}[${i}]`, given);
    choice(`${field}[${i}].role`, m.role, roles);
    if (typeof m.content === "string") return;
    if (!Array.isArray(m.content)) refuse(`${field}[${i}].content`, "a string or an array of parts", m.content);
    (m.content as unknown[]).forEach((part, k) => {
      const at = `${field}[${i}].content[${k}]`;
      const p = object(at, part);
      if (choice(`${at}.type`, p.type, ["text", "video", "image"]) === "text") string(`${at}.text`, p.text);
      else if (p.media === undefined || p.media === null)
        refuse(`${at}.media`, "a path, frames, pixels or features", p.media);
    });
  });
  return messages as readonly Message[];
}

function disagreement(what: string): IsrDpoError {
  return new IsrDpoError("TOKENIZER", `${what}: the assistant's tokens cannot be told from the others`, {
    hint: 'score the last turn alone (turns: "last"), or give a Sequence with ids and a lossMask instead of messages',
  });
}

/** How many ids two texts begin with alike: where they part, what one has and the other has not begins. */
export function sharedLength(a: Int32Array, b: Int32Array): number {
  const most = Math.min(a.length, b.length);
  let n = 0;
  while (n < most && a[n] === b[n]) n++;
  return n;
}

/** Whose tokens are marked: nobody's, the last assistant turn's, or those of every assistant turn. */
export type Turns = "none" | "last" | "all";

/** Indices of the assistant's messages that are marked. */
export function markedTurns(messages: readonly { role: string }[], turns: Turns): number[] {
  const said = messages.flatMap(({ role }, i) => (role === "assistant" ? [i] : []));
  return turns === "all" ? said : turns === "last" ? said.slice(-1) : [];
}

/** Where the answer in [from, to) ends: after the end token, or else after the last special token, or else at `to`. */
export function answerEnd(tokenizer: ModelTokenizer, ids: Int32Array, from: number, to: number): number {
  const lastOf = (is: (id: number) => boolean) => {
    for (let i = to - 1; i >= from; i--) if (is(ids[i]!)) return i + 1;
    return null;
  };
  return lastOf((id) => id === tokenizer.endId) ?? lastOf((id) => tokenizer.isSpecial(id)) ?? to;
}

/** What the assistant says, over ids. */
export interface Mask {
  /** The assistant's tokens and the end token after them. */
  readonly lossMask: Uint8Array;
  /** Turns whose first token holds the end of what stands before it too. */
  readonly merged: number;
}

export interface Rendered extends LateMask {
  text: string;
  ids: Int32Array;
}

/** A mask that is found when it is first asked for. */
export interface LateMask extends Mask {
  /** Finds the mask in steps, so that reading it later costs nothing. */
  marking(): Steps<Mask>;
}

/**
 * `lossMask` and `merged` are found when one is first read, by what the beginnings of the conversation render to: only training
 * needs them. Reading throws TOKENIZER for a template that renders earlier turns otherwise once others follow.
 */
export function withMask<T extends object>(rendered: T, find: () => Steps<Mask>): T & LateMask {
  let found: Mask | undefined;
  const get = (key: keyof Mask) => ({
    enumerable: true,
    get: () => {
      found ??= atOnce(find());
      return found[key];
    },
  });
  const marking = function* (): Steps<Mask> {
    found ??= yield* find();
    return found;
  };
  const properties = { lossMask: get("lossMask"), merged: get("merged"), marking: { value: marking } };
  return Object.defineProperties(rendered, properties) as T & LateMask;
}

/** Where a turn begins and ends in the ids of a conversation, and how many ids what stands before it has by itself. */
interface TurnSpan {
  from: number;
  own: number;
  to: number;
}

/** Marks the turns `marked` among `length` ids. A turn whose beginning shares a token with what precedes it is merged. */
export function* maskOf(
  length: number,
  marked: readonly number[],
  spanOf: (turn: number) => Steps<TurnSpan>,
): Steps<Mask> {
  const lossMask = new Uint8Array(length);
  let merged = 0;
  for (const turn of marked) {
    const { from, own, to } = yield* spanOf(turn);
    if (from < own) merged++;
    lossMask.fill(1, Math.max(from, 1), to);
  }
  return { lossMask, merged };
}

function templateOf(tokenizer: ModelTokenizer): ChatTemplate {
  if (tokenizer.template) return tokenizer.template;
  const fault = tokenizer.templateFault;
  if (fault)
    throw new IsrDpoError("TOKENIZER", `messages: ${fault.message}`, {
      hint: fault.hint ?? withoutTemplate,
      ...(fault.path === undefined ? {} : { path: fault.path }),
      cause: fault,
    });
  throw new IsrDpoError("TOKENIZER", "messages: expected a tokenizer with a chat template, got one without", {
    hint: "put a chat_template.jinja beside the tokenizer, or give a Sequence: { ids: Int32Array }",
  });
}

export function specialTokens(field: string, value: unknown): SpecialTokens {
  return value === undefined ? "parse" : choice(field, value, ["parse", "text"] as const);
}

/** Tokens between two pauses. */
const slice = 4096;

interface RenderedText {
  text: string;
  /** Parts in which reserved tokens are words. */
  literal: Literal;
}

interface Marks {
  given: readonly Message[];
  unmark(rendered: string): Steps<RenderedText>;
}

/** Two characters of the private use area that none of the texts holds. */
function spareCharacters(texts: readonly string[]): [string, string] {
  const spare: string[] = [];
  for (let code = 0xe000; spare.length < 2; code++) {
    const c = String.fromCharCode(code);
    if (!texts.some((text) => text.includes(c))) spare.push(c);
  }
  return spare as [string, string];
}

/**
 * Messages whose reserved tokens are replaced by marks that no template knows, and what takes the marks out of the rendered
 * text again, where they are words. In what the assistant said only special tokens are: a template looks for others there
 * (</think>) to leave earlier thoughts out.
 */
function* marked(tokenizer: ModelTokenizer, messages: readonly Message[]): Steps<Marks> {
  const texts = messages.flatMap((m) =>
    typeof m.content === "string" ? [m.content] : m.content.flatMap((p) => (p.type === "text" ? [p.text] : [])),
  );
  const [open, close] = spareCharacters(texts);
  const words: string[] = [];
  const mark = function* (text: string, special: boolean): Steps<string> {
    const parts: string[] = [];
    let at = 0;
    for (const found of tokenizer.reservedIn(text, { special })) {
      if (found === null || words.length % slice === slice - 1) yield;
      if (found === null) continue;
      parts.push(text.slice(at, found.from), `${open}${words.length}${close}`);
      words.push(text.slice(found.from, found.to));
      at = found.to;
    }
    return [...parts, text.slice(at)].join("");
  };
  const given: Message[] = [];
  for (const { role, content } of messages) {
    const special = role === "assistant";
    if (typeof content === "string") {
      given.push({ role, content: yield* mark(content, special) });
      continue;
    }
    const list: (typeof content)[number][] = [];
    for (const p of content) list.push(p.type === "text" ? { type: "text", text: yield* mark(p.text, special) } : p);
    given.push({ role, content: list });
  }
  const unmark = function* (rendered: string): Steps<RenderedText> {
    const literal: [number, number][] = [];
    const parts: string[] = [];
    let [at, length] = [0, 0];
    for (const m of rendered.matchAll(new RegExp(`${open}(\\d+)${close}`, "g"))) {
      const word = words[Number(m[1])]!;
      length += m.index - at;
      parts.push(rendered.slice(at, m.index), word);
      if (literal.push([length, length + word.length]) % slice === 0) yield;
      length += word.length;
      at = m.index + m[0].length;
    }
    return { text: [...parts, rendered.slice(at)].join(""), literal };
  };
  return { given, unmark };
}

export interface ApplyOptions {
  generate: boolean;
  /** As processors do: the tokenizer's own special tokens are added unless the rendered text begins with the bos token. */
  addBos: boolean;
  /** Reserved tokens in messages are words. */
  words?: boolean;
  /** Whose tokens are marked; default "all". */
  turns?: Turns;
  /** Throws for a text that cannot fit, by its length alone. */
  fits?: (fewest: number) => void;
}

/**
 * Text, ids and mask of a conversation; without `addBos` the text is taken as it is. An answer begins where the ids of what
 * stands before it and of the whole text part, as in TRL; `merged` counts the turns whose first token holds the prompt's end
 * too.
 */
export function* applyTemplate(tokenizer: ModelTokenizer, given: readonly Message[], o: ApplyOptions): Steps<Rendered> {
  const messages = checkedMessages("messages", given);
  const template = templateOf(tokenizer);
  const bos = tokenizer.bosId === null ? null : tokenizer.piece(tokenizer.bosId);
  const marks = o.words ? yield* marked(tokenizer, messages) : null;
  const render = function* (count: number, generate: boolean): Steps<RenderedText> {
    const rendered = template.render((marks?.given ?? messages).slice(0, count), { generate });
    yield;
    return marks ? yield* marks.unmark(rendered) : { text: rendered, literal: [] };
  };
  const whole = yield* render(messages.length, o.generate);
  const { text } = whole;
  o.fits?.(tokenizer.fewest(text));
  const special = o.addBos && !(bos !== null && text.startsWith(bos));
  const encode = (part: RenderedText) => tokenizer.encodeSteps(part.text, { special, literal: part.literal });
  const ids = yield* encode(whole);
  const until = function* (count: number, generate: boolean): Steps<{ shared: number; own: number }> {
    const beginning = yield* render(count, generate);
    if (!text.startsWith(beginning.text))
      throw disagreement(
        "expected a chat template that renders the first messages alike in every conversation, got another",
      );
    if (beginning.text.length === text.length) return { shared: ids.length, own: ids.length };
    const own = yield* encode(beginning);
    return { shared: sharedLength(ids, own), own: own.length };
  };
  return withMask({ text, ids }, () =>
    maskOf(ids.length, markedTurns(messages, o.turns ?? "all"), function* (i) {
      const { shared: from, own } = yield* until(i, true);
      const to = i + 1 === messages.length && !o.generate ? ids.length : (yield* until(i + 1, false)).shared;
      return { from, own, to: answerEnd(tokenizer, ids, from, to) };
    }),
  );
}
