// worker_threads with a model each, terminated in the middle of a job: never an abort of the process.
// ISR_DPO_WORKER_ROUNDS sets how often (two workers a round).
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { script } from "./helpers/child.js";

const test = suite("workers");
const rounds = Number(process.env.ISR_DPO_WORKER_ROUNDS ?? 5);

test(`${2 * rounds} workers terminated mid-job`, () => {
  const ended = script("workers.ts", [String(rounds)]);
  assert.is(ended.signal, null, `killed by ${ended.signal}: ${ended.err}`);
  assert.is(ended.code, 0, ended.err);
  assert.match(ended.out, `survived ${rounds} 5 tokens, true`);
});

for (const [how, code] of [
  ["process.exit(7)", 7],
  ["throw new Error('ended')", 1],
] as const)
  test(`a process that exits in the middle of a job ends as it was told: ${how}`, () => {
    const ended = script("exit.ts", [how]);
    assert.is(ended.signal, null, `${how} was killed by ${ended.signal}: ${ended.err}`);
    assert.is(ended.code, code, ended.err);
  });

test("a process with an idle model ends by itself", () => {
  const ended = script("exit.ts", ["idle"]);
  assert.equal([ended.code, ended.signal], [0, null], ended.err);
});

test.run();
