// What loading a model on the device of argv[2] gives: its info, or the error; and process warnings.
import { inspectDevice, loadModel } from "../../src/index.js";
import { folder } from "../helpers/golden.js";

const warnings: string[] = [];
process.on("warning", (w) => warnings.push(w.message));
const said: Record<string, unknown> = {};
const device = process.argv[2] as "auto";
for (let i = 0; i < 2; i++) {
  try {
    await using model = await loadModel(folder("text_llama"), { device });
    said.info = model.info;
  } catch (e) {
    const { code, message, hint } = e as { code: string; message: string; hint: string };
    said.error = { code, message, hint };
  }
}
const { cuda, cudaLibrary, cudaRanksLibrary, cudaProblem } = await inspectDevice();
console.log(JSON.stringify({ ...said, warnings, inspected: { cuda, cudaLibrary, cudaRanksLibrary, cudaProblem } }));
