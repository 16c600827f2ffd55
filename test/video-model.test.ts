// A video model from file to answer: one decode, one tower pass and one prefill however often a clip is asked about; every
// spelling of tensor names; towers beside the checkpoint; the feature cache; saving.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { createTrainer, inspectCheckpoint, loadModel, type VideoLM } from "../src/index.js";
import { near, rejects, sameBits, sameBytes, some } from "./helpers/assert.js";
import { copyOf, temporaryFolder } from "./helpers/files.js";
import {
  folderOf,
  takesFiles,
  videoCases,
  videoDpo,
  type VideoFamily,
  videoFamilies,
  videoPairs,
} from "./helpers/golden-video.js";
import { readSafetensors, writeSafetensors } from "./helpers/safetensors.js";
import { memoized } from "./helpers/memoized.js";

const test = suite("video model");
const ofFiles = videoFamilies.filter(takesFiles); // this version prepares no files for the others
const f32 = (t: { data: unknown } | undefined) => t!.data as Float32Array;

function clip(dir: string, name = "clip.mp4", source = "testsrc2"): string {
  const path = join(dir, name);
  const args = [
    "-v",
    "error",
    "-f",
    "lavfi",
    "-i",
    `${source}=size=96x64:rate=8:duration=2`,
    "-pix_fmt",
    "yuv420p",
    path,
  ];
  execFileSync("ffmpeg", args);
  return path;
}

async function logitsOf(model: VideoLM, family: VideoFamily): Promise<Float32Array> {
  const [c] = videoCases(family).cases;
  return f32((await model.forward({ ids: c!.ids, media: c!.media }, { rows: [-4, 0] })).logits);
}

/** The checkpoint with its tensors under other names. */
function renamed(family: VideoFamily, rename: (name: string) => string): string {
  const dir = copyOf(folderOf(family));
  const path = join(dir, "model.safetensors");
  writeSafetensors(path, new Map([...readSafetensors(path)].map(([name, t]) => [rename(name), t])));
  return dir;
}

for (const family of ["video_llava", "llava_next_video", "smolvlm", "qwen2_5_vl"] as const) {
  const expected = memoized(async () => {
    await using model = await loadModel(folderOf(family));
    return await logitsOf(model, family);
  });
  for (const spelling of ["hub", "v4_52", "v5_parameter"])
    test(`${family}: every published spelling of the names gives the same logits: ${spelling}`, async () => {
      const names = JSON.parse(readFileSync(join(folderOf(family), "../names.json"), "utf8"));
      await using other = await loadModel(renamed(family, (name) => names[name][spelling]));
      sameBits(await logitsOf(other, family), await expected(), spelling);
    });
  test(`${family}: the older spelling of the config gives the same logits`, async () => {
    const legacy = copyOf(folderOf(family));
    renameSync(join(legacy, "config.legacy.json"), join(legacy, "config.json"));
    await using old = await loadModel(legacy);
    sameBits(await logitsOf(old, family), await expected(), "older config");
  });
}

for (const family of videoFamilies)
  test(`${family}: a saved checkpoint has the same bytes where nothing was trained`, async () => {
    await using model = await loadModel(folderOf(family));
    const dir = join(temporaryFolder(), "saved");
    const { hash } = await model.save(dir);
    assert.is(hash, await model.hash());
    for (const name of readdirSync(folderOf(family)))
      sameBytes(readFileSync(join(folderOf(family), name)), readFileSync(join(dir, name)), name);

    await using trainer = await createTrainer(model, { learningRate: 1e-2 });
    await trainer.trainStep(videoPairs(videoDpo(family), true));
    await model.save(dir);
    const before = readSafetensors(join(folderOf(family), "model.safetensors"));
    const after = readSafetensors(join(dir, "model.safetensors"));
    assert.equal([...after.keys()], [...before.keys()]);
    for (const [name, t] of after) {
      const decoder =
        /layers|norm|embed_tokens|lm_head/.test(name) &&
        !/tower|projector|visual|vision_model|connector|inv_freq/.test(name);
      const same = Buffer.from(t.data.buffer).equals(Buffer.from(before.get(name)!.data.buffer));
      assert.is(same, !decoder, name);
    }
    await using again = await loadModel(dir);
    near(await logitsOf(again, family), await logitsOf(model, family), 0, "loaded again");
  });

