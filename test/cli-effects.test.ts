// Flags and options that are given and change nothing are told by name; those that have an effect are not.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { tellUnusedOfChat, tellUnusedOfGenerate } from "../src/cli/unused-flags.js";
import {
  type JudgeItem,
  type RunIterationsOptions,
  runIterations,
  type TrainItem,
  type TrainOptions,
} from "../src/index.js";
import { cliCommand, node } from "./helpers/child.js";
import { all, rowsFile } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";
import { clips, isrOptions } from "./helpers/isr-run.js";
import { writeClips } from "./helpers/train-run.js";
import { eventsOf, textRun } from "./helpers/training.js";

const test = suite("cli-effects");
const cli = (...args: string[]) => {
  const ended = node([...cliCommand, ...args], { NODE_NO_WARNINGS: "1" });
  return { ...ended, told: namesIn(ended.err) };
};
const namesIn = (text: string): string[] =>
  [...text.matchAll(/warning \(NO_EFFECT\): (\S+) has no effect: \S/g)].map(([, name]) => name!);

/** What `work` says of flags, while it runs. */
function saidBy(work: () => void): string[] {
  const write = process.stderr.write;
  let text = "";
  process.stderr.write = ((chunk: string) => {
    text += chunk;
    return true;
  }) as typeof write;
  try {
    work();
  } finally {
    process.stderr.write = write;
  }
  return namesIn(text);
}

const one = { media: [], open: false, hasPrompts: true };
const seen = { ...one, media: [{ kind: "video" as const }] };
const pictured = { ...one, media: [{ kind: "image" as const }] };
const conversation = { ...one, open: true };
const chats: readonly [flags: object, use: Parameters<typeof tellUnusedOfChat>[1], told: readonly string[]][] = [
  [{}, one, []],
  [{ topP: 0.5, topK: 3, seed: 1n }, one, ["--top-p", "--top-k", "--seed"]],
  [{ topP: 0.5, topK: 3, seed: 1n, temperature: 0 }, one, ["--top-p", "--top-k", "--seed"]],
  [{ topP: 0.5, topK: 3, seed: 1n, temperature: 0.5 }, one, []],
  [{ topP: 1, topK: 0, maxTokens: 4, stop: ["a"] }, one, []],
  [{ frames: 4, window: [0, 1], fps: 2 }, one, ["--frames", "--window", "--fps"]],
  [{ frames: 4, window: [0, 1], fps: 2 }, pictured, ["--frames", "--window", "--fps"]],
  [{ frames: 4, window: [0, 1], fps: 2 }, seen, []],
  [{ frames: 4, window: [0, 1], fps: 2 }, conversation, []],
  [{ featureCache: "f" }, one, ["--feature-cache"]],
  [{ featureCache: "f" }, pictured, []],
  [{ featureCache: "f" }, conversation, []],
  [{ raw: true }, { ...one, hasPrompts: false }, ["--raw"]],
  [{ raw: true }, one, []],
];
for (const [flags, use, told] of chats) {
  const shown = JSON.stringify(flags, (_, v) => (typeof v === "bigint" ? String(v) : v));
  test(`chat with ${shown} and ${JSON.stringify(use)}: ${told.join(", ") || "all has effect"}`, () => {
    assert.equal(
      saidBy(() => tellUnusedOfChat(flags, use)),
      told,
    );
  });
}

test("chat and generate of a text model: sampling without draws, and what is about media", () => {
  const model = folder("text_llama");
  const about = ["--frames", "2", "--vision-tower", "tower"];
  const asked = cli("chat", model, "--prompt", "Who?", "--max-tokens", "2", "--top-k", "3", "--raw", ...about);
  assert.equal(asked.told, ["--top-k", "--frames", "--raw", "--frames", "--vision-tower"], asked.err);
});

const rows: readonly [name: string, rows: object[], flags: readonly string[], told: readonly string[]][] = [
  ["no draws", [{ prompt: "a" }], ["--seed", "3", "--top-p", "0.5"], ["--top-p", "--seed"]],
  ["one row draws", [{ prompt: "a" }, { prompt: "b", temperature: 1 }], ["--seed", "3", "--top-p", "0.5"], []],
  ["the row that draws has a seed of its own", [{ prompt: "b", temperature: 1, seed: 4 }], ["--seed", "3"], ["--seed"]],
  [
    "each row has its own",
    [{ prompt: "b", temperature: 0, n: 1, maxTokens: 2 }],
    ["--temperature", "1", "--n", "2", "--max-tokens", "3"],
    ["--temperature", "--max-tokens", "--n"],
  ],
  ["no row", [], ["--top-p", "0.5"], []],
];
for (const [name, list, flags, told] of rows)
  test(`generate: ${name}`, () => {
    const out = join(temporaryFolder(), "out.jsonl");
    const short = flags.includes("--max-tokens") ? [] : ["--max-tokens", "2"];
    const ended = cli("generate", folder("text_llama"), "--in", rowsFile(list), "--out", out, ...short, ...flags);
    assert.is(ended.code, 0, ended.err);
    assert.equal(ended.told, told, ended.err);
  });

