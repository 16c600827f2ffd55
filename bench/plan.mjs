// plan() against what training then takes: each configuration loads, trains, saves its state and the model in a process of
// its own, whose peak of resident memory is held against the plan's sum without disk.
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { benchShape, makeCheckpoint } from "./checkpoint.mjs";

const run = promisify(execFile);
const small = { ...benchShape, width: 512, layers: 8, heads: 8, kvHeads: 8, mlp: 1408, vocab: 16000 }; // 42 M parameters
const video = { ...small, tower: { width: 512, layers: 8, heads: 8, mlp: 2048, image: 224, patch: 14 } };
const frames = 8;

/** Items: of a step; tokens: of an item, computed once; answer: of one answer. */
const cases = [
  {
    name: "f32, DPO",
    shape: small,
    dtype: "f32",
    kind: "dpo",
    items: 5,
    tokens: 720,
    answer: 80,
    trainer: { checkpointing: false },
  },
  {
    name: "bf16, DPO, 134 M",
    shape: benchShape,
    dtype: "bf16",
    kind: "dpo",
    items: 4,
    tokens: 720,
    answer: 80,
    trainer: { checkpointing: false },
  },
  {
    name: "bf16, DPO, 134 M, LoRA of rank 16",
    shape: benchShape,
    dtype: "bf16",
    kind: "dpo",
    items: 4,
    tokens: 720,
    answer: 80,
    trainer: { checkpointing: false, lora: { rank: 16 } },
  },
  {
    name: "bf16, DPO, checkpointing, 8192 tokens",
    shape: small,
    dtype: "bf16",
    kind: "dpo",
    items: 8,
    tokens: 1000,
    answer: 200,
    trainer: { checkpointing: true, microBatchTokens: 8192 },
  },
  {
    name: "f32, SFT, 1024 tokens",
    shape: small,
    dtype: "f32",
    kind: "sft",
    items: 4,
    tokens: 1000,
    answer: 250,
    trainer: { checkpointing: false, microBatchTokens: 1024 },
  },
  {
    name: "bf16, DPO on videos, tower trained",
    shape: video,
    dtype: "bf16",
    kind: "dpo",
    items: 2,
    tokens: 720,
    answer: 80,
    trainer: { checkpointing: false, train: { vision: true, projector: true, decoder: true } },
  },
  ...[
    ["bf16", "masters by shards", {}],
    ["f32", "masters by shards", {}],
    ["f32", "all masters on each", { shard: false }],
    ["bf16", "masters and gradients by shards", { shardGradients: true }],
  ].map(([dtype, what, trainer]) => ({
    name: `${dtype}, DPO, two ranks, ${what}`,
    ...{ shape: benchShape, dtype, kind: "dpo", items: 4, tokens: 720, answer: 80, ranks: 2 },
    trainer: { checkpointing: false, ...trainer },
  })),
];

const trainerOf = (c) => ({ ...c.trainer, ...(c.kind === "sft" ? { loss: "sft" } : {}) });

function* numbers(seed) {
  let state = seed;
  for (;;) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 1;
    yield state;
  }
}

/** Sequences of one prompt, of its own ids, with an answer each. */
function itemOf(c, index) {
  const draw = numbers(index + 1);
  const words = (n) => Array.from({ length: n }, () => draw.next().value % (c.shape.vocab - 2));
  const answers = c.kind === "sft" ? 1 : 2;
  const rows = c.shape.tower ? frames * Math.floor(c.shape.tower.image / c.shape.tower.patch / 2) ** 2 : 0;
  const prompt = c.tokens - answers * c.answer;
  const ids = [...words(1), ...Array(rows).fill(c.shape.vocab - 2), ...words(prompt - rows - 1)];
  const media = rows > 0 ? [{ kind: "video", pixels: pixelsOf(c, index) }] : undefined;
  const sequence = () => {
    const all = Int32Array.from([...ids, ...words(c.answer)]);
    return { ids: all, media, lossMask: Uint8Array.from(all, (_, i) => (i >= prompt ? 1 : 0)) };
  };
  return c.kind === "sft" ? sequence() : { chosen: sequence(), rejected: sequence() };
}

