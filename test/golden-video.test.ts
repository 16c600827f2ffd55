// Every value of the golden video families, through the public API, at the instruction-set level that ISR_DPO_ISA names.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { createTrainer, loadModel, type Tensor } from "../src/index.js";
import { close, direction, inAnyBatch, maxAbs, near, ordered, rejects, sameBits } from "./helpers/assert.js";
import {
  folderOf,
  isOriginal,
  takesGrids,
  type VideoCase,
  videoCases,
  videoDpo,
  videoFamilies,
  videoPairs,
} from "./helpers/golden-video.js";
import { isChosen } from "./helpers/golden.js";
import { memoized } from "./helpers/memoized.js";

const f32 = (t: Tensor | undefined) => t!.data as Float32Array;
const total = (x: Float32Array) => x.reduce((a, b) => a + b, 0);

for (const family of videoFamilies.filter(isChosen)) {
  const test = suite(`golden ${family}`);
  const { cases, suppress, image } = videoCases(family);
  const d = videoDpo(family);
  const everything = { vision: !isOriginal(family), projector: family !== "llava_hound", decoder: true };

  const policy = memoized(() => loadModel(folderOf(family)));
  const half = memoized(() => loadModel(folderOf(family), { dtype: "bf16" }));

  test("a model's dtype is its file's, or the one asked for", async () => {
    assert.equal([(await policy()).info.dtype, (await half()).info.dtype], ["f32", "bf16"]);
  });

  for (const c of cases.filter((c) => c.projected))
    test(`features before and after the projector: ${c.name}`, async () => {
      const model = await policy();
      const parts = await Promise.all(c.media.map((m) => model.encode(m)));
      const width = parts[0]!.shape[1]! / (1 + c.levels.length); // features of each level stand beside the first
      const level = (k: number) =>
        Float32Array.from(
          parts.flatMap((p) => [...f32(p)].filter((_, i) => Math.floor((i % p.shape[1]!) / width) === k)),
        );
      near(level(0), c.projected!, 1e-4, `${c.name} projected`);
      c.levels.forEach((values, k) => {
        near(level(k + 1), values, 1e-4, `${c.name}, level ${k}`);
      });
      if (c.tower) near(f32(await model.encode(c.media[0]!, { stage: "tower" })), c.tower, 1e-4, `${c.name} tower`);
    });

  if (image)
    test("features before and after the projector: an image", async () => {
      const model = await policy();
      near(f32(await model.encode(image.media)), image.projected, 1e-4, "image projected");
      near(f32(await model.encode(image.media, { stage: "tower" })), image.tower, 1e-4, "image tower");
    });

  for (const c of cases)
    test(`outputs and log-probs: ${c.name}`, async () => {
      const model = await policy();
      const sequence = { ids: c.ids, media: c.media };
      const rows = (values: Float32Array, width: number): readonly [number, number] => [-values.length / width, 0];
      const logits = await model.forward(sequence, { rows: rows(c.logits, model.info.vocabSize) });
      near(f32(logits.logits), c.logits, 1e-4, `${c.name} logits`);
      const width = d.gradients.get([...d.gradients.keys()].find((k) => k.endsWith("model.norm.weight"))!)!.length;
      const hidden = await model.forward(sequence, { outputs: ["hidden"], rows: rows(c.hidden, width) });
      near(f32(hidden.hidden), c.hidden, 1e-4, `${c.name} hidden`);
      const { positions } = await model.forward(sequence, { outputs: ["positions"] });
      if (c.positions) assert.equal([...positions!.data], [...c.positions], `${c.name} positions`);
      const [logps] = await model.logProbs([{ ...sequence, lossMask: c.lossMask }]);
      near(logps!, c.logps, 5e-5, `${c.name} log-probs`);
      close(total(logps!), total(c.logps), 3e-4, `${c.name} summed log-prob`);
    });

  const request = (c: VideoCase) => ({ prompt: { ids: c.prompt, media: c.media }, maxTokens: 16, suppress });
  for (const c of cases)
    test(`16 greedy tokens: ${c.name}`, async () => {
      const [alone] = await (await policy()).generate(request(c));
      assert.equal([...alone!.ids], [...c.generated]);
    });

  test("a clip is encoded and its prefix computed once, whatever is asked about it", async () => {
    await using model = await loadModel(folderOf(family));
    for (const c of cases) await model.generate(request(c));
    const clips = new Set(
      cases.flatMap((c) => c.media.map((m) => Buffer.from(f32(m.pixels).buffer).toString("latin1"))),
    );
    assert.is(model.counters.towerPasses, clips.size);
    const before = model.counters.prefillTokens;
    const [first] = cases;
    const prompts = [7, 8, 9, 10].map((id) => ({
      ...request(first!),
      prompt: { ids: [...first!.prompt, id], media: first!.media },
    }));
    const four = await model.generate(prompts);
    const rows = (await model.forward({ ids: first!.prompt, media: first!.media }, { outputs: [] })).ids.length;
    assert.is(model.counters.prefillTokens - before - rows, rows + 4, "one prefill and four last tokens"); // forward counts too
    for (const [i, p] of prompts.entries()) {
      const [alone] = await model.generate(p);
      assert.equal([...four[i]!.ids], [...alone!.ids]);
      inAnyBatch(model.info.isa)(four[i]!.logProbs, alone!.logProbs, `prompt ${i} branched and alone`);
    }
    assert.is(model.counters.towerPasses, clips.size);
  });

  const reference = memoized(async () => {
    await using model = await loadModel(folderOf(family, "reference"));
    await using scorer = await createTrainer(model);
    return await scorer.score(videoPairs(d, false));
  });
  for (const [beta, expected] of [
    [0.1, d.facts.loss_beta_0_1],
    [0.5, d.facts.loss_beta_0_5],
  ] as const)
    test(`reference and policy log-probs, the loss at beta ${beta}`, async () => {
      const scores = await reference();
      await using model = await loadModel(folderOf(family));
      await using trainer = await createTrainer(model, { beta });
      const own = await trainer.score(videoPairs(d, false));
      d.pairs.forEach((pair, i) => {
        for (const side of ["chosen", "rejected"] as const) {
          near(scores[i]![side], pair[side].reference, 5e-5, `reference ${side} ${i}`);
          near(own[i]![side], pair[side].policy, 5e-5, `policy ${side} ${i}`);
        }
      });
      const items = videoPairs(d, false).map((pair, i) => ({ ...pair, reference: scores[i]! }));
      const { metrics } = await trainer.gradients(items, { names: [] });
      close(metrics.loss, expected, 1e-5, `loss at beta ${beta}`);
    });

  for (const checkpointing of [false, true])
    test(`every gradient, checkpointing ${checkpointing}`, async () => {
      await using model = await loadModel(folderOf(family));
      await using trainer = await createTrainer(model, { beta: 0.1, train: everything, checkpointing });
      const { gradients } = await trainer.gradients(videoPairs(d, true));
      const without = d.facts.parameters_without_gradient ?? [];
      const expected = [...d.gradients.keys()].filter((name) => !without.includes(name));
      assert.equal([...gradients.keys()].sort(), expected.sort());
      for (const name of expected) {
        const values = d.gradients.get(name)!;
        near(f32(gradients.get(name)), values, 5e-5 * maxAbs(values) + 1e-7, `gradient of ${name}`);
      }
    });

  test("three AdamW steps", async () => {
    await using model = await loadModel(folderOf(family));
    const options = { beta: 0.1, learningRate: 1e-3, weightDecay: 0.01, clipNorm: 1, train: everything };
    await using trainer = await createTrainer(model, options);
    const { losses_before_each_step_then_final: losses, grad_norms_before_clip: norms } = d.facts.adamw;
    for (let step = 0; step < 3; step++) {
      const metrics = await trainer.trainStep(videoPairs(d, true));
      close(metrics.loss, losses[step]!, 1e-5, `loss before step ${step}`);
      // An element whose gradient is rounding noise moves by up to lr either way: behind the first step that shifts the norm.
      const tolerance = step > 0 && d.facts.adam_ill_conditioned.length > 0 ? 1e-4 : 1e-5;
      close(metrics.gradNorm, norms[step]!, tolerance * norms[step]!, `gradient norm of step ${step}`);
    }
    const { metrics } = await trainer.gradients(videoPairs(d, true), { names: [] });
    close(metrics.loss, losses[3]!, 1e-5, "loss after three steps");
    for (const [name, values] of d.after) {
      const tolerance = d.facts.adam_ill_conditioned.includes(name) ? 3e-3 : 1e-4;
      near(f32(await model.parameter(name)), values, tolerance, `${name} after three steps`);
    }
  });

  if (d.facts.adamw_frozen)
    test("three AdamW steps with the towers frozen", async () => {
      await using model = await loadModel(folderOf(family));
      const train = { vision: false, projector: !takesGrids(family), decoder: true };
      const options = { beta: 0.1, learningRate: 1e-3, weightDecay: 0.01, clipNorm: 1, train };
      await using trainer = await createTrainer(model, options);
      const { losses, grad_norms: norms } = d.facts.adamw_frozen!.vision_frozen;
      for (let step = 0; step < 3; step++) {
        const metrics = await trainer.trainStep(videoPairs(d, true));
        close(metrics.loss, losses[step]!, 1e-5, `loss before step ${step}`);
        close(metrics.gradNorm, norms[step]!, 1e-5 * norms[step]!, `gradient norm of step ${step}`);
      }
      const { metrics } = await trainer.gradients(videoPairs(d, true), { names: [] });
      close(metrics.loss, losses[3]!, 1e-5, "loss after three steps");
      assert.is(model.counters.towerPasses, d.pairs.length, "a frozen tower runs once a clip");
    });

  test("one, two or three threads, alone or with others: the same bits", async () => {
    const [first, second] = cases;
    const sequence = (c: VideoCase) => ({ ids: c.ids, media: c.media, lossMask: c.lossMask });
    const { isa } = (await policy()).info;
    const runs = [];
    for (const threads of [1, 2, 3]) {
      await using model = await loadModel(folderOf(family), { threads });
      const [alone] = await model.logProbs([sequence(first!)]);
      const together = await model.logProbs([sequence(second!), sequence(first!), sequence(first!)]);
      await using trainer = await createTrainer(model, { train: everything });
      const { gradients } = await trainer.gradients(videoPairs(d, true));
      runs.push({ alone: alone!, together, gradients });
    }
    for (const run of runs) {
      sameBits(run.alone, runs[0]!.alone, "threads");
      inAnyBatch(isa)(run.together[1]!, run.alone, "beside others");
      inAnyBatch(isa)(run.together[2]!, run.alone, "twice");
      for (const [name, g] of run.gradients) sameBits(g.data, runs[0]!.gradients.get(name)!.data, name);
    }
  });

  test("packed with a shared clip and separate: the same loss and gradients", async () => {
    await using model = await loadModel(folderOf(family));
    const results = [];
    for (const sharePrefix of [true, false]) {
      await using trainer = await createTrainer(model, { train: everything, sharePrefix });
      results.push(await trainer.gradients(videoPairs(d, true)));
    }
    const [packed, separate] = results;
    ordered(packed!.metrics.tokensComputed, "<", separate!.metrics.tokensComputed);
    close(packed!.metrics.loss, separate!.metrics.loss, 1e-5, "loss");
    for (const [name, g] of packed!.gradients)
      near(f32(g), f32(separate!.gradients.get(name)), 5e-5 * maxAbs(f32(g)) + 1e-7, name);
  });

  for (const c of cases)
    test(`bfloat16 within its own tolerances: ${c.name}`, async () => {
      const model = await half();
      const sequence = { ids: c.ids, media: c.media };
      const out = await model.forward(sequence, { rows: [-c.logits.length / model.info.vocabSize, 0] });
      near(f32(out.logits), c.logits, 0.4, `${c.name} logits`);
      const [logps] = await model.logProbs([{ ...sequence, lossMask: c.lossMask }]);
      close(total(logps!), total(c.logps), 1.0, `${c.name} summed log-prob`);
    });

  test("bfloat16 within its own tolerances: loss and gradient", async () => {
    await using model = await loadModel(folderOf(family), { dtype: "bf16" });
    await using trainer = await createTrainer(model, { train: everything });
    const { metrics, gradients } = await trainer.gradients(videoPairs(d, true));
    close(metrics.loss, d.facts.loss_beta_0_1, 0.03, "loss");
    const without = d.facts.parameters_without_gradient ?? [];
    const expected = new Map([...d.gradients].filter(([name]) => !without.includes(name)));
    const actual = new Map([...gradients].map(([name, g]) => [name, f32(g)]));
    const { cosine, distance } = direction(actual, expected);
    assert.ok(cosine >= 0.999 && distance <= 0.06, `cosine ${cosine}, relative distance ${distance}`);
  });

  test("placeholders that do not match the media are refused", async () => {
    await using model = await loadModel(folderOf(family));
    const c = cases[0]!;
    await rejects(() => model.forward({ ids: c.ids }), "PLACEHOLDER_MISMATCH", /expected/, "none given");
    const twice = [...c.media, ...c.media];
    await rejects(
      () => model.forward({ ids: c.ids, media: twice }),
      "PLACEHOLDER_MISMATCH",
      /expected/,
      "one too many",
    );
    const lossMask = new Uint8Array(c.ids.length).fill(1, 1);
    await rejects(
      () => model.logProbs([{ ids: c.ids, media: c.media, lossMask }]),
      "INVALID_ARGUMENT",
      /placeholder/,
      "a scored placeholder",
    );
  });

  test.after(async () => {
    for (const model of [policy, half]) await (await model())[Symbol.asyncDispose]();
  });
  test.run();
}
