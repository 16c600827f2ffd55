// Learning rates as the plan and a run's first check compute them: those of the trainer itself; and runs that could not teach.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { createTrainer, loadModel } from "../src/index.js";
import { proveRate, rateAt } from "../src/train/learning-rate.js";
import { trainerSettings } from "../src/train/trainer-options.js";
import { caught } from "./helpers/data.js";

const test = suite("rate");

const schedules = [
  { schedule: "linear", warmupRatio: 0.1, totalSteps: 6 },
  { schedule: "linear", warmupSteps: 3, totalSteps: 6 },
  { schedule: "cosine", warmupRatio: 0.5, totalSteps: 4 },
  { schedule: "cosine", totalSteps: 5 },
  { schedule: "constant", warmupSteps: 4 },
  { schedule: "linear", totalSteps: 2 },
] as const;

const settings = (o: object) => trainerSettings("options", o, "later");

for (const o of schedules)
  test(`rates of ${JSON.stringify(o)} are the trainer's`, async () => {
    await using model = await loadModel("test/golden/text_llama/policy");
    await using trainer = await createTrainer(model, { loss: "sft", learningRate: 1e-3, ...o });
    const ids = [5, 6, 7, 8];
    const item = { ids, lossMask: Uint8Array.from([0, 1, 1, 1]) };
    for (let k = 0; k < 6; k++) {
      const { learningRate } = await trainer.trainStep([item]);
      const expected = rateAt(settings({ learningRate: 1e-3, ...o }), k, 6);
      assert.ok(Math.abs(learningRate - expected) <= 1e-15, `step ${k}: ${learningRate}, expected ${expected}`);
    }
  });

const linear = { schedule: "linear", learningRate: 1e-4 } as const;
const verdicts: readonly [what: string, o: object, steps: number, says: RegExp | null][] = [
  ["one step of a warm-up", { ...linear, warmupRatio: 0.1 }, 1, /warmupRatio 0\.1 of 1 rounded up/],
  ["one step of a longer warm-up", { ...linear, warmupSteps: 7 }, 1, /the warm-up is 7 steps long, and its first/],
  ["two steps", { ...linear, warmupRatio: 0.1 }, 2, null],
  ["all steps warm up", { ...linear, warmupRatio: 1 }, 2, null],
  ["one step of a warm-up, constant", { warmupRatio: 0.01, totalSteps: 9 }, 1, /0\.01 of 9 rounded up/],
  ["one step without a warm-up", linear, 1, null],
  ["a rate of 0", { ...linear, learningRate: 0 }, 50, /learningRate is 0/],
  ["the schedule of another length", { ...linear, warmupRatio: 0.1, totalSteps: 1 }, 9, null],
  ["no steps", { learningRate: 0 }, 0, null],
];

for (const [what, o, steps, says] of verdicts)
  test(`${what}: ${says ? "nothing would be learnt" : "something is learnt"}`, async () => {
    const rates = Array.from({ length: steps }, (_, k) => rateAt(settings(o), k, steps));
    assert.is(steps > 0 && rates.every((r) => r === 0), says !== null, rates.join());
    if (!says) return proveRate(settings(o), steps, "train");
    const e = await caught(() => Promise.resolve().then(() => proveRate(settings(o), steps, "train")));
    assert.is(e.code, "DEGENERATE");
    assert.match(e.message, says);
  });

test.run();
