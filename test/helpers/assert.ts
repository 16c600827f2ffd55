// Assertions that print what they compare: how far apart two things are, and where.
import { AssertionError } from "node:assert";
import { existsSync, readdirSync } from "node:fs";
import { dirname } from "node:path";
import { inspect } from "node:util";
import { type ErrorCode, type IsrDpoError, isIsrDpoError } from "../../src/index.js";

type Numbers = ArrayLike<number>;

const fail = (message: string): never => {
  throw new AssertionError({ message });
};

const shown = (x: unknown): string => {
  const text = typeof x === "string" ? JSON.stringify(x) : inspect(x, { depth: 3, breakLength: Infinity });
  return text.length <= 600 ? text : `${text.slice(0, 300)} ... ${text.slice(-300)}`;
};
const head = (what: string | undefined) => (what === undefined ? "" : `${what}: `);

const orders = {
  "<": (a: number, b: number) => a < b,
  "<=": (a: number, b: number) => a <= b,
  ">": (a: number, b: number) => a > b,
  ">=": (a: number, b: number) => a >= b,
};

/** `a` stands in that order to `b`; both are printed. NaN stands in none. */
export function ordered(a: number | undefined, order: keyof typeof orders, b: number | undefined, what?: string): void {
  if (a === undefined || b === undefined || !orders[order](a, b))
    fail(`${head(what)}expected ${shown(a)} ${order} ${shown(b)}`);
}

type Collection = string | readonly unknown[] | Numbers | ReadonlySet<unknown> | ReadonlyMap<unknown, unknown>;
function holds(whole: Collection | undefined, part: unknown): boolean {
  if (whole === undefined) return false;
  if (typeof whole === "string") return whole.includes(part as string);
  if (whole instanceof Set || whole instanceof Map) return whole.has(part);
  return Array.prototype.includes.call(whole, part);
}

/** A text has this part, a list or set this member, a map this key. */
export function includes(whole: Collection | undefined, part: unknown, what?: string): void {
  if (!holds(whole, part)) fail(`${head(what)}expected ${shown(part)} in ${shown(whole)}`);
}

export function excludes(whole: Collection, part: unknown, what?: string): void {
  if (holds(whole, part)) fail(`${head(what)}expected no ${shown(part)} in ${shown(whole)}`);
}

export function startsWith(text: string | undefined, start: string, what?: string): void {
  if (!text?.startsWith(start)) fail(`${head(what)}expected ${shown(start)} at the start of ${shown(text)}`);
}

export function endsWith(text: string | undefined, end: string, what?: string): void {
  if (!text?.endsWith(end)) fail(`${head(what)}expected ${shown(end)} at the end of ${shown(text)}`);
}

const list = <T>(values: Iterable<T> | ArrayLike<T>) => Array.from(values as Iterable<T>);

/** Every member passes; those that do not are printed, with their places. */
export function every<T>(
  values: Iterable<T> | ArrayLike<T>,
  passes: (x: T, i: number) => unknown,
  what?: string,
): void {
  const all = list(values);
  const bad = all.flatMap((x, i) => (passes(x, i) ? [] : [`[${i}] ${shown(x)}`]));
  if (bad.length > 0)
    fail(`${head(what)}${bad.length} of ${all.length} do not pass ${passes}: ${bad.slice(0, 5).join(", ")}`);
}

/** At least one member passes; all are printed when none does. */
export function some<T>(values: Iterable<T> | ArrayLike<T>, passes: (x: T, i: number) => unknown, what?: string): void {
  const all = list(values);
  if (!all.some((x, i) => passes(x, i))) fail(`${head(what)}none of ${all.length} passes ${passes}: ${shown(all)}`);
}

/** No member passes; those that do are printed. */
export function none<T>(values: Iterable<T> | ArrayLike<T>, passes: (x: T, i: number) => unknown, what?: string): void {
  const found = list(values).filter((x, i) => passes(x, i));
  if (found.length > 0) fail(`${head(what)}expected none to pass ${passes}: ${shown(found)}`);
}

/** A file or folder is there; what its nearest folder holds is printed when it is not. */
export function exists(path: string, what?: string): void {
  if (existsSync(path)) return;
  let near = dirname(path);
  while (!existsSync(near)) near = dirname(near);
  fail(`${head(what)}expected ${path} to exist; ${near} holds ${shown(readdirSync(near))}`);
}

export function missing(path: string, what?: string): void {
  if (existsSync(path)) fail(`${head(what)}expected no ${path}`);
}

/** An error of the package, with this code where one is given. */
export function isError(e: unknown, code?: ErrorCode, what?: string): asserts e is IsrDpoError {
  if (isIsrDpoError(e) && (code === undefined || e.code === code)) return;
  const received = isIsrDpoError(e) ? `${e.code}: ${e.message}` : e instanceof Error ? e.stack : shown(e);
  fail(`${head(what)}expected ${code ?? "an IsrDpoError"} but received ${received}`);
}

