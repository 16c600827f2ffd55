// New checkpoints: small models with random weights in a layout that the engine loads, trains and saves.
import { dirname, join } from "node:path";
import { array, choice, integer, object, options, path, refuse } from "../base/check.js";
import { AtomicDir, makeFolders, writeAtomic } from "../base/atomic-files.js";
import type { Tensor } from "../base/types.js";
import { Random } from "./seeded-draws.js";
import { chatTemplate, tokenizerConfig, tokenizerJson, vocabularyOf } from "./word-tokenizer.js";

/** Sizes of a Llama decoder. */
export interface DecoderSpec {
  /** Numbers of a hidden state; a multiple of `heads`. */
  width: number;
  /** Number of layers. */
  layers: number;
  /** Attention heads. */
  heads: number;
  /** Numbers inside the MLP. */
  mlpWidth: number;
  /** Length of the context in tokens; default 1024. */
  context?: number;
}

/** Sizes of a LanguageBind tower, which sees clips of `frames` square frames, with attention over time and within each frame. */
export interface TowerSpec {
  /** Numbers of a hidden state; a multiple of `heads`. */
  width: number;
  /** Number of layers. */
  layers: number;
  /** Attention heads. */
  heads: number;
  /** Numbers inside the MLP. */
  mlpWidth: number;
  /** Edge of a frame in pixels. */
  image: number;
  /** Edge of a patch in pixels. */
  patch: number;
  /** Number of frames per clip. */
  frames: number;
}

/** What a new checkpoint is made of. */
export interface InitSpec {
  /** The vocabulary, with one token per word; "USER:" and "ASSISTANT:" are added if they are missing. */
  words: readonly string[];
  /** The language model. */
  decoder: DecoderSpec;
  /** The vision tower of a video model (llava_hound); default: none, a text model (llama). */
  tower?: TowerSpec;
  /** Type of the weights in the files; default "f32". */
  dtype?: "f32" | "bf16";
}

/** How a tensor begins: ones, zeros, or evenly drawn from -range to range. */
type Start = "ones" | "zeros" | { range: number };
interface Planned {
  name: string;
  shape: readonly number[];
  start: Start;
}

const spread = (deviation: number): Start => ({ range: deviation * Math.sqrt(3) });

function linear(name: string, out: number, into: number, bias: boolean): Planned[] {
  const weight: Planned = { name: `${name}.weight`, shape: [out, into], start: { range: 1 / Math.sqrt(into) } };
  return bias ? [weight, { name: `${name}.bias`, shape: [out], start: "zeros" }] : [weight];
}

const norm = (name: string, width: number, bias: boolean): Planned[] => [
  { name: `${name}.weight`, shape: [width], start: "ones" },
  ...(bias ? [{ name: `${name}.bias`, shape: [width], start: "zeros" as const }] : []),
];

const attention = (name: string, width: number, bias: boolean, out: string): Planned[] =>
  ["q_proj", "k_proj", "v_proj", out].flatMap((part) => linear(`${name}.${part}`, width, width, bias));

function decoderTensors(d: DecoderSpec, vocabulary: number): Planned[] {
  const layer = (i: number) => {
    const at = `model.layers.${i}`;
    return [
      ...norm(`${at}.input_layernorm`, d.width, false),
      ...attention(`${at}.self_attn`, d.width, false, "o_proj"),
      ...norm(`${at}.post_attention_layernorm`, d.width, false),
      ...linear(`${at}.mlp.gate_proj`, d.mlpWidth, d.width, false),
      ...linear(`${at}.mlp.up_proj`, d.mlpWidth, d.width, false),
      ...linear(`${at}.mlp.down_proj`, d.width, d.mlpWidth, false),
    ];
  };
  return [
    { name: "model.embed_tokens.weight", shape: [vocabulary, d.width], start: spread(0.05) },
    ...Array.from({ length: d.layers }, (_, i) => layer(i)).flat(),
    ...norm("model.norm", d.width, false),
  ];
}

