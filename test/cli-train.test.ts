// isr-dpo train: how it looks on a terminal, in a file and as JSON, what it says when it is stopped, and its exit codes.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { exists, includes } from "./helpers/assert.js";
import { bytes, duration } from "../src/report/page/shared.js";
import { initialState, lastingLine, liveLines, nextState, real, stepLine, summary } from "../src/cli/train-view.js";
import type { IterationEvent, IterationResult, RunStepMetrics } from "../src/index.js";
import { cliCommand, node, root } from "./helpers/child.js";
import { rowsFile } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";

const test = suite("cli-train");
const command = [...cliCommand, "train"];
const quiet = { NODE_NO_WARNINGS: "1" };
const model = folder("text_llama");
const pairRows = Array.from({ length: 16 }, (_, i) => ({ prompt: `a dog ${i}?`, chosen: "It runs.", rejected: "no" }));
const sftRows = Array.from({ length: 16 }, (_, i) => ({ prompt: `a dog ${i}?`, completion: "It runs." }));

test("~ in a path of the command line is the home folder; another's is refused; no folder is called so", () => {
  const home = temporaryFolder();
  const rows = rowsFile(pairRows.slice(0, 2));
  const train = (...more: string[]) =>
    node([...command, "dpo", "--model", model, "--data", rows, "--learning-rate", "1e-4", ...more], {
      ...quiet,
      HOME: home,
    });
  const done = train("--run-dir=~/run");
  assert.is(done.code, 0, done.err);
  exists(join(home, "run", "model", "config.json"));
  const refused = train("--run-dir=~sam/run");
  assert.is(refused.code, 2);
  assert.match(refused.err, /^INVALID_ARGUMENT: --run-dir: expected a path, got "~sam\/run"\nhint: .*\.\/~name/m);
  const none = train("--run-dir=~/run2", "--eval-data=~/none.jsonl");
  assert.match(none.err, new RegExp(`NOT_FOUND: .*${home}/none\\.jsonl`));
  assert.equal(
    readdirSync(root).filter((name) => name.startsWith("~")),
    [],
  );
});

const printed: [actual: string, expected: string][] = [
  [duration(0.31), "0.3 s"],
  [duration(9.96), "10 s"],
  [duration(59.6), "1 min"],
  [duration(75), "1 min 15 s"],
  [duration(3599.7), "1 h"],
  [duration(3661), "1 h 1 min"],
  [duration(90_000), "25 h"],
  [duration(Number.NaN), "?"],
  [real(0), "0"],
  [real(5e-7), "5e-7"],
  [real(1.23456e-5), "1.23e-5"],
  [real(0.25), "0.25"],
  [real(0.123456), "0.1235"],
  [real(100), "100"],
  [real(1000), "1000"],
  [real(1230), "1230"],
  [real(1.5e6), "1.5e+6"],
  [real(Number.POSITIVE_INFINITY), "Infinity"],
  [bytes(5), "1 MiB"],
  [bytes(300 * 2 ** 20), "300 MiB"],
  [bytes(2.5 * 2 ** 30), "2.5 GiB"],
];
printed.forEach(([actual, expected], i) => {
  test(`a time, a number or a size is printed as ${expected} (row ${i})`, () => assert.is(actual, expected));
});

const metrics: RunStepMetrics = {
  ...{ step: 11, loss: 0.65432, dpoLoss: 0.65432, sftLoss: 0, gradNorm: 1.23456, learningRate: 5e-7, accuracy: 0.625 },
  ...{ chosenReward: 0.1, rejectedReward: 0, margin: 0.1234, chosenLogProb: -9, rejectedLogProb: -8 },
  ...{ chosenTokens: 20, rejectedTokens: 10, flops: 1e9, tokensComputed: 4096, lengthMarginCorrelation: 0, seconds: 2 },
  ...{ epoch: 0, truncated: 0, tokensPerSecond: 2048, shareOfPeak: 0.744, memoryBytes: 3 * 2 ** 30 },
};
const ranks = [0.5, 0.1].map((communicationSeconds) => ({
  ...{ tokensComputed: 2048, computeSeconds: 1.5, communicationSeconds },
}));
const step: IterationEvent = { type: "step", iteration: 0, metrics };
const progress = (done: number): IterationEvent => ({
  ...{ type: "progress", iteration: 0, stage: "train", done, total: 40, perSecond: 0.5, secondsLeft: 58 },
});
const stage = (name: "score" | "train" | "save"): IterationEvent => ({
  ...{ type: "stage", iteration: 0, stage: name, state: "begin" },
});
const after = (kind: "sft" | "dpo", ...events: IterationEvent[]) => events.reduce(nextState, initialState(kind));
const wide = 120;

