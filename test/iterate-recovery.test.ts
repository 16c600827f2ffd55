// A folder of iterations after damage and changes: what is mended, what is refused by which code, and that nothing half-done stays.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ordered, sameBytes, some } from "./helpers/assert.js";
import {
  defaultPrompts,
  type IterationEvent,
  type JudgeItem,
  type RunIterationsOptions,
  runIterations,
} from "../src/index.js";
import { bundled } from "./helpers/bundle.js";
import { root } from "./helpers/child.js";
import { caught } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";
import { clips, isrOptions, isrResultOf, journalOf, samples } from "./helpers/isr-run.js";
import { shared } from "./helpers/shared.js";
import { writeClips } from "./helpers/train-run.js";

const test = suite("isr recovery");
const data = temporaryFolder();
const above = temporaryFolder();

const one = (runDir: string, more: Partial<RunIterationsOptions> = {}): RunIterationsOptions => ({
  ...isrOptions(data, runDir),
  to: 2,
  ...more,
});

/** Runs until an event of this kind, and stops there in order. */
async function stoppedAt(runDir: string, is: (e: IterationEvent) => boolean): Promise<void> {
  const stop = new AbortController();
  const run = runIterations(one(runDir, { finish: stop.signal }));
  const reading = async () => {
    for await (const e of run) if (is(e)) stop.abort(new Error("enough"));
  };
  assert.match(String(await reading().catch((e: unknown) => e)), /enough/);
}

test.before(() => writeClips(data, clips));
/** What a run comes to that was never stopped. */
const expected = shared(async () => {
  const straight = join(above, "straight");
  await runIterations(one(straight));
  return isrResultOf(straight);
});
/** Folders of runs that were stopped while they generated, and while they trained. */
const generating = shared(async () => {
  const dir = join(above, "generating");
  await stoppedAt(dir, (e) => e.type === "pair" && e.sample === "s2");
  return dir;
});
const training = shared(async () => {
  const dir = join(above, "training");
  await stoppedAt(dir, (e) => e.type === "step" && e.metrics.step === 2);
  return dir;
});

function copyOf(from: string): string {
  const dir = join(temporaryFolder(), "run");
  cpSync(from, dir, { recursive: true });
  return dir;
}
const journalPath = (dir: string) => join(dir, "iterations/1/journal.0.log");

test("a torn tail of the journal is cut, and the run goes on to the same bytes", async () => {
  const dir = copyOf(await generating());
  const bytes = readFileSync(journalPath(dir));
  writeFileSync(journalPath(dir), bytes.subarray(0, bytes.length - 7));
  await runIterations(one(dir));
  assert.equal(await isrResultOf(dir), await expected());
});

test("a flipped byte within the journal: JOURNAL_CORRUPT with its place, and nothing is changed", async () => {
  const dir = copyOf(await generating());
  const bytes = readFileSync(journalPath(dir));
  bytes[40]! ^= 1;
  writeFileSync(journalPath(dir), bytes);
  const e = await caught(() => runIterations(one(dir)).result);
  assert.is(e.code, "JOURNAL_CORRUPT");
  assert.match(e.message, /journal\.0\.log.*\b0\b/);
  sameBytes(readFileSync(journalPath(dir)), bytes);
});

test("a checkpoint of training that does not hold is told and passed over", async () => {
  const dir = copyOf(await training());
  const train = join(dir, "iterations/1/train");
  const steps = readdirSync(train)
    .filter((name) => name.startsWith("step-"))
    .sort();
  assert.is(steps.length, 2);
  const files = readdirSync(join(train, steps.at(-1)!)).filter((name) => name !== "state.json");
  const path = join(train, steps.at(-1)!, files[0]!);
  const bytes = readFileSync(path);
  bytes[bytes.length >> 1]! ^= 1;
  writeFileSync(path, bytes);
  const events: IterationEvent[] = [];
  for await (const e of runIterations(one(dir))) events.push(e);
  some(events, (e) => e.type === "warning" && e.code === "BAD_CHECKPOINT");
  assert.equal(await isrResultOf(dir), await expected());
});

test("a process that ended before the optimizer was forgotten: the next start does it", async () => {
  await expected();
  const dir = copyOf(join(above, "straight"));
  const [of, to] = [await training(), dir].map((d) => join(d, "iterations/1/train"));
  const step = readdirSync(of!).find((name) => name.startsWith("step-"))!;
  cpSync(join(of!, step), join(to!, step), { recursive: true });
  const [again] = await runIterations(one(dir));
  assert.is(again!.resumed, true, JSON.stringify(again));
  assert.equal(await isrResultOf(dir), await expected());
});

test("a second process in the folder: RUN_LOCKED names the first", async () => {
  const dir = copyOf(await generating());
  const child = spawn(process.execPath, [bundled("isr-run"), data, dir], {
    cwd: root,
    stdio: ["ignore", "pipe", "inherit"],
  });
  try {
    await once(child.stdout!, "data");
    while (!existsSync(join(dir, "lock")) || !readFileSync(join(dir, "lock"), "utf8").includes(String(child.pid)))
      await new Promise((resolve) => setTimeout(resolve, 5));
    const e = await caught(() => runIterations(one(dir)).result);
    assert.is(e.code, "RUN_LOCKED");
    assert.match(e.message, new RegExp(`\\b${child.pid}\\b`));
  } finally {
    child.kill("SIGKILL");
  }
});

