// The preset of the paper from real video files to two models, on the golden checkpoint in the paper's layout. Smaller are
// only lengths, batch and frames; and what random weights make necessary: the choice is read from log-probs, answers that did not end are kept.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { every, ordered } from "./helpers/assert.js";
import { inspectCheckpoint, type IterationResult, loadModel, readPairs, runIterations } from "../src/index.js";
import { writeWorld } from "../src/synthetic/index.js";
import { all } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";
import { readSafetensors, type Stored } from "./helpers/safetensors.js";

const test = suite("isr paper");
const model = "test/golden/llava_hound/policy";
const dir = join(temporaryFolder(), "run");
const clips = 12;
let results: IterationResult[] = [];

test.before(async () => {
  const { samples, videos } = await writeWorld(temporaryFolder(), { name: "paper", seed: 5, clips });
  const rows = readFileSync(samples, "utf8").trim().split("\n");
  results = await runIterations({
    ...{ runDir: dir, model, from: 1, to: 3, preset: "paper", load: { threads: 2 } },
    samples: rows.map((row) => JSON.parse(row)),
    config: {
      ...{ videos, seed: 3, keep: "all" },
      response: { maxTokens: 12 },
      context: { maxTokens: 12 },
      judge: { method: "logprob", truncated: "keep" },
      guards: { maxPosition: 1, minUsable: 0 },
      train: { pairsPerStep: 4 },
      video: { frames: 8 },
    },
  }).result;
});

const bytes = ({ data }: Stored) => Buffer.from(data.buffer, data.byteOffset, data.byteLength);
const tensors = (folder: string) => readSafetensors(join(folder, "model.safetensors"));

test("two iterations: three epochs each, counts that add up, contexts for every clip", () => {
  assert.equal(
    results.map((r) => r.iteration),
    [1, 2],
  );
  for (const { counts, pairs, metrics, iteration } of results) {
    const { samples, promptsCut: _, ...statuses } = counts;
    assert.is(samples, clips);
    assert.is(
      Object.values(statuses).reduce((a, b) => a + b, 0),
      clips,
    );
    assert.is(metrics.length, 3 * Math.ceil(pairs / 4));
    const contexts = readFileSync(join(dir, `iterations/${iteration}/contexts.jsonl`), "utf8")
      .trim()
      .split("\n");
    assert.is(contexts.length, clips);
  }
});

test("the paper's schedule: rate 0 at the first step, so that the second one's margin is exactly 0 too; then down to 0", () => {
  for (const { metrics } of results) {
    assert.is(metrics[0]!.learningRate, 0);
    for (const { margin, loss } of metrics.slice(0, 2)) {
      assert.is(margin, 0);
      ordered(Math.abs(loss - Math.LN2), "<=", 1e-12);
    }
    const rates = metrics.map((m) => m.learningRate);
    assert.is(Math.max(...rates), 5e-7);
    ordered(rates.at(-1)!, "<", rates.at(-2)!);
  }
});

test("models in the layout that they came in: towers and projector untouched, the decoder trained", async () => {
  const before = tensors(model);
  const report = await inspectCheckpoint(results[1]!.model);
  assert.is(report.family, "llava_hound");
  const after = tensors(results[1]!.model);
  assert.equal([...after.keys()].sort(), [...before.keys()].sort());
  const changed = [...before].filter(([name, stored]) => !bytes(stored).equals(bytes(after.get(name)!)));
  ordered(changed.length, ">", 0);
  every(changed, ([name]) => !/tower|mm_projector/.test(name));
  await using made = await loadModel(results[1]!.model);
  assert.is(await made.hash(), results[1]!.hash);
});

test("the pairs are rows of the paper's own form", async () => {
  for (const { pairs, iteration } of results)
    assert.is((await all(readPairs(join(dir, `iterations/${iteration}/pairs.parquet`)))).length, pairs);
});

test.run();
