// node scripts/plan-table.mjs: the table of docs/plan.md, the paper's 7B model on cards, as `plan` sees it. Needs a build of
// the addon and of dist/ (npm run build).
import { join } from "node:path";
import { plan } from "../dist/index.js";
import { root } from "./native.mjs";

const model = join(root, "test/data/llava_7b"); // configs only
const cards = [
  [1, 80e9],
  [2, 80e9],
  [4, 80e9],
  [8, 80e9],
  [1, 141e9],
];
const samples = 17000;
const pair = 2325; // a video of 2,048 rows, the question, and two answers
const base = {
  model,
  runDir: ".",
  preset: "paper",
  items: samples,
  tokensPerItem: pair,
  answerTokens: 110,
  load: { device: "cuda" },
  config: { keep: "all", train: { microBatchTokens: 9300, checkpointing: true } },
};

const gib = (bytes) => (bytes / 2 ** 30).toFixed(1);
const columns = ["weights", "gradients", "optimizer", "activations", "kvCache", "vision", "runtime"];
const row = (cells) => console.log(`| ${cells.join(" | ")} |`);

row(["cards", ...columns, "needed", "of", "fits"]);
row(Array(columns.length + 4).fill("---"));
const advice = [];
for (const [ranks, memory] of cards) {
  const { bytes, advice: said } = await plan({ ...base, ranks, memory });
  const { kvCache, gradients, optimizer, disk: _, ...rest } = bytes; // keys and values are gone when training begins
  const sum = Object.values(rest).reduce((a, b) => a + b, 0) + Math.max(kvCache, gradients + optimizer);
  const name = `${ranks} x ${memory / 1e9} GB`;
  row([name, ...columns.map((c) => gib(bytes[c])), gib(sum), gib(memory), sum <= memory ? "yes" : "no"]);
  if (sum > memory)
    advice.push(
      `${name}:`,
      ...said.filter((line) => !/run folder|features|keep/.test(line)).map((line) => `  ${line}`),
    );
}
console.log(`\n${advice.join("\n")}\n`);

const gb = (bytes) => `${(bytes / 1e9).toFixed(0)} GB`;
for (const keep of ["all", 2, "last"]) {
  const { bytes } = await plan({ ...base, ranks: 8, memory: 80e9, config: { ...base.config, keep } });
  console.log(`disk, keep ${keep}: ${gb(bytes.disk)}`);
}