/** No error of the package, or none with this code. */
export function isNoError(e: unknown, code?: ErrorCode, what?: string): void {
  if (isIsrDpoError(e) && (code === undefined || e.code === code))
    fail(`${head(what)}expected no ${code ?? "IsrDpoError"} but received ${e.code}: ${e.message}`);
}

/** The same bytes, or where they part. */
export function sameBytes(actual: Uint8Array, expected: Uint8Array, what?: string): void {
  if (Buffer.compare(actual, expected) === 0) return;
  const end = Math.min(actual.length, expected.length);
  let at = 0;
  while (at < end && actual[at] === expected[at]) at++;
  fail(
    `${head(what)}${actual.length} bytes, expected ${expected.length}; they part at ${at}: ` +
      `${shown(Buffer.from(actual.subarray(at, at + 40)).toString())}, ` +
      `expected ${shown(Buffer.from(expected.subarray(at, at + 40)).toString())}`,
  );
}

export function maxAbs(x: Numbers): number {
  let m = 0;
  for (let i = 0; i < x.length; i++) m = Math.max(m, Math.abs(x[i]!));
  return m;
}

/** Every element within `tolerance`; NaN is never near anything. */
export function near(actual: Numbers, expected: Numbers, tolerance: number, what: string): void {
  if (actual.length !== expected.length) fail(`${what}: ${actual.length} values, expected ${expected.length}`);
  let worst = -1;
  let at = 0;
  for (let i = 0; i < actual.length; i++) {
    const d = Math.abs(actual[i]! - expected[i]!);
    if (!(d <= worst)) [worst, at] = [Number.isNaN(d) ? Infinity : d, i];
  }
  if (actual.length > 0 && !(worst <= tolerance))
    fail(`${what}[${at}]: ${actual[at]}, expected ${expected[at]} within ${tolerance}; off by ${worst}`);
}

export function close(actual: number, expected: number, tolerance: number, what: string): void {
  near([actual], [expected], tolerance, what);
}

/** The same bits (NaN included). */
export function sameBits(actual: ArrayBufferView, expected: ArrayBufferView, what: string): void {
  const bytes = (x: ArrayBufferView) => Buffer.from(x.buffer, x.byteOffset, x.byteLength);
  if (actual.byteLength !== expected.byteLength)
    fail(`${what}: ${actual.byteLength} bytes, expected ${expected.byteLength}`);
  if (bytes(actual).equals(bytes(expected))) return;
  const [a, b] = [actual as Float32Array, expected as Float32Array];
  const i = a.findIndex((x, j) => !Object.is(x, b[j]));
  fail(`${what}[${i}]: ${a[i]}, expected the bits of ${b[i]}`);
}

/**
 * How the same rows in another batch are compared. On the CPU a row's bits depend on itself alone; a card's products choose their
 * algorithm by the number of rows.
 */
export const inAnyBatch = (isa: string): typeof sameBits =>
  isa === "cuda" ? (a, b, what) => near(a as Float32Array, b as Float32Array, 5e-5, what) : sameBits;

/** Rejects (or throws) with that code, and the message matches. */
export async function rejects(work: () => unknown, code: ErrorCode, message: RegExp, what: string): Promise<void> {
  let result: unknown;
  try {
    result = await work();
  } catch (e) {
    if (!isIsrDpoError(e))
      return void fail(`${what}: expected ${code} but it threw ${e instanceof Error ? e.stack : e}`);
    if (e.code !== code) fail(`${what}: expected ${code} but received ${e.code}: ${e.message}`);
    if (!message.test(e.message)) fail(`${what}: ${code} says "${e.message}", expected ${message}`);
    return;
  }
  fail(`${what}: expected ${code} but it gave ${JSON.stringify(result)?.slice(0, 100)}`);
}

/** Cosine and relative L2 distance of two sets of tensors, taken as one vector each. */
export function direction(actual: Map<string, Numbers>, expected: Map<string, Numbers>) {
  let [dot, aa, bb, dd] = [0, 0, 0, 0];
  for (const [name, b] of expected) {
    const a = actual.get(name)!;
    for (let i = 0; i < b.length; i++) {
      dot += a[i]! * b[i]!;
      aa += a[i]! ** 2;
      bb += b[i]! ** 2;
      dd += (a[i]! - b[i]!) ** 2;
    }
  }
  return { cosine: dot / Math.sqrt(aa * bb), distance: Math.sqrt(dd / bb) };
}

/** What a promise rejects with; one that does not fails the test. */
export async function reasonOf(work: PromiseLike<unknown>): Promise<unknown> {
  try {
    await work;
  } catch (e) {
    return e;
  }
  throw new Error("it did not fail");
}
