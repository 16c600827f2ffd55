// Peer: llama.cpp through node-llama-cpp, answering callers at the same time: one context with a sequence for each caller, whose
// tokens it batches. A child process that is told what to measure by messages ({ count, asks, from, temperature }) and answers
// each with what callers() gives, so that another engine can be measured in between.
//   fork("serve_llamacpp.mjs", [FOLDER with node_modules, FILE.gguf, threads])
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { callers } from "../callers.mjs";

const [folder, file, cores] = process.argv.slice(2);
const threads = Number(cores);
const { getLlama } = await import(pathToFileURL(join(folder, "node_modules/node-llama-cpp/dist/index.js")).href);
const llama = await getLlama({ gpu: false, build: "never", maxThreads: threads, logLevel: "error" });
const model = await llama.loadModel({ modelPath: file });

async function measure({ temperature, ...load }) {
  const context = await model.createContext({
    contextSize: 256, // of each sequence
    sequences: load.count,
    batchSize: 512,
    threads: { ideal: threads, min: threads },
  });
  const sequences = Array.from({ length: load.count }, () => context.getSequence());
  const drawn = temperature > 0 ? { temperature, topK: 0, topP: 1, minP: 0 } : { temperature: 0 };
  const result = await callers(load, async ({ n, ids, tokens }, caller, token) => {
    await sequences[caller].clearHistory();
    let left = tokens;
    for await (const id of sequences[caller].evaluate([...ids], { ...drawn, seed: n, yieldEogToken: true })) {
      model.detokenize([id]);
      token(id);
      if (--left === 0) break;
    }
  });
  await context.dispose();
  return result;
}

process.on("message", async (load) => process.send(await measure(load)));
process.send("ready");
