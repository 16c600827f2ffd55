// train() among ranks, and the command line's --ranks: one folder, the values of one rank, and after a kill or a stop the bits of the
// straight run.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { exitOf, withoutRanks } from "../src/cli/ranks.js";
import { close, includes, missing, ordered } from "./helpers/assert.js";
import { cliCommand, root } from "./helpers/child.js";
import { memoized } from "./helpers/memoized.js";
import { doneRanks, type RankEnd, startRanks } from "./helpers/rank-group.js";
import { sizes, writeData } from "./helpers/train-run.js";

const test = suite("train ranks");
const kills = Number(process.env.ISR_DPO_KILLS ?? 3);
const data = mkdtempSync(join(tmpdir(), "isr-dpo-train-ranks-"));
test.before(() => writeData(data, sizes.three));
test.after(() => rmSync(data, { recursive: true, force: true }));

let folders = 0;
const newFolder = () => join(data, `run${folders++}`);
const work = (runDir: string, options: object = {}) => ({
  ...{ work: "run", data, runDir, runSize: "three", options },
  timeoutMs: 10_000, // a rank may be killed before it has come
});
interface Done {
  hash: string;
  counts: Record<string, number>;
  losses: number[];
}
const doneOf = (lines: readonly Record<string, unknown>[]) => lines.find((l) => "done" in l)!.done as Done;
const errorOf = (end: RankEnd) => end.lines.find((l) => "error" in l)?.error as { code: string; message: string };

/** A run that nothing happens to, by so many ranks: what each of them told. */
const straight = memoized(async () => {
  const runDir = newFolder();
  return { runDir, lines: await doneRanks(await startRanks(2, work(runDir))) };
});

test("two ranks: one folder, rank 0 tells, all know the result; the values are those of one rank", async () => {
  const { runDir, lines } = await straight();
  const [first, second] = lines.map(doneOf);
  assert.equal(second, first);
  const alone = doneOf((await doneRanks(await startRanks(1, work(newFolder()))))[0]!);
  assert.is(first!.losses.length, alone.losses.length);
  for (const [i, loss] of alone.losses.entries()) close(first!.losses[i]!, loss, 1e-4, `loss of step ${i}`);
  const { tokensComputed: _, ...counts } = alone.counts; // a prefix is shared inside a rank's micro-batch
  for (const [key, n] of Object.entries(counts)) assert.is(first!.counts[key], n, key);
  assert.equal(
    lines[0]!.filter((l) => "step" in l).map((l) => l.ranks),
    Array(sizes.three.steps).fill(2),
  );
  assert.is(lines[1]!.filter((l) => "step" in l).length, 0, "rank 1 tells nothing");
  const evaluations = readFileSync(join(runDir, "train/evaluation.jsonl"), "utf8").trim().split("\n");
  assert.is(evaluations.length, 3);
  const shards = readdirSync(join(runDir, "train/step-000006")).sort();
  assert.equal(shards, ["state.json", "trainer-6-0-1-of-2.safetensors", "trainer.safetensors"]);
});

test(`a rank killed at ${kills} instants: the others end with 75, and the same call resumes to the straight run's bits`, async () => {
  const { lines } = await straight();
  for (let i = 0; i < kills; i++) {
    const runDir = newFolder();
    const ranks = await startRanks(2, work(runDir));
    const lost = i % 2;
    await ranks[0]!.heard(i % 3 === 0 ? "ready" : "step");
    await new Promise((resolve) => setTimeout(resolve, (i * 397) % 700));
    ranks[lost]!.child.kill("SIGKILL");
    const ends = await Promise.all(ranks.map((r) => r.end));
    const other = ends[1 - lost]!;
    if (ends[lost]!.signal === "SIGKILL" && !other.lines.some((l) => "done" in l)) {
      assert.is(other.code, 75, JSON.stringify(other));
      assert.is(errorOf(other).code, "RANK_LOST");
    }
    const again = await doneRanks(await startRanks(2, work(runDir)));
    assert.is(doneOf(again[0]!).hash, doneOf(lines[0]!).hash, `killed ${i}: the model`);
    assert.equal(doneOf(again[0]!).losses, doneOf(lines[0]!).losses, `killed ${i}: the losses`);
  }
});

test("another number of ranks is refused, or goes on and says so", async () => {
  const { runDir } = await straight();
  const ends = await Promise.all((await startRanks(3, work(runDir))).map((r) => r.end));
  for (const end of ends) {
    assert.is(errorOf(end).code, "RUN_MISMATCH");
    includes(errorOf(end).message, "facts.ranks: expected 2, got 3");
  }
  const [lines] = await doneRanks(await startRanks(1, work(runDir, { onRanks: "warn" })));
  includes(
    lines!.map((l) => l.warning),
    "RANKS_CHANGED",
  );
});

test("a rank with another folder is refused on all of them", async () => {
  const dirs = [newFolder(), newFolder()];
  const ranks = await startRanks(2, work(dirs[0]!), (r) => ({ runDir: dirs[r] }));
  for (const end of await Promise.all(ranks.map((r) => r.end))) {
    assert.is(errorOf(end).code, "INVALID_ARGUMENT", errorOf(end).message);
    includes(errorOf(end).message, "expected the folder of rank 0");
  }
});

