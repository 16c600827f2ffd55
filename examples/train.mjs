// node examples/train.mjs CHECKPOINT NEW_FOLDER: five DPO steps on one preference pair; the first loss is ln 2.
import { createTrainer, loadModel } from "isr-dpo";

const [dir, made, ...rest] = process.argv.slice(2);
if (!dir || dir.startsWith("-") || !made || rest.length > 0) {
  console.error("usage: node examples/train.mjs CHECKPOINT NEW_FOLDER");
  process.exit(2);
}
const model = await loadModel(dir);
const trainer = await createTrainer(model, { beta: 0.1, learningRate: 1e-3 });
const pair = { prompt: { ids: [1, 17, 4, 9] }, chosen: [21, 8, 2], rejected: [33, 2] };
const [reference] = await trainer.score([pair]); // the reference is the model as it was before the first step
for (let i = 0; i < 5; ++i) {
  const { step, loss, margin } = await trainer.trainStep([{ ...pair, reference }]);
  console.log(`step ${step}: loss ${loss.toFixed(6)}, margin ${margin.toFixed(3)}`);
}
await trainer.dispose();
const { bytes } = await model.save(made);
console.log(`saved ${bytes} bytes`);
await model.dispose();