const video = memoized(() => clip(temporaryFolder()));
for (const family of ofFiles)
  test(`${family}: a video file is decoded, encoded and prefilled once for a whole session`, async () => {
    await using model = await loadModel(folderOf(family));
    await using session = model.session();
    const ask = (text: string) => ({
      prompt: [
        {
          role: "user" as const,
          content: [
            { type: "video" as const, media: video() },
            { type: "text" as const, text },
          ],
        },
      ],
      maxTokens: 6,
    });
    const questions = ["What is seen?", "What moves?", "Which colour?", "How many?"];
    await session.generate(questions.map(ask));
    const first = { ...model.counters };
    assert.is(first.decodes, 1, `${family} decodes`);
    assert.is(first.towerPasses, 1, `${family} tower passes`);
    const rows = model.info.visualTokens!;
    const lengths = await Promise.all(questions.map(async (q) => (await model.sequence(ask(q).prompt)).ids.length));
    const text = lengths.reduce((n, l) => n + l, 0);
    assert.ok(first.prefillTokens < rows + text, `${family}: ${first.prefillTokens} rows computed for four prompts`);
    await session.generate(ask("And what else?"));
    const second = model.counters;
    assert.is(second.decodes, 1);
    assert.is(second.towerPasses, 1);
    assert.ok(second.prefillTokens - first.prefillTokens < rows, `${family}: the clip's rows were kept`);
    await model.generate(ask("Outside of the session?"));
    assert.is(model.counters.decodes, 1, "the model still has the clip");
  });

for (const family of ofFiles)
  test(`${family}: sequence counts a file's rows without opening it, and is what generate computes`, async () => {
    await using model = await loadModel(folderOf(family));
    const parts = [
      { type: "video" as const, media: { path: "not-there.mp4" } },
      { type: "text" as const, text: "What is this?" },
    ];
    const messages = [{ role: "user" as const, content: parts }];
    const answered = await model.sequence(messages, "a cat");
    assert.is(model.counters.decodes, 0);
    assert.is(answered.lossMask!.length, answered.ids.length);
    some(answered.lossMask!, (x) => x === 1);
    assert.is(answered.lossMask![0], 0);
    const again = await model.sequence({ ids: answered.ids, media: answered.media! });
    assert.equal([...again.ids], [...answered.ids]);
    await rejects(() => model.generate({ prompt: messages }), "NOT_FOUND", /not-there/, "opened");

    const prompt = await model.sequence("What is this?");
    const [text] = await model.generate({ prompt: "What is this?", maxTokens: 4 });
    const [ids] = await model.generate({ prompt, maxTokens: 4 });
    sameBits(ids!.logProbs, text!.logProbs, `${family}, text`);
    const withVideo = await model.sequence([{ role: "user", content: [{ type: "video", media: video() }, parts[1]!] }]);
    const [a] = await model.generate({ prompt: withVideo, maxTokens: 4 });
    const [b] = await model.generate({ prompt: "What is this?", media: [video()], maxTokens: 4 });
    sameBits(a!.logProbs, b!.logProbs, `${family}, video`);
  });

for (const part of ["vision", "projector"] as const)
  test(`what was trained is used at once: ${part}`, async () => {
    const family = "video_llava";
    const [c] = videoCases(family).cases;
    const sequence = { ids: c!.ids, media: c!.media, lossMask: c!.lossMask };
    await using model = await loadModel(folderOf(family));
    const [before] = await model.logProbs([sequence]); // its features are kept from here on
    const trainer = await createTrainer(model, { learningRate: 1e-2, train: { decoder: false, [part]: true } });
    await trainer.trainStep(videoPairs(videoDpo(family), true));
    const [trained] = await model.logProbs([sequence]);
    await trainer[Symbol.asyncDispose]();
    const dir = join(temporaryFolder(), "saved");
    await model.save(dir);
    await using again = await loadModel(dir);
    const [loaded] = await again.logProbs([sequence]);
    sameBits(trained!, loaded!, `${part}: in memory and from the file`);
    assert.ok(
      trained!.some((x, i) => Math.abs(x - before![i]!) > 1e-3),
      `${part} changed the answer`,
    );
  });

