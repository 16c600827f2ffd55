// plan(): sizes that can be counted by hand, what fits and what is advised, bad options, the paper's model on cards.
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { inspectCheckpoint, type Plan, type PlanOptions, plan, train } from "../src/index.js";
import { ordered, rejects, some } from "./helpers/assert.js";
import { cliCommand, node } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";

const golden = (name: string) => fileURLToPath(new URL(`golden/${name}/policy`, import.meta.url));
const large = fileURLToPath(new URL("data/llava_7b", import.meta.url)); // configs only
const runDir = join(temporaryFolder(), "not", "there");

const dpo = (model: string, o: Record<string, unknown> = {}) =>
  plan({ kind: "dpo", model, runDir, items: 64, ...o } as unknown as PlanOptions);
const memory = ({ bytes: { disk: _, ...rest } }: Plan) => Object.values(rest).reduce((a, b) => a + b, 0);
const gib = (bytes: number) => bytes / 2 ** 30;

/** Off by at most this share. */
const about = (actual: number, expected: number, share: number, what: string) =>
  assert.ok(Math.abs(actual / expected - 1) <= share, `${what}: ${actual}, expected about ${expected}`);

for (const name of ["text_llama", "text_qwen2", "text_llama_bias"])
  for (const [dtype, size] of [
    ["f32", 4],
    ["bf16", 2],
  ] as const)
    test(`sizes of ${name} in ${dtype} follow from its parameters`, async () => {
      const { parameters } = await inspectCheckpoint(golden(name));
      const card = await dpo(golden(name), { load: { dtype, device: "cuda" } });
      assert.is(card.bytes.weights, parameters * size, "one copy on a card");
      const cpu = await dpo(golden(name), { load: { dtype } });
      // Panels, and beside them what is looked up by row; with bfloat16 all values. The tiny matrices do not fill panels.
      assert.ok(cpu.bytes.weights >= card.bytes.weights * (dtype === "bf16" ? 1.6 : 1), String(cpu.bytes.weights));
      about(cpu.bytes.gradients, 4 * parameters, 0.05, "gradients");
      assert.is(cpu.bytes.optimizer, 3 * cpu.bytes.gradients);
      assert.is(cpu.bytes.kvCache, 0);
      assert.is(cpu.bytes.vision, 0);
    });

test("the model and two states are on disk, in the file's own type", async () => {
  const model = golden("text_llama");
  const { parameters } = await inspectCheckpoint(model);
  const stored = JSON.parse(readFileSync(join(model, "config.json"), "utf8"));
  assert.is(stored.dtype ?? stored.torch_dtype, "float32");
  const one = await dpo(model, { items: 1 });
  const more = await dpo(model, { items: 1001 });
  about(one.bytes.disk, parameters * 4 + 2 * 12 * parameters, 0.05, "disk");
  ordered(more.bytes.disk, ">", one.bytes.disk);
});

test("activations grow with the micro-batch and shrink with checkpointing", async () => {
  const of = async (trainer: object) => (await dpo(golden("text_llama"), { tokensPerItem: 200, trainer })).bytes;
  const [one, many] = [await of({ microBatchTokens: 200 }), await of({ microBatchTokens: 1000 })];
  assert.ok(many.activations > 2 * one.activations, `${one.activations} and ${many.activations}`);
  const kept = await of({ checkpointing: false });
  const again = await of({ checkpointing: true });
  assert.ok(again.activations < kept.activations, `${again.activations} and ${kept.activations}`);
  assert.is(again.weights, kept.weights);
});

test("a video model: towers, media and features count; a trained tower has masters and no cache", async () => {
  const frozen = await dpo(golden("llava_hound"));
  ordered(frozen.bytes.vision, ">", 0);
  const trained = await dpo(golden("llava_hound"), { trainer: { train: { vision: true, projector: true } } });
  ordered(trained.bytes.optimizer, ">", frozen.bytes.optimizer);
  const off = await dpo(golden("llava_hound"), { load: { featureCache: false } });
  ordered(off.bytes.disk, "<", frozen.bytes.disk);
});

