// What tells one content of a file from another without reading it.
import { utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { identityOf } from "../src/video/file-hash.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("video-file-hash");
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

test.run();
