// What is kept of files: found while the file stays what it is, and the latest up to a number of bytes.
import { utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { identityOf } from "../src/video/file-hash.js";
import { Kept } from "../src/video/file-lru.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("video-kept");
const folder = temporaryFolder();
const path = join(folder, "file");

test("an identity is of the file as it is", async () => {
  writeFileSync(path, "one");
  const one = await identityOf(path);
  assert.is(await identityOf(path), one);
  assert.is(await identityOf(join(folder, "none")), null);
  writeFileSync(path, "longer");
  const written = await identityOf(path);
  assert.is.not(written, one);
  utimesSync(path, 1, 1);
  assert.is.not(await identityOf(path), written);
});

test("the latest used stay, up to the number of bytes", () => {
  const kept = new Kept<number>(10);
  kept.keep("a", 1, 4);
  kept.keep("b", 2, 4);
  assert.is(kept.find("a"), 1); // b is the oldest now
  kept.keep("c", 3, 4);
  assert.equal(
    ["a", "b", "c"].map((k) => kept.find(k)),
    [1, undefined, 3],
  );
  kept.keep("d", 4, 11); // never fits
  kept.keep(null, 5, 1); // a file that could not be told
  assert.equal(
    ["a", "c", "d"].map((k) => kept.find(k)),
    [1, 3, undefined],
  );
  assert.is(kept.find(null), undefined);
  kept.keep("a", 9, 4); // what stands stays
  assert.is(kept.find("a"), 1);
  kept.keep("e", 6, 10);
  assert.equal(
    ["a", "c", "e"].map((k) => kept.find(k)),
    [undefined, undefined, 6],
  );
});

test.run();
