// One preference pair of the bench's shape (559 shared tokens, 97 and 65 of their own) through forward and backward, and
// through a whole optimizer step, as a share of the peak that native_bench measured in the same run.

const shared = 559;
const own = [97, 65];

/** Useful floating-point operations of forward and backward: products three times, attention forward once and backward 2.5 times. */
export function flopsOf({ width: C, layers, heads, kvHeads, headSize: D, mlp: F, vocab: V }) {
  const rows = shared + own[0] + own[1];
  const scored = own[0] + own[1] - 2;
  const block = C * (heads + 2 * kvHeads) * D + heads * D * C + 3 * C * F;
  const keys = (shared * (shared + 1)) / 2 + own.reduce((sum, n) => sum + n * shared + (n * (n + 1)) / 2, 0);
  return 6 * rows * block * layers + 6 * scored * C * V + 3.5 * 4 * keys * heads * D * layers;
}

function seededIds(n, vocab, seed) {
  let state = seed >>> 0;
  return Int32Array.from({ length: n }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 3 + Math.floor((state / 2 ** 32) * (vocab - 3));
  });
}

// The branches keep a copy of the last prompt token, so the prompt is one token longer than what they share.
export function benchPair(vocab) {
  const prompt = seededIds(shared + 1, vocab, 1);
  const chosen = seededIds(own[0] - 1, vocab, 2);
  const rejected = seededIds(own[1] - 1, vocab, 3);
  return { id: "bench", prompt: { ids: prompt }, chosen, rejected };
}

export async function benchStep({ loadModel, createTrainer }, { dir }, shape, peaks, report, rounds = 4) {
  const flops = flopsOf(shape);
  for (const dtype of ["bf16", "f32"]) {
    const model = await loadModel(dir, { dtype });
    const trainer = await createTrainer(model, { learningRate: 1e-6 });
    const pair = benchPair(shape.vocab);
    const [reference] = await trainer.score([pair]);
    const item = { ...pair, reference };
    let gradients = Number.POSITIVE_INFINITY;
    let step = Number.POSITIVE_INFINITY;
    for (let i = 0; i < rounds; ++i) {
      const { metrics } = await trainer.gradients([item], { names: ["model.norm.weight"] });
      gradients = Math.min(gradients, metrics.seconds);
      step = Math.min(step, (await trainer.trainStep([item])).seconds);
    }
    await trainer[Symbol.asyncDispose]();
    await model[Symbol.asyncDispose]();
    const rate = flops / gradients / 1e9;
    report({ bench: "step", name: `${dtype} forward + backward, one pair`, value: gradients, unit: "s" });
    report({ bench: "step", name: `${dtype} forward + backward`, value: rate, unit: "GFLOP/s" });
    if (peaks[dtype])
      report({
        bench: "step",
        name: `${dtype} forward + backward, of peak`,
        value: (100 * rate) / peaks[dtype],
        unit: "%",
        atLeast: 60,
      });
    report({ bench: "step", name: `${dtype} optimizer step, one pair`, value: step, unit: "s" });
  }
}