const drawn: [string, string[], string[]][] = [
  ["at first", liveLines(initialState("dpo"), wide), ["starting"]],
  ["a stage", liveLines(after("dpo", stage("score")), wide), ["reference log-probs"]],
  ["progress", liveLines(after("dpo", stage("train"), progress(10)), wide), ["███░░░░░░░░░ step 10/40  58 s left"]],
  [
    "a step, told before its progress",
    liveLines(after("dpo", stage("train"), progress(10), step), 79),
    [
      "████░░░░░░░░ step 12/40  58 s left  2,048 tok/s  74 % of peak  3.0 GiB",
      "loss 0.6543  margin 0.123  accuracy 63 %  lr 5e-7  grad 1.235",
    ],
  ],
  [
    "supervised: no pairs to speak of",
    liveLines(after("sft", stage("train"), progress(10), step), 79).slice(1),
    ["loss 0.6543  lr 5e-7  grad 1.235"],
  ],
  [
    "narrow",
    liveLines(after("dpo", stage("train"), progress(10), step), 30),
    ["████░░░░░░░░ step 12/40", "loss 0.6543  margin 0.123"],
  ],
  [
    "a step of two ranks",
    liveLines(after("dpo", stage("train"), progress(10), { ...step, metrics: { ...metrics, ranks } }), wide).slice(
      0,
      1,
    ),
    ["████░░░░░░░░ step 12/40  58 s left  2,048 tok/s  74 % of peak  3.0 GiB  2 ranks  25 % waiting"],
  ],
  ["the last step", liveLines(after("dpo", stage("train"), progress(40)), wide), ["████████████ step 40/40"]],
  ["saving", liveLines(after("dpo", progress(40), step, stage("save")), wide), ["saving the model"]],
];
for (const [what, lines, expected] of drawn) test(`the live lines: ${what}`, () => assert.equal(lines, expected));

test("the live lines are never wider than the terminal", () => {
  for (let width = 1; width < wide; width++)
    for (const line of liveLines(after("dpo", stage("train"), progress(10), step), width))
      assert.ok([...line].length <= width, `${width}: ${line}`);
});

test("the line of a step that stays", () => {
  assert.is(
    stepLine(after("dpo", progress(10), step)),
    "step 12/40  loss 0.6543  margin 0.123  accuracy 63 %  lr 5e-7  grad 1.235  2,048 tok/s  74 % of peak  3.0 GiB  58 s left",
  );
});

const evaluation = { type: "evaluation", iteration: 0, step: 4, loss: 0.5, accuracy: 0.75, margin: 1.5 } as const;
const lasting: [IterationEvent, "sft" | "dpo", string | undefined][] = [
  [evaluation, "dpo", "evaluation before step 4: loss 0.5000  accuracy 75.0 %  margin 1.500"],
  [evaluation, "sft", "evaluation before step 4: loss 0.5000"],
  [{ type: "warning", code: "BAD_ROW", message: "a\u001b[31mb", detail: null }, "sft", "warning (BAD_ROW): ab"],
  [stage("train"), "dpo", undefined],
  [step, "dpo", undefined],
];
for (const [event, kind, expected] of lasting)
  test(`lines that stay: ${event.type}, ${kind}`, () => assert.is(lastingLine(event, kind), expected));

test("the summary tells what was left out", () => {
  const result = {
    ...{ iteration: 0, model: "r/model", hash: "", pairs: 1200, resumed: false, work: {} },
    counts: { skippedRows: 3, truncated: 1 },
    metrics: [{ ...metrics, loss: 0.7 }, metrics],
  } as unknown as IterationResult;
  assert.equal(summary(result, "r", 75).slice(0, 5), [
    "2 steps over 1,200 items, 8,192 tokens computed, 1 min 15 s",
    "loss 0.7000 -> 0.6543",
    "3 rows left out (bad)",
    "1 items shortened to fit the context",
    "model: r/model",
  ]);
});

const flags = (data: string, runDir: string) => [
  ...["--model", model, "--data", data, "--run-dir", runDir, "--items-per-step", "4", "--learning-rate", "1e-3"],
  ...["--dtype", "f32", "--threads", "1"],
];

test("piped: plain lines on stderr, nothing on stdout; bad rows are told and counted", () => {
  const runDir = join(temporaryFolder(), "run");
  const data = rowsFile([...pairRows, { prompt: "no answers", chosen: "", rejected: "x" }]);
  const ended = node([...command, "dpo", ...flags(data, runDir), "--on-bad-row", "skip"], quiet);
  assert.is(ended.code, 0, ended.err);
  assert.is(ended.out, "");
  assert.match(ended.err, /^warning \(BAD_ROW\): .*rows\.jsonl:17/m);
  assert.match(ended.err, /^step 1\/4 {2}loss 0\.6931 {2}margin 0\.000 /m);
  assert.match(ended.err, /^step 4\/4 /m);
  assert.match(ended.err, /^4 steps over 16 items/m);
  assert.match(ended.err, /^1 rows left out \(bad\)$/m);
  assert.ok(ended.err.trimEnd().endsWith(`next: isr-dpo chat ${join(runDir, "model")}`), ended.err);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that there are none is what is tested
  assert.not.match(ended.err, /[\u0000-\u0009\u000b-\u001f]/);
});

