// What becomes the folder of a run, and what does not: nothing of anybody else's is changed or removed, a refused start leaves
// nothing behind, and two starts at once give one run and RUN_LOCKED.
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, relative } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { runIterations, train, trainIteration, type TrainOptions } from "../src/index.js";
import { begunName, Claim, type Owner } from "../src/runfolder/folder-claim.js";
import { acquireLock } from "../src/runfolder/folder-lock.js";
import { openRun, readRun } from "../src/runfolder/run-json.js";
import { demo } from "../src/synthetic/demo.js";
import { every, exists, isError, missing, rejects } from "./helpers/assert.js";
import { root } from "./helpers/child.js";
import { caught, rowsFile } from "./helpers/data.js";
import { copyOf, temporaryFolder } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";
import { clips, isrOptions } from "./helpers/isr-run.js";
import { writeClips } from "./helpers/train-run.js";
import { textRows } from "./helpers/training.js";

const test = suite("run folder");
const data = temporaryFolder();
const rows = rowsFile(textRows(4));

test.before(() => writeClips(data, clips));

const dpo = (runDir: string, more: Partial<TrainOptions> = {}): TrainOptions => ({
  ...{ kind: "dpo", model: folder("text_llama"), data: rows, itemsPerStep: 2, load: { threads: 1 } },
  ...{ trainer: { learningRate: 1e-3 }, runDir, ...more },
});
const starts: Record<string, (dir: string) => PromiseLike<unknown>> = {
  train: (dir) => train(dpo(dir)),
  "train without its model": (dir) => train(dpo(dir, { model: "/no/such/model" })),
  runIterations: (dir) => runIterations(isrOptions(data, dir)),
  trainIteration: (dir) => {
    const { from: _, to: __, ...o } = isrOptions(data, dir);
    return trainIteration({ ...o, iteration: 1 });
  },
  demo: (dir) => demo({ dir, clips: 1, heldOut: 1, iterations: 1 }),
};

/** Every file under a folder with what it holds; folders end with a slash, links say where they lead. */
function snapshot(dir: string): Record<string, string> {
  const found: Record<string, string> = {};
  for (const e of readdirSync(dir, { recursive: true, withFileTypes: true })) {
    const path = join(e.parentPath ?? e.path, e.name);
    found[relative(dir, path) + (e.isDirectory() ? "/" : "")] = e.isFile() ? readFileSync(path, "latin1") : "";
  }
  return found;
}

const put = (dir: string, files: Record<string, string>): string => {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, name)), { recursive: true });
    writeFileSync(join(dir, name), text);
  }
  return dir;
};

const foreign: Record<string, Record<string, string>> = {
  "a file": { "thesis.txt": "x" },
  "temporaries of others": { "thesis/chapter.tmp": "x", "cache.tmp/data.csv": "y" },
  "temporaries of our form": { ".a.isr-dpo-0123456789ab.tmp": "x" },
  "a lock": { lock: "" },
  "names that a run gives": {
    "train/metrics.jsonl": "1",
    "model/config.json": "2",
    "items.jsonl": "3",
    "stage.json": "4",
  },
  "names that iterations give": { "iterations/1/journal.0.log": "1", "samples.jsonl": "2", "seed/run.json": "{}" },
  "run.json of another program": { "run.json": '{"name":"mine"}', "model.tmp": "x" },
  "run.json that is no JSON": { "run.json": "name: mine", "a.tmp": "x" },
  "a hidden file": { ".git/HEAD": "ref" },
};
for (const [what, files] of Object.entries(foreign))
  for (const [name, start] of Object.entries(starts))
    test(`a folder with ${what} is refused, and stays as it was: ${name}`, async () => {
      const dir = put(temporaryFolder(), files);
      const before = snapshot(dir);
      const e = await caught(async () => start(dir));
      if (what !== "run.json that is no JSON") {
        assert.is(e.code, "INVALID_ARGUMENT", `${name}: ${e.message}`);
        assert.ok(e.message.includes(Object.keys(files)[0]!.split("/")[0]!), e.message);
      } else if (name !== "demo") assert.is(e.code, "JOURNAL_CORRUPT", name);
      assert.equal(snapshot(dir), before, name);
    });

