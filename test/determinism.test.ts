// Bits do not depend on threads, batch, order, cache, checkpointing or resuming; sharing a prefix changes rounding only.
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import {
  createTrainer,
  type GenerateRequest,
  loadModel,
  type Pair,
  type Tensor,
  type TrainerOptions,
  type VideoLM,
} from "../src/index.js";
import { close, maxAbs, near, ordered, sameBits } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";
import { seededIds, seededModel } from "./helpers/seeded.js";

const test = suite("determinism");
const f32 = (t: Tensor | undefined) => t!.data as Float32Array;
const dtypes = ["f32", "bf16"] as const;
const parameterNames = [
  "lm_head.weight",
  "model.embed_tokens.weight",
  "model.layers.0.self_attn.k_proj.weight",
  "model.layers.1.mlp.down_proj.weight",
  "model.norm.weight",
];

/** Pairs of one step: two with the same prompt, longer than two blocks of keys, and one with another. */
function batch(step: number): Pair[] {
  const at = 100 * step;
  const prompts = [seededIds(at + 1, 150), seededIds(at + 1, 150), seededIds(at + 2, 61)];
  return prompts.map((ids, i) => ({
    prompt: { ids },
    chosen: seededIds(at + 10 + i, 40 + 13 * i),
    rejected: seededIds(at + 20 + i, 70 - 11 * i),
  }));
}

const training: TrainerOptions = { learningRate: 1e-3, weightDecay: 0.01, clipNorm: 1 };

/** References of the step's own start model, so that later steps have them too. */
async function scored(model: VideoLM, steps: number): Promise<Pair[][]> {
  await using trainer = await createTrainer(model);
  const all: Pair[][] = [];
  for (let step = 0; step < steps; step++) {
    const pairs = batch(step);
    const scores = await trainer.score(pairs);
    all.push(pairs.map((pair, i) => ({ ...pair, reference: scores[i]! })));
  }
  return all;
}

async function parametersOf(model: VideoLM): Promise<Map<string, Float32Array>> {
  const all = new Map<string, Float32Array>();
  for (const name of parameterNames) all.set(name, f32(await model.parameter(name)));
  return all;
}

/** Three steps, and what everything looks like after them. */
async function threeSteps(dtype: "f32" | "bf16", threads: number, o: TrainerOptions = {}) {
  await using model = await loadModel(seededModel(), { dtype, threads });
  const steps = await scored(model, 3);
  await using trainer = await createTrainer(model, { ...training, ...o });
  const losses = new Float64Array(3);
  for (const [i, pairs] of steps.entries()) losses[i] = (await trainer.trainStep(pairs)).loss;
  const sampling = { maxTokens: 24, temperature: 0.8, topP: 0.9, seed: 7n, n: 3 };
  const completions = await model.generate({ prompt: batch(0)[0]!.prompt, ...sampling });
  return {
    losses,
    parameters: await parametersOf(model),
    logits: f32((await model.forward({ ids: seededIds(5, 300) })).logits),
    completions,
    hash: await model.hash(),
  };
}

for (const dtype of dtypes)
  test(`1, 2 and 3 threads: equal bits of training, outputs and samples (${dtype})`, async () => {
    const one = await threeSteps(dtype, 1);
    for (const threads of [2, 3]) {
      const other = await threeSteps(dtype, threads);
      sameBits(other.losses, one.losses, `losses with ${threads} threads`);
      sameBits(other.logits, one.logits, `logits with ${threads} threads`);
      for (const [name, values] of one.parameters)
        sameBits(other.parameters.get(name)!, values, `${name}, ${threads} threads`);
      one.completions.forEach((c, i) => {
        assert.equal([...other.completions[i]!.ids], [...c.ids], `completion ${i} with ${threads} threads`);
        sameBits(other.completions[i]!.logProbs, c.logProbs, `log-probs of completion ${i}`);
      });
      assert.is(other.hash, one.hash);
    }
  });