test("ranks share out masters and moments, and the memory of this machine; each has its gradients and its values", async () => {
  const [one, four] = [await dpo(golden("text_llama")), await dpo(golden("text_llama"), { ranks: 4 })];
  about(four.bytes.weights, one.bytes.weights + one.bytes.gradients, 0.01, "float32 values beside their masters");
  about(four.bytes.optimizer, one.bytes.optimizer / 4, 0.01, "optimizer");
  ordered(four.bytes.gradients, ">", one.bytes.gradients, "and what arrives of the others");
  const whole = await dpo(golden("text_llama"), { ranks: 4, trainer: { shard: false } });
  assert.equal([whole.bytes.optimizer, whole.bytes.weights], [one.bytes.optimizer, one.bytes.weights]);
  const halves = { load: { dtype: "bf16" } };
  const [half, halfOfFour] = [
    await dpo(golden("text_llama"), halves),
    await dpo(golden("text_llama"), { ...halves, ranks: 4 }),
  ];
  assert.is(halfOfFour.bytes.weights, half.bytes.weights);
  about(four.limit.memory, one.limit.memory / 4, 0.01, "limit");
  const given = await dpo(golden("text_llama"), { ranks: 4, memory: 8e9 });
  assert.is(given.limit.memory, 8e9);
});

test("time is an estimate for this machine, and unknown for another", async () => {
  const here = (await dpo(golden("text_llama"))).seconds!;
  assert.ok(here.from > 0 && here.from < here.to && Number.isFinite(here.to), JSON.stringify(here));
  assert.is((await dpo(golden("text_llama"), { memory: 8e9 })).seconds, null);
  assert.is((await dpo(golden("text_llama"), { load: { device: "cuda" } })).seconds, null);
});

test("the time of a job is a range that five measurements agree on", async () => {
  const ranges = [];
  for (let i = 0; i < 5; i++) ranges.push((await dpo(golden("text_llama"))).seconds!);
  const latest = Math.max(...ranges.map((r) => r.from));
  const earliest = Math.min(...ranges.map((r) => r.to));
  assert.ok(latest <= earliest, `no length is in all of ${JSON.stringify(ranges)}`);
  const twice = (await dpo(golden("text_llama"), { epochs: 20 })).seconds!;
  ordered(twice.from, ">", latest, "twenty epochs take longer");
  ordered(twice.to, ">", earliest, "twenty epochs take longer");
});

test("what does not fit says what to change; what fits says nothing", async () => {
  const o = { tokensPerItem: 400, trainer: { microBatchTokens: 3200, checkpointing: false } };
  const fits = await dpo(golden("text_llama"), o);
  assert.equal([fits.fits, fits.advice], [true, []]);
  const tight = await dpo(golden("text_llama"), { ...o, memory: memory(fits) - 1 });
  assert.is(tight.fits, false, JSON.stringify(tight.bytes));
  for (const change of ["checkpointing: true", "microBatchTokens", "dtype: bf16"])
    assert.ok(
      tight.advice.some((line) => line.startsWith(change) && line.endsWith(": fits")),
      `${change} in ${tight.advice.join("; ")}`,
    );
  const none = await dpo(golden("text_llama"), { ...o, memory: 1000 });
  assert.ok(none.advice.length > 0 && none.advice.every((line) => !line.endsWith(": fits")), none.advice.join("; "));
});

test("adapters: gradients and moments of theirs alone; and the advice to take them", async () => {
  const [rank, width, kv, mlp, layers] = [4, 48, 24, 72, 2];
  const padded = (n: number) => Math.ceil(n / 64) * 64;
  const matrices = [
    ...[width, kv, kv, width].map((outputs) => [outputs, width]),
    ...[mlp, mlp].map((outputs) => [outputs, width]),
    [width, mlp],
  ];
  const elements = matrices.reduce((sum, [n, k]) => sum + padded(rank * k!) + padded(n! * rank), 0) * layers;
  const whole = await dpo(golden("text_qwen2"));
  const adapters = await dpo(golden("text_qwen2"), { trainer: { lora: { rank } } });
  assert.is(adapters.bytes.gradients, 4 * elements);
  assert.is(adapters.bytes.optimizer, 3 * 4 * elements);
  const one = await dpo(golden("text_qwen2"), { trainer: { lora: { rank, targets: ["q_proj"] } } });
  assert.is(one.bytes.gradients, 4 * layers * 2 * padded(rank * width));
  const { advice } = await dpo(golden("text_qwen2"), { memory: memory(whole) - 1 });
  some(advice, (line) => line.startsWith("lora: {}"));
  const [all, few] = [{}, { lora: {} }].map((trainer) =>
    plan({ kind: "dpo", model: large, runDir, items: 8, trainer }),
  );
  ordered(memory(await few!), "<", 0.4 * memory(await all!), "7 B parameters");
});

