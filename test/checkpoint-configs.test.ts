// What config.json and the tensors beside it mean: used as transformers uses it, refused by name, or told. A new key is a row.
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { type ErrorCode, inspectCheckpoint, loadModel } from "../src/index.js";
import { parsePythonJson } from "../src/base/python-json.js";
import { includes, near, none, ordered, rejects, some } from "./helpers/assert.js";
import {
  type Config,
  config,
  type Edit,
  edited,
  edits,
  editJson,
  embeddings,
  rolled,
  tensors,
} from "./helpers/edit-checkpoint.js";
import { type Family, folder } from "./helpers/golden.js";
import { folderOf, type VideoFamily } from "./helpers/golden-video.js";

// ---- the reference's logits
interface Row {
  name: string;
  base: Family;
  config: Config;
  without: string[];
  edit?: string;
  logits: number[];
}
const reference = JSON.parse(readFileSync(new URL("./golden/configs/cases.json", import.meta.url), "utf8")) as {
  ids: number[];
  rows: Row[];
};

const asTransformers = suite("configs as transformers reads them");
for (const row of reference.rows)
  asTransformers(row.name, async () => {
    const more = row.edit === undefined ? [] : [edits[row.edit]!];
    const dir = edited(folder(row.base), config(row.config, row.without), ...more);
    await using model = await loadModel(dir);
    const { logits } = await model.forward({ ids: reference.ids }, { outputs: ["logits"], rows: [-1, 0] });
    near(logits!.data.subarray(0, row.logits.length), row.logits, 1e-4, row.name);
    const report = await inspectCheckpoint(dir);
    assert.equal(report.missing, [], "inspect finds what loading finds");
    assert.is(report.notes.filter((n) => /refuses/.test(n)).length, 0, report.notes.join("\n"));
  });
asTransformers.run();

// ---- refused by name
const rope = (o: Config) => config({ rope_parameters: { rope_theta: 10000, ...o } });
const yarn = (o: Config) => rope({ rope_type: "yarn", factor: 4, original_max_position_embeddings: 64, ...o });
const add = (name: string, like: string, value: number) =>
  tensors((all) => {
    const t = all.get(like)!;
    return all.set(name, { ...t, data: new Float32Array(t.data.length).fill(value) });
  });
const norm = "model.layers.0.input_layernorm.weight";