for (const dtype of dtypes)
  test(`alone, among eight, in another order, cached or recomputed: equal bits (${dtype})`, async () => {
    await using model = await loadModel(seededModel(), { dtype });
    // Common prefixes of 0, 63, 64, 65, 128 and 170 tokens, and one prompt inside another: cuts at and around key blocks.
    const base = seededIds(1, 170);
    const prompts = [0, 63, 64, 65, 128, 170, 170, 31].map((shared, i) =>
      i === 7 ? base.slice(0, shared) : Int32Array.from([...base.slice(0, shared), ...seededIds(30 + i, 90 + 7 * i)]),
    );
    const request = (ids: Int32Array, i: number): GenerateRequest => ({
      ...{ id: `r${i}`, prompt: { ids }, maxTokens: 12, suppress: [2] },
      ...(i % 2 === 0 ? {} : { temperature: 0.9, topP: 0.95, seed: i, randomStream: "s", n: 2 }),
    });
    const requests = prompts.map(request);
    const together = await model.generate(requests);
    const reversed = await model.generate([...requests].reverse());
    await using session = model.session();
    for (const r of requests) {
      const alone = await model.generate(r);
      const kept = await session.generate(r);
      const again = await session.generate(r);
      for (const c of alone)
        for (const [what, others] of Object.entries({ together, reversed, kept, again })) {
          const other = others.find((o) => o.request === c.request && o.copy === c.copy)!;
          assert.equal([...other.ids], [...c.ids], `${c.request} ${what}`);
          sameBits(other.logProbs, c.logProbs, `${c.request} ${what}`);
        }
      await recomputed(model, r, alone[0]!);
    }
    ordered(session.cachedTokens, ">", 0);
    ordered(session.bytes, ">", 0);
    await batchedLogProbs(model, prompts);
  });

/** Sampling-time log-probs equal those of one forward over prompt and completion, bit for bit. */
async function recomputed(model: VideoLM, r: GenerateRequest, c: { ids: Int32Array; logProbs: Float32Array }) {
  const prompt = (r.prompt as { ids: Int32Array }).ids;
  const ids = Int32Array.from([...prompt, ...c.ids]);
  const lossMask = new Uint8Array(ids.length).fill(1, prompt.length);
  const [logps] = await model.logProbs([{ ids, lossMask }]);
  sameBits(logps!, c.logProbs, `recomputed log-probs of ${r.id}`);
}

async function batchedLogProbs(model: VideoLM, prompts: Int32Array[]): Promise<void> {
  const sequences = prompts.map((ids) => ({ ids, lossMask: new Uint8Array(ids.length).fill(1, ids.length - 20) }));
  const together = await model.logProbs(sequences);
  const reversed = (await model.logProbs([...sequences].reverse())).reverse();
  for (const [i, s] of sequences.entries()) {
    const [alone] = await model.logProbs([s]);
    sameBits(together[i]!, alone!, `log-probs of sequence ${i} among eight`);
    sameBits(reversed[i]!, alone!, `log-probs of sequence ${i} in another order`);
  }
}

for (const dtype of dtypes)
  test(`checkpointing on and off: equal bits (${dtype})`, async () => {
    const [on, off] = [
      await threeSteps(dtype, 2, { checkpointing: true }),
      await threeSteps(dtype, 2, { checkpointing: false }),
    ];
    sameBits(on.losses, off.losses, "losses");
    for (const [name, values] of off.parameters) sameBits(on.parameters.get(name)!, values, name);
  });

test("a shared prefix, packed or not: equal loss and gradients within float32 rounding", async () => {
  await using model = await loadModel(seededModel());
  const [items] = await scored(model, 1);
  const run = async (o: TrainerOptions) => {
    await using trainer = await createTrainer(model, o);
    return await trainer.gradients(items!);
  };
  const [shared, apart] = [await run({ sharePrefix: true }), await run({ sharePrefix: false })];
  ordered(shared.metrics.tokensComputed, "<", apart.metrics.tokensComputed, "sharing saves tokens");
  close(shared.metrics.loss, apart.metrics.loss, 1e-6, "loss");
  for (const [name, t] of apart.gradients)
    near(f32(shared.gradients.get(name)), f32(t), 5e-6 * maxAbs(f32(t)) + 1e-9, `gradient of ${name}`);
});

