// Comparisons that say how far apart two things are, and where.
import { AssertionError } from "node:assert";
import { type ErrorCode, isIsrDpoError } from "../../src/index.js";

type Numbers = ArrayLike<number>;

const fail = (message: string): never => {
  throw new AssertionError({ message });
};

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
