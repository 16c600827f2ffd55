// Rows of TRL, plain (strings) and conversational ({role, content} messages), with media in the columns videos and images.
// Preferences: prompt, chosen, rejected; without a prompt, chosen and rejected begin with the same messages.
import type { Example, Pair } from "../base/types.js";
import { answersOf, bad, given, has, idOf, listOf, pathOf, type Row, rowOf, textOf } from "./row-fields.js";
import {
  checkTurn,
  mediaColumns,
  type Piece,
  promptOf,
  roleOf,
  saidTurn,
  splitAnswer,
  spoken,
  type Turn,
  textTurn,
} from "./conversation-turns.js";

function partOf(field: string, value: unknown): Piece {
  const part = rowOf(field, value);
  const type = given(part, "type");
  if (type === "text") return { type, text: textOf(`${field}.text`, given(part, "text")) };
  if (type !== "video" && type !== "image") return bad(`${field}.type`, "text, video or image", type);
  const path = given(part, type) ?? given(part, "path");
  return path === undefined ? { type } : { type, path: pathOf(`${field}.${type}`, path) };
}

/** `<video>` and `<image>` in a user's text are places; in a text part they are words. */
function messagesOf(field: string, value: unknown): Turn[] {
  return listOf(field, value).map((item, i) => {
    const at = `${field}[${i}]`;
    const message = rowOf(at, item);
    const role = roleOf(`${at}.role`, given(message, "role"));
    checkTurn(at, message, role);
    const content = given(message, "content");
    if (Array.isArray(content)) return { role, pieces: content.map((p, k) => partOf(`${at}.content[${k}]`, p)) };
    if (role === "system" && content === "") return textTurn(role, ""); // no system message, where the template has a default
    return saidTurn(`${at}.content`, role, textOf(`${at}.content`, content));
  });
}

function promptTurns(field: string, value: unknown): Turn[] {
  return Array.isArray(value) ? messagesOf(field, value) : [saidTurn(field, "user", textOf(field, value))];
}

/** An answer: a string, a message, or messages of which the last is the answer. */
function answerOf(field: string, value: unknown): { before: Turn[]; answer: string } {
  if (typeof value === "string" || value === undefined) return { before: [], answer: textOf(field, value) };
  return splitAnswer(field, messagesOf(field, Array.isArray(value) ? value : [value]));
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
  const read = (key: string) => answerOf(key, given(row, key));
  const byText = !has(row, "chosen_ids") && !has(row, "rejected_ids");
  const sides =
    byText || Array.isArray(given(row, "chosen")) ? { chosen: read("chosen"), rejected: read("rejected") } : null;
  if (sides && !same(sides.chosen.before, sides.rejected.before))
    bad("rejected", "the same messages before the answer as in chosen", sides.rejected.before.map(spoken).join(" "));
  const asked = has(row, "prompt") ? promptTurns("prompt", given(row, "prompt")) : undefined;
  return {
    ...(id === undefined ? {} : { id }),
    ...promptOf("prompt", joinPrompt(asked, sides?.chosen.before ?? []), media),
    ...answersOf(row, (key) => sides![key].answer),
  };
}

export function trlExample(row: Row): Example {
  const id = idOf(row);
  const media = mediaColumns(row);
  const whole = has(row, "messages");
  const field = whole ? "messages" : "prompt";
  const { before, answer } = whole
    ? splitAnswer(field, messagesOf(field, given(row, field)))
    : answerOf("completion", given(row, "completion"));
  const turns = whole ? before : [...promptTurns(field, given(row, field)), ...before];
  return { ...(id === undefined ? {} : { id }), ...promptOf(field, turns, media), answer };
}
