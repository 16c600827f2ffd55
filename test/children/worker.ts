// One worker of workers.ts.
import { parentPort, workerData } from "node:worker_threads";
import { createTrainer, isIsrDpoError, loadModel } from "../../src/index.js";

const { mode, dir } = workerData as { mode: string; dir: string };
const prompt = { ids: [1, 5, 9, 12] };
const model = await loadModel(dir, { threads: 2 });

if (mode === "generate") {
  model.generate({ prompt, maxTokens: 500, temperature: 1, n: 64 }).then(() => {});
  for (let i = 0; i < 8; i++) model.forward({ ids: prompt.ids }).then(() => {});
  parentPort!.postMessage("begun");
} else if (mode === "train") {
  const trainer = await createTrainer(model, { learningRate: 1e-4 });
  const items = Array.from({ length: 300 }, (_, i) => ({ prompt, chosen: [5 + (i % 300), 7], rejected: [9, 11, 13] }));
  trainer.trainStep(items).then(() => {});
  parentPort!.postMessage("begun");
} else {
  const [c] = await model.generate({ prompt, maxTokens: 5 });
  const failed = await model.forward({ ids: [-1] }).catch((e) => e);
  await model[Symbol.asyncDispose]();
  parentPort!.postMessage(`${c!.ids.length} tokens, ${isIsrDpoError(failed, "INVALID_ARGUMENT")}`);
}