const refused: [what: string, base: Family, edit: Edit, code: ErrorCode, message: RegExp][] = [
  ...Object.entries({
    quantization_config: { quant_method: "gptq" },
    attn_logit_softcapping: 50,
    final_logit_softcapping: 30,
    embedding_multiplier: 12,
    residual_multiplier: 0.22,
    attention_multiplier: 0.0078125,
    logits_scaling: 8,
    query_pre_attn_scalar: 256,
    partial_rotary_factor: 0.5,
    no_rope_layers: [1, 0],
    use_qk_norm: true,
    attention_chunk_size: 64,
    num_local_experts: 8,
    is_causal: false,
    attn_temperature_tuning: true,
    hidden_activation: "gelu_pytorch_tanh",
  }).map(([key, value]): (typeof refused)[number] => [
    `${key} ${JSON.stringify(value)}`,
    "text_llama",
    config({ [key]: value }),
    "CHECKPOINT_UNSUPPORTED",
    new RegExp(`config\\.json: ${key} `),
  ]),
  ["hidden_act gelu", "text_llama", config({ hidden_act: "gelu" }), "CHECKPOINT_UNSUPPORTED", /hidden_act "gelu"/],
  ["longrope", "text_llama", rope({ rope_type: "longrope", factor: 4 }), "CHECKPOINT_UNSUPPORTED", /longrope/],
  [
    "part of a head rotated",
    "text_llama",
    rope({ rope_type: "default", partial_rotary_factor: 0.25 }),
    "CHECKPOINT_UNSUPPORTED",
    /rope_parameters\.partial_rotary_factor 0\.25/,
  ],
  [
    "rope of its own for some layers",
    "text_qwen2",
    config({ rope_parameters: { full_attention: { rope_type: "linear", factor: 2, rope_theta: 1e4 } } }),
    "CHECKPOINT_UNSUPPORTED",
    /rope_parameters\.full_attention/,
  ],
  [
    "rope_scaling against rope_parameters",
    "text_llama",
    config({ rope_scaling: { type: "linear", factor: 2 } }),
    "CHECKPOINT_UNSUPPORTED",
    /rope_scaling and rope_parameters .*linear.*default/,
  ],
  [
    "rope_theta against rope_parameters",
    "text_llama",
    config({ rope_theta: 500000 }),
    "CHECKPOINT_UNSUPPORTED",
    /rope_theta 500000.* and rope_parameters/,
  ],
  [
    "yarn with a factor in words",
    "text_llama",
    yarn({ factor: "4" }),
    "INVALID_CONFIG",
    /rope_parameters\.factor.*"4"/,
  ],
  ["yarn of theta 1", "text_llama", yarn({ rope_theta: 1 }), "INVALID_CONFIG", /rope_theta.*more than 1/],
  ["linear without a factor", "text_llama", rope({ rope_type: "linear" }), "INVALID_CONFIG", /factor.*nothing/],
  [
    "an infinite factor",
    "text_llama",
    editJson("config.json", (o) => ({ ...o, rope_parameters: { rope_type: "linear", factor: "@" } }), "Infinity"),
    "INVALID_CONFIG",
    /rope_parameters\.factor: expected a number.*got Infinity/,
  ],
  [
    "a NaN as eps",
    "text_llama",
    editJson("config.json", (o) => ({ ...o, rms_norm_eps: "@" }), "NaN"),
    "INVALID_CONFIG",
    /rms_norm_eps.*got NaN/,
  ],
  [
    "a context beyond every double",
    "text_llama",
    editJson("config.json", (o) => ({ ...o, max_position_embeddings: "@" }), "1e999"),
    "INVALID_CONFIG",
    /max_position_embeddings.*got Infinity/,
  ],
  [
    "a window on the last layer",
    "text_qwen2",
    config({ use_sliding_window: true, sliding_window: 8, max_window_layers: 1 }, ["layer_types"]),
    "CHECKPOINT_UNSUPPORTED",
    /sliding_window 8 of layer 1/,
  ],
  [
    "the window that an absent key stands for",
    "text_qwen2",
    config({ use_sliding_window: true, max_window_layers: 0, max_position_embeddings: 8192 }, [
      "layer_types",
      "sliding_window",
    ]),
    "CHECKPOINT_UNSUPPORTED",
    /sliding_window 4096 of layer 0/,
  ],
  [
    "a window by layer_types",
    "text_qwen2",
    config({ use_sliding_window: true, sliding_window: 8, layer_types: ["full_attention", "sliding_attention"] }),
    "CHECKPOINT_UNSUPPORTED",
    /sliding_window 8 of layer 1/,
  ],
  [
    "layers of another kind",
    "text_llama",
    config({ layer_types: ["full_attention", "linear_attention"] }),
    "CHECKPOINT_UNSUPPORTED",
    /layer_types.*linear_attention/,
  ],
  [
    "heads of Qwen3's default size",
    "text_qwen3",
    config({}, ["head_dim"]),
    "CHECKPOINT_CORRUPT",
    /q_proj.weight: config.json asks for shape \[512, 48\], the file has \[64, 48\]/,
  ],
  [
    "biases that a Qwen3 file lacks",
    "text_qwen3",
    config({ attention_bias: true }),
    "CHECKPOINT_CORRUPT",
    /8 tensors .*q_proj.bias/,
  ],
  [
    "norms of heads that the config's type lacks",
    "text_qwen3",
    config({ model_type: "qwen2", architectures: ["Qwen2ForCausalLM"] }),
    "CHECKPOINT_UNSUPPORTED",
    /4 tensors would be left out: .*q_norm/,
  ],
  ["too few layer_types", "text_qwen2", config({ layer_types: ["full_attention"] }), "INVALID_CONFIG", /layer_types/],
  [
    "biases that the config denies",
    "text_llama_bias",
    config({ attention_bias: false }),
    "CHECKPOINT_UNSUPPORTED",
    /8 tensors would be left out: model\.layers\.\d\.self_attn\..*bias/,
  ],
  [
    "norms of queries",
    "text_llama",
    add("model.layers.1.self_attn.q_norm.weight", norm, 1),
    "CHECKPOINT_UNSUPPORTED",
    /1 tensors.*model\.layers\.1\.self_attn\.q_norm\.weight/,
  ],
  ["a bias of the head", "text_llama", add("lm_head.bias", norm, 1), "CHECKPOINT_UNSUPPORTED", /lm_head\.bias/],
  [
    "one parameter under two names",
    "text_llama",
    tensors((all) => void all.set(embeddings.slice(6), rolled(all.get(embeddings)!))),
    "CHECKPOINT_UNSUPPORTED",
    /model\.embed_tokens\.weight and embed_tokens\.weight are two names/,
  ],
];

