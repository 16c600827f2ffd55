// Rows of TRL, plain (strings) and conversational ({role, content} messages), with media in the columns videos and images.
// Preferences: prompt, chosen, rejected; without a prompt, chosen and rejected begin with the same messages.
import type { Example, Pair } from "../types.js";
import { answersOf, bad, given, has, idOf, listOf, pathOf, type Row, rowOf, textOf } from "./fields.js";
import {
  mediaColumns,
  type Piece,
  piecesOf,
  promptOf,
  roleOf,
  splitAnswer,
  spoken,
  type Turn,
  textTurn,
} from "./turns.js";

function partOf(field: string, value: unknown): Piece {
  const part = rowOf(field, value);
  const type = given(part, "type");
  if (type === "text") return { type, text: textOf(`${field}.text`, given(part, "text")) };
  if (type !== "video" && type !== "image") return bad(`${field}.type`, "text, video or image", type);
  const path = given(part, type) ?? given(part, "path");
  return path === undefined ? { type } : { type, path: pathOf(`${field}.${type}`, path) };
}

/** `places`: whether `<video>` and `<image>` in a user's text stand for media of the row, or are words. */
function messagesOf(field: string, value: unknown, places: boolean): Turn[] {
  return listOf(field, value).map((item, i) => {
    const at = `${field}[${i}]`;
    const message = rowOf(at, item);
    const role = roleOf(`${at}.role`, given(message, "role"));
    const content = given(message, "content");
    if (Array.isArray(content)) return { role, pieces: content.map((p, k) => partOf(`${at}.content[${k}]`, p)) };
    if (role === "system" && content === "") return textTurn(role, ""); // none, where the template has one of its own
    const text = textOf(`${at}.content`, content);
    return role === "user" && places ? { role, pieces: piecesOf(text) } : textTurn(role, text);
  });
}

function promptTurns(field: string, value: unknown, places: boolean): Turn[] {
  if (Array.isArray(value)) return messagesOf(field, value, places);
  const text = textOf(field, value);
  return [places ? { role: "user", pieces: piecesOf(text) } : textTurn("user", text)];
}

/** An answer: a string, a message, or messages of which the last is the answer. */
function answerOf(field: string, value: unknown, places: boolean): { before: Turn[]; answer: string } {
  if (typeof value === "string" || value === undefined) return { before: [], answer: textOf(field, value) };
  return splitAnswer(field, messagesOf(field, Array.isArray(value) ? value : [value], places));
}

const same = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);

/** The prompt that is given, or that the answers begin with; where there are both, they agree. */
function joinPrompt(asked: readonly Turn[] | undefined, before: readonly Turn[]): readonly Turn[] {
  if (asked === undefined)
    return before.length > 0
      ? before
      : bad("prompt", "a prompt, or messages of chosen and rejected that hold it", undefined);
  const agrees = before.length === 0 || same(asked, before) || (asked.length === 1 && same(asked, before.slice(-1)));
  if (!agrees) bad("chosen", "messages that begin with the prompt", before.map(spoken).join(" "));
  return before.length > 0 ? before : asked;
}

export function trlPair(row: Row): Pair {
  const id = idOf(row);
  const media = mediaColumns(row);
  const places = media.length > 0;
  const read = (key: string) => answerOf(key, given(row, key), places);
  const byText = !has(row, "chosen_ids") && !has(row, "rejected_ids");
  const sides =
    byText || Array.isArray(given(row, "chosen")) ? { chosen: read("chosen"), rejected: read("rejected") } : null;
  if (sides && !same(sides.chosen.before, sides.rejected.before))
    bad("rejected", "the same messages before the answer as in chosen", sides.rejected.before.map(spoken).join(" "));
  const asked = has(row, "prompt") ? promptTurns("prompt", given(row, "prompt"), places) : undefined;
  return {
    ...(id === undefined ? {} : { id }),
    ...promptOf("prompt", joinPrompt(asked, sides?.chosen.before ?? []), media),
    ...answersOf(row, (key) => sides![key].answer),
  };
}

export function trlExample(row: Row): Example {
  const id = idOf(row);
  const media = mediaColumns(row);
  const places = media.length > 0;
  const whole = has(row, "messages");
  const field = whole ? "messages" : "prompt";
  const { before, answer } = whole
    ? splitAnswer(field, messagesOf(field, given(row, field), places))
    : answerOf("completion", given(row, "completion"), places);
  const turns = whole ? before : [...promptTurns(field, given(row, field), places), ...before];
  return { ...(id === undefined ? {} : { id }), ...promptOf(field, turns, media), answer };
}
