// npm run test:deep: what is too long for every change, one to two hours on two cores. Work that keeps one core busy runs in two
// lanes side by side.
import { buildFuzz, fuzz, fuzzTargets } from "./fuzz.mjs";
import { buildSanitized, executable, root, testEmulation, tsTests } from "./native.mjs";
import { Stages } from "./stages.mjs";

const stages = new Stages();
const options = { cwd: root, limit: 5400 };
const node = process.execPath;
const fuzzSeconds = 100; // a reader

/** npm test comes first, and builds dist; mutants do not, for the tests of a fault have to run its source. */
const typescript = (name, pattern, env) =>
  stages.stage(name, node, tsTests(pattern), { ...options, env: { ISR_DPO_BUILT: "1", ...env } });

/** One after the other; several lanes run at once. */
async function lane(tasks) {
  for (const task of tasks) await task();
}

await stages.stage("npm test", "npm", ["test", "--silent"], options);
await testEmulation(stages, { env: { ISR_DPO_LONG: "1" } });

const threads = await buildSanitized(stages, "thread", ["native_tests", "cuda_tests"]);
for (const part of threads ? ["threads", "infer", "scheduler", "train", "vision"] : [])
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
  await stages.stage(
    "ThreadSanitizer, CUDA kernels",
    executable(threads, "cuda_tests"),
    ["cuda, emulated, schedule 3"],
    { ...options, env: { ISR_TEST_OPS: sharing.join(";") } },
  );

const addresses = await buildSanitized(stages, "address,undefined", ["native_tests", "cuda_tests"]);
const fuzzers = addresses && (await buildFuzz(stages));
for (const [program, part] of addresses ? [["native_tests"], ["cuda_tests", "cuda"]] : [])
  await stages.stage(`${program}, ASan + UBSan`, executable(addresses, program), part ? [part] : [], options);

const seconds = { ISR_DPO_FUZZ_SECONDS: String(fuzzSeconds) };
const long = { ISR_DPO_WORKER_ROUNDS: "50", ISR_DPO_LEAK_CYCLES: "1000", ISR_DPO_LONG: "1" }; // two workers a round
await Promise.all([
  lane([
    () => stages.stage("mutants", node, ["scripts/mutants.mjs"], options),
    () => typescript("kills, 100 instants", "^(runfolder|train|iterate)-kill\\.test\\.ts$", { ISR_DPO_KILLS: "100" }),
  ]),
  lane([
    () =>
      typescript(
        "100 workers, 1,000 cycles, long videos and texts",
        "^(workers|leak|video|linear-time)\\.test\\.ts$",
        long,
      ),
    () => stages.stage("file faults, every operation", node, ["scripts/faults.mjs", "all"], options),
    ...(fuzzers ? fuzzTargets : []).map(
      (target) => () => fuzz(stages, addresses, target, fuzzSeconds, Date.now() % 1e9),
    ),
    ...["text", "data", "config"].map(
      (name) => () => typescript(`fuzz ${name}, ${fuzzSeconds} s`, `^${name}-fuzz\\.test\\.ts$`, seconds),
    ),
  ]),
]);
stages.end();
