// Fields of a row: each check names the field, what was expected and what was got. null counts as absent, as in columns.
import { isObject, refuse } from "../base/check.js";
import type { ErrorCode } from "../base/errors.js";
import type { Pair } from "../base/types.js";

export type Row = Record<string, unknown>;

/** Stands where bytes of a column were no UTF-8, so that the row and not the file is at fault. */
export class InvalidUtf8 {}

export const bad = (field: string, expected: string, received: unknown): never =>
  refuse(field, expected, received, "DATA_INVALID");

/** undefined where the row has no such field, or null. */
export const given = (row: Row, key: string): unknown =>
  Object.hasOwn(row, key) ? (row[key] ?? undefined) : undefined;

export const has = (row: Row, key: string): boolean => given(row, key) !== undefined;

export const isRow = (x: unknown): x is Row => isObject(x) && !ArrayBuffer.isView(x) && !(x instanceof InvalidUtf8);

export function textOf(field: string, value: unknown): string {
  if (typeof value !== "string") bad(field, "a string", value);
  if ((value as string).trim() === "") bad(field, "a text that is not empty", value);
  if (/\p{Surrogate}/u.test(value as string)) bad(field, "well-formed text (no lone surrogates)", value);
  return value as string;
}

export function listOf(field: string, value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) bad(field, "a list", value);
  return value as unknown[];
}

export function rowOf(field: string, value: unknown): Row {
  if (!isRow(value)) bad(field, "an object", value);
  return value as Row;
}

/** A string, or a whole number as its digits. */
export function idOf(row: Row, keys: readonly string[] = ["id"]): string | undefined {
  const key = keys.find((k) => has(row, k));
  if (key === undefined) return undefined;
  const value = given(row, key);
  if (typeof value === "bigint" || Number.isSafeInteger(value)) return String(value);
  return textOf(key, value);
}

/** A path below the data folder, as given: neither absolute nor an address, and never above its start. */
export function pathOf(field: string, value: unknown, code: ErrorCode = "DATA_INVALID"): string {
  const no = (expected: string) => refuse(field, expected, value, code);
  if (typeof value !== "string" || value.trim() === "" || value.includes("\0")) return no("a path");
  if (/^([/\\]|[a-z]:|[a-z][a-z0-9+.-]*:\/\/)/i.test(value)) no("a path relative to the data folder");
  let depth = 0;
  for (const step of value.split(/[/\\]/)) {
    if (step === "..") depth--;
    else if (step !== "" && step !== ".") depth++;
    if (depth < 0) no("a path that stays inside the data folder");
  }
  return value;
}

function idsOf(field: string, value: unknown): Int32Array {
  const list = value instanceof Int32Array ? value : listOf(field, value);
  if (list.length === 0) bad(field, "token ids", value);
  const ids = new Int32Array(list.length);
  for (let i = 0; i < ids.length; i++) {
    const given = list[i];
    const id = typeof given === "bigint" ? Number(given) : given;
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= 2 ** 31)
      bad(`${field}[${i}]`, "a token id (an integer from 0 to 2^31 - 1)", given);
    ids[i] = id as number;
  }
  return ids;
}

/** Both answers: token ids where the row has them for both, otherwise `text` of each. */
export function answersOf(row: Row, text: (key: "chosen" | "rejected") => string): Pick<Pair, "chosen" | "rejected"> {
  const withIds = has(row, "chosen_ids") || has(row, "rejected_ids");
  const side = (key: "chosen" | "rejected") => (withIds ? idsOf(`${key}_ids`, given(row, `${key}_ids`)) : text(key));
  return { chosen: side("chosen"), rejected: side("rejected") };
}
