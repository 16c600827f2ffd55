// The order of training: a pure function, every item once an epoch, groups together inside a step.
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Order, permutation, stepPlan } from "../src/train/item-order.js";

for (const n of [1, 2, 7, 1000])
  test(`a permutation of ${n}: every item once, the same for the same seed and epoch`, () => {
    const p = permutation(n, 5n, 0);
    assert.equal(
      [...p].sort((a, b) => a - b),
      Array.from({ length: n }, (_, i) => i),
    );
    assert.equal([...permutation(n, 5n, 0)], [...p]);
  });

test("a permutation: another for another seed or epoch", () => {
  assert.not.equal([...permutation(1000, 5n, 1)], [...permutation(1000, 5n, 0)]);
  assert.not.equal([...permutation(1000, 6n, 0)], [...permutation(1000, 5n, 0)]);
  assert.equal([...permutation(8, 1n, 0)], [...permutation(8, 1n, 0)]);
});

test("the first place is as likely for every item", () => {
  const counts = new Array(6).fill(0);
  for (let seed = 0n; seed < 3000n; seed++) counts[permutation(6, seed, 0)[0]!]++;
  for (const c of counts) assert.ok(Math.abs(c - 500) < 5 * Math.sqrt(500 * (5 / 6)), `${counts}`); // five standard deviations
});

test("steps cover each epoch, the last one takes the rest, groups stand together", () => {
  const plan = stepPlan(10, 4, 3);
  assert.equal(plan, { itemsPerStep: 4, stepsPerEpoch: 3, totalSteps: 9 });
  const group = (item: number) => String(item % 2);
  const order = new Order(10, 3n, plan, group);
  for (let epoch = 0; epoch < 3; epoch++) {
    const steps = [0, 1, 2].map((s) => order.step(epoch * 3 + s));
    assert.equal(
      steps.map((s) => s.length),
      [4, 4, 2],
    );
    assert.equal(
      [...steps.flat()].sort((a, b) => a - b),
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    );
    for (const step of steps) {
      const changes = step.filter((item, i) => i > 0 && group(item) !== group(step[i - 1]!)).length;
      assert.ok(changes <= 1, `${step}`);
    }
  }
  const again = new Order(10, 3n, plan, group);
  assert.equal(again.step(7), order.step(7), "from the middle");
});

test.run();
