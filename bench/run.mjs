// npm run bench [-- --out FILE] [--only PART]: native_bench (kernels against the machine's limits, measured in the same
// run), then what JavaScript sees: import time, load rate, a training step. Ends with one table; --out adds one JSON line a
// figure. PART: a bench of native_bench by part of its name, or import, load, step.
import { appendFileSync, mkdirSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { buildShared, executable, root } from "../scripts/native.mjs";
import { run, Stages } from "../scripts/stages.mjs";
import { benchShape, makeCheckpoint } from "./checkpoint.mjs";
import { benchImport } from "./import.mjs";
import { benchLoad } from "./load.mjs";
import { parseNative, peaksOf } from "./native.mjs";
import { benchStep } from "./step.mjs";

const { values } = parseArgs({ options: { out: { type: "string" }, only: { type: "string" } } });
const wanted = (name) => !values.only || name.includes(values.only);

const rows = [];
const commit = (await run("git", ["rev-parse", "--short", "HEAD"], { cwd: root, quiet: true })).output.trim();
function report(row) {
  rows.push(row);
  if (values.out) appendFileSync(values.out, `${JSON.stringify({ ...row, commit, cores: availableParallelism() })}\n`);
}

const reached = ({ value, atLeast = Number.NEGATIVE_INFINITY, atMost = Number.POSITIVE_INFINITY }) =>
  value >= atLeast && value <= atMost;
const bar = ({ atLeast, atMost }) =>
  atLeast !== undefined ? `>= ${atLeast}` : atMost !== undefined ? `<= ${atMost}` : "";

function printTable() {
  const name = Math.max(...rows.map((r) => r.name.length));
  const bench = Math.max(...rows.map((r) => r.bench.length));
  console.log("");
  for (const row of rows) {
    const value = row.value.toFixed(row.value < 10 ? 2 : 1).padStart(9);
    const share = row.percent === undefined ? "" : `${row.percent.toFixed(1)} % of ${row.limit}`;
    const mark =
      bar(row) && !reached(row.percent === undefined ? row : { ...row, value: row.percent }) ? "  below the bar" : "";
    console.log(
      `${row.bench.padEnd(bench)}  ${row.name.padEnd(name)}  ${value} ${row.unit.padEnd(8)}  ${share.padEnd(18)}  ${bar(row)}${mark}`.trimEnd(),
    );
  }
}

if (values.out) mkdirSync(dirname(values.out), { recursive: true });
const stages = new Stages();
const dir = await buildShared(stages, ["native_bench"]);
const dist = await stages.stage("build dist", "npx", ["--no-install", "tsup", "--silent"], {
  cwd: root,
  silentPass: true,
});
if (!dir || !dist) process.exit(1);

const native = await run(
  executable(dir, "native_bench"),
  values.only && !["import", "load", "step"].includes(values.only) ? [values.only] : values.only ? ["limits"] : [],
  { limit: 3600 },
);
for (const row of parseNative(native.output)) report(row);

const api = await import(pathToFileURL(join(root, "dist/index.js")).href);
if (wanted("import")) benchImport(root, report);
if (wanted("load") || wanted("step")) {
  const checkpoint = makeCheckpoint(process.env.ISR_DPO_BENCH_DIR ?? join(tmpdir(), "isr-dpo-bench"));
  if (wanted("load")) await benchLoad(api, checkpoint, report);
  if (wanted("step")) await benchStep(api, checkpoint, benchShape, peaksOf(native.output), report);
}
printTable();
process.exitCode = native.status === 0 ? 0 : 1;