for (const [onError, outcome] of [
  ["skip", "counted"],
  ["fail", "refused"],
] as const)
  test(`a video deleted in between, onError ${onError}: ${outcome}`, async () => {
    const dir = join(temporaryFolder(), "run");
    const stop = new AbortController();
    const mine = temporaryFolder();
    await writeClips(mine, clips);
    const base = one(dir);
    const o = { ...base, config: { ...base.config, videos: mine, video: { onError } } };
    const run = runIterations({ ...o, finish: stop.signal });
    const reading = async () => {
      for await (const e of run) if (e.type === "pair") stop.abort(new Error("enough"));
    };
    await reading().catch(() => {});
    const gone = join(mine, `clip${clips - 1}`);
    renameSync(gone, `${gone}.away`);
    if (onError === "skip") {
      const [result] = await runIterations(o);
      assert.is(result!.counts.skipped, samples.filter((s) => s.video === `clip${clips - 1}`).length);
      return;
    }
    const e = await caught(() => runIterations(o).result);
    assert.is(e.code, "NOT_FOUND");
    assert.match(e.message, new RegExp(`clip${clips - 1}`));
    renameSync(`${gone}.away`, gone);
    await runIterations(o);
    assert.equal(await isrResultOf(dir), await expected());
  });

test("nothing finished is done again: no group is judged, decoded, encoded or generated twice", async () => {
  const dir = join(temporaryFolder(), "run");
  const asked: string[] = [];
  const judge = {
    id: "counting",
    async compare(items: readonly JudgeItem[]) {
      asked.push(...items.map(({ sample, responses: [first] }) => JSON.stringify([sample.id, first])));
      return items.map(({ responses: [a, b] }) => ({
        prefer: a < b ? (0 as const) : (1 as const),
        margin: a < b ? 1 : -1,
      }));
    },
  };
  const lone = await runIterations(one(join(temporaryFolder(), "run"), { judge }));
  const straight = asked.splice(0);
  const stop = new AbortController();
  const run = runIterations(one(dir, { judge, finish: stop.signal }));
  const reading = async () => {
    for await (const e of run) if (e.type === "pair" && e.sample === "s2") stop.abort(new Error("enough"));
  };
  await reading().catch(() => {});
  const before = asked.length;
  const [result] = await runIterations(one(dir, { judge }));
  assert.equal([...asked].sort(), [...straight].sort());
  const { work } = result!;
  const whole = lone[0]!.work;
  assert.is(work.judgeCalls, asked.length - before);
  const clipsDone = new Set((await journalOf(journalPath(dir))).flatMap((r) => (r.type === "ctx" ? [r.video] : [])));
  assert.is(clipsDone.size, clips);
  assert.ok(before > 0 && work.decodes < whole.decodes && work.towerPasses < whole.towerPasses, JSON.stringify(work));
  ordered(work.decodeTokens, "<", whole.decodeTokens);
  ordered(work.prefillTokens, "<", whole.prefillTokens);
});

test("a clock that is set back changes nothing", async () => {
  const dir = copyOf(await training());
  const now = Date.now;
  Date.now = () => now() - 365 * 86_400_000;
  try {
    await runIterations(one(dir));
  } finally {
    Date.now = now;
  }
  assert.equal(await isrResultOf(dir), await expected());
});

const changes: [string, Partial<RunIterationsOptions>, RegExp][] = [
  ["configuration", { config: { ...isrOptions(data, "x").config, seed: 12 } }, /config\.seed/],
  ["context design", { context: "renew" }, /config\.context\.design/],
  [
    "prompts",
    { prompts: { ...defaultPrompts, response: "Say it: {question}" } },
    /inputs\.prompts: expected the content of 20/,
  ],
  ["samples", { samples: samples.slice(1) }, /facts\.samples/],
  ["judge", { judge: { id: "mine", compare: async () => [] } }, /facts\.judge/],
];
for (const [name, change, keys] of changes)
  test(`another ${name}: RUN_MISMATCH with the keys`, async () => {
    const runDir = await generating();
    const e = await caught(() => runIterations(one(runDir, change)).result);
    assert.is(e.code, "RUN_MISMATCH");
    assert.match(e.message, keys);
  });

test("two runs of different models at once leave what each leaves alone", async () => {
  const model = join(temporaryFolder(), "model"); // the weights of the reference, with the tokenizer of the policy
  for (const part of ["policy", "reference"]) cpSync(`test/golden/llava_hound/${part}`, model, { recursive: true });
  const other = (dir: string): RunIterationsOptions => ({ ...one(dir), model });
  const lone = join(temporaryFolder(), "run");
  await runIterations(other(lone));
  const [a, b] = [join(temporaryFolder(), "run"), join(temporaryFolder(), "run")];
  await Promise.all([runIterations(one(a)).result, runIterations(other(b)).result]);
  assert.equal(await isrResultOf(a), await expected());
  assert.equal(await isrResultOf(b), await isrResultOf(lone));
  assert.not.equal(await isrResultOf(b), await expected());
});

test.after(() => rmSync(above, { recursive: true, force: true }));
test.run();
