// Families that take pictures of any size: pixels and features with their grid, what is refused, prompts of messages, the cache.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { inspectCheckpoint, loadModel, type Media, type Tensor } from "../src/index.js";
import { cliCommand, node } from "./helpers/child.js";
import { rejects, sameBits } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";
import { folderOf, videoCases } from "./helpers/golden-video.js";
import { memoized } from "./helpers/memoized.js";

const test = suite("grids");
const families = ["qwen2_5_vl", "qwen3_vl"] as const;
const f32 = (t: Tensor | undefined) => t!.data as Float32Array;
const model = Object.fromEntries(families.map((f) => [f, memoized(() => loadModel(folderOf(f)))])) as Record<
  (typeof families)[number],
  () => ReturnType<typeof loadModel>
>;
const [first] = videoCases("qwen3_vl").cases;
const clip = first!.media[0]!;

const bad: [what: string, media: unknown, message: RegExp][] = [
  ["no grid", { kind: "video", pixels: clip.pixels }, /media\.gridThw: expected an array, got undefined/],
  ["two numbers", { ...clip, gridThw: [2, 6] }, /gridThw: expected patches along time, height and width/],
  ["half a patch", { ...clip, gridThw: [2, 6, 8.5] }, /gridThw\[2\]: expected an integer/],
  ["no whole squares", { ...clip, gridThw: [2, 3, 16] }, /gridThw: expected height and width in multiples of 2/],
  ["a grid beyond all memory", { ...clip, gridThw: [1 << 20, 1 << 20, 1 << 20] }, /1048576 patches at most/],
  [
    "another grid",
    { ...clip, gridThw: [2, 6, 10] },
    /pixels\.shape: expected \(120, 96\) for this grid, got "?\(96, 96\)/,
  ],
  ["an image of two steps", { ...clip, kind: "image" }, /gridThw\[0\]: expected 1 for an image, got 2/],
  ["seconds of nothing", { ...clip, secondsPerGrid: 0 }, /secondsPerGrid: expected a finite number greater than 0/],
  [
    "frames as of other families",
    { frames: new Uint8Array(12), width: 2, height: 2 },
    /expected pixels \(or features\)/,
  ],
  ["a file", "clip.mp4", /expected pixels \(or features\)/],
  [
    "features without their grid",
    { data: new Float32Array(24 * 144), shape: [24, 144], dtype: "f32", key: "k" },
    /media\[0\]\.gridThw: expected an array/,
  ],
  [
    "features of one level",
    { data: new Float32Array(24 * 48), shape: [24, 48], dtype: "f32", key: "k", gridThw: [2, 6, 8] },
    /expected features \(24, 144\) for gridThw \(2, 6, 8\)/,
  ],
];
for (const [what, media, message] of bad)
  test(`refused: ${what}`, async () => {
    const sequence = { ids: first!.ids, media: [media as Media] };
    await rejects(async () => (await model.qwen3_vl()).forward(sequence), "INVALID_ARGUMENT", message, what);
  });

test("a grid is refused by a family that takes frames of one size", async () => {
  await using other = await loadModel(folderOf("llava_next_video"));
  const [c] = videoCases("llava_next_video").cases;
  const media = [{ ...c!.media[0]!, gridThw: [1, 2, 2] as const }];
  await rejects(() => other.forward({ ids: c!.ids, media }), "INVALID_ARGUMENT", /gridThw/, "a grid");
});

for (const family of families) {
  test(`${family}: features before and after the projector give the bits of pixels`, async () => {
    const m = await model[family]();
    for (const c of videoCases(family).cases.filter((x) => x.media.length > 0)) {
      const outputs = [];
      for (const stage of ["projected", "tower"] as const)
        outputs.push(await Promise.all(c.media.map((one) => m.encode(one, { stage }))));
      const [own, ...others] = await Promise.all(
        [c.media, ...outputs].map(async (media) => f32((await m.forward({ ids: c.ids, media })).logits)),
      );
      for (const logits of others) sameBits(logits, own!, c.name);
    }
  });

  test(`${family}: features on disk know their grid`, async () => {
    const featureCache = { dir: temporaryFolder() };
    const logits = [];
    for (let round = 0; round < 2; round++) {
      await using m = await loadModel(folderOf(family), { featureCache });
      const [c] = videoCases(family).cases;
      logits.push(f32((await m.forward({ ids: c!.ids, media: c!.media })).logits));
      assert.is(m.counters.featureHits, round * c!.media.length);
    }
    sameBits(logits[1]!, logits[0]!, "from the cache");
  });

  test(`${family}: what inspect says of its media`, async () => {
    const { media, visualTokens } = await inspectCheckpoint(folderOf(family));
    assert.equal([media, visualTokens], [["video", "image"], null]);
    assert.match(
      node([...cliCommand, "inspect", folderOf(family)]).out,
      /visual tokens +as many as a video or an image has squares of patches/,
    );
  });
}

const said = (c: { facts: { prompt_text: string } }) =>
  /user\n(?:<\|vision_start\|>.*<\|vision_end\|>)?(.*)<\|im_end\|>/s.exec(c.facts.prompt_text)![1]!;

for (const family of families)
  for (const c of videoCases(family).cases)
    test(`${family}: messages become the prompt of the processor: ${c.name}`, async () => {
      const m = await model[family]();
      const content = [
        ...c.media.map((media) => ({ type: media.kind!, media })),
        { type: "text" as const, text: said(c) },
      ];
      const prompt = [{ role: "user" as const, content }];
      if (family === "qwen3_vl" && c.media.some(({ kind }) => kind === "video"))
        return await rejects(
          () => m.sequence(prompt, "yes"),
          "INVALID_ARGUMENT",
          /prompt of ids/,
          "a video in messages",
        );
      const { ids, lossMask } = await m.sequence(prompt, "yes");
      const end = lossMask!.indexOf(1); // the template of qwen3_vl's folder has a system turn before
      assert.equal([...ids].slice(end - c.prompt.length, end), [...c.prompt]);
    });

test("equal features of two grids are two media", async () => {
  const m = await model.qwen2_5_vl();
  const data = Float32Array.from({ length: 6 * 48 }, (_, i) => Math.cos(i));
  const features = { kind: "image" as const, data, shape: [6, 48], dtype: "f32" as const, key: "k" };
  const ids = [7, ...new Array<number>(6).fill(426), 9];
  const of = async (gridThw: readonly [number, number, number]) => {
    const sequence = { ids, media: [{ ...features, gridThw }] };
    const { positions } = await m.forward(sequence, { outputs: ["positions"] });
    return [...positions!.data].slice(-8); // columns
  };
  assert.equal(await of([1, 4, 6]), [0, 1, 2, 3, 1, 2, 3, 4]);
  assert.equal(await of([1, 6, 4]), [0, 1, 2, 1, 2, 1, 2, 4]);
});

test("grids that are seen once do not stay: many of them, and the first one again", async () => {
  const m = await model.qwen2_5_vl();
  const of = async (h: number, w: number) => {
    const rows = h * w;
    const data = Float32Array.from({ length: rows * 96 }, (_, i) => Math.sin(i));
    const features = await m.encode({
      kind: "image",
      pixels: { dtype: "f32", shape: [rows, 96], data },
      gridThw: [1, h, w],
    });
    return f32(features).slice();
  };
  const before = await of(4, 6);
  for (let i = 1; i <= 40; i++) await of(2, 2 * i);
  assert.is(before.length, 6 * 48);
  sameBits(await of(4, 6), before, "the same picture");
});

test.after(async () => {
  for (const family of families) await (await model[family]()).dispose();
});
test.run();
