// npm test: builds what is out of date and runs the native and the TypeScript tests.
//   node scripts/test.mjs [native | cuda | ts] [part of a native test's name | pattern of TypeScript test files]
import { buildShared, bundle, executable, halves, root, testEmulation, tsTests } from "./native.mjs";
import { Stages } from "./stages.mjs";

const [kind = "all", filter] = process.argv.slice(2);
if (!["all", "native", "cuda", "ts"].includes(kind))
  throw new Error(`Expected native, cuda, ts or nothing but received ${kind}`);

const stages = new Stages();
if (kind === "cuda") await testEmulation(stages, { filter });
else {
  const dir = await buildShared(stages, kind === "ts" ? [] : ["native_tests"]);
  const native = dir && kind !== "ts" && executable(dir, "native_tests");
  if (native) await (filter ? stages.stage("native tests", native, [filter]) : halves(stages, "native tests", native));
  if (dir && kind !== "native") {
    await bundle(stages);
    const env = { ISR_DPO_BUILT: "1" };
    await stages.stage("TypeScript tests", process.execPath, tsTests(filter), { cwd: root, env });
  }
}
stages.end();
