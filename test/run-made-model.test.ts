// A finished run that is opened again uses what it has made: a file of its model that is changed, gone or new is refused by name,
// one that was copied or touched is not. And no run begins inside of what another run keeps.
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { type RunIterationsOptions, runIterations, train, type TrainOptions } from "../src/index.js";
import { checkMade, madeFiles } from "../src/runfolder/made-model.js";
import { moveStage } from "../src/runfolder/stage-file.js";
import { cliCommand, node } from "./helpers/child.js";
import { caught, rowsFile } from "./helpers/data.js";
import { copyOf, temporaryFolder } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";
import { clips, isrOptions, samples } from "./helpers/isr-run.js";
import { shared } from "./helpers/shared.js";
import { writeClips } from "./helpers/train-run.js";
import { textRows } from "./helpers/training.js";

const test = suite("run made");
const data = temporaryFolder();
const rows = rowsFile(textRows(4));
const dpo = (runDir: string): TrainOptions => ({
  ...{ kind: "dpo", model: folder("text_llama"), data: rows, itemsPerStep: 2, load: { threads: 1 } },
  ...{ trainer: { learningRate: 1e-3 }, runDir },
});
const isr = (runDir: string, more: Partial<RunIterationsOptions> = {}): RunIterationsOptions => ({
  ...isrOptions(data, runDir, "none"),
  samples: samples.slice(0, 4),
  to: 2,
  ...more,
});

test.before(() => writeClips(data, clips));
/** Folders of finished runs. */
const trained = shared(async () => {
  const dir = join(temporaryFolder(), "t");
  await train(dpo(dir));
  return dir;
});
const iterated = shared(async () => {
  const dir = join(temporaryFolder(), "i");
  await runIterations(isr(dir));
  return dir;
});

/** Other bytes of the same length, at the same time. */
function flip(path: string): void {
  const { atime, mtime } = statSync(path);
  const bytes = readFileSync(path);
  bytes[bytes.length >> 1]! ^= 1;
  writeFileSync(path, bytes);
  utimesSync(path, atime, mtime);
}

const changes: readonly [name: string, file: string, change: (model: string) => void, says: RegExp | null][] = [
  [
    "weights of the same length and time",
    "model.safetensors",
    (m) => flip(join(m, "model.safetensors")),
    /sha256 .*got other content/,
  ],
  [
    "a tokenizer",
    "tokenizer_config.json",
    (m) => writeFileSync(join(m, "tokenizer_config.json"), "{}"),
    /got other content/,
  ],
  ["a file that is gone", "tokenizer.json", (m) => rmSync(join(m, "tokenizer.json")), /expected the file .* got none/],
  [
    "a file that was not there",
    "merges.txt",
    (m) => writeFileSync(join(m, "merges.txt"), "x"),
    /expected no such file/,
  ],
  ["a file that decides nothing", "NOTES.md", (m) => writeFileSync(join(m, "NOTES.md"), "x"), null],
  ["the same bytes at another time", "config.json", (m) => utimesSync(join(m, "config.json"), 1, 1), null],
];
const runs: readonly [
  name: string,
  from: () => Promise<string>,
  inside: string,
  open: (dir: string) => PromiseLike<unknown>,
][] = [
  ["train()", trained, "model", (dir) => train(dpo(dir))],
  ["runIterations()", iterated, "iterations/1/model", (dir) => runIterations(isr(dir))],
  ["one that goes on", iterated, "iterations/1/model", (dir) => runIterations(isr(dir, { to: 3 }))],
];
for (const [name, from, inside, open] of runs)
  for (const [what, file, change, says] of changes)
    test(`${name}, ${what}: ${says ? "refused by name" : "goes on"}`, async () => {
      const dir = copyOf(await from());
      const model = join(dir, inside);
      change(model);
      if (!says) return void (await open(dir));
      const e = await caught(async () => open(dir));
      assert.is(e.code, "RUN_MISMATCH", e.message);
      assert.ok(e.message.startsWith(`${join(model, file)}: `), e.message);
      assert.match(e.message, says);
    });

