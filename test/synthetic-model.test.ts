// Checkpoints from nothing, their tokenizer, and what the tiny model is trained with.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { createTrainer, loadModel } from "../src/index.js";
import { readPrompts, responsePrompt } from "../src/iterate/method-prompts.js";
import { loadTokenizer } from "../src/text/tokenizer.js";
import { clipOf, renderShot, someThings, view } from "../src/synthetic/clip.js";
import { alignExamples, lookExamples, textExamples } from "../src/synthetic/teaching-examples.js";
import { type InitSpec, initCheckpoint } from "../src/synthetic/init-checkpoint.js";
import { type ContextKind, measureAnswers, measureJudge } from "../src/synthetic/measure-model.js";
import { worldPrompts } from "../src/synthetic/world-prompts.js";
import { Random } from "../src/synthetic/seeded-draws.js";
import { shotMedia, worldSamples } from "../src/synthetic/world-samples.js";
import { idsOf, patchSequences, patchThings, pixelsOf, sequenceOf } from "../scripts/world/teaching-sequences.js";
import { trainStages, trainWorld } from "../scripts/world/train-world.js";
import { towerSpec, worldSpec, worldWords } from "../src/synthetic/vocabulary.js";
import { vocabularyOf } from "../src/synthetic/word-tokenizer.js";
import { missing, near, none, ordered, rejects } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";

const top = dirname(dirname(fileURLToPath(import.meta.url)));

/** The configuration of a checkpoint, and names and shapes of its tensors. */
function readSafetensors(dir: string) {
  const at = (name: string) => resolve(top, dir, name);
  const bytes = readFileSync(at("model.safetensors"));
  const header = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE())).toString()) as Record<
    string,
    { shape: number[] }
  >;
  const names = Object.keys(header).filter((n) => n !== "__metadata__");
  return {
    config: JSON.parse(readFileSync(at("config.json"), "utf8")) as Record<string, unknown>,
    tensors: names.sort().map((n) => [n, header[n]!.shape]),
  };
}

const test = suite("world-model");
const folder = temporaryFolder();
const world = join(folder, "world");
const sha = (path: string) => createHash("sha256").update(readFileSync(path)).digest("hex").slice(0, 16);

const words = ["is", "the", "sky", "blue", "yes", "no"];
const textSpec: InitSpec = { words, decoder: { width: 32, layers: 2, heads: 2, mlpWidth: 48, context: 64 } };

test.before(async () => {
  await initCheckpoint(world, worldSpec, 3);
});

test("equal seeds give equal bytes, on every machine", async () => {
  await initCheckpoint(join(folder, "again"), worldSpec, 3n);
  await initCheckpoint(join(folder, "other"), worldSpec, 4);
  for (const name of readdirSync(world)) assert.is(sha(join(folder, "again", name)), sha(join(world, name)), name);
  assert.is.not(sha(join(folder, "other", "model.safetensors")), sha(join(world, "model.safetensors")));
  assert.is(sha(join(world, "model.safetensors")), "bddae452ea054038");
});

test("the shipped layout: what is loaded is what was drawn", async () => {
  const { parameters, names } = await initCheckpoint(join(folder, "counted"), worldSpec, 3);
  const model = await loadModel(world);
  try {
    const { family, visualTokens, vocabSize, dtype } = model.info;
    assert.equal([family, visualTokens, dtype], ["llava_hound", 64, "bf16"]);
    assert.is(model.info.parameters, parameters);
    assert.is(vocabSize, vocabularyOf(worldWords).length);
    ordered(parameters, ">", 1e6);
    ordered(parameters, "<", 1.5e6);
    for (const name of names) {
      const { data } = await model.parameter(name);
      const values = data as Float32Array;
      const spread = Math.sqrt(values.reduce((a, x) => a + x * x, 0) / values.length);
      assert.ok(Number.isFinite(spread), name);
      assert.ok(name.endsWith("bias") ? spread === 0 : spread > 0, name);
    }
  } finally {
    await model[Symbol.asyncDispose]();
  }
});

