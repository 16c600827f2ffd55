// npm test: builds what is out of date and runs the native and the TypeScript tests.
//   node scripts/test.mjs [native | cuda | ts] [part of a native test's name | pattern of TypeScript test files]
import { buildShared, executable, root, tool, tsTests } from "./native.mjs";
import { Stages } from "./stages.mjs";

const [kind = "all", filter] = process.argv.slice(2);
if (!["all", "native", "cuda", "ts"].includes(kind))
  throw new Error(`Expected native, cuda, ts or nothing but received ${kind}`);

const stages = new Stages();
const programs = kind === "ts" ? [] : [kind === "cuda" ? "cuda_tests" : "native_tests"];
const dir = await buildShared(stages, programs);
for (const name of dir ? programs : [])
  await stages.stage(name.replace("_", " "), executable(dir, name), filter ? [filter] : []);
if (dir && (kind === "all" || kind === "ts")) {
  await stages.stage("build dist", tool("tsup"), ["--silent"], { cwd: root, silentPass: true });
  await stages.stage("TypeScript tests", process.execPath, tsTests(filter), { cwd: root, env: { ISR_DPO_BUILT: "1" } });
}
stages.end();
