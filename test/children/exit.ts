// Ends the process while a job runs (or, "idle", has no more to do with a model loaded and never disposed).
import { loadModel } from "../../src/index.js";
import { folder } from "../helpers/golden.js";

const how = process.argv[2]!;
const model = await loadModel(folder("text_llama"), { threads: 2 });
const prompt = { ids: [1, 5, 9, 12] };
if (how === "idle") {
  await model.generate({ prompt, maxTokens: 3 });
} else {
  model.generate({ prompt, maxTokens: 500, temperature: 1, n: 64 }).then(() => {});
  setTimeout(() => {
    if (how.startsWith("throw")) throw new Error("ended");
    process.exit(7);
  }, 30);
}
