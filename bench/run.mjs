// npm run bench [-- --out FILE] [--only PART]: native_bench (kernels against the machine's limits, measured in the same
// run), then what JavaScript sees: import time and load rate. Ends with one table; --out adds one JSON line per figure.
// PART: a bench of native_bench by part of its name, or import, load, loop, peers, dpo, plan, video, service or ranks.
import { appendFileSync, mkdirSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { buildShared, executable, root, tool } from "../scripts/native.mjs";
import { run, Stages } from "../scripts/stages.mjs";
import { makeCheckpoint } from "./checkpoint.mjs";
import { benchDpo } from "./dpo.mjs";
import { benchImport } from "./import.mjs";
import { benchLoad } from "./load.mjs";
import { benchLoop } from "./loop.mjs";
import { parseNative } from "./native.mjs";
import { benchPeers } from "./peers.mjs";
import { benchPlan } from "./plan.mjs";
import { benchRanks } from "./ranks.mjs";
import { benchService } from "./service.mjs";
import { benchVideo } from "./video.mjs";

const { values: options } = parseArgs({ options: { out: { type: "string" }, only: { type: "string" } } });
const inJavaScript = ["import", "load", "loop", "peers", "dpo", "plan", "video", "service", "ranks"];
const native = !inJavaScript.includes(options.only);

const rows = [];
const commit = (await run("git", ["rev-parse", "--short", "HEAD"], { cwd: root, quiet: true })).output.trim();
function report(row) {
  rows.push(row);
  if (options.out)
    appendFileSync(options.out, `${JSON.stringify({ ...row, commit, cores: availableParallelism() })}\n`);
}

function text(row) {
  const measured = row.percent ?? row.value; // what a bar is about
  const share = row.percent === undefined ? "" : `${row.percent.toFixed(1)} %`;
  const bars = { ">=": row.atLeast, "<=": row.atMost };
  const bar = Object.entries(bars)
    .flatMap(([sign, bound]) => (bound === undefined ? [] : [`${sign} ${bound}`]))
    .join(", ");
  const missed = measured < row.atLeast || measured > row.atMost;
  const value = row.value.toFixed(row.value < 10 ? 2 : 1);
  return [row.bench, row.name, `${value} ${row.unit}`, share, bar, missed ? "misses the bar" : ""];
}

function printTable() {
  const lines = [["bench", "what", "value", "share", "bar", ""], ...rows.map(text)];
  const widths = lines[0].map((_, i) => Math.max(...lines.map((line) => line[i].length)));
  const numbers = new Set([2, 3, 4]);
  for (const line of lines)
    console.log(
      line
        .map((cell, i) => (numbers.has(i) ? cell.padStart(widths[i]) : cell.padEnd(widths[i])))
        .join("  ")
        .trimEnd(),
    );
}

if (options.out) mkdirSync(dirname(resolve(options.out)), { recursive: true });
const stages = new Stages();
const dir = await buildShared(stages, native ? ["native_bench"] : []);
const dist = await stages.stage("build dist", tool("tsup"), ["--silent"], {
  cwd: root,
  silentPass: true,
});
if (!dir || !dist) process.exit(1);

console.log("");
if (native) {
  const { output, status } = await run(executable(dir, "native_bench"), options.only ? [options.only] : []);
  for (const row of parseNative(output)) report(row);
  if (status !== 0) process.exitCode = 1;
}
const ours = () => import(pathToFileURL(join(root, "dist/index.js")).href);
const scratch = process.env.ISR_DPO_BENCH_DIR ?? join(tmpdir(), "isr-dpo-bench");
const parts = {
  import: () => benchImport(root, report),
  load: async () => benchLoad(await ours(), makeCheckpoint(scratch), report),
  loop: async () => benchLoop(await ours(), root, report),
  peers: () => benchPeers(root, report),
  dpo: () => benchDpo(root, report),
  plan: () => benchPlan(root, report),
  video: async () => benchVideo(await ours(), root, scratch, report),
  service: async () => benchService(await ours(), root, scratch, report),
  ranks: () => benchRanks(root, makeCheckpoint(scratch).dir, report),
};
for (const [name, part] of Object.entries(parts)) if (!options.only || options.only === name) await part();
console.log("");
printTable();