const refusals = suite("configs that are refused");
for (const [what, base, edit, code, message] of refused)
  refusals(what, () => rejects(() => loadModel(edited(folder(base), edit)), code, message, what));
refusals.run();

// ---- told by inspect, and loaded
const told: [what: string, base: Family, edit: Edit, note: RegExp][] = [
  ["a key that nothing knows", "text_llama", config({ gate_temperature: 0.5 }), /not used: gate_temperature 0\.5/],
  [
    "an infinite value of such a key",
    "text_llama",
    editJson("config.json", (o) => ({ ...o, odd: "@" }), "-Infinity"),
    /odd -Infinity/,
  ],
  [
    "fewer layers than the file has",
    "text_llama",
    config({ num_hidden_layers: 1 }),
    /9 tensors of the files are not used, and are kept when saving: model\.layers\.1\./,
  ],
  ["a window that llama has not", "text_llama", config({ sliding_window: 8 }), /sliding_window 8 is not used/],
  [
    "dynamic rope",
    "text_llama",
    rope({ rope_type: "dynamic", factor: 2 }),
    /rope_type dynamic: nothing is scaled within/,
  ],
  [
    "a rope key of another type",
    "text_llama",
    rope({ rope_type: "linear", factor: 2, beta_fast: 8 }),
    /rope_parameters\.beta_fast 8/,
  ],
  [
    "a head of its own",
    "text_llama_gqa_tied",
    edits["own head"]!,
    /tie_word_embeddings is true, but lm_head\.weight differs/,
  ],
  ["dropout", "text_llama", config({ attention_dropout: 0.1 }), /attention_dropout is set/],
  [
    "settings of generation",
    "text_llama",
    editJson("generation_config.json", (o) => ({ ...o, repetition_penalty: 1.3 })),
    /repetition_penalty 1\.3.*with a request/,
  ],
  [
    "two end tokens",
    "text_llama",
    editJson("generation_config.json", (o) => ({ ...o, eos_token_id: 7 })),
    /different eos_token_id/,
  ],
];
const notes = suite("configs that are told");
for (const [what, base, edit, note] of told)
  notes(what, async () => {
    const dir = edited(folder(base), edit);
    await using model = await loadModel(dir);
    ordered(model.info.parameters, ">", 0);
    const report = await inspectCheckpoint(dir);
    assert.ok(
      report.notes.some((n) => note.test(n)),
      `${note} in ${JSON.stringify(report.notes)}`,
    );
  });

for (const base of ["text_llama", "text_llama3_rope", "text_llama_bias", "text_qwen2", "text_qwen3"] as const)
  notes(`a golden family gives no note about keys: ${base}`, async () => {
    assert.equal((await inspectCheckpoint(folder(base))).notes, [], base);
  });

