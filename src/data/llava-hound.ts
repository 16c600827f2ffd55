// Rows of LLaVA-Hound: one `video` (or `image`) per row. DPO rows have prompt or conversations, chosen and rejected; SFT and
// test rows have conversations. The placeholder in the text is dropped: the medium stands before the text of its turn.
import type { Example, Pair } from "../base/types.js";
import { answersOf, bad, given, has, idOf, isRow, type Row, textOf } from "./row-fields.js";
import type { Kind } from "./media-placeholders.js";
import {
  conversationOf,
  filePath,
  type Medium,
  misplaced,
  piecesOf,
  promptOf,
  saidTurn,
  splitAnswer,
  type Turn,
  textTurn,
} from "./conversation-turns.js";

function mediumOf(row: Row): Medium {
  if (has(row, "video") === has(row, "image"))
    bad("video", "either video or image", has(row, "video") ? "both" : "neither");
  const type = has(row, "video") ? "video" : "image";
  return { type, path: filePath(type, given(row, type)) };
}

function words({ pieces }: Turn): string {
  const texts = pieces.flatMap((p) => (p.type === "text" ? [p.text] : []));
  return texts.length === pieces.length ? texts.join("") : texts.map((t) => t.trim()).join(" ");
}

/** At most one place, and that for the row's medium. */
function checkPlaces(field: string, turns: readonly Turn[], type: Kind): void {
  const pieces = turns.flatMap((turn) => turn.pieces);
  for (const kind of ["video", "image"] as const) {
    const places = pieces.filter((p) => p.type === kind).length;
    const media = kind === type ? 1 : 0;
    if (places > media) misplaced(field, kind, places, media);
  }
}

/** The words of a question about a video, without the place for it. */
export function bareQuestion(field: string, value: unknown): string {
  const turn: Turn = { role: "user", pieces: piecesOf(field, textOf(field, value)) };
  checkPlaces(field, [turn], "video");
  return textOf(field, words(turn));
}

function prompt(field: string, turns: readonly Turn[], medium: Medium) {
  checkPlaces(field, turns, medium.type);
  const marked = turns.findIndex(({ pieces }) => pieces.some((p) => p.type !== "text"));
  const at = marked >= 0 ? marked : turns.findIndex(({ role }) => role === "user");
  const placed = turns.map((turn, i): Turn => {
    const { role, pieces } = textTurn(turn.role, words(turn));
    return { role, pieces: i === at ? [medium, ...pieces] : pieces };
  });
  return promptOf(field, placed, []);
}

const answer = (row: Row, key: string): string => {
  const value = given(row, key);
  return isRow(value) ? textOf(`${key}.value`, given(value, "value")) : textOf(key, value);
};

export function houndPair(row: Row): Pair {
  const id = idOf(row);
  const medium = mediumOf(row);
  const asked = given(row, "prompt") !== undefined || !has(row, "conversations");
  let turns = asked
    ? [saidTurn("prompt", "user", textOf("prompt", given(row, "prompt")))]
    : conversationOf("conversations", given(row, "conversations"));
  if (turns.at(-1)?.role === "assistant") turns = turns.slice(0, -1); // such rows end with a reference answer
  return {
    ...(id === undefined ? {} : { id }),
    ...prompt(asked ? "prompt" : "conversations", turns, medium),
    ...answersOf(row, (key) => answer(row, key)),
  };
}

export function houndExample(row: Row): Example {
  const id = idOf(row);
  const medium = mediumOf(row);
  const { before, answer } = splitAnswer("conversations", conversationOf("conversations", given(row, "conversations")));
  return { ...(id === undefined ? {} : { id }), ...prompt("conversations", before, medium), answer };
}
