// What commands and calls write beside run folders: nothing that they did not write themselves is replaced or removed.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { openaiJudge, report } from "../src/index.js";
import { initCheckpoint, worldSpec, writeWorld, writeWorldExamples } from "../src/synthetic/index.js";
import { isTemporary, keysOfFirstLine, refuseForeignFile, temporaryOf } from "../src/base/output-path.js";
import { openRun } from "../src/runfolder/run-json.js";
import { trainWorld } from "../scripts/world/train-world.js";
import { every, exists, none, rejects, startsWith } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("outputs");
const set = { name: "few", seed: 1, clips: 1 };

const textsIn = (dir: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(dir, { recursive: true, withFileTypes: true })
      .filter((e) => e.isFile())
      .map((e) => join(e.parentPath ?? e.path, e.name))
      .map((path) => [path, readFileSync(path, "latin1")]),
  );

const intoFolders: Record<string, (dir: string) => Promise<unknown>> = {
  writeWorld: (dir) => writeWorld(dir, set),
  writeWorldExamples: (dir) => writeWorldExamples(dir, set),
  trainWorld: (out) => trainWorld({ out, share: 0.001 }),
};
for (const [name, write] of Object.entries(intoFolders))
  for (const file of ["samples.jsonl", "videos/few-00000.mp4", "thesis.txt", "world.json"])
    test(`${name}: a folder with ${file} of something else is refused, and stays as it was`, async () => {
      const dir = temporaryFolder();
      mkdirSync(join(dir, "videos"));
      writeFileSync(join(dir, file), "mine");
      const before = textsIn(dir);
      const code = file === "world.json" && name !== "trainWorld" ? "JOURNAL_CORRUPT" : "INVALID_ARGUMENT";
      await rejects(() => write(dir), code, new RegExp(dir), file);
      assert.equal(textsIn(dir), before, file);
    });

test("a world is written into a new folder, and again into its own", async () => {
  const dir = join(temporaryFolder(), "a", "world");
  await writeWorld(dir, set);
  writeFileSync(join(dir, "notes.txt"), "mine");
  await writeWorld(dir, set);
  assert.equal(readdirSync(dir).sort(), ["notes.txt", "samples.jsonl", "truth.jsonl", "videos", "world.json"]);
});

test("a checkpoint from nothing: names beside its folder are not taken", async () => {
  const top = temporaryFolder();
  mkdirSync(join(top, "model.tmp"));
  writeFileSync(join(top, "model.tmp", "mine"), "mine");
  await initCheckpoint(join(top, "model"), worldSpec);
  assert.is(readFileSync(join(top, "model.tmp", "mine"), "utf8"), "mine");
  await rejects(() => initCheckpoint(join(top, "model.tmp"), worldSpec), "IO", /model\.tmp/, "a full folder");
  assert.equal(readdirSync(top).sort(), ["model", "model.tmp"]);
});

test("a report replaces a report, and no other page", async () => {
  const dir = temporaryFolder();
  await openRun(dir, { kind: "isr", config: { context: { design: "none" } }, facts: {} });
  mkdirSync(join(dir, "iterations"));
  const page = join(temporaryFolder(), "page.html");
  writeFileSync(page, "<!doctype html><p>mine");
  await rejects(() => report(dir, page), "INVALID_ARGUMENT", /expected no file, or a report/, "a page");
  assert.is(readFileSync(page, "utf8"), "<!doctype html><p>mine");
  const other = join(temporaryFolder(), "page.html");
  for (let i = 0; i < 2; i++) assert.is(await report(dir, other), other);
});

test("verdicts of a judge are not added to a file of something else", async () => {
  const answers = join(temporaryFolder(), "notes.txt");
  writeFileSync(answers, "notes of mine");
  const judge = openaiJudge({ url: "http://127.0.0.1:9/v1", model: "m", answers, attempts: 1 } as never);
  const item = { sample: { id: "a", video: "v", question: "q" }, context: null, responses: ["a", "b"] };
  await rejects(() => judge.compare([item as never]), "INVALID_ARGUMENT", /expected no file, or verdicts/, "notes");
  assert.is(readFileSync(answers, "utf8"), "notes of mine");
});

for (const text of ["", "notes", "[1]", "null"])
  test(`a first line without keys: ${JSON.stringify(text)}`, () => assert.equal(keysOfFirstLine(text), []));

test("temporaries: a name that is new each time and known by its form; keys of a first line", async () => {
  const names = new Set(Array.from({ length: 50 }, () => temporaryOf("/a/b.json")));
  assert.is(names.size, 50);
  for (const path of names) {
    startsWith(path, "/a/.b.json.isr-dpo-", path);
    every([path.slice(3)], isTemporary);
  }
  none(["b.tmp", "b.json.isr-dpo-0123456789ab.tmp", ".b.isr-dpo-01.tmp"], isTemporary);
  assert.equal(keysOfFirstLine('{"a":1,"b":{"c":2}}\n{"d":1}'), ["a", "b"]);
  const path = join(temporaryFolder(), "empty");
  writeFileSync(path, "");
  for (const free of [path, join(path, "none"), temporaryFolder()]) await refuseForeignFile(free, "x", () => false);
  exists(path);
});

test.run();