const paper = (cards: number, card: number, o: Record<string, unknown> = {}) =>
  plan({
    model: large,
    runDir,
    preset: "paper",
    items: 17000,
    ranks: cards,
    memory: card,
    tokensPerItem: 2325,
    answerTokens: 110,
    load: { device: "cuda" },
    config: { keep: "all", train: { microBatchTokens: 9300, checkpointing: true } },
    ...o,
  });

test("the paper's 7B model on cards", async () => {
  const one = await paper(1, 80e9);
  about(gib(one.bytes.weights), 12.6, 0.01, "weights");
  about(gib(one.bytes.gradients), 25.1, 0.01, "gradients");
  about(gib(one.bytes.optimizer), 75.3, 0.01, "masters and moments");
  const fitting = async (cards: number, card: number) => {
    const p = await paper(cards, card);
    return memory(p) - Math.min(p.bytes.kvCache, p.bytes.gradients + p.bytes.optimizer) <= card;
  };
  const found = [];
  for (const [cards, card] of [
    [1, 80e9],
    [2, 80e9],
    [4, 80e9],
    [8, 80e9],
    [1, 141e9],
  ] as const)
    found.push(await fitting(cards, card));
  assert.equal(found, [false, false, true, true, true]);
  assert.is(one.fits, false, JSON.stringify(one.bytes));
  assert.ok(
    one.advice.some((line) => line.startsWith("ranks: 3,")),
    one.advice.join("; "),
  );
});

test("gradients by shards: what is left of them, and the advice to take it where it helps", async () => {
  const train = { microBatchTokens: 9300, checkpointing: true };
  const sharing = { config: { keep: "all", train: { ...train, shardGradients: true } } };
  const [whole, shared] = [await paper(8, 80e9), await paper(8, 80e9, sharing)];
  about(gib(whole.bytes.gradients), 26.9, 0.02, "all, and room for two shards of each other rank");
  about(
    gib(shared.bytes.gradients),
    7.3,
    0.02,
    "an eighth of the blocks, two of them, embeddings and head, and that room",
  );
  assert.equal({ ...shared.bytes, gradients: 0 }, { ...whole.bytes, gradients: 0 });
  const need = (p: Plan) => memory(p) - Math.min(p.bytes.kvCache, p.bytes.gradients + p.bytes.optimizer);
  const between = await paper(8, (need(whole) + need(shared)) / 2);
  assert.is(between.fits, false, JSON.stringify(between.bytes));
  const [line] = between.advice.filter((l) => l.startsWith("shardGradients: true"));
  assert.match(line ?? "", /: fits$/);
  const few = (await paper(2, 60e9)).advice.filter((l) => l.startsWith("ranks: "));
  assert.is(few.length, 2, few.join("; "));
  assert.match(few[1]!, " with shardGradients: true, each");
});

test("the paper's run on disk: eight models, two states, the features of all videos", async () => {
  about((await paper(8, 80e9)).bytes.disk, 352e9, 0.02, "disk");
  const last = await paper(8, 80e9, { config: { keep: "last" } });
  about((await paper(8, 80e9)).bytes.disk - last.bytes.disk, 7 * 14.9e9, 0.02, "seven models more");
});

test("keys and values: a longer answer needs more pages, an endpoint's judge needs none", async () => {
  const kv = async (config: object) => (await paper(1, 141e9, { config })).bytes.kvCache;
  const short = await kv({ response: { maxTokens: 64 } });
  ordered(await kv({ response: { maxTokens: 512 } }), ">", short);
  assert.is(await kv({ response: { maxTokens: 64 }, groupVideos: 4 }), 4 * short);
  assert.is(short % (32 * 2 * 64 * 32 * 128 * 2), 0, "whole pages: layers, keys and values, tokens, heads, head, bf16");
});