notes("settings of generation that old configs hold are no unknown keys", async () => {
  const dir = edited(
    folder("text_llama"),
    config({ top_k: 50, temperature: 1, num_beams: 1, some_flag: false, some_list: [] }),
  );
  assert.equal((await inspectCheckpoint(dir)).notes, []);
});

for (const [what, name, ...edit] of [
  ["the model without its head", "LlamaModel", edits["no prefix"]!],
  ["an old spelling", "LLaMAForCausalLM"],
] as const)
  notes(`architectures: ${what}`, async () => {
    await using model = await loadModel(edited(folder("text_llama"), config({ architectures: [name] }), ...edit));
    assert.is(model.info.family, "llama");
  });

notes("architectures: other heads are refused", async () => {
  const dir = edited(folder("text_llama"), config({ architectures: ["LlamaForSequenceClassification"] }));
  await rejects(() => loadModel(dir), "CHECKPOINT_UNSUPPORTED", /LlamaForSequenceClassification/, "another head");
});

notes("neutral values of keys that would change results", async () => {
  const neutral = {
    ...{ attn_logit_softcapping: null, embedding_multiplier: 1, residual_multiplier: 1.0, logits_scaling: 1 },
    ...{ attention_multiplier: 1 / Math.sqrt(12), query_pre_attn_scalar: 12, partial_rotary_factor: 1.0 },
    ...{ no_rope_layers: [1, 1], use_qk_norm: false, quantization_config: {}, is_causal: true },
    ...{ attention_chunk_size: 512, num_local_experts: 0 },
  };
  const dir = edited(folder("text_llama"), config(neutral));
  await using model = await loadModel(dir);
  ordered(model.info.parameters, ">", 0);
  assert.equal((await inspectCheckpoint(dir)).notes, []);
});

notes("tensors that loading refuses are named by inspect", async () => {
  const dir = edited(folder("text_llama_bias"), config({ mlp_bias: false }));
  const report = await inspectCheckpoint(dir);
  assert.ok(
    report.notes.some((n) => /loading refuses 6 tensors: .*mlp.*bias/.test(n)),
    report.notes.join("\n"),
  );
  assert.is(report.unused.length, 6);
});

notes("biases of zeros and tensors outside the layers are left out and listed", async () => {
  const zero = "model.layers.0.self_attn.o_proj.bias";
  const score = "score.weight";
  const dir = edited(folder("text_llama"), add(zero, norm, 0), add(score, norm, 3));
  await using model = await loadModel(dir);
  ordered(model.info.parameters, ">", 0);
  assert.equal([...(await inspectCheckpoint(dir)).unused].sort(), [zero, score]);
});
notes.run();

// ---- end tokens: those of the configs, then the tokenizer's </s> (2), at which a generation ends too
const ends = suite("end tokens");
const endRows: [what: string, config: Edit, generation: Config | undefined, ids: number[]][] = [
  ["a number", config({ eos_token_id: 7 }), {}, [7, 2]],
  ["a list", config({ eos_token_id: [9, 7, 9] }), {}, [7, 9, 2]],
  ["null", config({ eos_token_id: null }), {}, [2]],
  ["-1: no token", config({ eos_token_id: -1 }), { eos_token_id: [7, -1] }, [7, 2]],
  ["absent: LlamaConfig's 2", config({}, ["eos_token_id"]), {}, [2]],
  ["a list in generation_config", config({ eos_token_id: 7 }), { eos_token_id: [7, 11] }, [7, 11, 2]],
];
for (const [what, change, generation, ids] of endRows)
  ends(what, async () => {
    const dir = edited(
      folder("text_llama"),
      change,
      editJson("generation_config.json", () => generation),
    );
    assert.equal((await inspectCheckpoint(dir)).endTokenIds, ids);
  });