test("what became of a file's frames is told", async () => {
  const dir = temporaryFolder();
  const short = join(dir, "short.mp4");
  const lavfi = [
    "-v",
    "error",
    "-f",
    "lavfi",
    "-i",
    "testsrc2=size=64x64:rate=3:duration=1",
    "-pix_fmt",
    "yuv420p",
    short,
  ];
  execFileSync("ffmpeg", lavfi);
  const told: object[] = [];
  await using model = await loadModel(folderOf("llava_hound"), { onMedia: (report) => told.push(report) });
  await model.generate({ prompt: "What?", media: [short], maxTokens: 1 });
  const sourceFrames = Int32Array.of(0, 0, 0, 0, 1, 1, 1, 2);
  const nothing = { decodeErrors: 0, lost: 0, rotated: false };
  assert.equal(told, [{ path: short, kind: "video", count: 3, sourceFrames, repeated: 5, ...nothing }]);
  await rejects(() => loadModel(folderOf("llava_hound"), { onMedia: 3 as never }), "INVALID_ARGUMENT", /onMedia/, "3");
});

for (const family of ofFiles)
  test(`${family}: features given, pixels given and the file itself: the same answer`, async () => {
    await using model = await loadModel(folderOf(family));
    const file = video();
    const { pixels, sourceFrames } = await model.preprocess(file);
    assert.is(sourceFrames.length, 8);
    const projected = await model.encode(file);
    assert.equal(projected.shape, [model.info.visualTokens, f32(projected).length / model.info.visualTokens!]);
    const answers = [];
    const tower = await model.encode(file, { stage: "tower" });
    for (const media of [file, { path: file }, { pixels }, projected, tower])
      answers.push((await model.generate({ prompt: "What is this?", media: [media], maxTokens: 8 }))[0]!);
    for (const a of answers) sameBits(a.logProbs, answers[0]!.logProbs, family);
    const { image } = videoCases(family);
    if (!image) return;
    const [fromPixels] = await model.generate({ prompt: "And this?", media: [image.media], maxTokens: 8 });
    const features = await model.encode(image.media);
    const [fromFeatures] = await model.generate({ prompt: "And this?", media: [features], maxTokens: 8 });
    sameBits(fromFeatures!.logProbs, fromPixels!.logProbs, `${family}, an image's features`);
  });

const featureCache = { dir: join(temporaryFolder(), "features") };
for (const dtype of ["f32", "bf16"] as const)
  test(`the feature cache: a second process run neither decodes nor encodes: ${dtype}`, async () => {
    const request = { prompt: "What is this?", media: [video()], maxTokens: 8 };
    await using cold = await loadModel(folderOf("llava_hound"), { featureCache, dtype });
    const [a] = await cold.generate(request);
    assert.equal([cold.counters.decodes, cold.counters.featureMisses, cold.counters.featureHits], [1, 1, 0]);
    await using warm = await loadModel(folderOf("llava_hound"), { featureCache, dtype });
    const [b] = await warm.generate(request);
    assert.equal([warm.counters.decodes, warm.counters.featureMisses, warm.counters.featureHits], [0, 0, 1]);
    assert.is(warm.counters.towerPasses, 0);
    sameBits(b!.logProbs, a!.logProbs, dtype);
  });