function towerTensors(t: TowerSpec, width: number): Planned[] {
  const top = "model.video_tower.video_tower";
  const places = (t.image / t.patch) ** 2 + 1;
  const layer = (i: number) => {
    const at = `${top}.encoder.layers.${i}`;
    return [
      { name: `${at}.temporal_embedding`, shape: [1, t.frames, t.width], start: spread(0.02) },
      ...norm(`${at}.temporal_layer_norm1`, t.width, true),
      ...attention(`${at}.temporal_attn`, t.width, true, "out_proj"),
      ...norm(`${at}.layer_norm1`, t.width, true),
      ...attention(`${at}.self_attn`, t.width, true, "out_proj"),
      ...norm(`${at}.layer_norm2`, t.width, true),
      ...linear(`${at}.mlp.fc1`, t.mlpWidth, t.width, true),
      ...linear(`${at}.mlp.fc2`, t.width, t.mlpWidth, true),
    ];
  };
  const patches: Planned = {
    name: `${top}.embeddings.patch_embedding.weight`,
    shape: [t.width, 3, t.patch, t.patch],
    start: { range: 1 / Math.sqrt(3 * t.patch * t.patch) },
  };
  return [
    { name: `${top}.embeddings.class_embedding`, shape: [t.width], start: spread(0.02) },
    patches,
    { name: `${top}.embeddings.position_embedding.weight`, shape: [places, t.width], start: spread(0.1) },
    ...norm(`${top}.pre_layrnorm`, t.width, true),
    ...Array.from({ length: t.layers }, (_, i) => layer(i)).flat(),
    ...norm(`${top}.post_layernorm`, t.width, true),
    ...linear("model.mm_projector.0", width, t.width, true),
    ...linear("model.mm_projector.2", width, width, true),
  ];
}

const elements = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

type Given = ReadonlyMap<string, Tensor>;

/** Draws of one tensor depend on the seed and its name alone. */
function values({ name, shape, start }: Planned, seed: string, given: Given): Float32Array {
  const own = given.get(name);
  if (own) {
    if (own.data instanceof Float32Array && String(own.shape) === String(shape)) return own.data;
    refuse(`given.${name}`, `f32 of shape ${shape.join(" x ")}`, `${own.dtype} of shape ${own.shape.join(" x ")}`);
  }
  const out = new Float32Array(elements(shape));
  if (start === "zeros") return out;
  if (start === "ones") return out.fill(1);
  const random = new Random("init", seed, name);
  return out.map(() => random.between(-start.range, start.range));
}

/** Bit patterns of bfloat16, rounded to the nearest, ties to even. */
function bfloat16(x: Float32Array): Uint16Array {
  const bits = new Uint32Array(x.buffer, x.byteOffset, x.length);
  return Uint16Array.from(bits, (b) => (b + 0x7fff + ((b >>> 16) & 1)) >>> 16);
}

/** A safetensors file. */
function safetensors(tensors: readonly Planned[], dtype: "f32" | "bf16", seed: string, given: Given): Uint8Array {
  const width = dtype === "f32" ? 4 : 2;
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  let at = 0;
  for (const { name, shape } of tensors) {
    const to = at + width * elements(shape);
    header[name] = { dtype: dtype === "f32" ? "F32" : "BF16", shape, data_offsets: [at, to] };
    at = to;
  }
  const text = JSON.stringify(header);
  const head = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
  const file = Buffer.alloc(8 + head.length + at);
  file.writeBigUInt64LE(BigInt(head.length));
  head.copy(file, 8);
  let place = 8 + head.length;
  for (const tensor of tensors) {
    const drawn = values(tensor, seed, given);
    const data = dtype === "f32" ? drawn : bfloat16(drawn);
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), place);
    place += data.byteLength;
  }
  return file;
}

const positive = (field: string, o: Record<string, unknown>, key: string) =>
  integer(`${field}.${key}`, o[key], 1, 65536);

function sizes<K extends string>(field: string, value: unknown, keys: readonly K[], more: readonly string[] = []) {
  const o = options(field, object(field, value), [...keys, ...more]);
  const all = Object.fromEntries(keys.map((key) => [key, positive(field, o, key)])) as Record<K, number>;
  return { o, all };
}

function checkedSpec(value: unknown) {
  const o = options("spec", object("spec", value), ["words", "decoder", "tower", "dtype"]);
  const given = array("spec.words", o.words).map((word, i) =>
    typeof word === "string" ? word : refuse(`spec.words[${i}]`, "a string", word),
  );
  const words = [...["USER:", "ASSISTANT:"].filter((w) => !given.includes(w)), ...given];
  const d = sizes("spec.decoder", o.decoder, ["width", "layers", "heads", "mlpWidth"], ["context"]);
  const context = d.o.context === undefined ? 1024 : positive("spec.decoder", d.o, "context");
  if (d.all.width % (2 * d.all.heads) !== 0)
    refuse("spec.decoder.heads", `heads of an even size (width ${d.all.width})`, d.all.heads);
  const keys = ["width", "layers", "heads", "mlpWidth", "image", "patch", "frames"] as const;
  const tower = o.tower === undefined ? undefined : sizes("spec.tower", o.tower, keys).all;
  if (tower && tower.width % tower.heads !== 0)
    refuse("spec.tower.heads", `a divisor of width (${tower.width})`, tower.heads);
  if (tower && tower.image % tower.patch !== 0)
    refuse("spec.tower.patch", `a divisor of image (${tower.image})`, tower.patch);
  const dtype = o.dtype === undefined ? "f32" : (choice("spec.dtype", o.dtype, ["f32", "bf16"]) as "f32" | "bf16");
  return { words, decoder: { ...d.all, context }, tower, dtype };
}

