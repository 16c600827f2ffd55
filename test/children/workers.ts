// N workers with a model each, terminated in the middle of generation and training; then one worker that ends well.
// A native abort kills this process: the parent looks at how it ended.
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { folder } from "../helpers/golden.js";

const rounds = Number(process.argv[2]);
const file = fileURLToPath(new URL("./worker.ts", import.meta.url));
const start = (mode: string) =>
  new Worker(
    `import("tsx/esm/api").then((tsx) => tsx.tsImport(${JSON.stringify(file)}, ${JSON.stringify(import.meta.url)}))`,
    {
      eval: true,
      workerData: { mode, dir: folder("text_llama") },
    },
  );

const message = (worker: Worker) =>
  new Promise((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
  });

for (let round = 0; round < rounds; round++) {
  const workers = [start("generate"), start("train")];
  await Promise.all(workers.map(message)); // both say when their job has begun
  await new Promise((resolve) => setTimeout(resolve, (round * 7) % 40));
  await Promise.all(workers.map((worker) => worker.terminate()));
}
const last = start("finish");
const answer = await message(last);
await last.terminate();
console.log(`survived ${rounds} ${answer}`);
