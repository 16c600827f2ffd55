// What is set and has no effect is told by name; no key of the schema is left out of the question.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ordered } from "./helpers/assert.js";
import { conditionalKeys, unusedKeys } from "../src/config/unused-keys.js";
import type { Rows } from "../src/base/option-rows.js";
import { type ConfigKind, configs, rowsBelow } from "../src/config/config-rows.js";
import { resolveConfig } from "../src/config/read-config.js";
import { runIterations } from "../src/index.js";
import { cliCommand, node } from "./helpers/child.js";
import { caught } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";
import { clips, isrOptions } from "./helpers/isr-run.js";
import { writeClips } from "./helpers/train-run.js";

const test = suite("config effects");
const needed = { run: { model: "m", samples: "s", runDir: "r" }, train: { model: "m", data: "d", runDir: "r" } };
const endpoint = { url: "http://127.0.0.1:9", model: "m" };
const openai = { kind: "openai", endpoint };

const rows: readonly [kind: ConfigKind, config: object, unused: readonly string[]][] = [
  ["run", {}, []],
  ["run", { context: { design: "none" } }, []],
  [
    "run",
    { context: { design: "none", maxTokens: 9, temperature: 1, topP: 0.5 } },
    ["context.maxTokens", "context.temperature", "context.topP"],
  ],
  ["run", { context: { temperature: 0, topP: 0.5 } }, ["context.topP"]],
  ["run", { context: { temperature: 0 } }, []],
  ["run", { judge: { ...openai, method: "logprob" } }, ["judge.method"]],
  ["run", { judge: { ...openai, tie: "fail", unparsed: "fail" } }, []],
  ["run", { judge: { tie: "fail" } }, ["judge.tie"]],
  ["run", { judge: { tie: "fail", method: "logprob" } }, []],
  ["run", { judge: { disagree: "fail" } }, ["judge.disagree"]],
  ["run", { judge: { disagree: "fail", orders: "both" } }, []],
  ["run", { judge: { disagree: "average", orders: "both" } }, ["judge.disagree"]],
  ["run", { judge: { disagree: "average", orders: "both", method: "logprob" } }, []],
  ["run", { judge: { ...openai, disagree: "average", orders: "both" } }, ["judge.disagree"]],
  ["run", { judge: { unparsed: "fail", method: "logprob" } }, ["judge.unparsed"]],
  ["run", { judge: { orders: "both" }, guards: { maxPosition: 0.7 } }, ["guards.maxPosition"]],
  ["run", { judge: { orders: "both" }, guards: { maxPosition: 1 } }, []],
  ["run", { guards: { maxPosition: 0.7 } }, []],
  ["run", { video: { looks: "varied", window: [0, 2], fps: 3 } }, ["video.window", "video.fps"]],
  ["run", { video: { looks: "varied", stretches: 1 } }, ["video.looks"]],
  ["run", { video: { stretches: 2 } }, ["video.stretches"]],
  ["run", { video: { looks: "varied", stretches: 2, frames: 3 } }, []],
  ["run", { train: { schedule: "constant", warmupSteps: 2, totalSteps: 9 } }, ["train.totalSteps"]],
  ["run", { train: { decayNorms: false } }, ["train.decayNorms"]],
  ["run", { train: { decayNorms: false, weightDecay: 0.1 } }, []],
  ["run", { train: { decayNorms: false, weightDecay: 0.1, lora: {} } }, ["train.decayNorms"]],
  ["run", { train: { lora: { rank: 8, targets: ["q_proj"], rankPattern: { v_proj: 2 } } } }, []],
  ["run", { train: { shard: false } }, ["train.shard"]],
  ["run", { train: { shardGradients: true } }, ["train.shardGradients"]],
  [
    "train",
    { trainer: { shardGradients: true, train: { decoder: false, projector: true } } },
    ["trainer.shardGradients"],
  ],
  ["train", { trainer: { shardGradients: true } }, []],
  ["train", { trainer: { totalSteps: 9, decayNorms: false } }, ["trainer.totalSteps", "trainer.decayNorms"]],
  ["train", { trainer: { totalSteps: 9, warmupRatio: 0.2 } }, []],
  ["train", { preset: "paper" }, []],
  ["run", { preset: "paper" }, []],
];

for (const [kind, config, unused] of rows)
  test(`${kind} ${JSON.stringify(config)}: ${unused.join(", ") || "all has effect"}`, () => {
    const { config: resolved } = resolveConfig(kind, { ...needed[kind], ...config });
    const found = unusedKeys(kind, resolved);
    assert.equal(
      found.map((u) => u.key),
      unused,
    );
    for (const { why } of found) ordered(why.length, ">", 10);
  });

