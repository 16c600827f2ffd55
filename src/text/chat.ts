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
    hint: "give a Sequence with ids and a scored mask instead of messages",
  });
}

/** How many ids the beginning of a text has. Throws when the whole text is cut differently there. */
export function prefixLength(whole: Int32Array, prefix: Int32Array): number {
  for (let i = 0; i < prefix.length; i++)
    if (prefix[i] !== whole[i])
      throw disagreement(`expected ids that begin with those of the text's beginning, got others at ${i}`);
  return prefix.length;
}

/** Where the answer in [from, to) ends: after the end token, or else after the last special token, or else at `to`. */
export function answerEnd(tokenizer: ModelTokenizer, ids: Int32Array, from: number, to: number): number {
  const lastOf = (is: (id: number) => boolean) => {
    for (let i = to - 1; i >= from; i--) if (is(ids[i]!)) return i + 1;
    return null;
  };
  return lastOf((id) => id === tokenizer.endId) ?? lastOf((id) => tokenizer.isSpecial(id)) ?? to;
}

export interface Rendered {
  text: string;
  ids: Int32Array;
  /**
   * Over `ids`: the assistant's tokens and the end token after them. Found when it is read, by what the beginnings of the
   * conversation render to; throws TOKENIZER for a template that renders earlier turns otherwise once others follow.
   */
  readonly scored: Uint8Array;
}

/** `scored` is found when it is first read: only training needs it. */
export function withMask<T extends object>(rendered: T, find: () => Uint8Array): T & { readonly scored: Uint8Array } {
  let found: Uint8Array | undefined;
  return Object.defineProperty(rendered, "scored", {
    enumerable: true,
    get: () => {
      found ??= find();
      return found;
    },
  }) as T & { readonly scored: Uint8Array };
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
 * rendered text begins with the bos token; else the text is taken as it is.
 */
export function applyTemplate(
  tokenizer: ModelTokenizer,
  given: readonly Message[],
  o: { generate: boolean; addBos: boolean },
): Rendered {
  const messages = checkedMessages("messages", given);
  const template = templateOf(tokenizer);
  const bos = tokenizer.bosId === null ? null : tokenizer.piece(tokenizer.bosId);
  const text = template.render(messages, { generate: o.generate });
  const special = o.addBos && !(bos !== null && text.startsWith(bos));
  const encode = (s: string) => tokenizer.encode(s, { special });
  const ids = encode(text);
  const until = (count: number, generate: boolean): number => {
    const beginning = template.render(messages.slice(0, count), { generate });
    if (!text.startsWith(beginning))
      throw disagreement(
        "expected a chat template that renders the first messages alike in every conversation, got another",
      );
    return prefixLength(ids, encode(beginning));
  };
  return withMask({ text, ids }, () => {
    const scored = new Uint8Array(ids.length);
    messages.forEach(({ role }, i) => {
      if (role !== "assistant") return;
      const from = until(i, true);
      scored.fill(1, Math.max(from, 1), answerEnd(tokenizer, ids, from, until(i + 1, false)));
    });
    return scored;
  });
}
