// npm run check: what to run before every commit, in under two minutes. Format, lint, types, the ladder, and the quick
// TypeScript tests against the addon as it is built. `static`: without the tests.
import { root, tsTests } from "./native.mjs";
import { Stages } from "./stages.mjs";

const stages = new Stages();
const options = { cwd: root };
await stages.stage("format and lint", "npx", ["--no-install", "biome", "check"], options);
await stages.stage("types", "npx", ["--no-install", "tsc", "-p", "."], options);
await stages.stage("the ladder", process.execPath, ["--import", "tsx", "test/layers.test.ts"], options);
await stages.stage("build dist", "npx", ["--no-install", "tsup", "--silent"], { ...options, silentPass: true });
// Left to npm test: what takes more than a few seconds.
const slow = [
  ...["layers", "determinism", "leak", "workers", "store-kill", "train-kill", "isr-kill", "report-page", "demo"],
  ...["training-run", "training-packing", "isr-judges", "isr-designs", "train-service", "judge-openai"],
];
if (process.argv[2] !== "static")
  await stages.stage("quick tests", process.execPath, tsTests(`^(?!(${slow.join("|")})\\.).*\\.test\\.ts$`), options);
stages.end();
