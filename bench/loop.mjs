// How long the event loop of a service waits while it trains in process: monitorEventLoopDelay over a whole iteration of the
// method on clips and the tiny model, and over steps of a decoder of 134 M parameters. All threads of the machine compute.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { makeCheckpoint } from "./checkpoint.mjs";

async function delayed(work) {
  const histogram = monitorEventLoopDelay({ resolution: 1 });
  histogram.enable();
  await work();
  histogram.disable();
  return { p99: histogram.percentile(99) / 1e6, max: histogram.max / 1e6 };
}

async function iteration({ writeWorld, readSamples, trainIteration }, model, dir) {
  const { samples, videos } = await writeWorld(join(dir, "clips"), { name: "loop", seed: 1, clips: 96 });
  const tokens = { maxTokens: 50 };
  const options = {
    ...{ runDir: join(dir, "run"), model, samples: readSamples(samples), iteration: 1 },
    config: {
      ...{ videos, prompts: join(model, "prompts.json"), seed: 1, response: tokens, context: tokens, groupVideos: 16 },
      judge: { method: "logprob", orders: "both", disagree: "average" },
      train: { learningRate: 1e-4, epochs: 2, pairsPerStep: 8 },
      video: { looks: "varied", frames: 4 },
    },
  };
  return delayed(async () => {
    for await (const _ of trainIteration(options)); // a reader, as a service has
  });
}

async function large({ train }, model, dir) {
  const ids = (seed, n) => Int32Array.from({ length: n }, (_, i) => 3 + ((i * 7919 + seed * 104729) % 20000));
  const data = Array.from({ length: 12 }, (_, i) => ({
    ...{ id: `pair${i}`, prompt: { ids: ids(i, 560) } },
    ...{ chosen: ids(i + 50, 80), rejected: ids(i + 90, 80) },
  }));
  const options = { kind: "dpo", model, data, runDir: join(dir, "large"), itemsPerStep: 2 };
  return delayed(async () => {
    for await (const _ of train(options));
  });
}

export async function benchLoop(library, root, report) {
  const dir = mkdtempSync(join(tmpdir(), "isr-dpo-loop-"));
  try {
    const { dir: checkpoint } = makeCheckpoint(process.env.ISR_DPO_BENCH_DIR ?? join(tmpdir(), "isr-dpo-bench"));
    for (const [name, found] of [
      ["one iteration, tiny model", await iteration(library, join(root, "models", "world"), dir)],
      ["six steps, 134 M", await large(library, checkpoint, dir)],
    ]) {
      report({ bench: "loop", name: `event-loop delay, p99: ${name}`, value: found.p99, unit: "ms", atMost: 20 });
      report({ bench: "loop", name: `event-loop delay, most: ${name}`, value: found.max, unit: "ms" });
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