test("given tensors stand in place of drawn ones", async () => {
  const shape = [textSpec.decoder.width];
  const given = new Map([["model.norm.weight", { dtype: "f32" as const, shape, data: new Float32Array(32).fill(2) }]]);
  await initCheckpoint(join(folder, "given"), textSpec, 0, given);
  const model = await loadModel(join(folder, "given"));
  assert.equal([...(await model.parameter("model.norm.weight")).data], new Array(32).fill(2));
  await model[Symbol.asyncDispose]();
  const wrong = new Map([["model.norm.weight", { dtype: "f32" as const, shape: [4], data: new Float32Array(4) }]]);
  await rejects(
    () => initCheckpoint(join(folder, "wrong"), textSpec, 0, wrong),
    "INVALID_ARGUMENT",
    /model\.norm\.weight.*f32 of shape 32/,
    "another shape",
  );
  missing(join(folder, "wrong"));
  none(readdirSync(folder), (name) => name.startsWith(".wrong"));
});

test("a text model learns an answer, and gives it through its template", async () => {
  const dir = join(folder, "text");
  await initCheckpoint(dir, textSpec, 1);
  const model = await loadModel(dir, { threads: 1 });
  assert.equal([model.info.family, model.info.visualTokens, model.info.contextLength], ["llama", null, 64]);
  const trainer = await createTrainer(model, { loss: "sft", learningRate: 1e-2 });
  const examples = [
    { prompt: "is the sky blue", answer: "yes" },
    { prompt: "is blue the sky", answer: "no" },
  ];
  const losses: number[] = [];
  for (let step = 0; step < 40; step++) losses.push((await trainer.trainStep(examples)).loss);
  assert.ok(losses.at(-1)! < 0.1 * losses[0]!, losses.join(" "));
  const said = await model.generate(examples.map(({ prompt }) => ({ prompt, maxTokens: 4 })));
  assert.equal(
    said.map((c) => [c.text, c.finishReason]),
    examples.map((e) => [e.answer, "stop"]),
  );
  await trainer[Symbol.asyncDispose]();
  await model[Symbol.asyncDispose]();
});

const decoder = textSpec.decoder;
const tower = { width: 12, layers: 1, heads: 2, mlpWidth: 8, image: 16, patch: 8, frames: 2 };
const refused: [what: string, spec: unknown, message: RegExp][] = [
  ["no object", 5, /spec: /],
  ["an unknown key", { words, decoder, layers: 2 }, /layers/],
  ["no words", { decoder }, /spec\.words/],
  ["a word twice", { words: ["a", "a"], decoder }, /words\[\d\].*not there yet/],
  ["a word with a blank", { words: ["a b"], decoder }, /without white space/],
  ["a special token as word", { words: ["</s>"], decoder }, /not there yet/],
  ["a width that heads do not divide", { words, decoder: { ...decoder, heads: 3 } }, /spec\.decoder\.heads/],
  ["no layers", { words, decoder: { ...decoder, layers: 0 } }, /spec\.decoder\.layers/],
  ["a patch that does not divide", { words, decoder, tower: { ...tower, patch: 5 } }, /spec\.tower\.patch/],
  ["heads of a tower", { words, decoder, tower: { ...tower, heads: 5 } }, /spec\.tower\.heads/],
  ["a dtype", { words, decoder, dtype: "f16" }, /spec\.dtype/],
];
for (const [what, spec, message] of refused)
  test(`refuses ${what}`, () =>
    rejects(() => initCheckpoint(join(folder, "refused"), spec as InitSpec), "INVALID_ARGUMENT", message, what));

test("refuses a folder that is there", () =>
  rejects(() => initCheckpoint(world, textSpec), "IO", /world/, "a second checkpoint in one folder"));

// ---- words

