// Adapters that are made, trained, saved and loaded again; and what is refused.
import { cpSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import {
  createTrainer,
  type ErrorCode,
  loadModel,
  type LoadOptions,
  type TrainerOptions,
  type VideoLM,
} from "../src/index.js";
import { close, every, includes, missing, near, rejects, sameBits, some } from "./helpers/assert.js";
import { node, cliCommand } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";
import { dpo, folder, pairs } from "./helpers/golden.js";
import { lora } from "./helpers/golden-lora.js";
import { readSafetensors, type Stored, writeSafetensors } from "./helpers/safetensors.js";

const test = suite("lora");
const base = folder("text_qwen2");
const items = pairs(dpo("text_qwen2"), false);
const g = lora("lora_text_qwen2");
const modules = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
const f32 = (model: VideoLM, name: string) => model.parameter(name).then((t) => t.data as Float32Array);
const answers = (model: VideoLM) => model.logProbs(items.map(({ chosen }) => chosen));

async function sameAnswers(a: VideoLM, b: VideoLM, what: string, tolerance = 0): Promise<void> {
  const [of, to] = await Promise.all([answers(a), answers(b)]);
  of.forEach((row, i) => {
    if (tolerance === 0) sameBits(row, to[i]!, `${what} ${i}`);
    else near(row, to[i]!, tolerance, `${what} ${i}`);
  });
}

/** A model whose adapter was trained for some steps. */
async function trained(steps: number, o: TrainerOptions = {}, load: LoadOptions = {}) {
  const model = await loadModel(base, load);
  const trainer = await createTrainer(model, { lora: { rank: 4 }, learningRate: 1e-2, ...o });
  for (let i = 0; i < steps; i++) await trainer.trainStep(items);
  return { model, trainer };
}

test("a new adapter changes nothing, and goes with a trainer that has not trained it", async () => {
  await using plain = await loadModel(base);
  await using model = await loadModel(base);
  const hash = await model.hash();
  const trainer = await createTrainer(model, { lora: {} });
  await sameAnswers(model, plain, "with zeros for B");
  const { gradients, metrics } = await trainer.gradients(items);
  close(metrics.margin, 0, 1e-6, "policy and reference are one");
  const [a, b] = ["lora_A", "lora_B"].map((end) => [...gradients].filter(([name]) => name.includes(end)));
  assert.is(a!.length, b!.length);
  for (const [name, t] of a!) every(t.data as Float32Array, (x) => x === 0, `${name}: B is zero`);
  for (const [name, t] of b!) some(t.data as Float32Array, (x) => x !== 0, name);
  await trainer.dispose();
  assert.is(await model.hash(), hash);
  await rejects(() => model.saveAdapter(join(temporaryFolder(), "a")), "INVALID_ARGUMENT", /no adapter/, "saved");
  await using whole = await createTrainer(model); // all parameters, again
  includes([...(await whole.gradients(items)).gradients.keys()], "model.layers.0.self_attn.q_proj.weight");
});

test("what an adapter begins with follows from the seed", async () => {
  const name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
  const first = async (seed: number) => {
    await using model = await loadModel(base);
    await using _ = await createTrainer(model, { lora: { rank: 4 }, seed });
    return await f32(model, name);
  };
  const [one, again, other] = [await first(1), await first(1), await first(2)];
  sameBits(one, again, "the same seed");
  assert.not.equal([...one], [...other]);
  const bound = 1 / Math.sqrt(48);
  every(one, (x) => Math.abs(x) <= bound);
  some(one, (x) => Math.abs(x) > bound / 2);
});

test("a state that was saved goes on to the same bits; other scales are refused", async () => {
  const dir = join(temporaryFolder(), "state");
  const straight = await trained(4);
  const half = await trained(2);
  await half.trainer.save(dir);
  const resumed = await trained(0);
  await resumed.trainer.load(dir);
  for (let i = 0; i < 2; i++) await resumed.trainer.trainStep(items);
  await sameAnswers(resumed.model, straight.model, "resumed");
  assert.is(await resumed.model.hash(), await straight.model.hash());
  const other = await trained(0, { lora: { rank: 4, alpha: 8 } });
  await rejects(() => other.trainer.load(dir), "RUN_MISMATCH", /lora scale: saved 8, now 2/, "another alpha");
  await using plain = await loadModel(base);
  const whole = await createTrainer(plain, { learningRate: 1e-2 });
  await rejects(() => whole.load(dir), "RUN_MISMATCH", /tensor master\.\S+ is missing/, "no adapter");
  for (const { model } of [straight, half, resumed, other]) await model.dispose();
});

for (const dtype of ["f32", "bf16"] as const)
  test(`a trained adapter, saved and merged: ${dtype}`, async () => {
    const dir = temporaryFolder();
    const { model, trainer } = await trained(3, {}, { dtype });
    await trainer.saveAdapter(join(dir, "adapter"));
    await model.save(join(dir, "merged"));
    await using merged = await loadModel(join(dir, "merged"), { dtype });
    await using beside = await loadModel(base, { dtype, adapter: join(dir, "adapter") });
    if (dtype === "f32") await sameAnswers(beside, model, "loaded beside its base");
    await sameAnswers(merged, beside, "merged", dtype === "f32" ? 5e-5 : 0.2);
    assert.is(await beside.hash(), await model.hash());
    await model.dispose();
  });

test("targets, ranks by pattern, rsLoRA: what is saved loads as it was", async () => {
  const dir = temporaryFolder();
  const options = {
    targets: ["q_proj", "v_proj"],
    rank: 4,
    rankPattern: { "layers.1.self_attn.v_proj": 2 },
    rslora: true,
  };
  const { model, trainer } = await trained(2, { lora: options });
  const { gradients } = await trainer.gradients(items);
  const shapes = new Map([...gradients].map(([name, t]) => [name, t.shape]));
  assert.is(shapes.size, 2 * 2 * 2);
  const at = (layer: number, part: string) =>
    shapes.get(`base_model.model.model.layers.${layer}.self_attn.${part}.weight`);
  assert.equal(
    [at(0, "v_proj.lora_A"), at(1, "v_proj.lora_A"), at(1, "v_proj.lora_B")],
    [
      [4, 48],
      [2, 48],
      [24, 2],
    ],
  );
  await trainer.saveAdapter(dir);
  const config = JSON.parse(readFileSync(join(dir, "adapter_config.json"), "utf8"));
  assert.equal(config.target_modules, ["q_proj", "v_proj"]);
  assert.equal(config.rank_pattern, { "model.layers.1.self_attn.v_proj": 2 });
  assert.equal([config.use_rslora, config.r, config.lora_alpha, config.bias], [true, 4, 32, "none"]);
  await using beside = await loadModel(base, { adapter: dir });
  await sameAnswers(beside, model, "loaded");
  await model.dispose();
});

test("an adapter on a vision model's decoder names whole modules, which the tower's cannot be taken for", async () => {
  const dir = temporaryFolder();
  const video = lora("lora_llava_next_video");
  await using model = await loadModel(video.base, { adapter: video.dir });
  await model.saveAdapter(dir);
  const { target_modules: targets } = JSON.parse(readFileSync(join(dir, "adapter_config.json"), "utf8"));
  assert.is(targets.length, video.facts.merged_tensors.length);
  includes(targets, "model.language_model.layers.0.self_attn.q_proj");
});

test("any number of threads gives the same bits", async () => {
  const all = [await trained(2, {}, { threads: 1 }), await trained(2, {}, { threads: 3 })];
  assert.is(await all[0]!.model.hash(), await all[1]!.model.hash());
  for (const { model } of all) await model.dispose();
});

const refusedOptions: readonly [what: string, options: object, message: RegExp][] = [
  ["a rank of 0", { lora: { rank: 0 } }, /lora\.rank/],
  ["an unknown matrix", { lora: { targets: ["qq_proj"] } }, /lora\.targets: no matrix .*"qq_proj"/],
  ["part of a name's part", { lora: { targets: ["_proj"] } }, /no matrix/],
  ["no matrix", { lora: { targets: [] } }, /lora\.targets/],
  ["a pattern for nothing", { lora: { rankPattern: { head: 2 } } }, /lora\.rankPattern: no matrix .*"head"/],
  ["a rank by pattern of 0", { lora: { rankPattern: { q_proj: 0 } } }, /rankPattern\.q_proj/],
  ["a frozen decoder", { lora: {}, train: { decoder: false, projector: true } }, /options\.train/],
  ["an unknown key", { lora: { r: 8 } }, /options\.lora.*"?r"?/],
];
for (const [what, options, message] of refusedOptions)
  test(`refused: ${what}`, async () => {
    await using model = await loadModel(base);
    await rejects(() => createTrainer(model, options as TrainerOptions), "INVALID_ARGUMENT", message, what);
    await using _ = await createTrainer(model); // as it was
  });

const otherAdapters: readonly [what: string, options: TrainerOptions, message: RegExp][] = [
  ["all parameters", {}, /has an adapter/],
  ["another rank", { lora: { rank: 8, alpha: 8 } }, /lora\.rank: the model's adapter has 4, got 8/],
  ["another alpha", { lora: { rank: 4, alpha: 9 } }, /lora\.alpha: the model's adapter has 8, got 9/],
  ["another scale", { lora: { rank: 4, alpha: 8, rslora: true } }, /lora\.rslora/],
  ["other matrices", { lora: { rank: 4, alpha: 8, targets: ["q_proj"] } }, /lora\.targets: .*14 matrices/],
  ["another rank by pattern", { lora: { rank: 4, alpha: 8, rankPattern: { q_proj: 2 } } }, /q_proj: .* has 4, got 2/],
];
for (const [what, options, message] of otherAdapters)
  test(`a model with an adapter trains that adapter alone: ${what}`, async () => {
    await using model = await loadModel(base, { adapter: g.dir });
    await rejects(() => createTrainer(model, options), "INVALID_ARGUMENT", message, what);
    await using _ = await createTrainer(model, { lora: { rank: 4, alpha: 8 } });
  });

type Edit = (dir: string) => void;
const configOf =
  (change: Record<string, unknown>): Edit =>
  (dir) => {
    const path = join(dir, "adapter_config.json");
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), ...change }));
  };