test("chat RUN speaks with what the run has made, chat RUN/model with what is there", async () => {
  const dir = copyOf(await trained());
  flip(join(dir, "model/model.safetensors"));
  const ask = (from: string) => node([...cliCommand, "chat", from, "--prompt", "Who?", "--max-tokens", "1"], {});
  const refused = ask(dir);
  assert.is(refused.code, 78, refused.err);
  assert.match(refused.err, /RUN_MISMATCH: .*model\.safetensors: expected the file that the run has made/);
  assert.is(ask(join(dir, "model")).code, 0);
});

test("of several iterations the model that is used next is looked at, and the one that is asked", async () => {
  const dir = copyOf(await iterated());
  await runIterations(isr(dir, { to: 3 }));
  writeFileSync(join(dir, "iterations/1/model/tokenizer_config.json"), "{}");
  await runIterations(isr(dir, { to: 3 })); // nothing is made of model 2 any more
  const o = isr(dir, { to: 3 });
  const evaluate = { samples: rowsFile(samples.slice(0, 1)), videos: data };
  const e = await caught(async () =>
    runIterations({ ...o, config: { ...o.config, evaluate } } as RunIterationsOptions),
  );
  assert.is(e.code, "RUN_MISMATCH", e.message);
  assert.match(e.message, /iterations\/1\/model\/tokenizer_config\.json: expected the file that the run has made/);
});

test("a model to evaluate that is not the one which the run began with", async () => {
  const dir = copyOf(await iterated());
  const other = copyOf(isrOptions(data, dir).model);
  flip(join(other, "model.safetensors"));
  const questions = rowsFile(samples.slice(0, 1));
  const base = isr(dir);
  const evaluate = { samples: questions, videos: data };
  const e = await caught(async () =>
    runIterations({ ...base, model: other, config: { ...base.config, evaluate } } as RunIterationsOptions),
  );
  assert.is(e.code, "RUN_MISMATCH", e.message);
  assert.ok(e.message.startsWith(`${other}: expected the model that iteration 1 began with`), e.message);
});

test("what was looked at before is looked at anew when it is written; without records nothing is said", async () => {
  const dir = temporaryFolder();
  const [model, config] = [join(dir, "model"), join(dir, "model/config.json")];
  mkdirSync(model);
  writeFileSync(config, "{}");
  await checkMade(model);
  await moveStage(dir, ["done"], "done", await madeFiles(model));
  await checkMade(model);
  await checkMade(model); // as it was looked at before
  writeFileSync(config, "[]");
  assert.is((await caught(() => checkMade(model))).code, "RUN_MISMATCH");
  rmSync(model, { recursive: true });
  await checkMade(model); // an older one that was deleted
});

const insides: readonly [inside: string, refused: boolean][] = [
  ["train", true],
  ["model/mine", true],
  ["iterations/7", true],
  ["seed", true],
  ["features/a/b", true],
  ["mine", false],
  ["mine/train", false],
];
for (const [inside, refused] of insides)
  test(`a run inside of another one's folder, in ${inside}: ${refused ? "refused with whose it is" : "begins"}`, async () => {
    const outer = join(temporaryFolder(), "outer");
    mkdirSync(outer);
    cpSync(join(await trained(), "run.json"), join(outer, "run.json"));
    const names = () => readdirSync(outer, { recursive: true }).sort();
    const before = names();
    const start = () => train(dpo(join(outer, inside)));
    if (!refused) return void (await start());
    const e = await caught(async () => start());
    assert.is(e.code, "INVALID_ARGUMENT", e.message);
    assert.ok(e.message.includes(join(outer, inside.split("/")[0]!)), e.message);
    assert.ok(e.message.includes(join(outer, "run.json")), e.message);
    assert.equal(names(), before);
  });

test.run();
