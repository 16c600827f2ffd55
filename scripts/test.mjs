// npm test: builds what is out of date and runs the native and the TypeScript tests.
//   node scripts/test.mjs [native | ts] [part of a native test's name | pattern of TypeScript test files]
import { buildShared, executable, root, tool, tsTests } from "./native.mjs";
import { Stages } from "./stages.mjs";

const [kind = "all", filter] = process.argv.slice(2);
if (!["all", "native", "ts"].includes(kind)) throw new Error(`Expected native, ts or nothing but received ${kind}`);

const stages = new Stages();
const dir = await buildShared(stages, kind === "ts" ? [] : ["native_tests"]);
if (dir && kind !== "ts") await stages.stage("native tests", executable(dir, "native_tests"), filter ? [filter] : []);
if (dir && kind !== "native") {
  await stages.stage("build dist", tool("tsup"), ["--silent"], { cwd: root, silentPass: true });
  await stages.stage("TypeScript tests", process.execPath, tsTests(filter), { cwd: root, env: { ISR_DPO_BUILT: "1" } });
}
stages.end();
