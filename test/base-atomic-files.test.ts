// Files and folders that appear whole: under every fault the old one stands, the error is typed, nothing temporary stays.
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { AtomicDir, makeFolders, readState, removeTemporaries, writeAtomic } from "../src/base/atomic-files.js";
import { moveStage, readStage } from "../src/runfolder/stage-file.js";
import { exists, isError, missing, rejects } from "./helpers/assert.js";
import { withFault } from "./helpers/faults.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("store files");
const faults = [
  ["ENOSPC", "DISK_FULL"],
  ["EDQUOT", "DISK_FULL"],
  ["EIO", "IO"],
] as const;

async function* parts(): AsyncGenerator<Uint8Array> {
  yield Buffer.from("new ");
  yield Buffer.alloc(0);
  yield Buffer.from("text");
}

const contents: [what: string, data: Parameters<typeof writeAtomic>[1], text: string][] = [
  ["a text", "é\n", "é\n"],
  ["bytes", Buffer.from("bytes"), "bytes"],
  ["parts", parts(), "new text"],
  ["nothing", "", ""],
];
for (const [what, data, text] of contents)
  test(`a file gets its new content: ${what}`, async () => {
    const path = join(temporaryFolder(), "a");
    writeFileSync(path, "old");
    await writeAtomic(path, data);
    assert.is(readFileSync(path, "utf8"), text);
    assert.equal(readdirSync(join(path, "..")), ["a"]);
  });

for (const [code, expected] of faults)
  test(`a file under ${code} at every call`, async () => {
    const dir = temporaryFolder();
    const path = join(dir, "a");
    const { calls } = await withFault(0, code, () => writeAtomic(path, parts()));
    assert.ok(calls >= 7, `${calls} calls`); // open, write, write, sync, rename, open, sync
    for (let at = 1; at <= calls; at++) {
      writeFileSync(path, "old");
      const { error } = await withFault(at, code, () => writeAtomic(path, parts()));
      isError(error, expected, `call ${at}`);
      assert.is(readFileSync(path, "utf8"), at <= calls - 2 ? "old" : "new text", `call ${at}`);
      assert.equal(readdirSync(dir), ["a"], `call ${at}`);
    }
  });

test("an error of the source passes as it is, a missing folder is not found, names beside are not taken", async () => {
  const dir = temporaryFolder();
  const fails = (async function* () {
    yield Buffer.from("half");
    throw new RangeError("of the source");
  })();
  const error = await writeAtomic(join(dir, "a"), fails).catch((e) => e);
  assert.instance(error, RangeError);
  assert.equal(readdirSync(dir), []);
  await rejects(() => writeAtomic(join(dir, "none", "a"), ""), "NOT_FOUND", /none.a: expected to create it/, "folder");
  for (const name of ["b.tmp", "f.tmp"]) writeFileSync(join(dir, name), "mine");
  await writeAtomic(join(dir, "b"), "x");
  await (await AtomicDir.create(join(dir, "f"))).commit();
  for (const name of ["b.tmp", "f.tmp"]) assert.is(readFileSync(join(dir, name), "utf8"), "mine");
});

async function fill(path: string): Promise<void> {
  mkdirSync(join(path, "sub"));
  writeFileSync(join(path, "one"), "1");
  writeFileSync(join(path, "sub", "two"), "2");
}

test("a folder appears whole, or not at all", async () => {
  const dir = temporaryFolder();
  const final = join(dir, "f");
  const folder = await AtomicDir.create(final);
  await fill(folder.path);
  missing(final);
  await folder.commit();
  assert.equal([readdirSync(dir), readdirSync(final).sort()], [["f"], ["one", "sub"]]);
  const second = await AtomicDir.create(final);
  await fill(second.path);
  await rejects(() => second.commit(), "IO", /f: expected to put in place it/, "a place that is taken");
  const third = await AtomicDir.create(join(dir, "g"));
  await third.abandon();
  assert.equal([readdirSync(dir), readFileSync(join(final, "sub", "two"), "utf8")], [["f"], "2"]);
});

for (const [code, expected] of faults)
  test(`a folder under ${code} at every call`, async () => {
    const dir = temporaryFolder();
    const work = async (name: string) => {
      const folder = await AtomicDir.create(join(dir, name));
      await fill(folder.path);
      await folder.commit();
    };
    const { calls } = await withFault(0, code, () => work("whole"));
    assert.ok(calls >= 12, `${calls} calls`);
    for (let at = 1; at <= calls; at++) {
      const { error } = await withFault(at, code, () => work("f"));
      isError(error, expected, `call ${at}`);
      assert.equal(readdirSync(dir), ["whole"], `call ${at}`);
    }
  });

