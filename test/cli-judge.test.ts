// isr-dpo judge: rows in, preferences out; what is wrong with a row is told with its line.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { cliCommand, node } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";
import { writeClips } from "./helpers/train-run.js";

const test = suite("cli-judge");
const dir = temporaryFolder();
const rows = join(dir, "rows.jsonl");
const cli = (...args: string[]) => node([...cliCommand, "judge", ...args], { NODE_NO_WARNINGS: "1" });

test.before(() => writeClips(dir, 2));

const row = (i: number, more: object = {}) => ({
  ...{ id: `r${i}`, video: `clip${i % 2}`, question: "What is seen?", responses: ["A dog.", "A cat sleeps."] },
  ...more,
});
const write = (...list: unknown[]) =>
  writeFileSync(rows, list.map((r) => (typeof r === "string" ? r : JSON.stringify(r))).join("\n"));

test("both orders: swapped responses give the other choice with the same margin", () => {
  write(row(0), row(1, { context: "A room." }), { ...row(2), responses: ["A cat sleeps.", "A dog."] });
  const out = join(dir, "out.jsonl");
  const ended = cli("test/golden/llava_hound/policy", "--in", rows, "--out", out, "--batch", "2");
  assert.is(ended.code, 0, ended.err);
  assert.match(ended.err, /3 rows judged by self\/logprob/);
  const found = readFileSync(out, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  assert.equal(
    found.map((r) => r.id),
    ["r0", "r1", "r2"],
  );
  for (const r of found) {
    assert.ok(["pair", "disagree"].includes(r.status), JSON.stringify(r));
    assert.is(r.prefer === null, r.status !== "pair");
  }
  assert.equal([found[2].status, found[2].margin], [found[0].status, found[0].margin]);
  if (found[0].prefer !== null) assert.is(found[2].prefer, 1 - found[0].prefer);
});

test("a bad row costs that row alone", () => {
  write(
    row(0),
    "{",
    row(1, { video: "none.mp4" }),
    row(2, { responses: ["x"] }),
    row(3, { question: "<image> Who?" }),
    row(4),
  );
  const out = join(dir, "left.jsonl");
  const ended = cli("test/golden/llava_hound/policy", "--in", rows, "--out", out, "--on-error", "skip");
  assert.is(ended.code, 0, ended.err);
  const ids = readFileSync(out, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line).id);
  assert.equal(ids, ["r0", "r4"]);
  for (const line of [2, 3, 4, 5]) assert.match(ended.err, new RegExp(`skipped [A-Z_]+: .*rows\\.jsonl:${line}: `));
  assert.match(ended.err, /2 rows judged by .*4 rows skipped/);
});

const faults: readonly [string, unknown[], number, RegExp][] = [
  ["no JSON", [row(0), "{"], 65, /rows\.jsonl:2: expected JSON/],
  ["one response", [row(0, { responses: ["x"] })], 65, /rows\.jsonl:1: responses: expected two, got 1/],
  ["an unknown key", [row(0, { answer: 1 })], 65, /unknown option 'answer'/],
  ["no question", [{ ...row(0), question: undefined }], 65, /question: expected a string/],
  ["no video", [{ ...row(0), video: undefined }], 65, /expected a video for the model to look at/],
  [
    "a place without its video",
    [{ ...row(0), video: undefined, question: "<video> Who?" }],
    65,
    /rows\.jsonl:1: question: expected a video/,
  ],
  ["a video that is not there", [row(0, { video: "none.mp4" })], 65, /none\.mp4/],
];
for (const [name, list, code, message] of faults)
  test(`refused: ${name}`, () => {
    write(...list);
    const ended = cli("test/golden/llava_hound/policy", "--in", rows);
    assert.is(ended.code, code, ended.err);
    assert.match(ended.err, message);
  });

test("neither a folder nor an endpoint", () => {
  write(row(0));
  const ended = cli("--in", rows);
  assert.is(ended.code, 2);
  assert.match(ended.err, /a checkpoint's folder or --endpoint/);
});

test.run();