test("a model whose towers nothing describes is planned without them, and says so", async () => {
  const dir = temporaryFolder();
  copyFileSync(join(large, "config.json"), join(dir, "config.json"));
  const p = await dpo(dir, { load: { device: "cuda" }, memory: 200e9, trainer: { checkpointing: true } });
  assert.match(p.advice[0]!, "towers");
  assert.is(p.bytes.vision, 0);
});

const bad: readonly [what: string, options: unknown, code: string, says: RegExp][] = [
  ["nothing", undefined, "INVALID_ARGUMENT", /options/],
  ["no items", { kind: "dpo", model: large, runDir }, "INVALID_ARGUMENT", /options\.items/],
  ["a key that is not there", { kind: "dpo", model: large, runDir, items: 1, rank: 2 }, "INVALID_ARGUMENT", /ranks/],
  ["data that is not there", { kind: "dpo", model: large, runDir, items: 1, data: "x" }, "NOT_FOUND", /^data: .* x$/],
  [
    "no rate",
    { kind: "sft", model: large, runDir, items: 1, trainer: { warmupRatio: 0.1 } },
    "DEGENERATE",
    /first step/,
  ],
  [
    "no rate of iterations",
    { model: large, runDir, items: 9, config: { train: { epochs: 1 } } },
    "DEGENERATE",
    /^train: .* in all 1: the warm-up is 1 step long, warmupRatio 0\.1 of 1 rounded up/,
  ],
  ["another kind", { kind: "ppo", model: large, runDir, items: 1 }, "INVALID_ARGUMENT", /options\.kind/],
  ["half an item", { kind: "sft", model: large, runDir, items: 0.5 }, "INVALID_ARGUMENT", /options\.items/],
  ["no ranks", { kind: "sft", model: large, runDir, items: 1, ranks: 0 }, "INVALID_ARGUMENT", /options\.ranks/],
  ["a rate", { kind: "dpo", model: large, runDir, items: 1, trainer: { eps: -1 } }, "INVALID_ARGUMENT", /eps/],
  ["a loss", { kind: "dpo", model: large, runDir, items: 1, trainer: { loss: "sft" } }, "INVALID_ARGUMENT", /loss/],
  ["a device", { kind: "dpo", model: large, runDir, items: 1, load: { device: "tpu" } }, "INVALID_ARGUMENT", /device/],
  ["less than a video", { kind: "dpo", model: large, runDir, items: 1, tokensPerItem: 99 }, "INVALID_ARGUMENT", /2048/],
  ["a long item", { kind: "dpo", model: large, runDir, items: 1, tokensPerItem: 9999 }, "CONTEXT_OVERFLOW", /context/],
  [
    "a long answer",
    { kind: "sft", model: golden("text_llama"), runDir, items: 1, tokensPerItem: 9, answerTokens: 9 },
    "INVALID_ARGUMENT",
    /answerTokens/,
  ],
  [
    "a text model's tower",
    { kind: "dpo", model: golden("text_llama"), runDir, items: 1, trainer: { train: { vision: true } } },
    "INVALID_ARGUMENT",
    /text model/,
  ],
  [
    "a folder that is not there",
    { kind: "dpo", model: join(runDir, "m"), runDir, items: 1 },
    "NOT_FOUND",
    /no such folder/,
  ],
  [
    "a wrong key of the configuration",
    { model: large, runDir, items: 1, config: { respnse: {} } },
    "INVALID_CONFIG",
    /response/,
  ],
  ["no iteration", { model: large, runDir, items: 1, from: 4, to: 4 }, "INVALID_ARGUMENT", /after 4/],
];

for (const [what, options, code, says] of bad)
  test(`refused: ${what}`, async () => {
    try {
      await plan(options as PlanOptions);
    } catch (e) {
      assert.is((e as { code?: string }).code, code, String(e));
      assert.match((e as Error).message, says);
      return;
    }
    assert.unreachable("it was taken");
  });