test("the first few names of what stands in the folder are told", async () => {
  const dir = put(temporaryFolder(), Object.fromEntries(Array.from({ length: 9 }, (_, i) => [`file${i}`, ""])));
  await rejects(
    () => train(dpo(dir)),
    "INVALID_ARGUMENT",
    /got one with file0, file1, file2, file3, file4 and 4 more$/,
    "",
  );
});

test("a file, and a link to a full folder, are refused; a link to an empty folder is a folder", async () => {
  const top = temporaryFolder();
  writeFileSync(join(top, "file"), "mine");
  await rejects(() => train(dpo(join(top, "file"))), "INVALID_ARGUMENT", /expected a folder, got a file/, "a file");
  symlinkSync(join(top, "none"), join(top, "lost"));
  await rejects(() => train(dpo(join(top, "lost"))), "INVALID_ARGUMENT", /got a link to nothing/, "a lost link");
  put(top, { "full/thesis.tmp": "x" });
  mkdirSync(join(top, "empty"));
  for (const name of ["full", "empty"]) symlinkSync(join(top, name), join(top, `to-${name}`));
  await rejects(() => train(dpo(join(top, "to-full"))), "INVALID_ARGUMENT", /thesis\.tmp/, "a link to a full one");
  await train(dpo(join(top, "to-empty")));
  exists(join(top, "empty/model/config.json"));
});

test("the run of another kind, and of another format, is refused as it stands", async () => {
  const dir = join(temporaryFolder(), "run");
  await train(dpo(dir));
  put(dir, { ".a.isr-dpo-0123456789ab.tmp": "left by a crash", "train/notes.tmp": "mine" });
  const before = snapshot(dir);
  for (const name of ["runIterations", "trainIteration"])
    await rejects(async () => starts[name]!(dir), "RUN_MISMATCH", /kind: expected "dpo", got "isr"/, name);
  await rejects(() => train(dpo(dir, { kind: "sft" })), "RUN_MISMATCH", /kind: expected "dpo", got "sft"/, "sft");
  await rejects(async () => starts.demo!(dir), "INVALID_ARGUMENT", /got one with/, "demo");
  assert.equal(snapshot(dir), before);
  await train(dpo(dir));
  const { ".a.isr-dpo-0123456789ab.tmp": gone, ...rest } = before;
  const now = snapshot(dir);
  assert.equal([gone, { ...now, lock: "" }], ["left by a crash", { ...rest, lock: "" }], "ours goes, others stay");
});

const refused: [what: string, start: (dir: string) => PromiseLike<unknown>, code: string][] = [
  ["no model", (dir) => train(dpo(dir, { model: "/no/such/model" })), "NOT_FOUND"],
  ["no data", (dir) => train(dpo(dir, { data: "/no/such/rows.jsonl" })), "NOT_FOUND"],
  ["bad rows", (dir) => train(dpo(dir, { data: rowsFile([{ prompt: "x" }]) })), "DATA_INVALID"],
  ["an option", (dir) => train(dpo(dir, { trainer: { beta: -1 } })), "INVALID_ARGUMENT"],
  ["no videos", (dir) => runIterations({ ...isrOptions("/no/such/folder", dir) }), "NOT_FOUND"],
  ["no samples", (dir) => runIterations({ ...isrOptions(data, dir), samples: [] }), "DATA_INVALID"],
];
for (const [what, start, code] of refused)
  for (const name of ["new", "a/b/new", "empty"])
    test(`${what}: what was refused leaves nothing new: ${name}`, async () => {
      const top = temporaryFolder();
      mkdirSync(join(top, "empty"));
      const e = await caught(async () => start(join(top, name)));
      assert.is(e.code, code, e.message);
      assert.equal(snapshot(top), { "empty/": "" }, name);
    });

test("a start that was killed before it was proven may be given again", async () => {
  const dir = put(temporaryFolder(), { [begunName]: "", lock: "", "items.jsonl": "half", "mine.txt": "mine" });
  await train(dpo(dir));
  assert.equal([existsSync(join(dir, begunName)), readFileSync(join(dir, "mine.txt"), "utf8")], [false, "mine"]);
});

