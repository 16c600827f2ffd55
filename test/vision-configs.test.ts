// Configs of the families with towers of their own: older spellings mean the same, and what cannot be computed is refused by name.
import { copyFileSync, existsSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import { type ErrorCode, loadModel, type Tensor } from "../src/index.js";
import { rejects, sameBits } from "./helpers/assert.js";
import { type Config, config, type Edit, edited, editJson } from "./helpers/edit-checkpoint.js";
import { copyOf } from "./helpers/files.js";
import { folderOf, videoCases, type VideoFamily, videoFamilies } from "./helpers/golden-video.js";

const test = suite("configs with towers");
const f32 = (t: Tensor | undefined) => t!.data as Float32Array;

async function logits(dir: string, family: VideoFamily): Promise<Float32Array> {
  await using model = await loadModel(dir);
  const [c] = videoCases(family).cases;
  return f32((await model.forward({ ids: c!.ids, media: c!.media })).logits);
}

for (const family of videoFamilies.filter((f) => existsSync(join(folderOf(f), "config.legacy.json"))))
  test(`${family}: the older spelling of its config gives the same bits`, async () => {
    const dir = copyOf(folderOf(family));
    copyFileSync(join(dir, "config.legacy.json"), join(dir, "config.json"));
    sameBits(await logits(dir, family), await logits(folderOf(family), family), family);
  });

/** A change inside of a part of the config. */
const inside = (key: string, change: Config): Edit =>
  editJson("config.json", (o) => ({ ...o, [key]: { ...(o[key] as Config), ...change } }));
const mrope = (change: Config): Edit =>
  editJson("config.json", (o) => {
    const text = o.text_config as Config;
    return { ...o, text_config: { ...text, rope_parameters: { ...(text.rope_parameters as Config), ...change } } };
  });

const refused: [what: string, family: VideoFamily, edit: Edit, code: ErrorCode, message: RegExp][] = [
  [
    "sections beyond a head",
    "qwen2_5_vl",
    mrope({ mrope_section: [2, 2, 4] }),
    "CHECKPOINT_UNSUPPORTED",
    /mrope_section: 8 pairs, and heads of 12 columns have 6/,
  ],
  ["two sections", "qwen3_vl", mrope({ mrope_section: [4, 4] }), "INVALID_CONFIG", /mrope_section/],
  [
    "no sections where there is no default",
    "qwen2_5_vl",
    mrope({ mrope_section: null }),
    "INVALID_CONFIG",
    /mrope_section/,
  ],
  [
    "a table of positions that is no square",
    "qwen3_vl",
    inside("vision_config", { num_position_embeddings: 35 }),
    "INVALID_CONFIG",
    /num_position_embeddings: expected the square of a number/,
  ],
  [
    "deepstack of a layer that is not there",
    "qwen3_vl",
    inside("vision_config", { deepstack_visual_indexes: [1, 4] }),
    "INVALID_CONFIG",
    /deepstack_visual_indexes: expected a list of layers from 0 to 3/,
  ],
  [
    "deepstack out of order",
    "qwen3_vl",
    inside("vision_config", { deepstack_visual_indexes: [2, 1] }),
    "INVALID_CONFIG",
    /ascending/,
  ],
  [
    "patches of three frames",
    "qwen3_vl",
    inside("vision_config", { temporal_patch_size: 3 }),
    "CHECKPOINT_UNSUPPORTED",
    /temporal_patch_size 3/,
  ],
  [
    "features of another width",
    "qwen2_5_vl",
    inside("vision_config", { out_hidden_size: 64 }),
    "INVALID_CONFIG",
    /out_hidden_size: expected hidden_size of the decoder \(48\)/,
  ],
  [
    "windows of less than a square",
    "qwen2_5_vl",
    inside("vision_config", { window_size: 7 }),
    "INVALID_CONFIG",
    /window_size: expected at least/,
  ],
  [
    "another activation of the tower",
    "qwen2_5_vl",
    inside("vision_config", { hidden_act: "gelu" }),
    "CHECKPOINT_UNSUPPORTED",
    /hidden_act "gelu"/,
  ],
  [
    "heads that do not divide the tower",
    "qwen2_5_vl",
    inside("vision_config", { num_heads: 3 }),
    "INVALID_CONFIG",
    /num_heads: expected a divisor/,
  ],
  [
    "patches that make no whole squares",
    "smolvlm",
    config({ scale_factor: 3 }),
    "INVALID_CONFIG",
    /image_size: .*squares/,
  ],
  [
    "another language model",
    "smolvlm",
    inside("text_config", { model_type: "qwen2" }),
    "CHECKPOINT_UNSUPPORTED",
    /model_type "qwen2" of the language model/,
  ],
  [
    "norms that are not computed",
    "smolvlm",
    inside("text_config", { qk_layer_norms: true }),
    "CHECKPOINT_UNSUPPORTED",
    /qk_layer_norms true: norms of queries and keys/,
  ],
  [
    "a resampler",
    "smolvlm",
    inside("text_config", { use_resampler: true }),
    "CHECKPOINT_UNSUPPORTED",
    /use_resampler true: a resampler of features/,
  ],
  [
    "a patch that is larger than the picture",
    "smolvlm",
    inside("vision_config", { patch_size: 32 }),
    "INVALID_CONFIG",
    /patch_size: expected at most image_size/,
  ],
];
for (const [what, family, edit, code, message] of refused)
  test(`${family}: refused: ${what}`, async () => {
    await rejects(() => loadModel(edited(folderOf(family), edit)), code, message, what);
  });

test.run();
