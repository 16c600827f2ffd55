// npm run test:deep [-- --resume]: what is too long for every change, one to two hours on two cores. Work that keeps one core busy runs
// two stages at a time. With --resume, stages that have passed on the same commit are not run again: the table shows when they did.
import { execFileSync } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { buildFuzz, fuzz, fuzzTargets } from "./fuzz.mjs";
import { buildSanitized, buildShared, executable, root, testEmulation, tsTests } from "./native.mjs";
import { testNccl } from "./nccl.mjs";
import { Stages } from "./stages.mjs";

const git = (...args) => execFileSync("git", args, { cwd: root, encoding: "utf8" }).trim();

/** Where stages of this commit that passed are noted; nowhere while files differ from it. */
function recordOf(resume) {
  if (git("status", "--porcelain") !== "") {
    if (resume) throw new Error("--resume: expected a tree without changes, for what passed belongs to a commit");
    return undefined;
  }
  const record = join(root, "build", "deep", `${git("rev-parse", "HEAD")}.jsonl`);
  if (!resume) rmSync(record, { force: true });
  return record;
}

const stages = new Stages({ record: recordOf(process.argv.includes("--resume")) });
const options = { cwd: root, limit: 5400 };
const node = process.execPath;
const fuzzSeconds = 100; // a reader

/** npm test comes first, and builds dist; mutants do not, for the tests of a fault have to run its source. */
const typescript = (name, pattern, env) =>
  stages.stage(name, node, tsTests(pattern), { ...options, env: { ISR_DPO_BUILT: "1", ...env } });

/** In their order, two at a time. */
async function inPairs(tasks) {
  const waiting = [...tasks];
  const lane = async () => {
    for (let task = waiting.shift(); task; task = waiting.shift()) await task();
  };
  await Promise.all([lane(), lane()]);
}

await stages.stage("npm test", "npm", ["test", "--silent"], options);
await testEmulation(stages, { env: { ISR_DPO_LONG: "1" } });
const plain = await buildShared(stages, ["native_tests"]);
if (plain) await testNccl(stages, plain);

const threads = await buildSanitized(stages, "thread", ["native_tests", "cuda_tests"]);
for (const part of threads
  ? ["threads", "dist", "train_ranks", "train_overlap", "infer", "scheduler", "train", "vision"]
  : [])
  await stages.stage(`ThreadSanitizer, tests of ${part}`, executable(threads, "native_tests"), [part], options);

// Copies that land early and one warp ahead of the others: what lacks a barrier is a race then. Every meeting of emulated threads costs
// ThreadSanitizer a look at all of them, so these are the rows whose kernels share memory in each way, and of them short ones.
const sharing = [
  "attention (causal, D 128)",
  "attention_cached (40 rows at a time)",
  "layer_norm ()",
  "rms_norm ()",
  "sum_squares (two arrays)",
];
if (threads)
  await stages.stage("ThreadSanitizer, NCCL's double", executable(threads, "cuda_tests"), ["cuda nccl"], options);
if (threads)
  await stages.stage(
    "ThreadSanitizer, CUDA kernels",
    executable(threads, "cuda_tests"),
    ["cuda, emulated, schedule 3"],
    { ...options, env: { ISR_TEST_OPS: sharing.join(";") } },
  );

const addresses = await buildSanitized(stages, "address,undefined", ["native_tests", "cuda_tests"]);
const fuzzers = addresses && (await buildFuzz(stages));
const addressed = (program, args = []) =>
  stages.stage(`${program}, ASan + UBSan`, executable(addresses, program), args, options);

const seconds = { ISR_DPO_FUZZ_SECONDS: String(fuzzSeconds) };
const long = { ISR_DPO_WORKER_ROUNDS: "50", ISR_DPO_LEAK_CYCLES: "1000", ISR_DPO_LONG: "1" }; // two workers a round
const tasks = [
  () => stages.stage("mutants", node, ["scripts/mutants.mjs"], options),
  () => stages.stage("file faults, every operation", node, ["scripts/faults.mjs", "all"], options),
  () =>
    typescript("kills, 100 instants", "^((runfolder|train|iterate)-kill|train-ranks)\\.test\\.ts$", {
      ISR_DPO_KILLS: "100",
    }),
  () =>
    typescript(
      "100 workers, 1,000 cycles, long videos and texts",
      "^(workers|leak|video|linear-time)\\.test\\.ts$",
      long,
    ),
  () =>
    typescript("iterations by ranks, 60 instants", "^iterate-ranks\\.test\\.ts$", {
      ISR_DPO_KILLS: "60",
      ISR_DPO_LONG: "1",
    }),
  () =>
    typescript("iterations by ranks, network, 60 instants", "^iterate-ranks-network\\.test\\.ts$", {
      ISR_DPO_KILLS: "60",
      ISR_DPO_LONG: "1",
    }),
  () => typescript("ranks, within the promised time", "^ranks(-network|-watch)?\\.test\\.ts$", { ISR_DPO_LONG: "1" }),
  ...["text", "data", "config"].map(
    (name) => () => typescript(`fuzz ${name}, ${fuzzSeconds} s`, `^${name}-fuzz\\.test\\.ts$`, seconds),
  ),
];
if (addresses)
  tasks.push(
    () => addressed("cuda_tests", ["cuda"]),
    () => addressed("native_tests"),
  );
if (fuzzers)
  for (const target of fuzzTargets) tasks.push(() => fuzz(stages, addresses, target, fuzzSeconds, Date.now() % 1e9));
await inPairs(tasks);
stages.end();
