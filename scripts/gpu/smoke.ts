// The golden tokens and loss of a small model on the card, through Node: lines of JSON, as gpu_check prints them.
import { createTrainer, inspectDevice, loadModel } from "../../src/index.js";
import { cases, dpo, folder, pairs } from "../../test/helpers/golden.js";

const family = "text_llama";
const { binary } = await inspectDevice();
console.log(JSON.stringify({ what: "binary", file: binary }));
const { cases: prompts, suppress } = cases(family);
await using model = await loadModel(folder(family), { device: "cuda" });
const [first] = prompts;
const [answer] = await model.generate({ prompt: { ids: first!.prompt }, maxTokens: 16, suppress });
console.log(JSON.stringify({ what: "16 tokens", ok: String([...answer!.ids]) === String([...first!.generated]) }));
await using trainer = await createTrainer(model, { beta: 0.1 });
const { metrics } = await trainer.gradients(pairs(dpo(family), true), { names: [] });
const wanted = dpo(family).facts.loss_beta_0_1;
console.log(
  JSON.stringify({ what: "DPO loss", ok: Math.abs(metrics.loss - wanted) < 1e-5, loss: metrics.loss, wanted }),
);
