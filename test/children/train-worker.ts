// train() in a worker thread; the result is printed.
import { fileURLToPath } from "node:url";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { train } from "../../src/index.js";
import { folder } from "../helpers/golden.js";
import { idPairs } from "../helpers/training.js";

if (isMainThread) {
  const file = fileURLToPath(import.meta.url);
  const code = `import("tsx/esm/api").then((tsx) => tsx.tsImport(${JSON.stringify(file)}, ${JSON.stringify(import.meta.url)}))`;
  const worker = new Worker(code, { eval: true, workerData: process.argv[2] });
  worker.once("message", (answer) => console.log(JSON.stringify(answer)));
} else {
  const data = idPairs(4);
  const { hash, resumed } = await train({ kind: "dpo", model: folder("text_llama"), data, runDir: workerData });
  parentPort!.postMessage({ hash, resumed });
}