test("temporaries of ours go, in the folders that are named alone; links are not followed, other names stay", async () => {
  const [dir, other] = [temporaryFolder(), temporaryFolder()];
  const ours = (name: string) => `.${name}.isr-dpo-0123456789ab.tmp`;
  mkdirSync(join(dir, "a", ours("step"), "c"), { recursive: true });
  mkdirSync(join(dir, "b"));
  const kept = [
    "x.tmp",
    ".x.tmp",
    "model.tmp",
    "model.old.tmp",
    "chapter.isr-dpo-0123456789ab.tmp",
    ".x.isr-dpo-0123456789AB.tmp",
    `${ours("x")}x`,
  ];
  for (const name of [...kept, ours("x"), `a/${ours("y")}`, `b/${ours("z")}`]) writeFileSync(join(dir, name), "");
  writeFileSync(join(other, ours("mine")), "");
  symlinkSync(other, join(dir, "link"));
  const removed = await removeTemporaries([dir, join(dir, "a"), join(dir, "link"), join(dir, "none")]);
  const expected = [ours("x"), `a/${ours("step")}`, `a/${ours("y")}`].map((name) => join(dir, name));
  assert.equal(removed.sort(), expected.sort());
  assert.equal(readdirSync(dir).sort(), [...kept, "a", "b", "link"].sort());
  assert.equal([readdirSync(join(dir, "b")), readdirSync(other)], [[ours("z")], [ours("mine")]]);
});

test("folders that two make at once are made", async () => {
  const top = temporaryFolder();
  for (let i = 0; i < 20; i++) {
    const made = await Promise.all(Array.from({ length: 8 }, (_, k) => makeFolders(join(top, `${i}/a/b`, `${k & 1}`))));
    assert.ok(
      made.some((path) => path === join(top, String(i))),
      JSON.stringify(made),
    );
  }
});

test("folders are made with their parents", async () => {
  const dir = join(temporaryFolder(), "a", "b", "c");
  await makeFolders(dir);
  await makeFolders(dir);
  exists(dir);
  writeFileSync(join(dir, "file"), "");
  await rejects(() => makeFolders(join(dir, "file", "d")), "NOT_FOUND", /expected to make it/, "under a file");
});

for (const text of ["", "{", "[]", "null", "1", "[".repeat(200_000)])
  test(`a state file that holds ${JSON.stringify(text.slice(0, 5))} is an error`, async () => {
    const path = join(temporaryFolder(), "s.json");
    writeFileSync(path, text);
    await rejects(() => readState(path), "JOURNAL_CORRUPT", /expected a JSON object/, text.slice(0, 5));
  });

test("state files: a JSON object, nothing, or an error", async () => {
  const path = join(temporaryFolder(), "s.json");
  assert.is(await readState(path), null);
  await rejects(() => readState(join(path, "..")), "JOURNAL_CORRUPT", /no regular file/, "a folder");
  writeFileSync(path, '{"a":1}');
  assert.equal(await readState(path), { a: 1 });
});

const stages = ["generate", "score", "train", "save", "done"] as const;

test("a stage moves only forwards", async () => {
  const dir = temporaryFolder();
  assert.is(await readStage(dir, stages), null);
  for (const [i, stage] of stages.entries()) {
    await moveStage(dir, stages, stage, { pairs: i });
    assert.equal(await readStage(dir, stages), { stage, pairs: i });
    for (const back of stages.slice(0, i + 1))
      await rejects(() => moveStage(dir, stages, back), "BUG", /expected a stage after/, `${stage} to ${back}`);
  }
  await rejects(() => moveStage(dir, ["generate", "x"], "x"), "JOURNAL_CORRUPT", /got "done"/, "another list");
  const other = temporaryFolder();
  await rejects(() => moveStage(other, stages, "later" as "done"), "BUG", /got later/, "no stage");
  await moveStage(other, stages, "train");
  assert.is((await readStage(other, stages))?.stage, "train", "stages may be passed over");
});

for (const [code, expected] of faults)
  test(`a stage under ${code} at every call stays, or has moved`, async () => {
    const dir = temporaryFolder();
    let moved = 0;
    for (let at = 1; ; at++) {
      writeFileSync(join(dir, "stage.json"), '{"stage":"generate"}\n');
      const { error } = await withFault(at, code, () => moveStage(dir, stages, "score"));
      const stage = (await readStage(dir, stages))?.stage;
      assert.ok(stage === "generate" || stage === "score", stage);
      if (error === undefined) break;
      isError(error, expected, `call ${at}`);
      if (stage === "score") moved++;
    }
    assert.is(moved, 2, "the two calls of the folder's sync alone come after the move");
  });

test.run();
