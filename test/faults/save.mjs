// Loads one checkpoint and saves it over another; the file faults are injected into this process. Prints how it ended.
import { loadModel } from "../../dist/index.js";

const [source, target] = process.argv.slice(2);
const model = await loadModel(source, { threads: 1 });
try {
  await model.save(target);
  console.log(JSON.stringify({ saved: true }));
} catch (error) {
  console.log(JSON.stringify({ code: error.code ?? null, message: error.message, path: error.path ?? null }));
} finally {
  await model[Symbol.asyncDispose]();
}