const video = {
  architectures: ["LlavaLlamaForCausalLM"],
  model_type: "llava_llama",
  X: ["Video"],
  mm_projector_type: "mlp2x_gelu",
  mm_use_im_patch_token: false,
  mm_use_im_start_end: false,
  mm_video_tower: "LanguageBind/LanguageBind_Video_merge",
  mm_vision_select_feature: "patch",
  mm_vision_select_layer: -1,
  use_mm_proj: true,
};
const text = { architectures: ["LlamaForCausalLM"], model_type: "llama" };

function configOf({ words, decoder, tower, dtype }: ReturnType<typeof checkedSpec>): Record<string, unknown> {
  return {
    ...(tower ? { ...video, mm_hidden_size: tower.width } : text),
    bos_token_id: 1,
    eos_token_id: 2,
    hidden_act: "silu",
    hidden_size: decoder.width,
    intermediate_size: decoder.mlpWidth,
    max_position_embeddings: decoder.context,
    num_attention_heads: decoder.heads,
    num_hidden_layers: decoder.layers,
    num_key_value_heads: decoder.heads,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    tie_word_embeddings: true,
    torch_dtype: dtype === "f32" ? "float32" : "bfloat16",
    vocab_size: vocabularyOf(words).length,
  };
}

const towerConfig = (t: TowerSpec) => ({
  vision_config: {
    add_time_attn: true,
    hidden_act: "gelu",
    hidden_size: t.width,
    image_size: t.image,
    intermediate_size: t.mlpWidth,
    num_attention_heads: t.heads,
    num_frames: t.frames,
    num_hidden_layers: t.layers,
    patch_size: t.patch,
  },
});

/**
 * Writes a checkpoint with random weights and a tokenizer with one token per word: a llama text model, or with `tower` a
 * llava_hound video model. Output head and embeddings are one tensor. Equal specs and seeds give equal bytes on every
 * machine. The folder appears only when it is complete.
 *
 * @param dir - the folder to make
 * @param spec - sizes and vocabulary
 * @param seed - seed of the random weights
 * @param given - tensors, as float32, that replace random ones, by name
 * @throws {@link IsrDpoError} INVALID_ARGUMENT: the spec makes no model; IO: the folder exists already
 */
export async function initCheckpoint(
  dir: string,
  spec: InitSpec,
  seed: number | bigint = 0,
  given: ReadonlyMap<string, Tensor> = new Map(),
): Promise<{
  /** Number of parameters. */
  parameters: number;
  /** Names of the tensors, in the order of the file. */
  names: readonly string[];
}> {
  const checked = checkedSpec(spec);
  const { words, decoder, tower, dtype } = checked;
  const planned = decoderTensors(decoder, vocabularyOf(words).length);
  if (tower) planned.push(...towerTensors(tower, decoder.width));
  planned.sort((a, b) => (a.name < b.name ? -1 : 1));
  path("dir", dir);
  const json = (value: unknown) => `${JSON.stringify(value, null, 1)}\n`;
  const files: Record<string, string | Uint8Array> = {
    "config.json": json(configOf(checked)),
    "model.safetensors": safetensors(planned, dtype, String(seed), given),
    "tokenizer.json": json(tokenizerJson(words)),
    "tokenizer_config.json": json(tokenizerConfig),
    ...(tower ? { "video_tower_config.json": json(towerConfig(tower)) } : { "chat_template.jinja": chatTemplate }),
  };
  await makeFolders(dirname(dir));
  const folder = await AtomicDir.create(dir);
  try {
    for (const [name, bytes] of Object.entries(files)) await writeAtomic(join(folder.path, name), bytes);
  } catch (e) {
    await folder.abandon();
    throw e;
  }
  await folder.commit();
  return { parameters: planned.reduce((n, t) => n + elements(t.shape), 0), names: planned.map((t) => t.name) };
}