/** Keys that always have an effect, or are refused where they have none; a new key of the schema goes here or into the table. */
const always: Record<ConfigKind, readonly RegExp[]> = {
  train: [
    /^(preset|model|data|videos|runDir|evalData|evalEvery|epochs|itemsPerStep|onBadRow|onLong|onRanks|saveEverySteps|turns|specialTokens|ends|onEnd|answerEnd|video\.(timeoutS|maxLost))$/,
    /^trainer\.(loss|beta|labelSmoothing|ldAlpha|sftWeight|divergence|learningRate|schedule|warmupRatio|warmupSteps|betas|eps|weightDecay|clipNorm|train\..*|lora\..*|microBatchTokens|checkpointing|sharePrefix|shard|seed)$/,
    /^(load|features)\./,
  ],
  run: [
    /^(preset|model|samples|videos|runDir|seedData|from|to|seed|prompts|groupVideos|keep|onRanks|specialTokens)$/,
    /^context\.design$|^response\.(maxTokens|temperature|topP)$|^judge\.(kind|orders|identical|truncated|endpoint\..*)$/,
    /^guards\.(minUsable|zeroRate)$|^video\.(frames|timeoutS|onError|maxLost)$|^evaluate\./,
    /^train\.(loss|beta|labelSmoothing|ldAlpha|sftWeight|divergence|learningRate|schedule|warmupRatio|warmupSteps|betas|eps|weightDecay|clipNorm|train\..*|lora\..*|microBatchTokens|checkpointing|sharePrefix|epochs|pairsPerStep|saveEverySteps|trainPrompt)$/,
    /^(load|features)\./,
  ],
};

function* keysOf(rows: Rows, above: readonly string[] = []): Generator<string> {
  for (const [key, row] of Object.entries(rows)) {
    const below = rowsBelow(row);
    if (below) yield* keysOf(below, [...above, key]);
    else yield [...above, key].join(".");
  }
}

for (const kind of ["train", "run"] as const)
  test(`every key of ${kind} is known to have an effect, or when it has none`, () => {
    const table = conditionalKeys(kind);
    const all = [...keysOf(rowsBelow(configs[kind])!)];
    assert.ok(all.length > 30, String(all.length));
    const open = all.filter((key) => !table.includes(key) && !always[kind].some((r) => r.test(key)));
    assert.equal(open, []);
    assert.equal(
      table.filter((key) => !all.includes(key)),
      [],
      "keys of the table that the schema has not",
    );
  });

const refused: readonly [config: object, says: RegExp][] = [
  [{ response: { temperature: 0 } }, /response\.temperature: expected a number above 0 \(at 0 both answers/],
  [{ train: { labelSmoothing: 0.1 } }, /train\.labelSmoothing: expected 0 beside loss sigmoid/],
  [{ train: { loss: "exo_pair" } }, /train\.labelSmoothing: expected a number above 0 beside loss exo_pair/],
];
for (const [config, says] of refused)
  test(`refused: ${JSON.stringify(config)}`, async () => {
    const e = await caught(async () => resolveConfig("run", { ...needed.run, ...config }));
    assert.is(e.code, "INVALID_CONFIG");
    assert.match(e.message, says);
  });

test("a run tells of keys and prompts without effect, config show marks them", async () => {
  const dir = temporaryFolder();
  await writeClips(dir, clips);
  const base = isrOptions(dir, join(dir, "run"), "none");
  const context = { maxTokens: 9 };
  const prompts = { context: { first: "Describe." }, judge: { withContext: "{context} {question} {first} {second}" } };
  const run = runIterations({ ...base, to: 2, config: { ...base.config, context }, prompts: prompts as never });
  const told: string[] = [];
  for await (const e of run) if (e.type === "warning" && e.code === "NO_EFFECT") told.push(e.message);
  assert.equal(
    told.map((t) => t.split(" has no effect: ")[0]),
    ["context.maxTokens", "prompts.context.first", "prompts.judge.withContext"],
  );
  const file = join(dir, "c.yaml");
  writeFileSync(file, JSON.stringify({ ...needed.run, context: { ...context, design: "none" } }));
  const shown = node([...cliCommand, "config", "show", file, "--json"], {
    NODE_NO_WARNINGS: "1",
  });
  assert.is(shown.code, 0, shown.err);
  assert.equal(JSON.parse(shown.out).unused, [
    { key: "context.maxTokens", why: "context.design none writes no context" },
  ]);
});

test.run();
