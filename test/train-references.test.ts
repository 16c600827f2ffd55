// The file of reference log-probs: what a killed process left of a record is cut off, wherever it was torn, and the next record stands
// behind the last whole one.
import { readFileSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { type Reference, ReferenceStore } from "../src/train/reference-logprobs.js";
import { sameBytes } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("references");
const reference = (i: number): Reference => ({
  chosen: Float32Array.from({ length: 2 + i }, (_, k) => -k - i / 8),
  rejected: Float32Array.from({ length: 5 - i }, (_, k) => -k * i),
});
const all = [0, 1, 2].map(reference);

async function stored(path: string, some: readonly Reference[]): Promise<number> {
  const store = await ReferenceStore.open(path);
  const before = store.count;
  await store.append(some);
  await store.close();
  return before;
}

test("torn at every byte of the last record: cut off, scored again, and the file is that of a process which was not killed", async () => {
  const dir = temporaryFolder();
  const whole = join(dir, "whole.f32");
  await stored(whole, all);
  const expected = readFileSync(whole);
  const two = join(dir, "two.f32");
  await stored(two, all.slice(0, 2));
  const begin = readFileSync(two).length;
  for (let size = begin; size < expected.length; size++) {
    const path = join(dir, `${size}.f32`);
    await stored(path, all);
    truncateSync(path, size);
    assert.is(await stored(path, all.slice(2)), 2, `references left of a file of ${size} bytes`);
    sameBytes(readFileSync(path), expected, `a file that was torn at byte ${size}`);
  }
  const store = await ReferenceStore.open(whole);
  for (const [i, r] of all.entries()) assert.equal(await store.get(i), r);
  await store.close();
});

test.run();
