// What a checkpoint's processor files say about frames, in all their spellings, and what is refused.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { ErrorCode } from "../src/index.js";
import { clipMean, clipStd } from "../src/video/preprocess.js";
import { readVisionSpec, type VisionSpec } from "../src/video/tower-spec.js";
import { rejects } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("video spec");
type Files = Record<string, unknown>;

function read(files: Files, family = "video_llava", facts = { imageSize: 28, frames: 8 }): Promise<VisionSpec> {
  const dir = temporaryFolder();
  for (const [name, json] of Object.entries(files))
    writeFileSync(join(dir, `${name}.json`), typeof json === "string" ? json : JSON.stringify(json));
  return readVisionSpec(dir, family, facts);
}

const clip = {
  ...{ type: "clip", size: 28, crop: 28, resize: "shortest_edge", mean: clipMean, std: clipStd, frames: 8 },
  ...{ layout: "tchw", images: true, window: "all" },
};
const bind = { ...clip, type: "languagebind", layout: "cthw" };

test("families without a file", async () => {
  assert.equal(await read({}), clip);
  assert.equal(await read({}, "llava_next_video"), { ...clip, images: false });
  assert.equal(await read({}, "llava_hound"), { ...bind, window: "10s" });
  assert.equal(await read({}, "video_llava_original", { imageSize: 224, frames: 4 }), {
    ...bind,
    size: 224,
    crop: 224,
    frames: 4,
  });
  const half = [0.5, 0.5, 0.5];
  const smol = { type: "siglip", layout: "tchw", images: true, window: "all", resize: "shortest_edge", frames: 4 };
  assert.equal(await read({}, "smolvlm", { imageSize: 384, frames: 4 }), {
    ...{ ...smol, size: 384, crop: 384 },
    ...{ mean: half, std: half },
  });
  await rejects(() => read({}, "idefics3"), "INVALID_ARGUMENT", /family.*idefics3/, "family");
});

const steps = { do_resize: true, do_center_crop: true, do_rescale: true, do_normalize: true, do_convert_rgb: true };
const golden = {
  ...steps,
  crop_size: { height: 28, width: 28 },
  resample: 3,
  rescale_factor: 1 / 255,
  size: { shortest_edge: 28 },
};
const rows: [what: string, files: Files, expected: object][] = [
  ["a whole file", { preprocessor_config: { ...golden, image_mean: clipMean, image_std: clipStd } }, clip],
  ["a larger edge", { preprocessor_config: { ...golden, size: { shortest_edge: 32 } } }, { ...clip, size: 32 }],
  ["numbers", { preprocessor_config: { size: 30, crop_size: 28 } }, { ...clip, size: 30 }],
  ["a square", { preprocessor_config: { size: { height: 28, width: 28 } } }, { ...clip, resize: "exact" }],
  [
    "Python's Infinity where nothing counts it",
    { preprocessor_config: '{"size": 30, "crop_size": 28, "odd": [Infinity, -Infinity, NaN]}' },
    { ...clip, size: 30 },
  ],
  [
    "means",
    { preprocessor_config: { image_mean: [0.5, 0.4, 0.3], image_std: [1, 2, 3] } },
    { ...clip, mean: [0.5, 0.4, 0.3], std: [1, 2, 3] },
  ],
  [
    "nulls",
    { preprocessor_config: { size: null, crop_size: null, image_mean: null, do_resize: null, resample: null } },
    clip,
  ],
  [
    "a processor without settings",
    { processor_config: { patch_size: 14 }, preprocessor_config: { size: 29 } },
    { ...clip, size: 29 },
  ],
  [
    "the video's before the image's",
    { video_preprocessor_config: { size: 29 }, preprocessor_config: { size: 30 } },
    { ...clip, size: 29 },
  ],
  [
    "parts",
    { processor_config: { image_processor: { size: 30 }, video_processor: { size: 31 } } },
    { ...clip, size: 31 },
  ],
  ["one part", { processor_config: { image_processor: { size: 30 } } }, { ...clip, size: 30 }],
  ["padding of images", { preprocessor_config: { ...golden, do_pad: true, image_grid_pinpoints: [[336, 672]] } }, clip],
];
for (const [what, files, expected] of rows)
  test(`read: ${what}`, async () => assert.equal(await read(files), expected));

const bad: [what: string, json: unknown, code: ErrorCode, message: RegExp][] = [
  ...Object.keys(steps)
    .filter((key) => key !== "do_convert_rgb")
    .map((key): [string, unknown, ErrorCode, RegExp] => [
      `${key} off`,
      { ...golden, [key]: false },
      "CHECKPOINT_UNSUPPORTED",
      new RegExp(`preprocessor_config\\.json: ${key}: .*false`),
    ]),
  ["another resampling", { ...golden, resample: 2 }, "CHECKPOINT_UNSUPPORTED", /resample.*3.*2/],
  ["another scale", { ...golden, rescale_factor: 1 / 127.5 }, "CHECKPOINT_UNSUPPORTED", /rescale_factor/],
  ["a longest edge", { ...golden, size: { longest_edge: 28 } }, "CHECKPOINT_UNSUPPORTED", /size.*longest_edge/],
  ["an oblong", { ...golden, size: { height: 28, width: 30 } }, "CHECKPOINT_UNSUPPORTED", /size.*28 x 30/],
  ["another crop than the tower's", { ...golden, crop_size: 14 }, "INVALID_CONFIG", /crop_size.*28.*14/],
  ["a crop above the size", { ...golden, size: 20 }, "CHECKPOINT_UNSUPPORTED", /crop_size.*20.*28/],
  ["a size of text", { ...golden, size: "28" }, "INVALID_CONFIG", /size.*integer.*"28"/],
  ["a huge size", { ...golden, size: { shortest_edge: 1e9 } }, "INVALID_CONFIG", /size\.shortest_edge.*4096/],
  ["two means", { ...golden, image_mean: [1, 2] }, "INVALID_CONFIG", /image_mean.*three/],
  ["an infinite mean", '{"image_mean": [0.5, Infinity, 0.5]}', "INVALID_CONFIG", /image_mean.*finite/],
  ["a deviation of 0", { ...golden, image_std: [1, 0, 1] }, "INVALID_CONFIG", /image_std.*above 0/],
  ["no JSON", "{", "INVALID_CONFIG", /preprocessor_config\.json/],
  ["no object", [1], "INVALID_CONFIG", /no JSON object/],
  ["a giant", " ".repeat((1 << 20) + 1), "INVALID_CONFIG", /limit/],
];
for (const [what, json, code, message] of bad)
  test(`refused: ${what}`, () => rejects(() => read({ preprocessor_config: json }), code, message, what));

test("refused: a square for LanguageBind", () =>
  rejects(
    () => read({ preprocessor_config: { size: { height: 28, width: 28 } } }, "llava_hound"),
    "CHECKPOINT_UNSUPPORTED",
    /size/,
    "square",
  ));

test.run();