test("towers in a folder beside the checkpoint", async () => {
  const family = "llava_hound";
  const inside = await loadModel(folderOf(family));
  const expected = await logitsOf(inside, family);
  const dir = copyOf(folderOf(family));
  const all = readSafetensors(join(dir, "model.safetensors"));
  const towers = join(temporaryFolder(), "towers");
  for (const [part, repository] of [
    ["video", "LanguageBind_Video_merge"],
    ["image", "LanguageBind_Image"],
  ] as const) {
    const prefix = `model.${part}_tower.${part}_tower.`;
    mkdirSync(join(towers, repository), { recursive: true });
    const own = [...all].filter(([name]) => name.startsWith(prefix));
    const tensors = own.map(([name, t]) => [name.replace(prefix, "vision_model."), t] as const);
    writeSafetensors(join(towers, repository, "model.safetensors"), new Map(tensors));
    cpSync(join(dir, `${part}_tower_config.json`), join(towers, repository, "config.json"));
    rmSync(join(dir, `${part}_tower_config.json`));
    for (const [name] of own) all.delete(name);
  }
  writeSafetensors(join(dir, "model.safetensors"), all);

  await using without = await loadModel(dir);
  assert.is(without.info.visualTokens, null);
  await rejects(() => logitsOf(without, family), "INVALID_ARGUMENT", /takes no videos/, "no tower");
  await using given = await loadModel(dir, { visionTower: towers });
  sameBits(await logitsOf(given, family), expected, "visionTower");
  await rejects(
    () => createTrainer(given, { train: { vision: true } }),
    "INVALID_ARGUMENT",
    /visionTower/,
    "cannot be saved",
  );
  const none = temporaryFolder();
  await rejects(() => loadModel(dir, { visionTower: none }), "NOT_FOUND", /visionTower/, "an empty folder");
  cpSync(join(towers, "LanguageBind_Video_merge"), join(dir, "LanguageBind_Video_merge"), { recursive: true });
  await using beside = await loadModel(dir);
  sameBits(await logitsOf(beside, family), expected, "found beside");
  await inside[Symbol.asyncDispose]();
});

test("towers without a config of their own: read from their tensors, and said so", async () => {
  const dir = copyOf(folderOf("llava_hound"));
  for (const part of ["video", "image"]) rmSync(join(dir, `${part}_tower_config.json`));
  const report = await inspectCheckpoint(dir);
  some(report.notes, (n) => /video tower's config is not there.*3 layers of width 32/.test(n));
  await using model = await loadModel(dir);
  assert.is(model.info.visualTokens, 32);
});

for (const family of videoFamilies)
  test(`${family}: inspect names the parts and counts them`, async () => {
    const report = await inspectCheckpoint(folderOf(family));
    assert.is(report.family, family);
    assert.equal([report.missing, report.unused], [[], []]);
    const parts = Object.fromEntries(report.parts.map((p) => [p.name, p.parameters]));
    assert.ok(parts.decoder! > 0 && parts.projector! > 0 && parts["video tower"]! > 0, JSON.stringify(parts));
    assert.is(
      report.parameters,
      Object.values(parts).reduce((a, b) => a + b, 0),
    );
    await using model = await loadModel(folderOf(family));
    assert.is(model.info.parameters, report.parameters);
    assert.is(model.info.visualTokens, report.visualTokens);
  });

const bad: [VideoFamily, (config: Record<string, never>) => object, string, RegExp][] = [
  ["llava_hound", (c) => ({ ...c, mm_projector_type: "qformer" }), "CHECKPOINT_UNSUPPORTED", /mm_projector_type/],
  ["llava_hound", (c) => ({ ...c, mm_vision_select_layer: -9 }), "INVALID_CONFIG", /mm_vision_select_layer/],
  ["llava_hound", (c) => ({ ...c, mm_use_x_start_end: true }), "CHECKPOINT_UNSUPPORTED", /start_end/],
  ["video_llava", (c) => ({ ...c, vision_config: undefined }), "INVALID_CONFIG", /vision_config/],
  ["video_llava", (c) => ({ ...c, video_token_index: 448 }), "INVALID_CONFIG", /video_token_index/],
  ["llava_next_video", (c) => ({ ...c, spatial_pool_mode: "max" }), "CHECKPOINT_UNSUPPORTED", /spatial_pool_mode/],
  [
    "llava_next_video",
    (c) => ({ ...c, projector_hidden_act: "relu" }),
    "CHECKPOINT_UNSUPPORTED",
    /projector_hidden_act/,
  ],
];
for (const [family, change, code, message] of bad)
  test(`a bad config of ${family}: ${message.source}`, async () => {
    const dir = copyOf(folderOf(family));
    const path = join(dir, "config.json");
    writeFileSync(path, JSON.stringify(change(JSON.parse(readFileSync(path, "utf8")))));
    await rejects(() => loadModel(dir), code as "INVALID_CONFIG", message, String(message));
  });

test.run();
