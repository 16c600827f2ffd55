// A seeded LlamaForCausalLM checkpoint on disk, of the shape that the benches use; values are bfloat16, small and fixed.
import { closeSync, existsSync, mkdirSync, openSync, renameSync, statSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";

/** Width 768, 12 layers: 134 M parameters, 268 MB. */
export const benchShape = { width: 768, layers: 12, heads: 12, kvHeads: 12, headSize: 64, mlp: 2048, vocab: 32000 };

export function tensorsOf({ width: C, layers, heads, kvHeads, headSize: D, mlp: F, vocab: V, tower }) {
  const list = [["model.embed_tokens.weight", [V, C]]];
  for (let i = 0; i < layers; ++i) {
    const at = `model.layers.${i}`;
    list.push([`${at}.input_layernorm.weight`, [C]]);
    list.push([`${at}.self_attn.q_proj.weight`, [heads * D, C]], [`${at}.self_attn.k_proj.weight`, [kvHeads * D, C]]);
    list.push([`${at}.self_attn.v_proj.weight`, [kvHeads * D, C]], [`${at}.self_attn.o_proj.weight`, [C, heads * D]]);
    list.push([`${at}.post_attention_layernorm.weight`, [C]], [`${at}.mlp.gate_proj.weight`, [F, C]]);
    list.push([`${at}.mlp.up_proj.weight`, [F, C]], [`${at}.mlp.down_proj.weight`, [C, F]]);
  }
  list.push(["model.norm.weight", [C]], ["lm_head.weight", [V, C]]);
  if (!tower) return list;
  return [...list.map(([name, dims]) => [`language_model.${name}`, dims]), ...visionTensors(tower, C)];
}

// A CLIP tower and its projector, as LLaVA-NeXT-Video names them.
function visionTensors({ width: W, layers, mlp, image, patch }, C) {
  const linear = (name, out, into) => [
    [`${name}.weight`, [out, into]],
    [`${name}.bias`, [out]],
  ];
  const norm = (name) => [
    [`${name}.weight`, [W]],
    [`${name}.bias`, [W]],
  ];
  const at = "vision_tower.vision_model";
  const list = [
    ...linear("multi_modal_projector.linear_1", C, W),
    ...linear("multi_modal_projector.linear_2", C, C),
    [`${at}.embeddings.class_embedding`, [W]],
    [`${at}.embeddings.patch_embedding.weight`, [W, 3, patch, patch]],
    [`${at}.embeddings.position_embedding.weight`, [(image / patch) ** 2 + 1, W]],
    ...norm(`${at}.pre_layrnorm`),
  ];
  for (let i = 0; i < layers; ++i) {
    const layer = `${at}.encoder.layers.${i}`;
    for (const part of ["q_proj", "k_proj", "v_proj", "out_proj"])
      list.push(...linear(`${layer}.self_attn.${part}`, W, W));
    list.push(...norm(`${layer}.layer_norm1`), ...norm(`${layer}.layer_norm2`));
    list.push(...linear(`${layer}.mlp.fc1`, mlp, W), ...linear(`${layer}.mlp.fc2`, W, mlp));
  }
  return list;
}

const elements = (shape) => shape.reduce((a, b) => a * b, 1);

// Values in [-0.04, 0.04), or 1 for norms. One block of 2^20 values is drawn and used again, each time from another place.
function writeValues(fd, name, shape, offset, pool) {
  const n = elements(shape);
  if (shape.length === 1)
    return writeSync(fd, new Uint8Array(new Uint16Array(n).fill(0x3f80).buffer), 0, 2 * n, offset);
  let start = [...name].reduce((h, c) => (Math.imul(h, 31) + c.charCodeAt(0)) >>> 0, 7) % pool.length;
  for (let done = 0; done < n; start = 0) {
    const count = Math.min(n - done, pool.length - start);
    writeSync(fd, new Uint8Array(pool.buffer, 2 * start, 2 * count), 0, 2 * count, offset + 2 * done);
    done += count;
  }
}

function valuePool() {
  const pool = new Uint16Array(1 << 20);
  const one = new Float32Array(1);
  const bits = new Uint32Array(one.buffer);
  let state = 0x9e3779b9;
  for (let i = 0; i < pool.length; ++i) {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x297a2d39) >>> 0;
    one[0] = 0.08 * (state / 2 ** 32 - 0.5);
    pool[i] = bits[0] >>> 16;
  }
  return pool;
}

function videoConfig({ architectures: _, ...text }, { tower, vocab }) {
  return {
    architectures: ["LlavaNextVideoForConditionalGeneration"],
    model_type: "llava_next_video",
    text_config: text,
    vision_config: {
      model_type: "clip_vision_model",
      hidden_size: tower.width,
      num_hidden_layers: tower.layers,
      num_attention_heads: tower.heads,
      intermediate_size: tower.mlp,
      image_size: tower.image,
      patch_size: tower.patch,
      hidden_act: "quick_gelu",
    },
    image_token_index: vocab - 1,
    video_token_index: vocab - 2,
    projector_hidden_act: "gelu",
    spatial_pool_stride: 2,
    vision_feature_layer: -1,
    vision_feature_select_strategy: "default",
    torch_dtype: "bfloat16",
  };
}

/** Makes `dir`/{config.json, model.safetensors} unless they are there; gives the weights' path and size. */
export function makeCheckpoint(dir, shape = benchShape) {
  const file = join(dir, "model.safetensors");
  if (existsSync(file)) return { dir, file, bytes: statSync(file).size };
  mkdirSync(dir, { recursive: true });
  const header = { __metadata__: { format: "pt" } };
  const tensors = tensorsOf(shape);
  let end = 0;
  for (const [name, dims] of tensors) {
    header[name] = { dtype: "BF16", shape: dims, data_offsets: [end, end + 2 * elements(dims)] };
    end += 2 * elements(dims);
  }
  const json = Buffer.from(JSON.stringify(header));
  const head = Buffer.concat([Buffer.alloc(8), json, Buffer.alloc((8 - (json.length % 8)) % 8, " ")]);
  head.writeBigUInt64LE(BigInt(head.length - 8));
  const fd = openSync(`${file}.tmp`, "w");
  writeSync(fd, head);
  const pool = valuePool();
  for (const [name, dims] of tensors) writeValues(fd, name, dims, head.length + header[name].data_offsets[0], pool);
  closeSync(fd);
  const text = {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: shape.width,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.kvHeads,
    head_dim: shape.headSize,
    intermediate_size: shape.mlp,
    vocab_size: shape.vocab,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: "silu",
    tie_word_embeddings: false,
    attention_bias: false,
    mlp_bias: false,
    bos_token_id: 1,
    eos_token_id: 2,
    torch_dtype: "bfloat16",
  };
  const config = shape.tower ? videoConfig(text, shape) : text;
  writeFileSync(join(dir, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
  renameSync(`${file}.tmp`, file);
  return { dir, file, bytes: statSync(file).size };
}
