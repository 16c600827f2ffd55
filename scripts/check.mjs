// npm run check: what to run before every commit, in under two minutes. Format, lint, types, the ladder, and the quick
// TypeScript tests against the addon as it is built.
import { root, tsTests } from "./native.mjs";
import { Stages } from "./stages.mjs";

const stages = new Stages();
const options = { cwd: root };
await stages.stage("format and lint", "npx", ["--no-install", "biome", "check"], options);
await stages.stage("types", "npx", ["--no-install", "tsc", "-p", "."], options);
await stages.stage("the ladder", process.execPath, ["--import", "tsx", "test/layers.test.ts"], options);
await stages.stage("build dist", "npx", ["--no-install", "tsup", "--silent"], { ...options, silentPass: true });
await stages.stage(
  "quick tests",
  process.execPath,
  tsTests(
    "^(?!layers|determinism|leak|workers|store-kill|train-kill|training-run|training-packing|report-page|isr-judges|demo|train-service|isr-kill|isr-designs|judge-openai).*\\.test\\.ts$",
  ),
  options,
);
stages.end();