test("what a killed process left half-written in the run's cache goes; what one writes now, and other names, stay", async () => {
  const dir = join(temporaryFolder(), "run");
  await train(dpo(dir));
  const name = (pid: number) => `${"a".repeat(64)}.feat.${pid}-0123456789ab.tmp`;
  const kept = [name(process.ppid), "notes.feat.tmp"];
  put(join(dir, "features"), Object.fromEntries([name(2 ** 22 + 1), ...kept].map((n) => [n, "half"])));
  await train(dpo(dir));
  assert.equal(readdirSync(join(dir, "features")).sort(), kept.sort());
});

const meetings: [what: string, option: string, make: (top: string) => Partial<TrainOptions>][] = [
  ["the model it would write", "model", (top) => ({ model: join(top, "run/model") })],
  ["a folder of the run", "model", (top) => ({ model: join(top, "run") })],
  ["a folder around the run", "model", (top) => ({ model: top })],
  [
    "the run's model behind a link",
    "model",
    (top) => {
      symlinkSync(join(top, "run"), join(top, "to"));
      return { model: join(top, "to/model") };
    },
  ],
  ["the run's items", "data", (top) => ({ data: join(top, "run/items.jsonl") })],
  ["a checkpoint's file", "evalData", (top) => ({ evalData: join(top, "run/train/step-000002/x.jsonl") })],
  ["the run's folder", "videos", (top) => ({ videos: join(top, "run/") })],
  [
    "a cache in the place of models",
    "load.featureCache",
    (top) => ({ load: { featureCache: { dir: join(top, "run/model") } } }),
  ],
];
for (const [what, option, make] of meetings)
  test(`${option} is ${what}: refused with both paths`, async () => {
    const top = temporaryFolder();
    const runDir = join(top, "run");
    const e = await caught(async () => train(dpo(runDir, make(top))));
    assert.is(e.code, "INVALID_ARGUMENT", e.message);
    assert.ok(e.message.startsWith(`${option}: `) && e.message.includes(runDir), e.message);
    missing(runDir);
  });

test("a cache inside the model's folder is refused, as is a run there", async () => {
  const model = copyOf(folder("text_llama"));
  const before = snapshot(model);
  const load = { featureCache: { dir: join(model, "cache") } };
  await rejects(
    () => train(dpo(join(temporaryFolder(), "run"), { model, load })),
    "INVALID_ARGUMENT",
    /model: /,
    "a cache",
  );
  await rejects(() => train(dpo(join(model, "run"), { model })), "INVALID_ARGUMENT", /model: /, "a run");
  assert.equal(snapshot(model), before);
});

type IsrOptions = ReturnType<typeof isrOptions>;
const inside: [option: string, o: (runDir: string, base: IsrOptions) => Partial<IsrOptions>][] = [
  ["model", (runDir) => ({ model: join(runDir, "iterations/1/model") })],
  [
    "prompts",
    (runDir, { config }) => ({ config: { ...config, prompts: join(runDir, "seed/prompts.json") }, prompts: {} }),
  ],
  ["seedData", (runDir, { config }) => ({ config: { ...config, seedData: join(runDir, "seed/items.jsonl") } })],
  ["videos", (runDir, { config }) => ({ config: { ...config, videos: join(runDir, "features") } })],
  [
    "evaluate.samples",
    (runDir, { config }) => ({ config: { ...config, evaluate: { samples: join(runDir, "evaluation/x.jsonl") } } }),
  ],
  [
    "features.dir",
    (runDir, { config }) => ({ config: { ...config, features: { dir: join(runDir, "iterations/2") } } }),
  ],
];
for (const [option, o] of inside)
  test(`iterations: their inputs may not lie where they write: ${option}`, async () => {
    const runDir = join(temporaryFolder(), "run");
    const base = isrOptions(data, runDir);
    const e = await caught(async () => runIterations({ ...base, ...o(runDir, base) }));
    assert.ok(e.code === "INVALID_ARGUMENT" && e.message.startsWith(`${option}: `), `${option}: ${e.message}`);
    missing(runDir, option);
  });

test("iterations: their model may be that of an earlier iteration", async () => {
  const base = isrOptions(data, join(temporaryFolder(), "run"));
  const [made] = await runIterations({ ...base, to: 2 });
  const [next] = await runIterations({ ...base, from: 2, to: 3, model: made!.model });
  assert.is(next!.iteration, 2);
});

