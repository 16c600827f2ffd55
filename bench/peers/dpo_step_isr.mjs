// Ours, on the work of dpo_step_torch.py: one DPO optimizer step on the same checkpoint and pairs, decoder and projector
// trained, references precomputed, the clip encoded in every step (its pixels differ a little each time). Prints one JSON line.
//   node dpo_step_isr.mjs CACHE DTYPE [pairs] [reps] [threads] [golden]
import { join } from "node:path";
import { createTrainer, loadModel } from "../../dist/index.js";
import { tensors } from "./tensors.mjs";

const [cache, dtype = "bf16", count = "1", reps = "3", threads = "2", golden] = process.argv.slice(2);
const read = tensors(join(cache, "pairs.safetensors"));
const median = (x) => [...x].sort((a, b) => a - b)[x.length >> 1];

function pair(i, fresh) {
  const { shape, data } = read(`video.${i}`);
  const pixels = data.slice();
  pixels[0] += fresh;
  const media = [{ kind: "video", pixels: { dtype: "f32", shape, data: pixels } }];
  const [prompt, chosen, rejected] = ["prompt", "chosen", "rejected"].map((name) => read(`${name}.${i}`).data);
  return { prompt: { ids: prompt, media }, chosen, rejected };
}

async function time(work) {
  const wall = performance.now();
  const cpu = process.cpuUsage();
  const result = await work();
  const { user, system } = process.cpuUsage(cpu);
  return { wall: (performance.now() - wall) / 1e3, cpu: (user + system) / 1e6, result };
}

const model = await loadModel(join(cache, "model"), { dtype, threads: Number(threads) });
const trainer = await createTrainer(model, {
  beta: 0.1,
  learningRate: 5e-7,
  train: { decoder: true, projector: true },
});
const indices = Array.from({ length: Number(count) }, (_, i) => i);
const references = await trainer.score(indices.map((i) => pair(i, 0)));
const sum = (x) => x.reduce((a, b) => a + b, 0);
const logProbs = references.map((r) => [sum(r.chosen), sum(r.rejected)]);
if (golden === "golden") {
  console.log(JSON.stringify({ peer: "isr-dpo", dtype, logProbs }));
  process.exit(0);
}
const items = (fresh) => indices.map((i) => ({ ...pair(i, fresh), reference: references[i] }));
const steps = [];
const tries = []; // all of a step but its update
for (let rep = 0; rep <= Number(reps); rep++) {
  const attempt = await time(() => trainer.tryStep(items(2 * rep + 1)));
  const step = await time(() => trainer.trainStep(items(2 * rep + 2)));
  if (rep === 0) continue; // warm-up
  tries.push(attempt);
  steps.push(step);
}
const n = indices.length;
const lengths = indices.map((i) => [read(`chosen.${i}`).data.length, read(`rejected.${i}`).data.length]);
console.log(
  JSON.stringify({
    peer: "isr-dpo",
    isa: model.info.isa,
    dtype,
    pairs: n,
    s_per_pair_min: Math.min(...steps.map((s) => s.wall)) / n,
    s_per_pair_median: median(steps.map((s) => s.wall)) / n,
    cpu_s_per_pair_min: Math.min(...steps.map((s) => s.cpu)) / n,
    without_update_s_per_pair_median: median(tries.map((s) => s.wall)) / n,
    tokens_computed: steps[0].result.tokensComputed,
    tokens_expected: sum(lengths.map(([w, l]) => 561 + w + l)),
    peak_rss_MB: Math.round(process.resourceUsage().maxRSS / 1024),
    logProbs,
  }),
);
process.exit(0);