test("the tokenizer gives every word of the world one token, and gives it back", async () => {
  const tokenizer = await loadTokenizer(world);
  const random = new Random("words");
  for (let k = 0; k < 100; k++) {
    const clip = clipOf(random);
    const examples = [
      ...lookExamples(random, clip, 0, [1, 1, 1, 1], 2),
      ...textExamples(random, 2),
      ...alignExamples(random, clip.things),
    ];
    for (const { prompt, target } of examples)
      for (const text of [prompt, target]) {
        const ids = tokenizer.encode(text, { special: false });
        assert.equal([...ids], idsOf(text), text);
        assert.is(tokenizer.decode(ids), text.trim().replace(/ +/g, " "));
      }
  }
  assert.equal([...tokenizer.encode("red dog")].slice(0, 2), [1, ...idsOf("red")]);
  assert.equal([...tokenizer.encode("dog", { special: false })], [0, 0, 0, 0].slice(0, 4), "unknown: one a character");
});

test("sequences for training are what the model's own template makes of the prompts", async () => {
  const model = await loadModel(world);
  try {
    const set = { name: "t", seed: 1, clips: 1 };
    const [sample] = worldSamples(set);
    const media = shotMedia(set, 0, sample!.shot);
    const answer = "red circle moves left .";
    const made = await model.sequence(responsePrompt(worldPrompts, media, sample!.question), answer);
    const { pixels } = await model.preprocess(media);
    const own = sequenceOf(
      {
        ...{ kind: "answer", prompt: `<q> ${sample!.question} <ans>`, target: answer },
        ...{ ends: true, weight: 1, notes: [] },
      },
      pixels,
    );
    assert.equal([...own.ids], [...made.ids]);
    const rows = own.targets!.length - own.ids.length; // visual rows but one
    const scored = [...made.lossMask!].flatMap((s, i) => (s ? [[i + rows - 1, made.ids[i]]] : []));
    assert.equal(
      [...own.targets!].flatMap((id, row) => (id >= 0 ? [[row, id]] : [])),
      scored,
    );
  } finally {
    await model[Symbol.asyncDispose]();
  }
});

test("pixels are those of the model's own preprocessing", async () => {
  const model = await loadModel(world);
  const things = someThings(new Random("p"), 3);
  const shot = renderShot(new Random("q"), things);
  const { pixels } = await model.preprocess({ frames: shot.pixels, width: 32, height: 32 });
  await model[Symbol.asyncDispose]();
  near(pixelsOf(shot).data, pixels.data, 1e-6, "pixels");
});

test("a patch's thing is the one that covers most of it", () => {
  const cover = new Uint8Array(4 * 32 * 32).fill(255);
  const paint = (frame: number, y: number, x: number, n: number, thing: number) => {
    for (let k = 0; k < n; k++) cover[(frame * 32 + y + Math.floor(k / 8)) * 32 + x + (k % 8)] = thing;
  };
  paint(0, 0, 0, 6, 1); // just enough
  paint(0, 0, 8, 5, 1); // not enough
  paint(2, 24, 24, 8, 0);
  paint(2, 26, 24, 20, 2);
  const patches = patchThings({ cover });
  const expected = new Int32Array(64).fill(-1);
  expected[0] = 1;
  expected[2 * 16 + 15] = 2;
  assert.equal([...patches], [...expected]);
});

// ---- training

test("a thin decoder over the tower learns patches: the loss falls", async () => {
  const dir = join(folder, "tower");
  await initCheckpoint(dir, towerSpec, 0);
  const model = await loadModel(dir, { threads: 1 });
  const trainer = await createTrainer(model, {
    ...{ loss: "sft", learningRate: 2e-3, clipNorm: 1, train: { vision: true, projector: true, decoder: true } },
  });
  const random = new Random("patches");
  const losses: number[] = [];
  for (let step = 0; step < 12; step++) {
    const things = someThings(random, 3);
    losses.push((await trainer.trainStep(patchSequences(renderShot(random, things), things))).loss);
  }
  await trainer[Symbol.asyncDispose]();
  await model[Symbol.asyncDispose]();
  assert.ok(losses.at(-1)! < 0.8 * losses[0]!, losses.join(" "));
});

