// Turns of a conversation with placeholders for videos and images, and the prompt and media that they make.
import type { Media, Message } from "../base/types.js";
import { bad, given, has, isRow, listOf, pathOf, type Row, rowOf, textOf } from "./row-fields.js";
import { cutAtPlaces, foreignPlace, hasPlace, type Kind } from "./media-placeholders.js";

export interface Medium {
  type: Kind;
  path: string;
}

/** A medium without a path is a place that one of the row's media takes. */
export type Piece = { type: "text"; text: string } | { type: Kind; path?: string };

export interface Turn {
  role: Message["role"];
  pieces: readonly Piece[];
}

/** A prompt as Pair and Example take it: text beside media that stand before it, or messages that hold their media. */
export interface PromptParts {
  prompt: string | Message[];
  media?: Media[];
}

const roles: Readonly<Record<string, Message["role"]>> = {
  human: "user",
  user: "user",
  gpt: "assistant",
  assistant: "assistant",
  system: "system",
};

export function roleOf(field: string, value: unknown): Message["role"] {
  if (typeof value !== "string" || !Object.hasOwn(roles, value)) bad(field, Object.keys(roles).join(", "), value);
  return roles[value as string]!;
}

/**
 * A user's text with `<video>` and `<image>` as places; line breaks beside a place are its own, and space outside the first
 * and last. What other families write for a place is refused: it would be read as words.
 */
export function piecesOf(field: string, text: string): Piece[] {
  const foreign = foreignPlace(text);
  if (foreign !== undefined) bad(field, `places for media written as <video> or <image>, not ${foreign}`, text);
  const { texts, kinds } = cutAtPlaces(text);
  if (kinds.length === 0) return [{ type: "text", text }];
  if (texts[0]!.trim() === "") [texts[0], texts[1]] = ["", texts[1]!.trimStart()];
  if (texts.at(-1)!.trim() === "") texts[texts.length - 2] = texts.at(-2)!.trimEnd();
  return texts.flatMap((words, i): Piece[] => [
    ...(words.trim() === "" ? [] : [{ type: "text" as const, text: words }]),
    ...(i < kinds.length ? [{ type: kinds[i]! }] : []),
  ]);
}

export const textTurn = (role: Message["role"], text: string): Turn => ({ role, pieces: [{ type: "text", text }] });

/** What somebody says: media stand in the user's words alone, and a place elsewhere stands for nothing. */
export function saidTurn(field: string, role: Message["role"], text: string): Turn {
  if (role === "user") return { role, pieces: piecesOf(field, text) };
  if (role === "system" && (hasPlace(text) || foreignPlace(text) !== undefined))
    bad(field, "a system text without places for media, which stand in the user's words", text);
  return textTurn(role, text);
}

export const spoken = (turn: Turn): string => turn.pieces.map((p) => (p.type === "text" ? p.text : "")).join("");

/** What a turn may hold besides its words; without it, something else would be learned than the row says. */
const unreadParts = ["tool_calls", "function_call", "reasoning_content", "thinking", "tools"];

/** What the chat template is given beside the messages: a template that never sees it writes another text. */
const templateColumns = ["tools", "chat_template_kwargs"];

/** Whether a column of the template's says nothing: "", "[]", {}, fields that are null, as columns of a table have them. */
function saysNothing(value: unknown): boolean {
  if (typeof value === "string") {
    const text = value.trim();
    return ["", "[]", "{}", "null"].includes(text);
  }
  if (typeof value !== "object" || value === null) return value === undefined || value === null;
  return Object.values(value).every((x) => x === null || x === undefined);
}

/** Refuses a row whose chat template would be given more than its messages. */
export function checkTemplateColumns(row: Row): void {
  for (const key of templateColumns)
    if (!saysNothing(given(row, key)))
      bad(key, "nothing (it is not given to the chat template: write it into the system text)", given(row, key));
}

/** Refuses a turn whose words are not all of it, or that is not to be learned like the others. */
export function checkTurn(field: string, turn: Row, role: Message["role"]): void {
  const empty = (x: unknown) => x === undefined || x === "" || (Array.isArray(x) && x.length === 0);
  for (const key of unreadParts)
    if (!empty(given(turn, key)))
      bad(`${field}.${key}`, "nothing (it is not trained on: write it into the words)", turn[key]);
  const weight = given(turn, "weight");
  if (role === "assistant" && weight !== undefined && Number(weight) !== 1)
    bad(`${field}.weight`, '1 (to score the last answer alone: turns: "last")', weight);
}

