// node examples/iterate.mjs FOLDER: one iteration of the method inside a program, on 32 synthetic clips and the tiny model.
import { fileURLToPath } from "node:url";
import { readSamples, trainIteration } from "isr-dpo";
import { writeWorld } from "isr-dpo/synthetic";

const model = fileURLToPath(import.meta.resolve("isr-dpo/models/world")); // 1.1 M parameters, part of the package
const [dir, ...rest] = process.argv.slice(2);
if (!dir || dir.startsWith("-") || rest.length > 0) {
  console.error("usage: node iterate.mjs FOLDER");
  process.exit(2);
}
const { samples, videos } = await writeWorld(`${dir}/clips`, { name: "train", seed: 1, clips: 32 });
const run = trainIteration({
  runDir: `${dir}/run`,
  model,
  samples: readSamples(samples),
  iteration: 1,
  config: {
    ...{ videos, seed: 1, prompts: `${model}/prompts.json`, video: { looks: "varied", frames: 4 } },
    ...{ response: { maxTokens: 50 }, context: { maxTokens: 50 } },
    judge: { method: "logprob", orders: "both", disagree: "average" },
    train: { learningRate: 1e-4, warmupRatio: 0, epochs: 1, pairsPerStep: 8 },
  },
});
let stopped = false;
process.once("SIGINT", () => {
  stopped = true;
  run.abort();
});
try {
  for await (const e of run)
    if (e.type === "step") console.log(`step ${e.metrics.step}: loss ${e.metrics.loss.toFixed(4)}`);
  const { pairs, counts, model: made } = await run.result;
  console.log(`${pairs} pairs of ${counts.samples} samples; model 2 is in ${made}`);
} catch (e) {
  if (!stopped) throw e;
  console.log("stopped; the same command goes on from there");
  process.exitCode = 130;
}
