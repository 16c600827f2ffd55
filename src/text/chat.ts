// Conversations to token ids by the checkpoint's chat template, and which of the ids the assistant said.
import { array, choice, object, refuse, text as string } from "../check.js";
import { IsrDpoError } from "../errors.js";
import type { Message } from "../types.js";
import { type ChatTemplate, withoutTemplate } from "./template.js";
import type { ModelTokenizer } from "./tokenizer.js";

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
    hint: 'score the last turn alone (turns: "last"), or give a Sequence with ids and a scored mask instead of messages',
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
interface Mask {
  /** The assistant's tokens and the end token after them. */
  readonly scored: Uint8Array;
  /** Turns whose first token holds the end of what stands before it too. */
  readonly merged: number;
}

export interface Rendered extends Mask {
  text: string;
  ids: Int32Array;
}

/**
 * `scored` and `merged` are found when one is first read, by what the beginnings of the conversation render to: only training
 * needs them. Reading throws TOKENIZER for a template that renders earlier turns otherwise once others follow.
 */
export function withMask<T extends object>(rendered: T, find: () => Mask): T & Mask {
  let found: Mask | undefined;
  const get = (key: keyof Mask) => ({
    enumerable: true,
    get: () => {
      found ??= find();
      return found[key];
    },
  });
  return Object.defineProperties(rendered, { scored: get("scored"), merged: get("merged") }) as T & Mask;
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

/**
 * Text, ids and mask of a conversation. `addBos`: as processors do, the tokenizer's own special tokens are added unless the
 * rendered text begins with the bos token; else the text is taken as it is. An answer begins where the ids of what stands
 * before it and of the whole text part, as in TRL; `merged` counts the turns whose first token holds the prompt's end too.
 */
export function applyTemplate(
  tokenizer: ModelTokenizer,
  given: readonly Message[],
  o: { generate: boolean; addBos: boolean; turns?: Turns },
): Rendered {
  const messages = checkedMessages("messages", given);
  const template = templateOf(tokenizer);
  const bos = tokenizer.bosId === null ? null : tokenizer.piece(tokenizer.bosId);
  const text = template.render(messages, { generate: o.generate });
  const special = o.addBos && !(bos !== null && text.startsWith(bos));
  const encode = (s: string) => tokenizer.encode(s, { special });
  const ids = encode(text);
  const until = (count: number, generate: boolean): { shared: number; own: number } => {
    const beginning = template.render(messages.slice(0, count), { generate });
    if (!text.startsWith(beginning))
      throw disagreement(
        "expected a chat template that renders the first messages alike in every conversation, got another",
      );
    if (beginning.length === text.length) return { shared: ids.length, own: ids.length };
    const own = encode(beginning);
    return { shared: sharedLength(ids, own), own: own.length };
  };
  return withMask({ text, ids }, () => {
    const scored = new Uint8Array(ids.length);
    let merged = 0;
    for (const i of markedTurns(messages, o.turns ?? "all")) {
      const { shared: from, own } = until(i, true);
      if (from < own) merged++;
      const to = i + 1 === messages.length && !o.generate ? ids.length : until(i + 1, false).shared;
      scored.fill(1, Math.max(from, 1), answerEnd(tokenizer, ids, from, to));
    }
    return { scored, merged };
  });
}
