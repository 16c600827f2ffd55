// Every value of the golden adapters, through the public API, at the instruction-set level that ISR_DPO_ISA names.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { createTrainer, loadModel, type SequencePair, type Tensor } from "../src/index.js";
import { close, direction, maxAbs, near, sameBits } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";
import { isChosen } from "./helpers/golden.js";
import { adapters, lora } from "./helpers/golden-lora.js";
import { readSafetensors } from "./helpers/safetensors.js";

const bytesOf = (x: ArrayBufferView) => Buffer.from(x.buffer, x.byteOffset, x.byteLength);
const sameValues = (a: ArrayBufferView, b: ArrayBufferView) => bytesOf(a).equals(bytesOf(b));
const f32 = (t: Tensor | undefined) => t!.data as Float32Array;

for (const name of adapters.filter(isChosen)) {
  const test = suite(`golden ${name}`);
  const g = lora(name);
  const adapter = { rank: g.config.r, alpha: g.config.lora_alpha };
  const open = (o: Parameters<typeof loadModel>[1] = {}) => loadModel(g.base, { adapter: g.dir, ...o });
  const withReference = (scores: readonly NonNullable<SequencePair["reference"]>[]) =>
    g.pairs.map((pair, i) => ({ ...pair, reference: scores[i]! }));

  test("the adapter is told of", async () => {
    await using model = await open();
    const sizes = [...g.gradients.values()].reduce((n, x) => n + x.length, 0);
    assert.equal(model.info.adapter, { ...adapter, rslora: false, modules: g.gradients.size / 2, parameters: sizes });
    await using base = await loadModel(g.base);
    assert.is(base.info.adapter, null);
  });

  test("log-probs with the adapter, and without it as reference", async () => {
    await using model = await open();
    await using trainer = await createTrainer(model, { lora: adapter });
    const scores = await trainer.score(g.pairs);
    for (const side of ["chosen", "rejected"] as const) {
      const own = await model.logProbs(g.pairs.map((pair) => pair[side]));
      own.forEach((row, i) => {
        near(row, g.policy[i]![side], 5e-5, `${side} ${i}`);
        near(scores[i]![side], g.reference[i]![side], 5e-5, `reference of ${side} ${i}`);
      });
    }
  });

  test("the loss, every gradient, three AdamW steps", async () => {
    await using model = await open();
    const options = { lora: adapter, beta: 0.1, learningRate: 1e-3, weightDecay: 0.01, clipNorm: 1 };
    await using trainer = await createTrainer(model, options);
    const { metrics, gradients } = await trainer.gradients(g.pairs); // scored by itself
    close(metrics.loss, g.facts.loss, 1e-5, "loss");
    assert.equal([...gradients.keys()].sort(), [...g.gradients.keys()].sort());
    for (const [key, values] of g.gradients)
      near(f32(gradients.get(key)), values, 5e-5 * maxAbs(values) + 1e-7, `gradient of ${key}`);
    const items = withReference(g.reference);
    const { losses_before_each_step_then_final: losses, grad_norms_before_clip: norms } = g.facts;
    for (let step = 0; step < 3; step++) {
      const done = await trainer.trainStep(items);
      close(done.loss, losses[step]!, 1e-5, `loss before step ${step}`);
      close(done.gradNorm, norms[step]!, 1e-5 * norms[step]!, `gradient norm of step ${step}`);
    }
    const later = await trainer.gradients(g.pairs, { names: [] }); // the reference may be scored at any step
    close(later.metrics.loss, losses[3]!, 1e-5, "loss after three steps");
    for (const [key, values] of g.after)
      near(f32(await model.parameter(key)), values, 1e-4, `${key} after three steps`);
  });

  test("a saved model is merged, and tensors without an adapter keep their bytes", async () => {
    await using model = await open();
    for (const [key, values] of g.merged) near(f32(await model.parameter(key)), values, 1e-6, key);
    const dir = join(temporaryFolder(), "merged");
    const { hash } = await model.save(dir);
    assert.is(hash, await model.hash());
    await using merged = await loadModel(dir);
    assert.is(merged.info.adapter, null);
    assert.is(await merged.hash(), hash);
    const own = await merged.logProbs(g.pairs.map((pair) => pair.chosen));
    own.forEach((row, i) => {
      near(row, g.policy[i]!.chosen, 5e-5, `chosen ${i}, merged`);
    });
    const [before, after] = [g.base, dir].map((d) => readSafetensors(join(d, "model.safetensors")));
    const changed = [...before!.keys()].filter((key) => !sameValues(before!.get(key)!.data, after!.get(key)!.data));
    assert.equal(changed.sort(), [...g.facts.merged_tensors].sort());
  });

  test("a saved adapter holds the tensors that were read, and loads again", async () => {
    const dir = join(temporaryFolder(), "adapter");
    await using model = await open({ dtype: "bf16" });
    await model.saveAdapter(dir);
    const [before, after] = [g.dir, dir].map((d) => readSafetensors(join(d, "adapter_model.safetensors")));
    assert.equal([...after!.keys()].sort(), [...before!.keys()].sort());
    for (const [key, { data }] of before!) sameBits(after!.get(key)!.data, data, key);
    const config = JSON.parse(readFileSync(join(dir, "adapter_config.json"), "utf8"));
    assert.equal([config.peft_type, config.r, config.lora_alpha], ["LORA", adapter.rank, adapter.alpha]);
    await using again = await loadModel(g.base, { adapter: dir });
    await using first = await open();
    const [a, b] = await Promise.all([again, first].map((m) => m.logProbs(g.pairs.map((pair) => pair.chosen))));
    a!.forEach((row, i) => {
      sameBits(row, b![i]!, `chosen ${i}`);
    });
  });

  test("bfloat16 within its own tolerances", async () => {
    await using model = await open({ dtype: "bf16" });
    await using trainer = await createTrainer(model, { lora: adapter, beta: 0.1 });
    const { metrics, gradients } = await trainer.gradients(g.pairs);
    close(metrics.loss, g.facts.loss, 0.03, "loss");
    const { cosine, distance } = direction(new Map([...gradients].map(([key, t]) => [key, f32(t)])), g.gradients);
    assert.ok(cosine >= 0.999, `gradient cosine ${cosine}`);
    assert.ok(distance <= 0.06, `gradient distance ${distance}`);
  });

  test.run();
}