test("--json: an object a line on stdout, and nothing else", () => {
  const data = rowsFile(sftRows);
  const ended = node([...command, "sft", ...flags(data, join(temporaryFolder(), "run")), "--json"], quiet);
  assert.is(ended.code, 0, ended.err);
  assert.is(ended.err, "");
  const events = ended.out
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  const losses = events.filter((e) => e.type === "step").map((e) => e.metrics.loss);
  assert.is(losses.length, 4);
  assert.ok(losses[3] < losses[0], String(losses));
  assert.equal([events.at(-1).type, events.at(-1).steps], ["result", 4]);
});

test("on a terminal: lines rewritten in place, and what stays", () => {
  const line = [process.execPath, ...command, "dpo", ...flags(rowsFile(pairRows), join(temporaryFolder(), "run"))];
  const typed = spawnSync("script", ["-qec", `stty cols 80; ${line.join(" ")}`, "/dev/null"], {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, ...quiet },
  });
  assert.is(typed.status, 0, typed.stdout);
  includes(typed.stdout, "\u001b[1A\u001b[J", "two lines are taken back");
  const stays = typed.stdout.slice(typed.stdout.lastIndexOf("\u001b[J") + 3).split("\r\n");
  assert.match(stays[0]!, /^4 steps over 16 items/);
  assert.match(stays[1]!, /^loss 0\.6931 -> /);
});

test("Ctrl-C ends in order, and the same command goes on", async () => {
  const args = [...flags(rowsFile(pairRows), join(temporaryFolder(), "run")), "--epochs", "2000"];
  const child = spawn(process.execPath, [...command, "dpo", ...args], { cwd: root, env: { ...process.env, ...quiet } });
  let err = "";
  child.stderr.setEncoding("utf8").on("data", (piece: string) => {
    if (!err.includes("step 1/") && (err + piece).includes("step 1/")) child.kill("SIGINT");
    err += piece;
  });
  const [code] = await once(child, "close");
  assert.is(code, 130, err);
  const at = Number(/^stopped at step (\d+); the same command resumes$/m.exec(err)?.[1]);
  assert.ok(at >= 1 && at < 8000, err);
  const again = spawn(process.execPath, [...command, "dpo", ...args, "--json"], {
    cwd: root,
    env: { ...process.env, ...quiet },
  });
  let out = "";
  again.stdout.setEncoding("utf8").on("data", (piece: string) => {
    if (!out.includes('"type":"step"') && (out + piece).includes('"type":"step"')) again.kill("SIGTERM");
    out += piece;
  });
  const [stopped] = await once(again, "close");
  assert.is(stopped, 130);
  const first = out
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line))
    .find((e) => e.type === "step");
  assert.is(first.metrics.step, at, "nothing is done again");
});

const misspelled = join(temporaryFolder(), "c.yaml");
writeFileSync(misspelled, "model: m\ndata: d\nrunDir: r\nepoch: 2\n");
const failures: [args: string[], code: number, message: RegExp][] = [
  [["dpo"], 2, /INVALID_ARGUMENT: command line: expected --model, --data, --run-dir, got none\nhint:/],
  [["dpo", ...flags("d", "r"), "--learning-rate", "fast"], 2, /Expected a number of at least 0/],
  [["dpo", ...flags("d", "r"), "--epochs", "0"], 2, /Expected a whole number/],
  [["dpo", misspelled], 78, /INVALID_CONFIG: .*c\.yaml:4:1: epoch: unknown key; did you mean 'epochs'\?/],
  [
    ["sft", ...flags("d", "r"), "--schedule", "cosin"],
    2,
    /--schedule <name>.*Expected constant or linear or cosine; did you mean 'cosine'\?/,
  ],
  [["dpo", "nowhere.yaml"], 65, /NOT_FOUND: nowhere\.yaml/],
  [["rlhf"], 2, /unknown command/],
];
for (const [args, code, message] of failures)
  test(`exit code ${code}: ${args.join(" ").replace(misspelled, "c.yaml")}`, () => {
    const ended = node([...command, ...args], quiet);
    assert.is(ended.code, code, ended.err);
    assert.match(ended.err, message);
    assert.is(ended.out, "");
  });

test.run();
