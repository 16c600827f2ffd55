// Published models by their config.json alone: `plan` counts the parameters that the published files hold.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type PlanOptions, plan } from "../src/index.js";
import { temporaryFolder } from "./helpers/files.js";

const decoder = (o: object) => ({ hidden_act: "silu", rms_norm_eps: 1e-6, ...o });
const qwen25 = (o: object, vision: object) => ({
  architectures: ["Qwen2_5_VLForConditionalGeneration"],
  model_type: "qwen2_5_vl",
  ...decoder({ max_position_embeddings: 128000, rope_theta: 1e6, use_sliding_window: false, ...o }),
  rope_scaling: { type: "mrope", mrope_section: [16, 24, 24] },
  vision_config: {
    ...{ depth: 32, hidden_act: "silu", hidden_size: 1280, intermediate_size: 3420, num_heads: 16, in_chans: 3 },
    ...{ patch_size: 14, spatial_merge_size: 2, temporal_patch_size: 2, window_size: 112 },
    ...{ fullatt_block_indexes: [7, 15, 23, 31], tokens_per_second: 2, ...vision },
  },
  torch_dtype: "bfloat16",
});
const qwen3 = (tied: boolean, o: object, vision: object) => ({
  architectures: ["Qwen3VLForConditionalGeneration"],
  model_type: "qwen3_vl",
  text_config: {
    ...decoder({ model_type: "qwen3_vl_text", head_dim: 128, num_key_value_heads: 8, vocab_size: 151936, ...o }),
    ...{ max_position_embeddings: 262144, rope_theta: 5e6, dtype: "bfloat16" },
    rope_scaling: { rope_type: "default", mrope_interleaved: true, mrope_section: [24, 20, 20] },
  },
  tie_word_embeddings: tied,
  vision_config: { patch_size: 16, num_heads: 16, num_position_embeddings: 2304, ...vision },
});
interface Vision {
  hidden_size: number;
  deepstack_visual_indexes?: number[];
  image_size?: number;
  patch_size?: number;
}
const small = { depth: 24, hidden_size: 1024, intermediate_size: 4096, deepstack_visual_indexes: [5, 11, 17] };
const large = { depth: 27, hidden_size: 1152, intermediate_size: 4304, deepstack_visual_indexes: [8, 16, 24] };

const shape = (hidden: number, inner: number, layers: number, heads: number) => ({
  ...{ hidden_size: hidden, intermediate_size: inner, num_hidden_layers: layers, num_attention_heads: heads },
});

const smol = (text: object, vision: object, scale: number) => ({
  architectures: ["SmolVLMForConditionalGeneration"],
  model_type: "smolvlm",
  image_token_id: 49190,
  scale_factor: scale,
  tie_word_embeddings: false,
  text_config: {
    ...{ model_type: "llama", vocab_size: 49280, max_position_embeddings: 8192, rms_norm_eps: 1e-5, rope_theta: 1e5 },
    ...{ torch_dtype: "bfloat16", tie_word_embeddings: false, ...text },
  },
  vision_config: { model_type: "smolvlm_vision", ...vision },
  torch_dtype: "bfloat16",
});
const base = { hidden_size: 768, num_attention_heads: 12, image_size: 512, patch_size: 16 };
const so400m = {
  ...{ hidden_size: 1152, intermediate_size: 4304, num_hidden_layers: 27, num_attention_heads: 16 },
  ...{ image_size: 384, patch_size: 14 },
};

// Parameters as their files' own headers count them: all, and those of the decoder.
const rows: [name: string, config: object, all: number, decoder: number][] = [
  [
    "SmolVLM2 256M",
    smol({ ...shape(576, 1536, 30, 9), num_key_value_heads: 3 }, base, 4),
    ...([256_484_928, 162_974_016] as const),
  ],
  [
    "SmolVLM2 500M",
    smol({ ...shape(960, 2560, 32, 15), num_key_value_heads: 5 }, base, 4),
    ...([507_482_304, 409_252_800] as const),
  ],
  [
    "SmolVLM2 2.2B",
    smol({ ...shape(2048, 8192, 24, 32), num_key_value_heads: 32 }, so400m, 3),
    ...([2_246_784_880, 1_812_563_968] as const),
  ],
  [
    "Qwen2.5-VL 3B",
    qwen25(
      { ...shape(2048, 11008, 36, 16), num_key_value_heads: 2, vocab_size: 151936, tie_word_embeddings: true },
      { out_hidden_size: 2048 },
    ),
    ...([3_754_622_976, 3_085_938_688] as const),
  ],
  [
    "Qwen2.5-VL 7B",
    qwen25({ ...shape(3584, 18944, 28, 28), num_key_value_heads: 4, vocab_size: 152064 }, { out_hidden_size: 3584 }),
    ...([8_292_166_656, 7_615_616_512] as const),
  ],
  [
    "Qwen3-VL 2B",
    qwen3(true, shape(2048, 6144, 28, 16), { ...small, out_hidden_size: 2048 }),
    ...([2_127_532_032, 1_720_574_976] as const),
  ],
  [
    "Qwen3-VL 4B",
    qwen3(true, shape(2560, 9728, 36, 32), { ...small, out_hidden_size: 2560 }),
    ...([4_437_815_808, 4_022_468_096] as const),
  ],
  [
    "Qwen3-VL 8B",
    qwen3(false, shape(4096, 12288, 36, 32), { ...large, out_hidden_size: 4096 }),
    ...([8_767_123_696, 8_190_735_360] as const),
  ],
];

for (const [name, config, all, decoderOnly] of rows)
  test(`${name}: its parameters, by its config alone`, async () => {
    const model = temporaryFolder();
    writeFileSync(join(model, "config.json"), JSON.stringify(config));
    const options = {
      kind: "dpo",
      model,
      runDir: join(model, "run"),
      items: 1,
      load: { dtype: "bf16", device: "cuda" },
    };
    const { bytes, advice } = await plan(options as unknown as PlanOptions);
    assert.is(
      advice.some((a) => /pictures of any size/.test(a)),
      !name.startsWith("SmolVLM"),
    );
    assert.is(bytes.weights, 2 * decoderOnly);
    // Beside the tower: features of a video, before the projector and after it, for each level.
    const c = config as { hidden_size?: number; text_config?: { hidden_size: number }; vision_config: Vision };
    const {
      hidden_size: width,
      deepstack_visual_indexes: taps = [],
      image_size: edge,
      patch_size: patch,
    } = c.vision_config;
    const merge = (config as { scale_factor?: number }).scale_factor ?? 2;
    const rows = edge === undefined ? 4 * 64 : 8 * (Math.floor(edge / patch!) / merge) ** 2; // a step of 8 x 8 where any size is taken
    const columns = (1 + taps.length) * (merge ** 2 * width + (c.hidden_size ?? c.text_config!.hidden_size));
    assert.is(bytes.vision, 2 * (all - decoderOnly) + 2 * rows * columns);
  });

test.run();