test("every stage trains, and the same seed gives the same bytes", async () => {
  const seen: string[] = [];
  const once = async (name: string, seed: number, threads: number) =>
    trainWorld({ out: join(folder, name), seed, threads, share: 0.002, onProgress: (p) => seen.push(p.stage) });
  const [a, b, c] = [await once("a", 0, 1), await once("b", 0, 2), await once("c", 1, 1)];
  assert.is(a.hash, b.hash);
  assert.is.not(a.hash, c.hash);
  assert.equal(new Set(seen), new Set(trainStages.map((s) => s.name)));
  assert.is(sha(join(folder, "a", "model.safetensors")), sha(join(folder, "b", "model.safetensors")));
  assert.equal(
    readdirSync(folder).filter((n) => n.endsWith(".begun")),
    [],
  );
});

test("a look's examples begin alike: the clip is computed once", async () => {
  const model = await loadModel(world, { threads: 1 });
  const trainer = await createTrainer(model, { loss: "sft" });
  const random = new Random("shared");
  const clip = clipOf(random);
  const pixels = pixelsOf(renderShot(random, view(clip, 0)));
  const items = lookExamples(random, clip, 0, [1, 0, 0, 0], 3).map((e) => sequenceOf(e, pixels));
  const { tokensComputed } = await trainer.trainStep(items);
  const rows = items.map((s) => s.targets!.length);
  await trainer[Symbol.asyncDispose]();
  await model[Symbol.asyncDispose]();
  assert.ok(
    tokensComputed <= rows.reduce((a, b) => a + b, 0) - (items.length - 1) * 66,
    `${tokensComputed} of ${rows}`,
  );
});

// ---- the model that ships

test("the shipped model is the one of the recipe's shape, with the prompts that it was taught", async () => {
  const { config, tensors } = readSafetensors("models/world");
  assert.is(config.vocab_size, vocabularyOf(worldWords).length);
  assert.equal(tensors, readSafetensors(world).tensors);
  assert.equal(await readPrompts(join(top, "models/world/prompts.json")), worldPrompts);
  const bytes = readdirSync(join(top, "models/world")).reduce(
    (n, f) => n + statSync(join(top, "models/world", f)).size,
    0,
  );
  assert.ok(bytes < 8e6, `${bytes} bytes`);
});

test("it answers better than it samples, and judges by its context", async () => {
  const warnings: string[] = []; // of listeners, which grow with the media of a call
  process.on("warning", ({ message }) => warnings.push(message));
  const model = await loadModel(join(top, "models/world"), { threads: 1 });
  try {
    const { greedy, sampled } = await measureAnswers(model, { name: "test", seed: 0, clips: 40, questions: "both" });
    assert.ok(greedy.exact > 0.8, `greedy ${greedy.exact}`);
    assert.ok(sampled.exact > 0.3 && sampled.exact < greedy.exact, `sampled ${sampled.exact}`);
    const judged = await measureJudge(model, { name: "judged", seed: 1, clips: 120 });
    const of = (kind: ContextKind) => judged.get(kind)!.both;
    assert.ok(of("truth") > of("another clip's") + 0.1, `${of("truth")}, ${of("another clip's")}`);
    const recall = (["one look", "two looks", "three looks", "four looks"] as const).map(
      (k) => judged.get(k)!.contextRecall!,
    );
    for (let k = 1; k < recall.length; k++) assert.ok(recall[k]! > recall[k - 1]!, recall.join(" "));
    assert.is(judged.get("truth")!.contextRecall, 1);
    assert.is(judged.get("none")!.contextRecall, null);
    assert.equal(warnings, []);
  } finally {
    await model[Symbol.asyncDispose]();
  }
});

test.run();