ends("Infinity in a generation_config", async () => {
  const dir = edited(
    folder("text_llama"),
    editJson("generation_config.json", (o) => ({ ...o, max_time: "@" }), "Infinity"),
  );
  await using model = await loadModel(dir);
  assert.equal(model.info.endTokenIds, [2]);
});
ends.run();

// ---- the tokenizer beside them
const words = suite("tokenizers against their checkpoints");
const addedTokens = (first: number, ...contents: string[]): Edit =>
  editJson("tokenizer.json", (o) => {
    const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
    const all = contents.map((content, i) => ({ id: first + i, content, ...flags }));
    return { ...o, added_tokens: [...(o.added_tokens as Config[]), ...all] };
  });
const wordRows: [what: string, edit: Edit, note: RegExp | undefined][] = [
  [
    "two tokens more than rows",
    addedTokens(448, "<more0>", "<more1>"),
    /2 tokens .* 448 rows lacks: <more0> \(448\), <more1> \(449\); a text/,
  ],
  ["six tokens more", addedTokens(448, "<a>", "<b>", "<c>", "<d>", "<e>", "<f>"), /6 tokens .*<d> \(451\) and 2 more/],
  ["another end token", config({ eos_token_id: 7 }), /end token <\/s> \(2\) of the tokenizer.* \(7\)/],
  ["no end token", config({ eos_token_id: null }), /end token <\/s> \(2\) of the tokenizer.*\(none\)/],
  [
    "no tokenizer",
    (d) => ["tokenizer.json", "tokenizer_config.json"].map((f) => rmSync(join(d, f))),
    /no tokenizer: only token ids/,
  ],
  [
    "a tokenizer that is no JSON",
    (d) => writeFileSync(join(d, "tokenizer.json"), "{"),
    /the tokenizer cannot be used: .*tokenizer\.json/,
  ],
  [
    "Infinity where nothing counts it",
    editJson("tokenizer_config.json", (o) => ({ ...o, model_max_length: "@", odd: ["NaN in words"] }), "Infinity"),
    undefined,
  ],
  [
    "NaN where nothing counts it",
    editJson("tokenizer_config.json", (o) => ({ ...o, scale: ["@", '-Infinity \\" \\'] }), "NaN"),
    undefined,
  ],
];
for (const [what, edit, note] of wordRows)
  words(what, async () => {
    const generation = editJson("generation_config.json", (o) => ({ ...o, eos_token_id: null }));
    const report = await inspectCheckpoint(edited(folder("text_llama"), generation, edit));
    if (note)
      assert.ok(
        report.notes.some((n) => note.test(n)),
        `${note} in ${JSON.stringify(report.notes)}`,
      );
    else assert.equal(report.notes, []);
  });
words("Python's numbers are read, and in strings they are words", () => {
  const read = parsePythonJson('{"a": [NaN, Infinity, -Infinity, "NaN \\" Infinity"], "Infinity": -1}');
  assert.equal(read, { a: [Number.NaN, Infinity, -Infinity, 'NaN " Infinity'], Infinity: -1 });
});
for (const text of ["[Nan]", "[+Infinity]", "[NaN", '{"a": NaN, }', "[NaNNaN]", '["NaN]', "{Infinity: 1}"])
  words(`no number of Python's: ${text}`, () => {
    assert.throws(
      () => parsePythonJson(text),
      (e: unknown) => e instanceof SyntaxError,
    );
  });
words.run();

// ---- video models
const video = suite("configs of video models");
const part = (key: string, change: Config): Edit =>
  editJson("config.json", (o) => ({ ...o, [key]: { ...(o[key] as Config), ...change } }));
