// N cycles of load, generate, train, dispose; prints the resident set behind the M-th of them and at the end, in bytes.
import { createTrainer, loadModel } from "../../src/index.js";
import { folder } from "../helpers/golden.js";

const [cycles, begin] = process.argv.slice(2).map(Number) as [number, number];
const prompt = { ids: [1, 5, 9, 12] };

async function cycle(n: number): Promise<void> {
  await using model = await loadModel(folder(n % 2 === 0 ? "text_llama" : "text_qwen2"), { threads: 2 });
  for await (const _ of model.generate({ prompt, maxTokens: 20, temperature: 1, n: 2, seed: n }));
  await using session = model.session();
  await session.generate({ prompt, maxTokens: 3 });
  await model.forward({ ids: prompt.ids }, { outputs: ["logits", "hidden"] });
  await model.forward({ ids: [-1] }).catch(() => {});
  await model.generate({ prompt, maxTokens: 400, n: 8 }, { signal: AbortSignal.timeout(1) }).result.catch(() => {});
  await using trainer = await createTrainer(model);
  await trainer.trainStep([{ prompt, chosen: [5, 7], rejected: [9, 11, 13] }]);
}

/** The resident set after garbage collection, the smallest of a few looks. */
async function resident(): Promise<number> {
  let least = Infinity;
  for (let i = 0; i < 5; i++) {
    (globalThis as { gc?: () => void }).gc?.();
    await new Promise((resolve) => setTimeout(resolve, 20));
    least = Math.min(least, process.memoryUsage.rss());
  }
  return least;
}

let early = 0;
for (let n = 1; n <= cycles; n++) {
  await cycle(n);
  if (n === begin) early = await resident();
}
console.log(JSON.stringify({ early, late: await resident() }));
