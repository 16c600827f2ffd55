// Every value of the golden text families, through the public API, at the instruction-set level that ISR_DPO_ISA names.
import { readFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { createTrainer, inspectCheckpoint, loadModel, type Tensor, type VideoLM } from "../src/index.js";
import { dpoLoss } from "../src/native.js";
import { close, direction, maxAbs, near, ordered, sameBits, sameBytes } from "./helpers/assert.js";
import { copyOf } from "./helpers/files.js";
import { bf16Case, type Case, cases, dpo, families, folder, isChosen, longRun, pairs } from "./helpers/golden.js";
import { memoized } from "./helpers/memoized.js";

const f32 = (t: Tensor | undefined) => t!.data as Float32Array;
const total = (x: Float32Array) => x.reduce((a, b) => a + b, 0);

async function forwardRows(model: VideoLM, c: Case) {
  return model.forward({ ids: c.ids }, { outputs: ["logits", "hidden", "positions"], rows: [c.firstRow, 0] });
}

/** Greedy decoding without a cache: the whole sequence again for each token. */
async function decodeAgain(model: VideoLM, prompt: Int32Array, suppress: readonly number[], tokens: number) {
  const ids = [...prompt];
  while (ids.length < prompt.length + tokens) {
    const logits = f32((await model.forward({ ids }, { rows: [-1, 0] })).logits).slice();
    for (const id of suppress) logits[id] = -Infinity;
    ids.push(logits.indexOf(Math.max(...logits)));
  }
  return Int32Array.from(ids.slice(prompt.length));
}

for (const family of families.filter(isChosen)) {
  const test = suite(`golden ${family}`);
  const { cases: all, suppress } = cases(family);
  const d = dpo(family);
  const { facts } = d;

  const policy = memoized(() => loadModel(folder(family)));
  const half = memoized(() => loadModel(folder(family, "policy"), { dtype: "bf16" }));

  test("a model's dtype is its file's, or the one asked for", async () => {
    assert.equal([(await policy()).info.dtype, (await half()).info.dtype], ["f32", "bf16"]);
  });

  for (const c of all)
    test(`outputs, log-probs: ${c.name}`, async () => {
      const model = await policy();
      const out = await forwardRows(model, c);
      near(f32(out.logits), c.logits, 1e-4, `${c.name} logits`);
      near(f32(out.hidden), c.hidden, 1e-4, `${c.name} hidden`);
      near(
        out.positions!.data,
        c.ids.map((_, t) => t),
        0,
        `${c.name} positions`,
      );
      const [logps] = await model.logProbs([{ ids: c.ids, lossMask: c.lossMask }]);
      near(logps!, c.logps, 5e-5, `${c.name} log-probs`);
      close(total(logps!), total(c.logps), 3e-4, `${c.name} summed log-prob`);
    });

  const request = (c: Case) => ({ prompt: { ids: c.prompt }, maxTokens: 16, suppress });
  for (const c of all)
    test(`16 greedy tokens, with and without cache: ${c.name}`, async () => {
      const model = await policy();
      const [alone] = await model.generate(request(c));
      assert.equal([...alone!.ids], [...c.generated], `${c.name} cached`);
      assert.is(alone!.finishReason, "length");
      assert.equal([...(await decodeAgain(model, c.prompt, suppress, 16))], [...c.generated], `${c.name} recomputed`);
    });

  test("16 greedy tokens, together", async () => {
    const together = await (await policy()).generate(all.map(request));
    assert.equal(
      together.map((c) => [...c.ids]),
      all.map((c) => [...c.generated]),
    );
  });

  test("the older spelling of the config gives the same", async () => {
    const copy = copyOf(folder(family));
    renameSync(join(copy, "config.legacy.json"), join(copy, "config.json"));
    await using model = await loadModel(folder(family));
    await using legacy = await loadModel(copy);
    const c = all[0]!;
    sameBits(f32((await forwardRows(legacy, c)).logits), f32((await forwardRows(model, c)).logits), "logits");
  });

  const reference = memoized(async () => {
    await using model = await loadModel(folder(family, "reference"));
    await using scorer = await createTrainer(model);
    return await scorer.score(pairs(d, false));
  });
  for (const [beta, expected] of [
    [0.1, facts.loss_beta_0_1],
    [0.5, facts.loss_beta_0_5],
  ] as const)
    test(`reference and policy log-probs, the loss and rewards at beta ${beta}`, async () => {
      const scores = await reference();
      await using model = await loadModel(folder(family));
      await using trainer = await createTrainer(model, { beta });
      const own = await trainer.score(pairs(d, false));
      for (const side of ["chosen", "rejected"] as const)
        d[side].forEach((row, i) => {
          near(scores[i]![side], row.reference, 5e-5, `reference ${side} ${i}`);
          near(own[i]![side], row.policy, 5e-5, `policy ${side} ${i}`);
        });
      const items = pairs(d, false).map((pair, i) => ({ ...pair, reference: scores[i]! }));
      const { metrics } = await trainer.gradients(items, { names: [] });
      close(metrics.loss, expected, 1e-5, `loss at beta ${beta}`);
      close(metrics.dpoLoss, expected, 1e-5, `DPO loss at beta ${beta}`);
      if (beta !== 0.1) return;
      const mean = (x: number[]) => x.reduce((a, b) => a + b, 0) / x.length;
      close(metrics.chosenReward, mean(facts.rewards_chosen_beta_0_1), 3e-5, "chosen reward");
      close(metrics.rejectedReward, mean(facts.rewards_rejected_beta_0_1), 3e-5, "rejected reward");
    });

  const logps = (side: "chosen" | "rejected", of: "policy" | "reference") => d[side].map((row) => row[of]);
  const variants = Object.entries(facts.trl.loss_variants_at_fixed_logps);
  test("the table of losses is whole", () => ordered(variants.length, ">=", 40));
  for (const [key, expected] of variants)
    test(`loss ${key}`, () => {
      const result = dpoLoss(
        logps("chosen", "policy"),
        logps("rejected", "policy"),
        logps("chosen", "reference"),
        logps("rejected", "reference"),
        variantOptions(key),
      );
      close(result.loss, expected, 1e-5 * Math.max(1, Math.abs(expected)), key);
    });

  test("every gradient", async () => {
    await using model = await loadModel(folder(family));
    await using trainer = await createTrainer(model, { beta: 0.1 });
    const { gradients } = await trainer.gradients(pairs(d, true));
    const expected = [...d.gradients.keys()].filter((name) => !facts.parameters_without_gradient.includes(name));
    assert.equal([...gradients.keys()].sort(), expected.sort());
    for (const name of expected) {
      const values = d.gradients.get(name)!;
      near(f32(gradients.get(name)), values, 5e-5 * maxAbs(values) + 1e-7, `gradient of ${name}`);
    }
  });

  test("three AdamW steps", async () => {
    await using model = await loadModel(folder(family));
    const options = { beta: 0.1, learningRate: 1e-3, weightDecay: 0.01, clipNorm: 1 };
    await using trainer = await createTrainer(model, options);
    const { losses_before_each_step_then_final: losses, grad_norms_before_clip: norms } = facts.adamw;
    for (let step = 0; step < 3; step++) {
      const metrics = await trainer.trainStep(pairs(d, true));
      close(metrics.loss, losses[step]!, 1e-5, `loss before step ${step}`);
      close(metrics.gradNorm, norms[step]!, 1e-5 * norms[step]!, `gradient norm of step ${step}`);
    }
    assert.is(trainer.step, 3);
    const { metrics } = await trainer.gradients(pairs(d, true), { names: [] });
    close(metrics.loss, losses[3]!, 1e-5, "loss after three steps");
    for (const [name, values] of d.after) {
      const tolerance = facts.adam_ill_conditioned.includes(name) ? 3e-3 : 1e-4;
      near(f32(await model.parameter(name)), values, tolerance, `${name} after three steps`);
    }
  });

  for (const c of all)
    test(`bfloat16 within its own tolerances: ${c.name}`, async () => {
      const model = await half();
      near(f32((await forwardRows(model, c)).logits), c.logits, 0.4, `${c.name} logits`);
      const [logps] = await model.logProbs([{ ids: c.ids, lossMask: c.lossMask }]);
      close(total(logps!), total(c.logps), 1, `${c.name} summed log-prob`);
    });

  test("bfloat16 within its own tolerances: loss and gradient", async () => {
    await using model = await loadModel(folder(family), { dtype: "bf16" });
    await using reference = await loadModel(folder(family, "reference"), { dtype: "bf16" });
    await using scorer = await createTrainer(reference);
    const scores = await scorer.score(pairs(d, false));
    await using trainer = await createTrainer(model, { beta: 0.1 });
    const items = pairs(d, false).map((pair, i) => ({ ...pair, reference: scores[i]! }));
    const { metrics, gradients } = await trainer.gradients(items);
    close(metrics.loss, facts.loss_beta_0_1, 0.03, "loss");
    const { cosine, distance } = direction(new Map([...gradients].map(([name, t]) => [name, f32(t)])), d.gradients);
    assert.ok(cosine >= 0.999, `gradient cosine ${cosine}`);
    assert.ok(distance <= 0.06, `gradient distance ${distance}`);
  });

  test("inspect tells the parts and finds nothing missing", async () => {
    const report = await inspectCheckpoint(folder(family));
    assert.is(
      report.parameters,
      [...d.gradients.values()].reduce((n, x) => n + x.length, 0),
    );
    assert.is(
      report.parts.reduce((n, p) => n + p.parameters, 0),
      report.parameters,
    );
    assert.equal(report.missing, []);
    assert.equal(report.unused, []);
    assert.is(report.vocabSize, all[0]!.logits.length / (all[0]!.ids.length - all[0]!.firstRow));
  });

  test.after(async () => {
    for (const model of [policy, half]) await (await model())[Symbol.asyncDispose]();
  });
  test.run();
}

/** "sigmoid|beta=0.1|label_smoothing=0.0" and its relatives as options of dpoLoss. */
function variantOptions(key: string): NonNullable<Parameters<typeof dpoLoss>[4]> {
  const [name, ...settings] = key.replace("(own formula)", "").split("|");
  const value = Object.fromEntries(settings.map((s) => s.split("="))) as Record<string, string>;
  const options: Record<string, unknown> = { loss: name!.split("+")[0], beta: Number(value.beta) };
  if (Number(value.label_smoothing)) options.labelSmoothing = Number(value.label_smoothing);
  if (value.ld_alpha !== undefined) options.ldAlpha = Number(value.ld_alpha);
  if (value.f_divergence !== undefined) options.divergence = value.f_divergence;
  if (value.weights !== undefined) options.sftWeight = Number(value.weights.split(",")[1]);
  return options;
}

const single = suite("golden runs");

single("twenty steps of training", async () => {
  const { examples, history, final } = longRun();
  await using reference = await loadModel(folder("text_llama", "reference"));
  await using scorer = await createTrainer(reference);
  await using model = await loadModel(folder("text_llama"));
  const schedule = { schedule: "linear", warmupSteps: 2, totalSteps: 20, learningRate: 5e-4 } as const;
  await using trainer = await createTrainer(model, { ...schedule, clipNorm: 1 });
  for (const [step, expected] of history.entries()) {
    const batch = examples.slice(2 * step, 2 * step + 2).map((e) => ({
      prompt: { ids: e.prompt_ids },
      chosen: e.chosen_ids,
      rejected: e.rejected_ids,
    }));
    assert.is(batch.length, 2);
    const scores = await scorer.score(batch);
    const metrics = await trainer.trainStep(batch.map((pair, i) => ({ ...pair, reference: scores[i]! })));
    close(metrics.learningRate, expected.learning_rate, 1e-12, `learning rate of step ${step}`);
    close(metrics.loss, expected.loss, 1e-4, `loss of step ${step}`);
    close(metrics.gradNorm, expected.grad_norm, 1e-3, `gradient norm of step ${step}`);
  }
  for (const [name, values] of final) near(f32(await model.parameter(name)), values, 1e-4, name);
});

single("a checkpoint with bfloat16 weights", async () => {
  const { ids, logits } = bf16Case();
  const dir = folder("text_llama_gqa_tied", "policy-bf16");
  await using half = await loadModel(dir);
  assert.is(half.info.dtype, "bf16");
  near(f32((await half.forward({ ids })).logits), logits, 0.4, "logits computed in bfloat16");
  await using whole = await loadModel(dir, { dtype: "f32" });
  near(f32((await whole.forward({ ids })).logits), logits, 1e-4, "logits computed in float32");
});

single("a saved model is the file it came from until it is trained", async () => {
  const dir = folder("text_llama3_rope");
  await using model = await loadModel(dir);
  const copy = copyOf(dir);
  const saved = await model.save(copy);
  assert.is(saved.hash, await model.hash());
  for (const name of ["model-00001-of-00003.safetensors", "model.safetensors.index.json", "config.json"])
    sameBytes(readFileSync(join(copy, name)), readFileSync(join(dir, name)), name);
  await using again = await loadModel(copy);
  assert.is(await again.hash(), saved.hash);
});

single.run();