const equalRows: [what: string, family: VideoFamily, edit: Edit][] = [
  ["a list of one layer", "video_llava", config({ vision_feature_layer: [-2] })],
  ["a list of one layer, original", "llava_hound", config({ mm_vision_select_layer: [-2] })],
  ["swish", "llava_next_video", part("text_config", { hidden_act: "swish" })],
  ["gelu by its other name", "video_llava", config({ projector_hidden_act: "gelu_python" })],
  [
    "names of the base model",
    "video_llava",
    tensors(
      (all) =>
        new Map(
          [...all].map(([n, t]) => [
            n.replace(/^(model\.)?(language_model\.)(model\.)?(?!lm_head)/, "$2").replace(/^model\./, ""),
            t,
          ]),
        ),
    ),
  ],
  [
    "names without model., original",
    "llava_hound",
    tensors((all) => new Map([...all].map(([n, t]) => [n.replace(/^model\./, ""), t]))),
  ],
];
const embedded = async (dir: string): Promise<Float32Array> => {
  await using model = await loadModel(dir);
  return (await model.forward({ ids: reference.ids }, { outputs: ["logits"], rows: [-1, 0] })).logits!
    .data as Float32Array;
};
for (const [what, family, edit] of equalRows)
  video(what, async () => {
    near(await embedded(edited(folderOf(family), edit)), await embedded(folderOf(family)), 0, what);
  });

const videoRefused: [what: string, family: VideoFamily, edit: Edit, code: ErrorCode, message: RegExp][] = [
  [
    "several layers",
    "video_llava",
    config({ vision_feature_layer: [-2, -5] }),
    "CHECKPOINT_UNSUPPORTED",
    /vision_feature_layer \[-2,-5\]: features of several/,
  ],
  [
    "before the first layer",
    "video_llava",
    config({ vision_feature_layer: -4 }),
    "CHECKPOINT_UNSUPPORTED",
    /vision_feature_layer -4: features before/,
  ],
  ["no layer", "video_llava", config({ vision_feature_layer: [] }), "INVALID_CONFIG", /vision_feature_layer/],
  [
    "several layers, original",
    "llava_hound",
    config({ mm_vision_select_layer: [-2, -3] }),
    "CHECKPOINT_UNSUPPORTED",
    /mm_vision_select_layer/,
  ],
  [
    "a tower of another kind",
    "llava_next_video",
    part("vision_config", { model_type: "siglip_vision_model" }),
    "CHECKPOINT_UNSUPPORTED",
    /vision_config\.model_type "siglip/,
  ],
  [
    "quantised, at the top",
    "video_llava",
    config({ quantization_config: { load_in_4bit: true } }),
    "CHECKPOINT_UNSUPPORTED",
    /config\.json: quantization_config/,
  ],
  [
    "a scaled language model",
    "video_llava",
    part("text_config", { logits_scaling: 2 }),
    "CHECKPOINT_UNSUPPORTED",
    /text_config\.logits_scaling 2/,
  ],
  [
    "a tower that attends over time, denied",
    "llava_hound",
    editJson("video_tower_config.json", (o) => ({
      vision_config: { ...(o.vision_config as Config), add_time_attn: false },
    })),
    "CHECKPOINT_UNSUPPORTED",
    /temporal/,
  ],
  [
    "a bias that the projector is denied",
    "video_llava",
    config({ multimodal_projector_bias: false }),
    "CHECKPOINT_UNSUPPORTED",
    /linear_1\.bias/,
  ],
];
for (const [what, family, edit, code, message] of videoRefused)
  video(`refused: ${what}`, () => rejects(() => loadModel(edited(folderOf(family), edit)), code, message, what));

video("the tokenizer's <video> is another token than the config's", async () => {
  const note = "<video> is token 433 of the tokenizer and 440 of config.json, which is the one that is used";
  const notes = async (...all: Edit[]) => (await inspectCheckpoint(edited(folderOf("video_llava"), ...all))).notes;
  includes(await notes(config({ video_token_index: 440 })), note);
  none(await notes(), (n) => /is token/.test(n));
});

video("an image's aspect ratio is told", async () => {
  const dir = edited(folderOf("llava_hound"), config({ image_aspect_ratio: "pad" }));
  some((await inspectCheckpoint(dir)).notes, (n) => /image_aspect_ratio "pad" is not used/.test(n));
});
video.run();