const tensorsOf =
  (change: (all: Map<string, Stored>) => void): Edit =>
  (dir) => {
    const path = join(dir, "adapter_model.safetensors");
    const all = readSafetensors(path);
    change(all);
    writeSafetensors(path, all);
  };
const prefix = "base_model.model.model.layers.0";
const one: Stored = { dtype: "F32", shape: [4, 48], data: new Float32Array(192) };
const refusedFolders: readonly [what: string, code: ErrorCode, message: RegExp, edit: Edit][] = [
  ["no folder", "NOT_FOUND", /no such folder/, (dir) => rmSync(dir, { recursive: true })],
  ["no configuration", "NOT_FOUND", /adapter_config\.json/, (dir) => rmSync(join(dir, "adapter_config.json"))],
  ["no weights", "NOT_FOUND", /adapter_model\.safetensors/, (dir) => rmSync(join(dir, "adapter_model.safetensors"))],
  [
    "weights of PyTorch",
    "CHECKPOINT_UNSUPPORTED",
    /adapter_model\.bin/,
    (dir) => renameSync(join(dir, "adapter_model.safetensors"), join(dir, "adapter_model.bin")),
  ],
  [
    "text for JSON",
    "INVALID_CONFIG",
    /adapter_config/,
    (dir) => writeFileSync(join(dir, "adapter_config.json"), "r: 4"),
  ],
  ["another kind", "CHECKPOINT_UNSUPPORTED", /peft_type "IA3"/, configOf({ peft_type: "IA3" })],
  ["DoRA", "CHECKPOINT_UNSUPPORTED", /use_dora true/, configOf({ use_dora: true })],
  ["biases", "CHECKPOINT_UNSUPPORTED", /bias "all"/, configOf({ bias: "all" })],
  ["whole modules", "CHECKPOINT_UNSUPPORTED", /modules_to_save/, configOf({ modules_to_save: ["lm_head"] })],
  ["a transposed base", "CHECKPOINT_UNSUPPORTED", /fan_in_fan_out/, configOf({ fan_in_fan_out: true })],
  ["a rank of 0", "INVALID_CONFIG", /: r: /, configOf({ r: 0 })],
  ["no alpha", "INVALID_CONFIG", /lora_alpha/, configOf({ lora_alpha: null })],
  ["an expression", "CHECKPOINT_UNSUPPORTED", /alpha_pattern/, configOf({ alpha_pattern: { "layers\\.(0|1).*": 2 } })],
  ["an alpha of text", "INVALID_CONFIG", /alpha_pattern/, configOf({ alpha_pattern: { q_proj: "2" } })],
  [
    "a matrix without B",
    "CHECKPOINT_CORRUPT",
    /layers\.0\.self_attn\.q_proj has no lora_B/,
    tensorsOf((all) => all.delete(`${prefix}.self_attn.q_proj.lora_B.weight`)),
  ],
  [
    "another model's shapes",
    "CHECKPOINT_CORRUPT",
    /do not fit a matrix of 48 by 48/,
    tensorsOf((all) => all.set(`${prefix}.self_attn.q_proj.lora_A.weight`, { ...one, shape: [6, 32] })),
  ],
  [
    "a module that is none of the decoder's",
    "CHECKPOINT_UNSUPPORTED",
    /"lm_head"/,
    tensorsOf((all) => all.set("base_model.model.lm_head.lora_A.weight", one)),
  ],
  [
    "a tensor of another kind",
    "CHECKPOINT_UNSUPPORTED",
    /lora_magnitude_vector.* would be left out/,
    tensorsOf((all) => all.set(`${prefix}.self_attn.q_proj.lora_magnitude_vector`, one)),
  ],
  ["no tensors", "CHECKPOINT_CORRUPT", /no tensors/, tensorsOf((all) => all.clear())],
  [
    "a file that was cut off",
    "CHECKPOINT_CORRUPT",
    /adapter_model/,
    (dir) => {
      const path = join(dir, "adapter_model.safetensors");
      writeFileSync(path, readFileSync(path).subarray(0, 5000));
    },
  ],
];
for (const [what, code, message, edit] of refusedFolders)
  test(`a folder that is refused: ${what}`, async () => {
    const dir = join(temporaryFolder(), "adapter");
    cpSync(g.dir, dir, { recursive: true });
    edit(dir);
    await rejects(() => loadModel(base, { adapter: dir }), code, message, what);
  });

