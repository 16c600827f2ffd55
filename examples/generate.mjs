// node examples/generate.mjs CHECKPOINT: two samples from one prompt, given as token ids, while they are written.
import { loadModel } from "isr-dpo";

const [dir, ...rest] = process.argv.slice(2);
if (!dir || dir.startsWith("-") || rest.length > 0) {
  console.error("usage: node examples/generate.mjs CHECKPOINT");
  process.exit(2);
}
const model = await loadModel(dir);
const prompt = { ids: [1, 17, 4, 9] };
const run = model.generate({ prompt, n: 2, maxTokens: 12, temperature: 0.7, topP: 0.9, seed: 1 });
for await (const event of run) {
  if (event.type !== "completion") continue;
  const { copy, ids, logProbs, finishReason } = event.completion;
  console.log(`copy ${copy}: ${ids.join(" ")} (${finishReason}, first token ${logProbs[0].toFixed(3)} nats)`);
}
await model.dispose();