/** `conversations`: {from, value} or {role, content} per turn; places are found in what the user says. */
export function conversationOf(field: string, value: unknown): Turn[] {
  return listOf(field, value).map((item, i) => {
    const at = `${field}[${i}]`;
    const turn = rowOf(at, item);
    const [who, what] = has(turn, "role") && !has(turn, "from") ? ["role", "content"] : ["from", "value"];
    const role = roleOf(`${at}.${who}`, given(turn, who));
    checkTurn(at, turn, role);
    return saidTurn(`${at}.${what}`, role, textOf(`${at}.${what}`, given(turn, what)));
  });
}

/** The paths of the columns `videos` and `images` (or `video`, `image`): a path or {path} each, one or a list. */
export function mediaColumns(row: Row): Medium[] {
  return (["video", "image"] as const).flatMap((type) =>
    [type, `${type}s`].flatMap((key) => {
      const value = given(row, key);
      if (value === undefined) return [];
      const list = Array.isArray(value) ? value : [value];
      return list.map((item, i): Medium => ({ type, path: filePath(list === value ? `${key}[${i}]` : key, item) }));
    }),
  );
}

/** A path, or {path} as Python's `datasets` writes a file. */
export function filePath(field: string, item: unknown): string {
  if (!isRow(item)) return pathOf(field, item);
  const file = item;
  if (has(file, "bytes")) bad(field, "a path (media inside a row are not read: keep them as files)", item);
  return pathOf(`${field}.path`, given(file, "path"));
}

/** The last turn's text, which must be the assistant's, and what stands before it. */
export function splitAnswer(field: string, turns: readonly Turn[]): { before: Turn[]; answer: string } {
  const last = turns.at(-1);
  if (last?.role !== "assistant") bad(field, "an assistant's turn at the end", last?.role);
  return { before: turns.slice(0, -1), answer: textOf(field, spoken(last!)) };
}

function checkOrder(field: string, turns: readonly Turn[]): void {
  const begin = turns[0]?.role === "system" ? 1 : 0;
  turns.slice(begin).forEach(({ role }, i) => {
    const expected = i % 2 === 0 ? "user" : "assistant";
    if (role !== expected) bad(`${field}[${begin + i}]`, `a turn of the ${expected}`, role);
  });
  const last = turns.at(-1);
  if (last?.role !== "user") bad(field, "a user's turn at the end of the prompt", last?.role);
}

/** Places of a kind that are not as many as its media. */
export function misplaced(field: string, type: Kind, places: number, media: number): never {
  const words = media === 0 ? "; words that are no place belong into a text part of a message" : "";
  return bad(
    field,
    `${type === "video" ? "a video" : "an image"} for each of ${places} places written in the text (columns ${type}, ${type}s${words})`,
    media,
  );
}

/** Gives each place its medium; a kind of which no place is written stands before the first user's words. */
function place(field: string, turns: readonly Turn[], media: readonly Medium[]): Turn[] {
  const front: Medium[] = [];
  const queues = new Map<Kind, Medium[]>();
  const isOpen = (p: Piece, type: Kind) => p.type === type && p.path === undefined;
  for (const type of ["video", "image"] as const) {
    const own = media.filter((m) => m.type === type);
    const places = turns.reduce((n, { pieces }) => n + pieces.filter((p) => isOpen(p, type)).length, 0);
    if (places === 0) front.push(...own);
    else if (places !== own.length) misplaced(field, type, places, own.length);
    queues.set(type, own);
  }
  const first = turns.findIndex(({ role }) => role === "user");
  return turns.map(({ role, pieces }, i) => ({
    role,
    pieces: [
      ...(i === first ? front : []),
      ...pieces.map((p) => (p.type === "text" || p.path !== undefined ? p : queues.get(p.type)!.shift()!)),
    ],
  }));
}

const mediaOf = ({ type, path }: Medium): Media => (type === "video" ? path : { kind: "image", path });

/** The prompt of turns whose last is the user's. Media that find no place, or places without a medium: DATA_INVALID. */
export function promptOf(field: string, turns: readonly Turn[], media: readonly Medium[]): PromptParts {
  checkOrder(field, turns);
  const placed = place(field, turns, media);
  placed.forEach((turn, i) => {
    if (turn.role === "user") textOf(placed.length > 1 ? `${field}[${i}]` : field, spoken(turn));
  });
  const [only] = placed;
  const words = only!.pieces.findIndex((p) => p.type === "text");
  if (placed.length === 1 && only!.pieces.slice(words).every((p) => p.type === "text")) {
    const front = only!.pieces.slice(0, words) as Medium[];
    return { prompt: spoken(only!), ...(front.length > 0 ? { media: front.map(mediaOf) } : {}) };
  }
  return {
    prompt: placed.map(({ role, pieces }) => ({
      role,
      content: pieces.every((p) => p.type === "text")
        ? spoken({ role, pieces })
        : pieces.map((p) => (p.type === "text" ? p : { type: p.type, media: mediaOf(p as Medium) })),
    })),
  };
}