test("names and alphas as other releases write them", async () => {
  const dir = join(temporaryFolder(), "adapter");
  cpSync(g.dir, dir, { recursive: true });
  const halved = Object.fromEntries(modules.map((name) => [`model\\.layers\\.1\\.${name}`, 4]));
  configOf({ alpha_pattern: { ...halved, "^model.layers.0.mlp.up_proj": 16 }, lora_alpha: 8 })(dir);
  tensorsOf((all) => {
    for (const [name, t] of [...all]) {
      const scale = /layers\.1\.self_attn/.test(name) ? 2 : /layers\.0\.mlp\.up_proj/.test(name) ? 0.5 : 1;
      all.delete(name);
      const values = /lora_B/.test(name) ? (t.data as Float32Array).map((x) => x * scale) : (t.data as Float32Array);
      all.set(name.replace(".weight", ".default.weight"), { ...t, data: values });
    }
  })(dir);
  await using model = await loadModel(base, { adapter: dir });
  await using expected = await loadModel(base, { adapter: g.dir });
  await sameAnswers(model, expected, "the same products", 1e-6);
});

test("isr-dpo merge", async () => {
  const out = join(temporaryFolder(), "merged");
  const cli = (...args: string[]) => node([...cliCommand, "merge", ...args], { NODE_NO_WARNINGS: "1" });
  const done = cli(base, "--adapter", g.dir, "--out", out);
  assert.is(done.code, 0, done.err);
  assert.match(done.err, /14 matrices merged, rank 4; [\d,]+ bytes, sha256 [0-9a-f]{64}/);
  await using merged = await loadModel(out);
  for (const [name, values] of g.merged) near(await f32(merged, name), values, 1e-6, name);
  const onto = cli(base, "--adapter", g.dir, "--out", base);
  assert.match(onto.err, /--out: expected another folder than the model's/);
  assert.is(onto.code, 2);
  const none = join(temporaryFolder(), "none");
  assert.is(cli(base, "--adapter", none, "--out", `${none}-merged`).code, 65);
  missing(`${none}-merged`);
});

test.run();
