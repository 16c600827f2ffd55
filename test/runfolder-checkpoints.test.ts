// Step folders: two are kept, a spoiled one is passed over and named, faults leave the older one.
import { mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { newestStep, saveStep, stepFolder } from "../src/runfolder/checkpoints.js";
import { removeTemporaries } from "../src/base/atomic-files.js";
import { exists, isError, rejects } from "./helpers/assert.js";
import { withFault } from "./helpers/faults.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("store checkpoints");
const facts = (step: number) => ({ cursor: { epoch: 0, at: step * 2 }, metricsBytes: step * 10, pairsHash: "ab" });
const fill = (step: number) => async (dir: string) => {
  mkdirSync(join(dir, "deep"));
  writeFileSync(join(dir, "opt.0.bin"), Buffer.alloc(1000 + step, step));
  writeFileSync(join(dir, "deep", "opt.1.bin"), "");
};
const save = (dir: string, step: number) => saveStep(dir, step, fill(step), facts(step));
const folder = () => join(temporaryFolder(), "train");

test("saved steps come back; two are kept", async () => {
  const dir = folder();
  assert.equal(await newestStep(dir), { newest: null, bad: [] });
  for (const [i, step] of [0, 140, 150, 1_000_000].entries()) {
    await save(dir, step);
    const { newest, bad } = await newestStep(dir);
    assert.equal([newest?.step, newest?.path, bad], [step, stepFolder(dir, step), []]);
    assert.is(readdirSync(dir).length, Math.min(i + 1, 2));
    const { files, ...rest } = newest!.state;
    assert.equal(rest, { step, ...facts(step) });
    assert.equal(
      files.map((f) => [f.name, f.bytes]),
      [
        ["deep/opt.1.bin", 0],
        ["opt.0.bin", 1000 + step],
      ],
    );
    assert.is(files[0]!.sha256, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  }
  assert.equal(readdirSync(dir).sort(), ["step-000150", "step-1000000"]);
});

const spoilers: [what: string, reason: RegExp, spoil: (step: string) => void][] = [
  ["a changed byte", /opt\.0\.bin: its SHA-256/, (s) => writeFileSync(join(s, "opt.0.bin"), Buffer.alloc(1020))],
  ["a short file", /opt\.0\.bin: expected 1020 bytes, got 1019/, (s) => truncateSync(join(s, "opt.0.bin"), 1019)],
  ["a missing file", /holds 1 files/, (s) => rmSync(join(s, "opt.0.bin"))],
  ["one more file", /holds 3 files/, (s) => writeFileSync(join(s, "more"), "")],
  ["no state", /no state\.json/, (s) => rmSync(join(s, "state.json"))],
  ["half a state", /expected a JSON object/, (s) => truncateSync(join(s, "state.json"), 20)],
  ["a state of another step", /not that of the step/, (s) => edit(s, (t) => t.replace('"step": 20', '"step": 21'))],
  [
    "no numbers",
    /not that of the step/,
    (s) => edit(s, (t) => t.replace('"metricsBytes": 200', '"metricsBytes": "200"')),
  ],
  ["odd files", /lists no files/, (s) => edit(s, (t) => t.replace('"files": [', '"files": [null,'))],
  ["a path that leads out", /not those of state/, (s) => edit(s, (t) => t.replace('"opt.0.bin"', '"../../opt.0.bin"'))],
  [
    "an empty folder",
    /no state\.json/,
    (s) => {
      rmSync(s, { recursive: true });
      mkdirSync(s);
    },
  ],
  [
    "a link to a folder",
    /opt\.0\.bin: expected 1020 bytes/,
    (s) => {
      rmSync(join(s, "opt.0.bin"));
      symlinkSync("/", join(s, "opt.0.bin"));
    },
  ],
];

function edit(step: string, change: (text: string) => string): void {
  const path = join(step, "state.json");
  const text = readFileSync(path, "utf8");
  assert.is.not(change(text), text);
  writeFileSync(path, change(text));
}

for (const [what, reason, spoil] of spoilers)
  test(`${what}: the older step is taken, and training goes on from it`, async () => {
    const dir = folder();
    await save(dir, 10);
    await save(dir, 20);
    spoil(stepFolder(dir, 20));
    const { newest, bad } = await newestStep(dir);
    assert.is(newest?.step, 10);
    assert.equal(
      bad.map((b) => b.path),
      [stepFolder(dir, 20)],
    );
    assert.match(bad[0]!.reason, reason);
    await save(dir, 15); // a shorter interval
    assert.equal(
      readdirSync(dir).sort(),
      ["step-000010", "step-000015"],
      "the bad later one goes, not the good older one",
    );
    await save(dir, 20);
    assert.equal((await newestStep(dir)).newest?.step, 20);
  });

test("a bad step is saved anew; one that holds is kept, and must be equal", async () => {
  const dir = folder();
  await save(dir, 10);
  await save(dir, 20);
  rmSync(join(stepFolder(dir, 20), "opt.0.bin"));
  await save(dir, 20);
  assert.is((await newestStep(dir)).newest?.step, 20);
  let filled = false;
  const refill = async () => {
    filled = true;
  };
  await saveStep(dir, 20, refill, facts(20));
  assert.equal({ filled }, { filled: false });
  await rejects(
    () => saveStep(dir, 20, refill, { ...facts(20), metricsBytes: 1 }),
    "NONDETERMINISM",
    /expected the state/,
    "other",
  );
  assert.equal(readdirSync(dir).sort(), ["step-000010", "step-000020"]);
});

test("names that are no steps are left alone", async () => {
  const dir = folder();
  await save(dir, 10);
  const others = ["step-10", "step-0000011", "step-000009.tmp", "step-", "metrics.jsonl", "step-000012x"];
  for (const name of others) mkdirSync(join(dir, name));
  assert.is((await newestStep(dir)).newest?.step, 10);
  for (const step of [11, 12]) await save(dir, step);
  for (const name of others) exists(join(dir, name));
});

test("an error of the one who fills leaves nothing", async () => {
  const dir = folder();
  const error = await saveStep(dir, 1, () => Promise.reject(new RangeError("mine")), facts(1)).catch((e) => e);
  assert.instance(error, RangeError);
  assert.equal(readdirSync(dir), []);
});

test("a fault at every call: an older step stands, and the next save succeeds", async () => {
  let refused = 0;
  for (let at = 1; ; at++) {
    const [code, expected] = at % 2 ? (["ENOSPC", "DISK_FULL"] as const) : (["EIO", "IO"] as const);
    const dir = folder();
    await save(dir, 20);
    const { calls, error } = await withFault(at, code, () => save(dir, 30));
    if (calls < at) break;
    if (error === undefined) continue; // a folder to be made was there
    refused++;
    isError(error, expected, `call ${at}`);
    const { newest, bad } = await newestStep(dir);
    assert.ok((newest?.step === 20 || newest?.step === 30) && bad.length === 0, `call ${at}: ${JSON.stringify(bad)}`);
    await removeTemporaries([dir]);
    await save(dir, 40);
    assert.is((await newestStep(dir)).newest?.step, 40);
    assert.equal(readdirSync(dir).sort(), [`step-0000${newest?.step}`, "step-000040"], `call ${at}`);
  }
  assert.ok(refused >= 15, `${refused} calls`);
});

test.run();