function pixelsOf({ shape: { tower } }, index) {
  const shape = [frames, 3, tower.image, tower.image];
  return { dtype: "f32", shape, data: new Float32Array(shape.reduce((a, b) => a * b)).fill(0.1 * (index + 1)) };
}

const steps = 2;

async function child(root, index, model, out, rank, address) {
  const c = cases[index];
  const size = c.ranks ?? 1;
  const { createCommunicator, loadModel, createTrainer } = await import(
    pathToFileURL(join(root, "dist/index.js")).href
  );
  const communicator =
    size > 1
      ? await createCommunicator({ rank: Number(rank), size, address, token: "bench", device: "cpu" })
      : undefined;
  const loaded = await loadModel(model, { dtype: c.dtype, ...(communicator ? { threads: 1 } : {}) });
  const trainer = await createTrainer(loaded, { ...trainerOf(c), ...(communicator ? { communicator } : {}) });
  let items = Array.from({ length: c.items }, (_, i) => itemOf(c, i)).filter((_, i) => i % size === Number(rank ?? 0));
  if (c.kind === "dpo") {
    const references = await trainer.score(items);
    items = items.map((item, i) => ({ ...item, reference: references[i] }));
  }
  for (let i = 0; i < steps; ++i) await trainer.trainStep(items);
  await trainer.save(join(out, "state"));
  if (communicator) await trainer.saveModel(join(out, "model"));
  await trainer[Symbol.asyncDispose]();
  if (!communicator) await loaded.save(join(out, "model"));
  await communicator?.dispose();
  console.log(JSON.stringify({ peak: process.resourceUsage().maxRSS * 1024 }));
}

export async function benchPlan(root, report, only) {
  const { plan } = await import(pathToFileURL(join(root, "dist/index.js")).href);
  const work = process.env.ISR_DPO_BENCH_DIR ?? join(tmpdir(), "isr-dpo-bench");
  for (const [index, c] of cases.entries()) {
    if (only !== undefined && only !== index) continue;
    const folder = c.shape === benchShape ? work : join(work, c.shape.tower ? "video" : "small");
    const { dir } = makeCheckpoint(folder, c.shape);
    const options = { kind: c.kind, model: dir, runDir: work, items: c.items, itemsPerStep: c.items };
    const lengths = { tokensPerItem: c.tokens, answerTokens: c.answer };
    const ranks = c.ranks ?? 1;
    const load = { dtype: c.dtype, device: "cpu", ...(ranks > 1 ? { threads: 1 } : {}) };
    const { bytes } = await plan({ ...options, ...lengths, ranks, trainer: trainerOf(c), load });
    const { disk: _, ...memory } = bytes;
    const planned = Object.values(memory).reduce((a, b) => a + b, 0);
    const out = mkdtempSync(join(tmpdir(), "isr-dpo-plan-"));
    const args = [fileURLToPath(import.meta.url), root, String(index), dir, out];
    try {
      const address = `127.0.0.1:${29_000 + (process.pid % 1000)}`;
      const one = async (rank) => {
        const { stdout } = await run(process.execPath, [...args, String(rank), address], { encoding: "utf8" });
        return JSON.parse(stdout).peak;
      };
      const peak = Math.max(...(await Promise.all(Array.from({ length: ranks }, (_, r) => one(r)))));
      report({ bench: "plan", name: `${c.name}: peak`, value: peak / 2 ** 20, unit: "MiB" });
      report({ bench: "plan", name: `${c.name}: planned`, value: planned / 2 ** 20, unit: "MiB", parts: memory });
      const above = 100 * (planned / peak - 1);
      report({
        bench: "plan",
        name: `${c.name}: planned above the peak`,
        value: above,
        unit: "%",
        atLeast: 0,
        atMost: 10,
      });
    } finally {
      rmSync(out, { recursive: true, force: true });
    }
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [root, index, model, out, rank, address] = process.argv.slice(2);
  await child(root, Number(index), model, out, rank, address);
}
