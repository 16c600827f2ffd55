// npm run test:deep: what is too long for every change. At most an hour on two cores.
import { buildSanitized, executable, root, tsTests } from "./native.mjs";
import { buildFuzz, fuzz, fuzzTargets } from "./fuzz.mjs";
import { Stages } from "./stages.mjs";

const stages = new Stages();
const options = { cwd: root, limit: 3600 };

/** Ten minutes a reader; a fuzzer is one thread, so two run side by side. */
async function fuzzAll(dir) {
  const env = { ISR_DPO_FUZZ_SECONDS: "600" };
  const text = () =>
    stages.stage("fuzz tokenizers, 600 s", process.execPath, tsTests("^text-fuzz\\.test\\.ts$"), { ...options, env });
  const waiting = [text, ...fuzzTargets.map((target) => () => fuzz(stages, dir, target, 600, Date.now() % 1e9))];
  const worker = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) await next();
  };
  await Promise.all([worker(), worker()]);
}

await stages.stage("npm test", "npm", ["test", "--silent"], options);
await stages.stage("TypeScript tests, 100 workers and 1,000 cycles", process.execPath, tsTests(), {
  ...options,
  env: { ISR_DPO_WORKER_ROUNDS: "50", ISR_DPO_LEAK_CYCLES: "1000", ISR_DPO_LONG: "1" }, // two workers a round
});
await stages.stage("file faults, every operation", process.execPath, ["scripts/faults.mjs", "all"], options);
await stages.stage("kills, 100 instants", process.execPath, tsTests("^(store|train)-kill\\.test\\.ts$"), {
  ...options,
  env: { ISR_DPO_KILLS: "100" },
});
await stages.stage("mutants", process.execPath, ["scripts/mutants.mjs"], options);

const threads = await buildSanitized(stages, "thread", ["native_tests"]);
for (const part of threads ? ["threads", "infer", "scheduler", "train", "vision"] : [])
  await stages.stage(`ThreadSanitizer, tests of ${part}`, executable(threads, "native_tests"), [part], options);

const addresses = await buildSanitized(stages, "address,undefined", ["native_tests"]);
if (addresses) {
  await stages.stage("native tests, ASan + UBSan", executable(addresses, "native_tests"), [], options);
  if (await buildFuzz(stages)) await fuzzAll(addresses);
}
stages.end();
