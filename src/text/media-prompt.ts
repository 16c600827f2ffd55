// Turns messages with media into the ids that a family's engine takes: placeholders of the original layouts (-200, -201), or
// template tokens repeated once per visual token, or text alone.
import { plural } from "../base/counts.js";
import { show } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";
import type { Media, Message } from "../base/types.js";
import { type ApplyOptions, applyTemplate, checkedMessages, type LateMask, withMask } from "./conversation.js";
import { atOnce, type Steps } from "./pausable.js";
import type { ModelTokenizer } from "./model-tokenizer.js";
import { type Segment, type VicunaTurn, vicunaPrompt } from "./vicuna-prompt.js";

export interface PlaceholderRules {
  /** original: negative ids in the Vicuna prompt; expanded: token ids in the chat template; none: a text model. */
  style: "original" | "expanded" | "none";
  /** Placeholder id of an image; null: the family takes none. */
  image: number | null;
  /** Placeholder id of a video; null: the family takes none. */
  video: number | null;
  /** original: placeholders per video. */
  perVideo: number;
  /** Kinds whose rows stand apart in text of their own: such prompts are given as ids. */
  withText?: readonly ("video" | "image")[];
  /** expanded: how often the placeholder stands for one medium. */
  visualTokens(kind: "video" | "image"): number;
}

export type PromptOptions = Omit<ApplyOptions, "addBos">;

/** Its mask is over `ids`: the assistant's tokens and the end token after them, in the turns asked for. */
export interface BuiltPrompt extends LateMask {
  /** With placeholders. */
  ids: Int32Array;
  /** One placeholder's text a medium (original layouts: a placeholder). */
  text: string;
  /** In the order of their placeholders. */
  media: Media[];
}

type Kind = "video" | "image";
type Part = Exclude<Message["content"], string>[number];

const partsOf = (m: Message): readonly Part[] =>
  typeof m.content === "string" ? [{ type: "text", text: m.content }] : m.content;
const textOf = (m: Message) =>
  partsOf(m)
    .map((p) => (p.type === "text" ? p.text : ""))
    .join("");

function refuseMedia(rules: PlaceholderRules, messages: readonly Message[]): void {
  messages.forEach((m, i) => {
    partsOf(m).forEach((part, k) => {
      if (part.type === "text") return;
      const field = `messages[${i}].content[${k}]`;
      if (rules.withText?.includes(part.type))
        throw new IsrDpoError(
          "INVALID_ARGUMENT",
          `${field}: expected ${part.type}s of this family in a prompt of ids, got one in messages`,
          {
            hint: "give a Sequence whose ids hold the placeholders and the text between them, as the family's processor writes them",
            detail: { field },
          },
        );
      const id = rules.style === "none" ? null : rules[part.type];
      const fault = id === null ? `a part that this model takes, it has no ${part.type}s` : "media in user turns only";
      if (id !== null && m.role === "user") return;
      throw new IsrDpoError("INVALID_ARGUMENT", `${field}: expected ${fault}, got a ${part.type} of the ${m.role}`, {
        hint: id === null ? "leave it out, or load a model of a family that takes it" : "move it into a user message",
        detail: { field },
      });
    });
  });
}

const literals = /<video>|<image>/g;

/** Media first, each followed by a newline, then the text without placeholders that were typed into it. */
function originalContent(rules: PlaceholderRules, m: Message, media: Media[], words: boolean): Segment[] {
  const text = textOf(m);
  if (m.role === "assistant") return [said(text, words)];
  const segments: Segment[] = [];
  for (const part of partsOf(m)) {
    if (part.type === "text") continue;
    const copies = part.type === "video" ? rules.perVideo : 1;
    segments.push(...Array<number>(copies).fill(rules[part.type]!), "\n");
    media.push(part.media);
  }
  const bare = text.replace(literals, "");
  segments.push(said(segments.length > 0 || bare !== text ? bare.trim() : text, words));
  return segments;
}

const said = (text: string, words: boolean): Segment => (words ? { words: text } : text);

function* original(
  tokenizer: ModelTokenizer,
  rules: PlaceholderRules,
  messages: readonly Message[],
  { generate, turns: marked = "all", words = false, fits }: PromptOptions,
): Steps<BuiltPrompt> {
  const [first] = messages;
  const preamble = first?.role === "system" ? textOf(first).replace(literals, "") : undefined;
  const system = preamble === undefined || preamble === "" ? preamble : said(preamble, words);
  const spoken = preamble === undefined ? messages : messages.slice(1);
  const media: Media[] = [];
  const turns = spoken.map((m, i): VicunaTurn => {
    const role = i % 2 === 0 ? "user" : "assistant";
    if (m.role !== role) wrongOrder(`messages[${messages.indexOf(m)}].role`, role, m.role);
    return { role, content: originalContent(rules, m, media, words) };
  });
  const last = turns.at(-1)?.role ?? "system";
  if (generate && last !== "user") wrongOrder("messages", "a user turn at the end", last);
  const spell = (id: number) => (id === rules.video && id !== rules.image ? "<video>" : "<image>");
  return Object.assign(yield* vicunaPrompt(tokenizer, turns, { generate, turns: marked, spell, system, fits }), {
    media,
  });
}

