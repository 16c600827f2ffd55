// Peer: llama.cpp through node-llama-cpp (npm, prebuilt CPU binaries): prompt processing and decode of the same LM.
//   node generate_llamacpp.mjs FILE.gguf [threads=2] [reps=3] [samples=1|1,2]      prints one JSON line
// The prompt is 560 text tokens: the same count as the video prompt, without the vision tower.
import { getLlama } from "node-llama-cpp";
const [file, th = "2", reps = "3"] = process.argv.slice(2),
  threads = +th,
  t00 = performance.now();
const llama = await getLlama({ gpu: false, build: "never", maxThreads: threads, logLevel: "error" });
const model = await llama.loadModel({ modelPath: file });
const tLoad = (performance.now() - t00) / 1e3;
const med = (a) => [...a].sort((x, y) => x - y)[a.length >> 1],
  r = (x, d = 3) => +x.toFixed(d);
const toks = Array.from({ length: 560 }, (_, i) => 259 + ((i * 7919) % 31000)),
  N = 128;
const out = { peer: "node-llama-cpp", file: file.split("/").pop(), threads, load_s: r(tLoad) };
const cpu = () => {
  const c = process.cpuUsage();
  return (c.user + c.system) / 1e6;
};
for (const k of (process.argv[5] ?? "1").split(",").map(Number)) {
  // number of samples decoded together
  const pp = [],
    dec = [],
    ppc = [],
    decc = [];
  const ctx = await model.createContext({
    contextSize: 1024,
    sequences: k,
    batchSize: 512,
    threads: { ideal: threads, min: threads },
  });
  const seqs = Array.from({ length: k }, () => ctx.getSequence());
  for (let i = 0; i <= +reps; i++) {
    for (const s of seqs) await s.clearHistory();
    let t = performance.now(),
      c = cpu();
    for (const s of seqs) await s.evaluateWithoutGeneratingNewTokens(toks.slice(0, -1));
    const p = (performance.now() - t) / 1e3,
      pc = cpu() - c;
    t = performance.now();
    c = cpu();
    let n = 0;
    await Promise.all(
      seqs.map(async (s) => {
        let j = 0;
        for await (const _ of s.evaluate([toks.at(-1)], {
          temperature: 0.7,
          topK: 0,
          topP: 1,
          minP: 0,
          yieldEogToken: true,
          seed: 7 + i,
        })) {
          n++;
          if (++j >= N) break;
        }
      }),
    );
    const d = (performance.now() - t) / 1e3,
      dc = cpu() - c;
    if (n !== N * k) out.short = n;
    if (i) {
      pp.push((559 * k) / p);
      dec.push(n / d);
      ppc.push((559 * k) / pc);
      decc.push(n / dc);
    }
  }
  out[`samples_${k}`] = {
    prefill_tok_s_best: r(Math.max(...pp), 1),
    prefill_tok_s_median: r(med(pp), 1),
    decode_tok_s_best: r(Math.max(...dec), 1),
    decode_tok_s_median: r(med(dec), 1),
    prefill_tok_per_cpu_s_best: r(Math.max(...ppc), 1),
    decode_tok_per_cpu_s_best: r(Math.max(...decc), 1),
  };
  await ctx.dispose();
}
out.rss_MB = Math.round(process.memoryUsage().rss / 1048576);
out.process_s_since_start = r((performance.now() - t00) / 1e3);
console.log(JSON.stringify(out));
process.exit(0);
