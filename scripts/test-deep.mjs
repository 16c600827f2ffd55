// npm run test:deep: what is too long for every change. At most an hour on two cores.
import { buildSanitized, executable, root, tsTests } from "./native.mjs";
import { buildFuzz, fuzz, fuzzTargets } from "./fuzz.mjs";
import { Stages } from "./stages.mjs";

const stages = new Stages();
const options = { cwd: root, limit: 3600 };

await stages.stage("npm test", "npm", ["test", "--silent"], options);
await stages.stage("TypeScript tests, 100 workers and 1,000 cycles", process.execPath, tsTests(), {
  ...options,
  env: { ISR_DPO_WORKER_ROUNDS: "50", ISR_DPO_LEAK_CYCLES: "1000" }, // two workers a round
});
await stages.stage("file faults, every operation", process.execPath, ["scripts/faults.mjs", "all"], options);
await stages.stage("mutants", process.execPath, ["scripts/mutants.mjs"], options);

const threads = await buildSanitized(stages, "thread", ["native_tests"]);
for (const part of threads ? ["threads", "infer", "scheduler", "train"] : [])
  await stages.stage(`ThreadSanitizer, tests of ${part}`, executable(threads, "native_tests"), [part], options);

const addresses = await buildSanitized(stages, "address,undefined", ["native_tests"]);
if (addresses) {
  await stages.stage("native tests, ASan + UBSan", executable(addresses, "native_tests"), [], options);
  if (await buildFuzz(stages))
    for (const target of fuzzTargets) await fuzz(stages, addresses, target, 600, Date.now() % 1e9);
}
stages.end();
