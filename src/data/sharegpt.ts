// Rows in ShareGPT's form: conversations of {from, value}, an optional system text, and media in the columns videos and
// images, each with its placeholder in the text. Preferences also have chosen and rejected ({from, value} or a string).
import type { Example, Pair } from "../base/types.js";
import { answersOf, bad, given, has, idOf, isRow, type Row, textOf } from "./row-fields.js";
import {
  conversationOf,
  mediaColumns,
  promptOf,
  roleOf,
  saidTurn,
  splitAnswer,
  type Turn,
} from "./conversation-turns.js";

function turnsOf(row: Row): Turn[] {
  const turns = conversationOf("conversations", given(row, "conversations"));
  if (!has(row, "system")) return turns;
  if (turns[0]?.role === "system")
    bad("system", "a system text once, got another in conversations", given(row, "system"));
  return [saidTurn("system", "system", textOf("system", given(row, "system"))), ...turns];
}

function answer(row: Row, key: string): string {
  const value = given(row, key);
  if (!isRow(value)) return textOf(key, value);
  const role = roleOf(`${key}.from`, given(value, "from") ?? "gpt");
  if (role !== "assistant") bad(`${key}.from`, "gpt or assistant", role);
  return textOf(`${key}.value`, given(value, "value"));
}

export function shareGptPair(row: Row): Pair {
  const id = idOf(row);
  return {
    ...(id === undefined ? {} : { id }),
    ...promptOf("conversations", turnsOf(row), mediaColumns(row)),
    ...answersOf(row, (key) => answer(row, key)),
  };
}

export function shareGptExample(row: Row): Example {
  const id = idOf(row);
  const { before, answer } = splitAnswer("conversations", turnsOf(row));
  return { ...(id === undefined ? {} : { id }), ...promptOf("conversations", before, mediaColumns(row)), answer };
}
