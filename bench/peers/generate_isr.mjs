// Ours, on the work of generate_transformers.py and generate_llamacpp.mjs; prints one JSON line.
//   node generate_isr.mjs gen   CACHE [reps] [threads]   prefill with vision, decode of 1 and 2 samples, 4 prompts against 1
//   node generate_isr.mjs first CACHE                    load, one token, end: timed from outside
import { join } from "node:path";
import { loadModel } from "../../dist/index.js";
import { tensors } from "./tensors.mjs";

const [mode, cache, reps = "3", threads = "2"] = process.argv.slice(2);
const tokens = 128;

const pairs = tensors(join(cache, "pairs.safetensors"));
const ids = pairs("prompt.0").data;
const video = pairs("video.0");
const median = (x) => [...x].sort((a, b) => a - b)[x.length >> 1];

/** Other pixels than before, so that nothing about the clip is known. */
function freshClip(i) {
  const data = video.data.slice();
  data[0] += i + 1;
  return { kind: "video", pixels: { dtype: "f32", shape: video.shape, data } };
}

async function time(work) {
  const wall = performance.now();
  const cpu = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(cpu);
  return { wall: (performance.now() - wall) / 1e3, cpu: (user + system) / 1e6 };
}

async function first(model) {
  await model.generate({ prompt: { ids, media: [freshClip(0)] }, maxTokens: 1 });
  return {};
}

async function gen(model) {
  let clip = 0;
  const run = (maxTokens, n, media = freshClip(clip++)) =>
    time(() =>
      model.generate({
        prompt: { ids, media: [media] },
        n,
        maxTokens,
        minTokens: maxTokens,
        temperature: 0.7,
        seed: clip,
      }),
    );
  await run(4, 1);
  const one = { prefill: [], full: [] };
  const two = { prefill: [], full: [] };
  const text = { one: [], four: [] };
  for (let i = 0; i < Number(reps); i++) {
    for (const [to, n] of [
      [one, 1],
      [two, 2],
    ]) {
      to.prefill.push(await run(1, n));
      to.full.push(await run(tokens, n));
    }
    const prompt = (tail) =>
      Int32Array.from({ length: 560 }, (_, t) => 259 + ((t * 7919 + i + (t >= 544 ? tail * 31 : 0)) % 31000));
    const ask = (n) =>
      model.generate(Array.from({ length: n }, (_, k) => ({ prompt: { ids: prompt(k) }, maxTokens: 1 })));
    text.one.push(await time(() => ask(1)));
    text.four.push(await time(() => ask(4)));
  }
  const summary = ({ prefill, full }, n) => {
    const wall = (list) => list.map((x) => x.wall);
    const rate = (pick) => (n * (tokens - 1)) / (pick(wall(full)) - pick(wall(prefill)));
    return {
      prefill_s_min: Math.min(...wall(prefill)),
      prefill_s_median: median(wall(prefill)),
      prefill_cpu_s_min: Math.min(...prefill.map((x) => x.cpu)),
      decode_tok_s_best: rate((x) => Math.min(...x)),
      decode_tok_s_median: rate(median),
    };
  };
  const ratio = text.four.map((x, i) => x.wall / text.one[i].wall);
  return { samples_1: summary(one, 1), samples_2: summary(two, 2), four_prompts_over_one: median(ratio) };
}

const model = await loadModel(join(cache, "model"), { dtype: "bf16", threads: Number(threads) });
const result = await (mode === "first" ? first(model) : gen(model));
console.log(
  JSON.stringify({
    peer: "isr-dpo",
    isa: model.info.isa,
    ...result,
    peak_rss_MB: Math.round(process.resourceUsage().maxRSS / 1024),
  }),
);
await model[Symbol.asyncDispose]();