test("generate: frames are for videos that name none of their own", () => {
  const flags = { frames: 2, fps: 1, featureCache: "f" };
  assert.equal(
    saidBy(() => tellUnusedOfGenerate(flags, ["featureCache"])), // of an image
    ["--frames", "--fps"],
  );
  assert.equal(
    saidBy(() => tellUnusedOfGenerate(flags, ["featureCache", "frames", "window", "fps"])),
    [],
  );
});

test("judge: folders of videos are nothing to an endpoint", () => {
  const ended = cli(
    "judge",
    "--endpoint",
    "http://127.0.0.1:9",
    "--endpoint-model",
    "m",
    "--videos",
    temporaryFolder(),
  );
  assert.is(ended.code, 2, ended.err);
  assert.match(ended.err, /--videos: expected nothing beside --endpoint/);
});

const reports: readonly [dirs: string[], says: RegExp][] = [
  [["a", "./a"], /expected the folder of one run, got a, 2 times\n.*give it once: isr-dpo report a/s],
  [["a", "b"], /expected the folder of one run, got 2: a, b\n.*comparison\.json/s],
  [["a", "b", "a"], /expected the folder of one run, got 3: a, b, a\n.*comparison\.json/s],
];
for (const [dirs, says] of reports)
  test(`report ${dirs.join(" ")}`, () => {
    const ended = cli("report", ...dirs);
    assert.is(ended.code, 2, ended.err);
    assert.match(ended.err, says);
  });

const text = textRun({}).data as TrainItem[];
const trains: readonly [name: string, more: object, told: readonly string[]][] = [
  ["nothing", {}, []],
  ["a length for a constant rate", { trainer: { totalSteps: 9 } }, ["trainer.totalSteps"]],
  ["a length for a warm-up", { trainer: { totalSteps: 9, warmupRatio: 0.5 } }, []],
  ["norms that would decay", { trainer: { decayNorms: false } }, ["trainer.decayNorms"]],
  ["norms that do not", { trainer: { decayNorms: false, weightDecay: 0.1 } }, []],
  ["a folder of videos", { videos: temporaryFolder() }, ["videos"]],
  ["a signal of the loading", { load: { threads: 1, signal: new AbortController().signal } }, ["load.signal"]],
  ["what is about media", { load: { threads: 1, featureCache: { dir: temporaryFolder() } } }, ["load.featureCache"]],
];
for (const [name, more, told] of trains)
  test(`train() of words with ${name}: ${told.join(", ") || "nothing told"}`, async () => {
    const { events } = await eventsOf(textRun({ data: text, ...more } as Partial<TrainOptions>));
    const found = events.flatMap((e) => (e.type === "warning" && e.code === "NO_EFFECT" ? [e.message] : []));
    assert.equal(
      found.map((m) => m.split(" has no effect: ")[0]),
      told,
    );
  });

test("isr-dpo train tells it once", () => {
  const dir = temporaryFolder();
  const data = rowsFile([{ prompt: "a", completion: "b" }]);
  const given = ["--model", folder("text_llama"), "--data", data, "--run-dir", join(dir, "run")];
  const ended = cli("train", "sft", ...given, "--set", "trainer.totalSteps=9", "--videos", dir);
  assert.is(ended.code, 0, ended.err);
  assert.equal(ended.told, ["trainer.totalSteps", "videos"], ended.err);
});

test("keys of a configuration in whose place an option of the call stands", async () => {
  const dir = temporaryFolder();
  await writeClips(dir, clips);
  const base = isrOptions(dir, join(dir, "run"), "none");
  const prompts = join(dir, "prompts.json");
  writeFileSync(prompts, "{}");
  const compare = async (items: readonly JudgeItem[]) =>
    items.map(({ responses: [a, b] }) => ({ prefer: (a < b ? 0 : 1) as 0 | 1 }));
  const judge = { id: "own", compare };
  const config = {
    ...base.config,
    ...{
      context: { design: "fixed" },
      prompts,
      load: { dtype: "bf16" },
      judge: { ...base.config!.judge, kind: "self" },
    },
  };
  const o = { ...base, to: 2, judge, prompts: {}, load: { threads: 1, dtype: "f32" }, config };
  const run = runIterations(o as unknown as RunIterationsOptions);
  const told = (await all(run)).flatMap((e) => (e.type === "warning" && e.code === "NO_EFFECT" ? [e.message] : []));
  assert.equal(
    told.map((m) => m.split(" has no effect: ")[0]),
    ["context.design", "prompts", "judge.kind", "judge.method", "load.dtype"].map((key) => `config.${key}`),
  );
});

test.run();
