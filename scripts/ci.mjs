// What .ci/run runs once the tools are there: the README's test command, the checks, and the suite in every surrounding
// that this machine offers. Ends with "N passed, N failed, N skipped".
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildFuzz, fuzz, fuzzTargets } from "./fuzz.mjs";
import {
  buildFar,
  buildSanitized,
  executable,
  halves,
  machineLevels,
  root,
  testEmulation,
  tool,
  tsTests,
  usualLevel,
} from "./native.mjs";
import { Stages } from "./stages.mjs";
import { surroundings } from "./surroundings.mjs";

const stages = new Stages();
const options = { cwd: root, limit: 1800 };
const kills = { ISR_DPO_KILLS: "10" }; // random instants, and every failpoint
const node = process.execPath;
process.env.ISR_DPO_BUILT = "1"; // npm test comes first, and builds dist

async function readmeCommand() {
  const command = "npm ci && npm test";
  const readme = readFileSync(join(root, "README.md"), "utf8");
  if (!readme.split("\n").some((line) => line.trim().startsWith(command)))
    throw new Error(`README.md names another test command than "${command}"`);
  return await stages.stage("the README's test command", "bash", ["-c", command], { ...options, env: kills });
}

/** The instruction-set levels that npm test did not run at. */
const otherLevels = machineLevels().filter((level) => level !== usualLevel());

/** The platform's own package of the newer Node: it holds the binary, so nothing has to be fetched by an install script. */
async function newerNode() {
  const dir = mkdtempSync(join(tmpdir(), "isr-dpo-node-"));
  const name = `node-${process.platform}-${process.arch}`;
  // Another Node is another runtime of processes, streams, files, workers and Node-API; texts and formulas do not see it.
  const runtime =
    "base-.* caller-memory cli cli-(chat-run|effects|video) concurrent-calls embedded-in-programs errors " +
    "golden import iterate-start-and-end judge-openai leak live model native " +
    "output-files package row-files run-handle runfolder-(handles|journal|lock|metrics) " +
    "train-service types video-tools workers";
  const other = `^(${runtime.replaceAll(" ", "|")})\\.test\\.ts$`;
  const install = ["install", "--prefix", dir, "--no-save", "--no-audit", "--no-fund", `${name}@24`];
  const installed = await stages.stage("install Node 24", "npm", install, { ...options, silentPass: true });
  if (installed)
    await stages.stage(
      "TypeScript tests of the runtime, Node 24",
      join(dir, "node_modules", name, "bin/node"),
      tsTests(other),
      options,
    );
  rmSync(dir, { recursive: true, force: true });
}

async function sanitizers() {
  const dir = await buildSanitized(stages, "address,undefined", ["native_tests"]);
  if (!dir) return;
  await halves(stages, "native tests, ASan + UBSan", executable(dir, "native_tests"), [], options);
  if (!(await buildFuzz(stages))) return;
  for (const target of fuzzTargets) await fuzz(stages, dir, target, 0);
}

await readmeCommand().catch((error) => stages.add("README", 0, 1, 0, error.message));
if (existsSync(join(root, "build/Release/isr_dpo.node"))) {
  await stages.stage("checks; the tests have just run", node, ["scripts/check.mjs", "static"], options);
  await stages.stage("site of docs/ and the API", "npm", ["run", "docs"], { ...options, silentPass: true });
  await stages.stage("package layout", tool("publint"), ["--strict"], options);
  await stages.stage("the shipped binary, for glibc 2.28", node, ["scripts/prebuilds.mjs"], {
    ...options,
    env: { WITH_CUDA: "OFF" },
  });
  // What computes; the rest does not see the level.
  const computing =
    "^(golden|golden-video|golden-lora|determinism|model|video-model|native|sampling-draws|checkpoints)\\.test\\.ts$";
  const away = "^(golden|golden-video|golden-lora|video-model|native|checkpoints)\\.test\\.ts$";
  const far = await buildFar(stages);
  if (far)
    await stages.stage("on a device the host cannot read", node, tsTests(away), {
      ...options,
      env: { ISR_DPO_PREBUILD: far },
    });
  await testEmulation(stages, { families: "gqa_tied", goldens: "golden" }); // the deep tier has all, and the video models
  for (const isa of otherLevels)
    await stages.stage(`TypeScript tests, ${isa}`, node, tsTests(computing), { ...options, env: { ISR_DPO_ISA: isa } });
  await newerNode();
  await surroundings(stages);
  await stages.stage("file faults, some operations", node, ["scripts/faults.mjs"], options);
  await sanitizers();
}
stages.end();
