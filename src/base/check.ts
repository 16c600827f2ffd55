// Validation at the border. Every value from outside is checked here once; a message names the field, what was expected and
// what was got.
import { homedir } from "node:os";
import { join } from "node:path";
import { type ErrorCode, IsrDpoError } from "./errors.js";

/** A value as a message shows it: short, with its type where that is what is wrong. */
export function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}...` : value);
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "function") return "a function";
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (ArrayBuffer.isView(value))
    return `${value.constructor.name}(${(value as Uint8Array).length ?? value.byteLength})`;
  if (typeof value === "object" && value !== null) {
    const name = value.constructor?.name;
    return name && name !== "Object"
      ? `an instance of ${name}`
      : `an object with keys ${JSON.stringify(Object.keys(value).slice(0, 6))}`;
  }
  return String(value);
}

export function refuse(
  field: string,
  expected: string,
  received: unknown,
  code: ErrorCode = "INVALID_ARGUMENT",
): never {
  throw new IsrDpoError(code, `${field}: expected ${expected}, got ${show(received)}`, { detail: { field } });
}

/** Edit distance, for suggestions only. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const swap = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(swap, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}

/** What one thing is called elsewhere: by another command, or by programs of the field. */
const otherNames: Readonly<Record<string, readonly string[]>> = {
  itemsPerStep: ["pairsPerStep", "batchSize", "globalBatchSize"],
  pairsPerStep: ["itemsPerStep", "batchSize", "globalBatchSize"],
  learningRate: ["lr"],
  epochs: ["numTrainEpochs", "numEpochs"],
  warmupRatio: ["warmup"],
  maxTokens: ["maxNewTokens"],
  runDir: ["outputDir", "outDir"],
  n: ["numReturnSequences"],
};

/** The candidate that a misspelt word most likely meant, if one is near. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  const same = candidates.find((c) => Object.hasOwn(otherNames, c) && otherNames[c]!.includes(word));
  if (same !== undefined) return same;
  const near = (c: string) => distance(word.toLowerCase(), c.toLowerCase());
  const best = candidates.filter((c) => near(c) < c.length).sort((a, b) => near(a) - near(b))[0]; // some letter is shared
  return best !== undefined && near(best) <= Math.max(2, Math.floor(word.length / 3)) ? best : undefined;
}

/** A JSON object by its keys, whose values are not checked. */
export type Json = Record<string, unknown>;

/** Whether a value of JSON is an object. A list is none, nor is null. */
export const isObject = (x: unknown): x is Json => typeof x === "object" && x !== null && !Array.isArray(x);

export function object(field: string, value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value) || ArrayBuffer.isView(value))
    refuse(field, "an object", value);
  return value as Record<string, unknown>;
}

/** An options object: absent is empty, keys that are not known are refused with a suggestion. */
export function options(field: string, value: unknown, known: readonly string[]): Record<string, unknown> {
  if (value === undefined) return {};
  const o = object(field, value);
  for (const key of Object.keys(o)) {
    if (known.includes(key)) continue;
    const meant = nearest(key, known);
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `${field}: unknown option '${key}'${meant ? `; did you mean '${meant}'?` : ""}`,
      {
        hint: `known options: ${known.join(", ")}`,
        detail: { field: `${field}.${key}` },
      },
    );
  }
  return o;
}

/** Bounds of a number. */
export interface Range {
  min?: number;
  max?: number;
  above?: number; // exclusive lower bound
  below?: number; // exclusive upper bound
  integer?: boolean;
}

function rangeText({ min, max, above, below, integer }: Range): string {
  const low = above !== undefined ? `greater than ${above}` : min !== undefined ? `at least ${min}` : "";
  const high = below !== undefined ? `less than ${below}` : max !== undefined ? `at most ${max}` : "";
  return [integer ? "an integer" : "a finite number", [low, high].filter(Boolean).join(" and ")]
    .filter(Boolean)
    .join(" ");
}

/** Whether a value is a number within these bounds. */
export const inRange = (value: unknown, { min, max, above, below, integer: whole }: Range): boolean =>
  typeof value === "number" &&
  Number.isFinite(value) &&
  (!whole || Number.isSafeInteger(value)) &&
  (min === undefined || value >= min) &&
  (max === undefined || value <= max) &&
  (above === undefined || value > above) &&
  (below === undefined || value < below);

export function number(field: string, value: unknown, range: Range = {}): number {
  if (!inRange(value, range)) refuse(field, rangeText(range), value);
  return value as number;
}

export const integer = (field: string, value: unknown, min: number, max: number = Number.MAX_SAFE_INTEGER): number =>
  number(field, value, max === Number.MAX_SAFE_INTEGER ? { integer: true, min } : { integer: true, min, max });

export function boolean(field: string, value: unknown): boolean {
  if (typeof value !== "boolean") refuse(field, "true or false", value);
  return value as boolean;
}

export function text(field: string, value: unknown): string {
  if (typeof value !== "string") refuse(field, "a string", value);
  return value as string;
}

const atHome = /^~(?=[/\\]|$)/;

/**
 * A path of a file or folder: a string that is not empty and holds no zero byte. `~` is the shell's word for the home folder;
 * to the system it is the name of a folder, so that a program has to say which of the two it means.
 */
export function path(field: string, value: unknown): string {
  const s = text(field, value);
  if (s === "" || s.includes("\0")) refuse(field, "a path", value);
  if (atHome.test(s))
    refuse(field, "a path without ~ (os.homedir() for the home folder, ./~ for a folder so named)", value);
  return s;
}

/** A path of a command line or a configuration file: `~` in front is the home folder. null: `~name`, which is nobody's. */
export function fromHome(given: string): string | null {
  if (atHome.test(given)) return join(homedir(), given.slice(1));
  return given.startsWith("~") ? null : given;
}

export function choice<T extends string>(field: string, value: unknown, choices: readonly T[]): T {
  if (choices.includes(value as T)) return value as T;
  const meant = typeof value === "string" ? nearest(value, choices) : undefined;
  throw new IsrDpoError(
    "INVALID_ARGUMENT",
    `${field}: expected one of ${choices.join(", ")}, got ${show(value)}${meant ? `; did you mean '${meant}'?` : ""}`,
    { detail: { field } },
  );
}

export function array(field: string, value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) refuse(field, "an array", value);
  return value as unknown[];
}

const adopted = new WeakMap<object, AbortSignal>();

/** A signal of another realm or library as one of ours: what listens to ours (AbortSignal.any) takes no other. */
function adopt(given: AbortSignal): AbortSignal {
  const known = adopted.get(given);
  if (known) return known;
  const controller = new AbortController();
  const abort = () => controller.abort(given.reason);
  if (given.aborted) abort();
  else given.addEventListener("abort", abort, { once: true });
  adopted.set(given, controller.signal);
  return controller.signal;
}

const isSignal = (value: unknown): value is AbortSignal => {
  const s = value as Partial<AbortSignal> | null;
  return (
    typeof s === "object" && s !== null && typeof s.aborted === "boolean" && typeof s.addEventListener === "function"
  );
};

/** An AbortSignal, of any realm or library that has its `aborted`, `reason` and addEventListener(). */
export function signal(field: string, value: unknown): AbortSignal | undefined {
  if (value === undefined) return undefined;
  if (!isSignal(value)) refuse(field, "an AbortSignal", value);
  return value instanceof AbortSignal ? value : adopt(value as AbortSignal);
}

/** The signal of options that are not validated yet: a Run validates inside, where its promise can reject. */
export function signalOf(options: unknown): AbortSignal | undefined {
  const found = (options as { signal?: unknown } | undefined | null)?.signal;
  return isSignal(found) ? signal("options.signal", found) : undefined;
}

/** A seed: a whole number from 0 to 2^64 - 1. */
export function seed(field: string, value: unknown): bigint {
  if (value === undefined) return 0n;
  const ok =
    typeof value === "bigint"
      ? value >= 0n && value < 1n << 64n
      : Number.isSafeInteger(value) && (value as number) >= 0;
  if (!ok) refuse(field, "a whole number from 0 to 2^64 - 1 (a bigint above 2^53 - 1)", value);
  return BigInt(value as number | bigint);
}

/** A list of token ids, whose values are not checked. */
export function idList(field: string, value: unknown): ArrayLike<unknown> {
  if (!(value instanceof Int32Array) && !Array.isArray(value))
    refuse(field, "token ids (Int32Array or an array of integers)", value);
  return value as ArrayLike<unknown>;
}

/** Token ids as a copy of our own, each an integer in [0, vocab). */
export function ids(field: string, value: unknown, vocab: number): Int32Array {
  const given = idList(field, value);
  for (let i = 0; i < given.length; i++) {
    const id = given[i];
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= vocab)
      refuse(`${field}[${i}]`, `an integer in [0, ${vocab})`, id);
  }
  return Int32Array.from(value as ArrayLike<number>);
}

/** A copy of our own. */
export function floats(field: string, value: unknown, length: number): Float32Array {
  if (!(value instanceof Float32Array) || value.length !== length) refuse(field, `a Float32Array of ${length}`, value);
  const array = value as Float32Array;
  for (let i = 0; i < array.length; i++)
    if (!Number.isFinite(array[i])) refuse(`${field}[${i}]`, "a finite number", array[i]);
  return new Float32Array(array);
}