test("micro-batches of any size give the same loss and gradients within float32 rounding", async () => {
  await using model = await loadModel(seededModel());
  const [items] = await scored(model, 1);
  const run = async (microBatchTokens: number) => {
    await using trainer = await createTrainer(model, { microBatchTokens });
    return await trainer.gradients(items!);
  };
  const [one, many] = [await run(4096), await run(200)];
  close(many.metrics.loss, one.metrics.loss, 1e-6, "loss");
  for (const [name, t] of one.gradients)
    near(f32(many.gradients.get(name)), f32(t), 5e-6 * maxAbs(f32(t)) + 1e-9, `gradient of ${name}`);
});

for (const dtype of dtypes)
  test(`save, load, trainStep gives the bits of never having stopped (${dtype})`, async () => {
    const straight = await threeSteps(dtype, 2);
    const dir = join(temporaryFolder(), "state");
    let steps: Pair[][];
    {
      await using model = await loadModel(seededModel(), { dtype });
      steps = await scored(model, 3);
      await using trainer = await createTrainer(model, training);
      await trainer.trainStep(steps[0]!);
      await trainer.trainStep(steps[1]!);
      await trainer.save(dir);
    }
    await using model = await loadModel(seededModel(), { dtype });
    await using trainer = await createTrainer(model, training);
    await trainer.load(dir);
    assert.is(trainer.step, 2);
    const { loss } = await trainer.trainStep(steps[2]!);
    assert.is(loss, straight.losses[2]);
    for (const [name, values] of straight.parameters) sameBits(f32(await model.parameter(name)), values, name);
    assert.is(await model.hash(), straight.hash);
  });

test("swapping chosen and rejected negates the margin", async () => {
  await using model = await loadModel(seededModel());
  await using trainer = await createTrainer(model, training);
  const pairs = batch(0);
  const scores = await trainer.score(pairs);
  await trainer.trainStep(pairs); // away from its reference
  const forth = pairs.map((pair, i) => ({ ...pair, reference: scores[i]! }));
  const back = pairs.map((pair, i) => ({
    ...{ prompt: pair.prompt, chosen: pair.rejected, rejected: pair.chosen },
    reference: { chosen: scores[i]!.rejected, rejected: scores[i]!.chosen },
  }));
  const [a, b] = [
    (await trainer.gradients(forth, { names: [] })).metrics,
    (await trainer.gradients(back, { names: [] })).metrics,
  ];
  ordered(Math.abs(a.margin), ">", 1e-3);
  close(b.margin, -a.margin, 1e-6 * Math.abs(a.margin), "margin");
  close(b.chosenReward, a.rejectedReward, 1e-6 * Math.abs(a.rejectedReward), "reward");
});

for (const dtype of dtypes)
  test(`the first step of an iteration has loss ln 2: the reference is its own start (${dtype})`, async () => {
    await using model = await loadModel(seededModel(), { dtype });
    await using trainer = await createTrainer(model, training);
    const { loss, margin } = await trainer.trainStep(batch(0));
    assert.is(Math.fround(loss), Math.fround(Math.LN2), dtype);
    assert.is(margin, 0, dtype);
  });

test("training reaches generation: a prefix that a session kept is not used with new weights", async () => {
  await using model = await loadModel(seededModel());
  await using session = model.session();
  const request = { prompt: batch(0)[0]!.prompt, maxTokens: 12 };
  await session.generate(request);
  await using trainer = await createTrainer(model, { ...training, learningRate: 0.02 });
  await trainer.trainStep(batch(0));
  const [kept] = await session.generate(request);
  const [fresh] = await model.generate(request);
  assert.equal([...kept!.ids], [...fresh!.ids]);
  sameBits(kept!.logProbs, fresh!.logProbs, "log-probs");
});

test.run();
