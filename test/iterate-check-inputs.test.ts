// What a run and its plan refuse before anything is computed: with seed data the seed stage has not begun, and no folder is left.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { missing } from "./helpers/assert.js";
import { type IterationEvent, plan, type RunIterationsOptions, runIterations } from "../src/index.js";
import type { Prompts } from "../src/iterate/method-prompts.js";
import { caught } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";
import { clips, isrOptions, samples } from "./helpers/isr-run.js";
import { writeClips } from "./helpers/train-run.js";

const test = suite("isr prove");
const data = temporaryFolder();
const lines = (name: string, rows: readonly object[]) => {
  writeFileSync(join(data, name), rows.map((r) => `${JSON.stringify(r)}\n`).join(""));
  return join(data, name);
};
const seedRow = { video: "clip0", prompt: "What is seen?", chosen: "a cat", rejected: "a dog" };
const seedData = lines("seed.jsonl", [seedRow, { ...seedRow, video: "clip1", chosen: "two cats" }]);
const questions = lines("samples.jsonl", samples);
const asked = lines("asked.jsonl", [{ id: "e", video: "clip2", question: "What now?" }]);
mkdirSync(join(data, "clip-empty"));

test.before(() => writeClips(data, clips));

type Config = Record<string, unknown>;
const refused: readonly [what: string, config: Config, code: string, says: RegExp][] = [
  ["a folder of videos that is not there", { videos: join(data, "none") }, "NOT_FOUND", /none: .*all samples, 8 are/],
  ["answers that cannot fit", { response: { maxTokens: 400 } }, "INVALID_CONFIG", /the (response|judge) prompt needs/],
  ["contexts that cannot fit", { context: { maxTokens: 400 } }, "INVALID_CONFIG", /400 \+/],
  [
    "frames that the tower does not take",
    { video: { frames: 16 } },
    "INVALID_CONFIG",
    /^video\.frames: expected 8, .* 16$/,
  ],
  [
    "no file of questions to evaluate",
    { evaluate: { samples: join(data, "no.jsonl") } },
    "NOT_FOUND",
    /^evaluate\.samples: .*no\.jsonl/,
  ],
  [
    "no questions to evaluate",
    { evaluate: { samples: lines("none.jsonl", []) } },
    "DATA_INVALID",
    /^evaluate\.samples: .*at least one question/,
  ],
  [
    "an evaluation's video",
    { evaluate: { samples: lines("gone.jsonl", [{ id: "e", video: "gone", question: "What?" }]) } },
    "NOT_FOUND",
    /videos of evaluate\.samples, 1 are missing: gone/,
  ],
  [
    "an evaluation's folder",
    { evaluate: { samples: asked, videos: join(data, "clip0") } },
    "NOT_FOUND",
    /clip0: .*clip2/,
  ],
  ["prompts that are not there", { prompts: join(data, "p.yaml") }, "NOT_FOUND", /p\.yaml/],
  [
    "no key of the endpoint",
    { judge: { kind: "openai", endpoint: { url: "http://127.0.0.1:9", model: "m", keyEnv: "NO_SUCH_KEY" } } },
    "INVALID_CONFIG",
    /NO_SUCH_KEY/,
  ],
  ["a step of rate 0 an iteration", { train: { pairsPerStep: 64, epochs: 1 } }, "DEGENERATE", /first step has rate 0/],
  ["a learning rate of 0", { train: { learningRate: 0 } }, "DEGENERATE", /learningRate is 0/],
  ["seed data that is not there", { seedData: join(data, "s.jsonl") }, "NOT_FOUND", /^seedData: .*s\.jsonl/],
  [
    "seed data of another form",
    { seedData: questions },
    "DATA_INVALID",
    /^seedData: .*samples\.jsonl:1: .*known format/,
  ],
  [
    "a seed row's video",
    { seedData: lines("lost.jsonl", [seedRow, { ...seedRow, video: "gone" }]) },
    "NOT_FOUND",
    /^seedData: .*missing: gone/,
  ],
];

const options = (config: Config): RunIterationsOptions => {
  const base = isrOptions(data, join(temporaryFolder(), "run"));
  return { ...base, to: 2, config: { ...base.config, ...config } };
};

for (const [what, config, code, says] of refused) {
  for (const seeded of ["seedData" in config ? [] : [{}], [{ seedData }]].flat())
    test(`${what}${"seedData" in seeded ? ", with seed data" : ""}: the run is refused and leaves nothing`, async () => {
      const o = options({ ...seeded, ...config });
      const events: IterationEvent[] = [];
      const run = runIterations(o);
      const e = await caught(async () => {
        for await (const event of run) events.push(event);
        await run.result;
      });
      assert.is(e.code, code, e.message);
      assert.match(e.message, says);
      assert.equal(events, [], "no stage had begun");
      missing(o.runDir, "no folder is left");
    });
  test(`${what}: the plan says so too`, async () => {
    const { runDir, model, config: c } = options(config);
    const e = await caught(() => plan({ runDir, model, config: { ...c, samples: questions } }));
    assert.is(e.code, code, e.message);
    assert.match(e.message, says);
  });
}

test("a plan counts the samples, and says of what it cannot prove that it has not", async () => {
  const { runDir, model, config } = options({});
  const counted = await plan({ runDir, model, config: { ...config, samples: questions } });
  const given = await plan({ runDir, model, config: config!, items: samples.length });
  assert.is(counted.bytes.disk, given.bytes.disk);
  assert.equal(counted.advice, []);
  const elsewhere = await plan({ runDir, model, items: 9, memory: 8e9, config: { ...config, samples: "none.jsonl" } });
  assert.is(elsewhere.fits, true, elsewhere.advice.join("; "));
  const config7b = {
    runDir,
    model: "test/data/llava_7b",
    items: 9,
    memory: 200e9,
    config: { train: { epochs: 3, pairsPerStep: 2 } },
  };
  assert.match((await plan(config7b)).advice[0]!, /prompts fit into the context window is not proven: .*safetensors/);
});

test("videos that may be skipped are told by the plan as by the run", async () => {
  const { runDir, model, config } = options({ video: { onError: "skip" }, videos: join(data, "none") });
  const { advice } = await plan({ runDir, model, config: { ...config, samples: questions } });
  assert.match(advice[0]!, /8 are missing/);
});

for (const preset of [undefined, "paper"] as const)
  for (const [what, text, told] of [
    ["an answer's words", { response: "Say it: {question}" }, []],
    ["a context's words", { context: { first: "Look!" } }, ["context.first"]],
    ["a judge's words", { judge: { withContext: "{context} {question} {first} {second}" } }, ["judge.withContext"]],
  ] as const)
    test(`prompts beside those of ${preset ?? "no preset"}, without contexts: ${what}`, async () => {
      const prompts = join(temporaryFolder(), "prompts.yaml");
      writeFileSync(prompts, JSON.stringify(text));
      const { runDir, model, config } = isrOptions(data, join(temporaryFolder(), "run"), "none");
      const { train: _, judge: __, ...rest } = config!;
      const o = { runDir, model, config: { ...rest, ...(preset && { preset }), context: { design: "none" as const } } };
      for (const given of [
        { ...o, config: { ...o.config, prompts } },
        { ...o, prompts: text as unknown as Partial<Prompts> },
      ]) {
        const { advice } = await plan({ ...given, config: { ...given.config, samples: questions } });
        const names = advice.flatMap((line) => /prompts\.(\S+) has no effect/.exec(line)?.[1] ?? []);
        assert.equal(names, told, advice.join("\n"));
      }
    });

test.run();