const owner: Owner<object> = {
  mark: "run.json",
  what: "the folder of a run",
  read: (path, found) => readRun(path, found, "sft"),
};

test("of many starts at once one has the folder, the others are RUN_LOCKED; nothing else is ever said", async () => {
  const top = temporaryFolder();
  let won = 0;
  for (const make of ["", "a", "b/c", "there"]) {
    if (make === "there") mkdirSync(join(top, "there"));
    for (let round = 0; round < 15; round++) {
      const dir = join(top, make, make === "there" ? "" : `run${round}`);
      const claims = await Promise.allSettled(Array.from({ length: 6 }, () => Claim.take(dir, owner)));
      for (const c of claims) if (c.status === "rejected") isError(c.reason, "RUN_LOCKED");
      const got = claims.flatMap((c) => (c.status === "fulfilled" ? [c.value] : []));
      assert.is(got.length, 1);
      won += got.length;
      await Promise.all([
        ...got.map((c) => c.end()),
        ...[1, 2, 3].map(() =>
          Claim.take(dir, owner).then(
            (c) => c.end(),
            (e) => isError(e, "RUN_LOCKED"),
          ),
        ),
      ]);
    }
  }
  assert.is(won, 60);
  rmSync(join(top, "there"), { recursive: true, force: true });
  const files = Object.keys(snapshot(top)).filter((name) => !name.endsWith("/") && !name.endsWith(begunName));
  assert.equal(files, [], "those that came to nothing leave nothing");
});

test("starts in several processes that begin and give up: RUN_LOCKED or the folder, to the last", async () => {
  const dir = join(temporaryFolder(), "x", "run");
  const children = Array.from({ length: 4 }, () =>
    spawn(process.execPath, ["--import", "tsx", "test/children/claim.ts", dir, "80"], {
      cwd: root,
      stdio: ["ignore", "pipe", "inherit"],
    }),
  );
  const said = await Promise.all(
    children.map(async (child) => {
      let text = "";
      child.stdout!.on("data", (part) => {
        text += part;
      });
      await once(child, "close");
      return JSON.parse(text) as { won: number; others: string[] };
    }),
  );
  assert.equal(
    said.flatMap((s) => s.others),
    [],
  );
  assert.ok(said.reduce((n, s) => n + s.won, 0) > 0, JSON.stringify(said));
  every(existsSync(dir) ? readdirSync(dir) : [], (name) => name === begunName);
});

test("the note of a start that a failing disk kept is gone when the run lets go of its folder", async () => {
  const dir = join(temporaryFolder(), "run");
  const claim = await Claim.take(dir, owner);
  const note = readFileSync(join(dir, begunName));
  writeFileSync(join(dir, "run.json"), "{}");
  await claim.settled();
  writeFileSync(join(dir, begunName), note);
  await claim.end();
  assert.equal(readdirSync(dir).sort(), ["lock", "run.json"]);
});

test("a lock file that somebody removes lets no second run in", async () => {
  const dir = temporaryFolder();
  const lock = await acquireLock(dir);
  unlinkSync(lock.path);
  await rejects(() => acquireLock(dir), "RUN_LOCKED", /expected a free lock/, "removed");
  writeFileSync(lock.path, "");
  await rejects(() => acquireLock(dir), "RUN_LOCKED", /expected a free lock/, "and made anew");
  lock.release();
  (await acquireLock(dir)).release();
});

test("who is refused by the lock touches nothing", async () => {
  const dir = join(temporaryFolder(), "run");
  await train(dpo(dir));
  put(dir, { ".a.isr-dpo-0123456789ab.tmp": "being written" });
  const lock = await acquireLock(dir);
  const before = snapshot(dir);
  await rejects(() => train(dpo(dir, { data: "/no/such.jsonl" })), "RUN_LOCKED", /held by/, "");
  assert.equal(snapshot(dir), before);
  lock.release();
});

test("a folder that a run has is one at another place too", async () => {
  const dir = temporaryFolder();
  await openRun(dir, { kind: "sft", config: {}, facts: {} });
  const other = join(temporaryFolder(), "moved");
  cpSync(dir, other, { recursive: true });
  const claim = await Claim.take(other, owner);
  assert.is.not(claim.found, undefined);
  await claim.end();
});

test.run();