test("a model that is not there: every rank says so", async () => {
  const ranks = await startRanks(2, work(newFolder(), { model: join(data, "nowhere") }));
  for (const end of await Promise.all(ranks.map((r) => r.end))) assert.is(errorOf(end).code, "NOT_FOUND");
});

// ---- the command line

const command = (runDir: string, ranks: number, more: string[] = []): string[] => [
  ...cliCommand,
  ...[
    "train",
    "dpo",
    "--model",
    "test/golden/llava_hound/policy",
    "--data",
    join(data, "pairs.jsonl"),
    "--run-dir",
    runDir,
  ],
  ...["--items-per-step", "2", "--learning-rate", "1e-3", "--epochs", "40", "--ranks", `${ranks}`, "--json", ...more],
];

function run(args: string[]): {
  child: ChildProcess;
  out: () => string;
  end: Promise<{ code: number | null; err: string; out: string }>;
} {
  const child = spawn(process.execPath, args, { cwd: root });
  let [out, err] = ["", ""];
  child.stdout.on("data", (text) => {
    out += text;
  });
  child.stderr.on("data", (text) => {
    err += text;
  });
  return { child, out: () => out, end: once(child, "close").then(([code]) => ({ code, err, out })) };
}

async function stepsTold(r: ReturnType<typeof run>): Promise<void> {
  while (!r.out().includes('"type":"step"') && r.child.exitCode === null) await new Promise((f) => setTimeout(f, 20));
}

test("train --ranks 2: SIGTERM ends it in order with 130, the same command resumes to the bits of a straight one", async () => {
  const [stopped, whole] = [newFolder(), newFolder()];
  const first = run(command(stopped, 2));
  await stepsTold(first);
  first.child.kill("SIGTERM");
  const end = await first.end;
  assert.is(end.code, 130, end.err);
  missing(join(stopped, "model"), "it was told to stop, and did");
  ordered(readdirSync(join(stopped, "train")).filter((name) => name.startsWith("step-")).length, ">=", 1);
  const again = await run(command(stopped, 2)).end;
  const straight = await run(command(whole, 2)).end;
  assert.equal([again.code, straight.code], [0, 0], again.err + straight.err);
  const bytes = (dir: string, name: string) => readFileSync(join(dir, name));
  for (const name of ["model/model.safetensors", "train/metrics.jsonl"])
    assert.is(Buffer.compare(bytes(stopped, name), bytes(whole, name)), 0, name);
});

test("train --ranks 2: a rank that is killed ends the command with 75 and its name; the other does not outlive it", async () => {
  const runDir = newFolder();
  const r = run(command(runDir, 2));
  await stepsTold(r);
  const pids = readFileSync(`/proc/${r.child.pid}/task/${r.child.pid}/children`, "utf8").trim().split(" ").map(Number);
  assert.is(pids.length, 2);
  process.kill(pids[1]!, "SIGKILL");
  const end = await r.end;
  assert.is(end.code, 75, end.err);
  includes(end.err, "rank 1 was ended by SIGKILL; the same command resumes");
  for (const pid of pids) assert.throws(() => process.kill(pid, 0), /ESRCH/);
});

test("train --ranks 2: ranks do not outlive their launcher", async () => {
  const r = run(command(newFolder(), 2, ["--epochs", "4000"])); // it would go on for long
  await stepsTold(r);
  const pids = readFileSync(`/proc/${r.child.pid}/task/${r.child.pid}/children`, "utf8").trim().split(" ").map(Number);
  r.child.kill("SIGKILL");
  const gone = (pid: number) => {
    try {
      process.kill(pid, 0);
      return false;
    } catch {
      return true;
    }
  };
  for (let i = 0; i < 200 && !pids.every(gone); i++) await new Promise((f) => setTimeout(f, 50));
  const alive = pids.filter((pid) => !gone(pid));
  for (const pid of alive) process.kill(pid, "SIGKILL");
  assert.equal(alive, [], "ranks of the killed launcher");
});

const e = (rank: number, code: number | null, signal: NodeJS.Signals | null = null) => ({ rank, code, signal });
const ended: [name: string, Parameters<typeof exitOf>[0], interrupted: boolean, code: number, line?: string][] = [
  ["well", [e(0, 0), e(1, 0)], false, 0],
  ["one killed", [e(0, 75), e(1, null, "SIGKILL")], false, 75, "rank 1 was ended by SIGKILL"],
  ["an error of one", [e(0, 75), e(1, 65)], false, 65, "rank 1 ended with 65"],
  ["all stopped", [e(0, 130), e(1, 130)], true, 130],
  ["stopped, one of them late", [e(0, 130), e(1, 75)], true, 130],
  ["one lost", [e(0, 75), e(1, 75)], false, 75, "rank 0 ended with 75"],
  ["a bug while it was stopped", [e(0, 1), e(1, 75)], true, 1, "rank 0 ended with 1"],
];
for (const [name, ends, interrupted, code, line] of ended)
  test(`what a job ends with: ${name}`, () =>
    assert.equal(exitOf(ends, interrupted), line === undefined ? { code } : { code, line }));

const lines: [given: string, without: string][] = [
  ["train dpo --ranks 2 --json", "train dpo --json"],
  ["train --ranks=2", "train"],
  ["train", "train"],
];
for (const [given, without] of lines)
  test(`the command line of a rank: ${given}`, () => assert.equal(withoutRanks(given.split(" ")).join(" "), without));

test.run();
