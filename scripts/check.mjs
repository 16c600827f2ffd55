// npm run check: what to run before every commit, in under two minutes. Format, lint, types, the ladder, and the quick
// TypeScript tests against the addon as it is built. `static`: without the tests.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { bundle, root, tool, tsTests } from "./native.mjs";
import { Stages } from "./stages.mjs";

const stages = new Stages();
const options = { cwd: root };
await stages.stage("format and lint", tool("biome"), ["check"], options);
await stages.stage("the ladder", process.execPath, ["--import", "tsx", "test/layers.test.ts"], options);
await Promise.all([
  stages.stage("types", tool("tsc"), ["-p", ".", "--incremental", "--tsBuildInfoFile", "build/types.json"], options),
  bundle(stages),
]);
// Left to npm test: what takes more than a few seconds.
const slow = new Set([
  ...[
    "ranks",
    "ranks-network",
    "ranks-watch",
    "train-ranks",
    "iterate-ranks",
    "iterate-ranks-network",
    "examples-jobs",
  ],
  ...[
    "layers",
    "determinism",
    "leak",
    "workers",
    "runfolder-kill",
    "train-kill",
    "iterate-kill",
    "report-page",
    "demo",
  ],
  ...[
    "synthetic-model",
    "synthetic-video",
    "video",
    "video-model",
    "video-tools",
    "data-fuzz",
    "data-write",
    "test-tally",
  ],
  ...[
    "train-answers",
    "text",
    "iterate-paper",
    "iterate-check-inputs",
    "embedded-in-programs",
    "truncated-answers",
    "device",
  ],
  ...["train-run", "train-packing", "train-rows", "train-evaluate", "train-service", "linear-time"],
  ...[
    "iterate-judges",
    "iterate-context-designs",
    "iterate-pairs",
    "iterate-damaged-video",
    "iterate-start-and-end",
    "iterate-recovery",
    "iterate-records",
  ],
  ...["judge-openai", "judge-prompts", "docs", "plan", "package", "video-long", "video-truncated"],
  ...["runfolder-journal", "run-content", "run-made-model", "run-folder"],
  ...["cli", "cli-video", "cli-train", "cli-effects", "cli-judge", "cli-run", "cli-chat-run"], // a process each
]);
const quick = readdirSync(join(root, "test")).flatMap((file) => {
  const name = /^(.*)\.test\.ts$/.exec(file)?.[1];
  return name === undefined || slow.has(name) ? [] : [name];
});
if (process.argv[2] !== "static")
  await stages.stage("quick tests", process.execPath, tsTests(`^(${quick.join("|")})\\.test\\.ts$`), {
    ...options,
    env: { ISR_DPO_BUILT: "1" },
  });
stages.end();