function wrongOrder(field: string, expected: string, received: string): never {
  throw new IsrDpoError("INVALID_ARGUMENT", `${field}: expected ${expected}, got ${show(received)}`, {
    hint: "user and assistant take turns, after at most one system message; the user begins",
    detail: { field },
  });
}

function mismatch(kind: Kind, found: number, given: number, why: string): IsrDpoError {
  return new IsrDpoError(
    "PLACEHOLDER_MISMATCH",
    `messages: expected ${plural(given, `${kind} placeholder`)} for ${plural(given, kind)}, got ${found}${why}`,
    {
      hint: "give media as parts of a message's content, and no placeholder in the text",
      detail: { kind, found, given },
    },
  );
}

/** Media by kind, in order, and the placeholder id of each kind that the family takes. */
function kindsOf(rules: PlaceholderRules, messages: readonly Message[]): Map<number, { kind: Kind; media: Media[] }> {
  const kinds = new Map<number, { kind: Kind; media: Media[] }>();
  for (const kind of ["image", "video"] as const) {
    const id = rules[kind];
    const media = messages.flatMap(partsOf).flatMap((p) => (p.type === kind ? [p.media] : []));
    if (id !== null) kinds.set(id, { kind, media });
  }
  return kinds;
}

/** Every placeholder of the rendered conversation must come from a medium, not from somebody's words. */
function* checkPlaceholders(
  tokenizer: ModelTokenizer,
  messages: readonly Message[],
  ids: Int32Array,
  kinds: ReturnType<typeof kindsOf>,
  words: boolean,
): Steps<void> {
  const asWord = (m: Message, id: number) =>
    words && (m.role === "assistant" ? tokenizer.isSpecial(id) : tokenizer.isReserved(id));
  const count = (list: Int32Array, id: number) => list.reduce((n, x) => n + (x === id ? 1 : 0), 0);
  for (const [id, { kind, media }] of kinds) {
    const piece = tokenizer.piece(id);
    const found = count(ids, id);
    let typed = 0;
    for (const m of messages)
      if (!asWord(m, id) && piece !== null && textOf(m).includes(piece))
        typed += count(yield* tokenizer.encodeSteps(textOf(m), { special: false }), id);
    if (typed > 0) throw mismatch(kind, found, media.length, `, ${typed} of them in the text of the messages`);
    if (found !== media.length) throw mismatch(kind, found, media.length, " from the chat template");
  }
}

function* expanded(
  tokenizer: ModelTokenizer,
  rules: PlaceholderRules,
  messages: readonly Message[],
  o: PromptOptions,
): Steps<BuiltPrompt> {
  const rendered = yield* applyTemplate(tokenizer, messages, { ...o, addBos: true });
  const { text, ids } = rendered;
  const kinds = kindsOf(rules, messages);
  yield* checkPlaceholders(tokenizer, messages, ids, kinds, o.words === true);
  const media: Media[] = [];
  const out: number[] = [];
  const copied: number[] = []; // for each id the index of the rendered id that it copies
  ids.forEach((id, i) => {
    const medium = kinds.get(id);
    const copies = medium ? rules.visualTokens(medium.kind) : 1;
    if (medium) media.push(medium.media.shift()!);
    for (let k = 0; k < copies; k++) {
      out.push(id);
      copied.push(i);
    }
  });
  return withMask({ ids: Int32Array.from(out), text, media }, function* () {
    const { lossMask, merged } = yield* rendered.marking();
    return { lossMask: Uint8Array.from(copied, (i) => lossMask[i]!), merged };
  });
}

/**
 * The ids of a conversation as the family was trained on it; `generate` ends it with what opens the assistant's turn. `turns`:
 * whose tokens are marked; default: every assistant turn's. Throws INVALID_ARGUMENT for media
 * that the family does not take, PLACEHOLDER_MISMATCH when placeholders and media differ in number (a placeholder typed by a
 * user is not one), TOKENIZER when there is no template or it does not fit.
 */
export const buildPrompt = (...args: Parameters<typeof promptSteps>): BuiltPrompt => atOnce(promptSteps(...args));

/** buildPrompt() in steps: long texts need not hold the event loop. */
export function* promptSteps(
  tokenizer: ModelTokenizer,
  rules: PlaceholderRules,
  messages: readonly Message[],
  o: PromptOptions,
): Steps<BuiltPrompt> {
  const checked = checkedMessages("messages", messages);
  refuseMedia(rules, checked);
  if (rules.style === "original") return yield* original(tokenizer, rules, checked, o);
  if (rules.style === "expanded") return yield* expanded(tokenizer, rules, checked, o);
  const rendered = yield* applyTemplate(tokenizer, checked, { ...o, addBos: false });
  return Object.assign(rendered, { media: [] });
}