test("isr-dpo plan: flags, a configuration file, JSON and its exit codes", () => {
  const cli = (...args: string[]) => node([...cliCommand, "plan", ...args], { NODE_NO_WARNINGS: "1" });
  const model = golden("text_llama");
  const text = cli("--model", model, "--items", "10", "--run-dir", runDir);
  assert.is(text.code, 0, text.err);
  assert.match(
    text.out,
    /weights +\d+ KiB\n(.*\n)+memory +[\d.]+ MiB of .* per rank\ndisk .*\ntime +about .*\nfits +yes/,
  );
  const file = join(temporaryFolder(), "run.yaml");
  writeFileSync(file, `model: ${model}\ndata: rows.jsonl\nrunDir: run\ntrainer: { checkpointing: true }\n`);
  const args = ["--items", "10", "--memory", "8GB", "--tokens-per-item", "300", "--json"];
  const found = JSON.parse(cli(file, ...args).out) as Plan;
  const kept = JSON.parse(cli(file, ...args, "--no-checkpointing").out) as Plan;
  assert.equal([found.limit.memory, found.seconds], [8e9, null]);
  ordered(kept.bytes.activations, ">", found.bytes.activations);
  const run = cli("--kind", "run", "--model", large, "--items", "10", "--memory", "80GB", "--device", "cuda");
  assert.is(run.code, 0, run.err);
  assert.match(run.out, /KV cache +[\d.]+ GiB\n/);
  assert.is(cli("--model", model).code, 2);
  assert.is(cli("--model", model, "--items", "10", "--memory", "much").code, 2);
});

const row = (prompt: string, chosen: string, rejected: string) => JSON.stringify({ prompt, chosen, rejected });
const chat = (...words: string[]) =>
  JSON.stringify({ messages: words.map((content, i) => ({ role: i % 2 ? "assistant" : "user", content })) });
const dataOf = (...lines: string[]): string => {
  const file = join(temporaryFolder(), "rows.jsonl");
  writeFileSync(file, lines.map((line) => `${line}\n`).join(""));
  return file;
};
const planned = (o: object) =>
  plan({ model: golden("text_qwen2"), runDir, kind: "dpo", ...o } as unknown as PlanOptions);

test("scored tokens are those that the run counts", async () => {
  const data = dataOf(row("What?", "a dog", "the man"), row("Who?", "nobody", "nobody"), row("Who?", "two", "three"));
  const { scored } = await planned({ data });
  const { counts } = await train({
    kind: "dpo",
    model: golden("text_qwen2"),
    data,
    runDir: `${temporaryFolder()}/run`,
  });
  assert.equal(scored, { rows: 2, tokens: counts.scoredTokens });
  assert.is(counts.identical, 1);
});

test("scored tokens of several turns, and of rows that are left out", async () => {
  const data = dataOf(chat("What?", "a dog", "Who?", "the man"), "{", chat("What?", "a dog"));
  const of = async (more: object) => (await planned({ kind: "sft", data, onBadRow: "skip", ...more })).scored!;
  const [all, last] = [await of({}), await of({ turns: "last" })];
  assert.equal([all.rows, last.rows], [2, 2]);
  ordered(all.tokens, ">", last.tokens);
  await rejects(() => planned({ kind: "sft", data }), "DATA_INVALID", /rows\.jsonl:2: /, "fail");
});

test("a row that the run would refuse is refused by its plan, and by none where no rows are read", async () => {
  const data = dataOf(row("What?", "the dog ".repeat(400), "b"));
  await rejects(() => planned({ data }), "DATA_INVALID", /rows\.jsonl:1: .*context/, "too long");
  assert.is((await planned({ data, onLong: "truncate" })).scored!.rows, 1);
  assert.is((await planned({ data, items: 3 })).scored, null);
  assert.is((await dpo(golden("text_qwen2"))).scored, null);
});

test("at most the first 1,000 rows are measured", async () => {
  const { scored } = await planned({ data: dataOf(...Array.from({ length: 1010 }, () => row("a", "b", "c"))) });
  assert.is(scored!.rows, 1000);
});

test.run();
