// A seeded Llama of a size where work is really divided among threads, and prompts longer than a block of keys.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "./files.js";

export const seededShape = { width: 192, layers: 2, heads: 6, kvHeads: 2, mlp: 512, vocab: 3000, context: 1024 };

/** Uniform in [-1, 1), the same for the same seed. */
export function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}

export function seededIds(seed: number, length: number): Int32Array {
  const next = uniform(seed);
  return Int32Array.from({ length }, () => 3 + Math.floor(((next() + 1) / 2) * (seededShape.vocab - 3)));
}

function tensors(): [name: string, rows: number, cols: number][] {
  const { width, heads, kvHeads, mlp, vocab } = seededShape;
  const kv = (width / heads) * kvHeads;
  const layer = (l: number): [string, number, number][] => [
    [`model.layers.${l}.input_layernorm.weight`, 0, width],
    [`model.layers.${l}.mlp.down_proj.weight`, width, mlp],
    [`model.layers.${l}.mlp.gate_proj.weight`, mlp, width],
    [`model.layers.${l}.mlp.up_proj.weight`, mlp, width],
    [`model.layers.${l}.post_attention_layernorm.weight`, 0, width],
    [`model.layers.${l}.self_attn.k_proj.weight`, kv, width],
    [`model.layers.${l}.self_attn.o_proj.weight`, width, width],
    [`model.layers.${l}.self_attn.q_proj.weight`, width, width],
    [`model.layers.${l}.self_attn.v_proj.weight`, kv, width],
  ];
  const layers = Array.from({ length: seededShape.layers }, (_, l) => layer(l)).flat();
  return [
    ["lm_head.weight", vocab, width],
    ["model.embed_tokens.weight", vocab, width],
    ...layers,
    ["model.norm.weight", 0, width],
  ];
}

let made: string | undefined;

/** The model's folder, made once a process. */
export function seededModel(): string {
  if (made) return made;
  const dir = join(temporaryFolder(), "seeded");
  mkdirSync(dir);
  const { width, layers, heads, kvHeads, mlp, vocab, context } = seededShape;
  const config = {
    ...{
      architectures: ["LlamaForCausalLM"],
      model_type: "llama",
      hidden_act: "silu",
      eos_token_id: 2,
      torch_dtype: "float32",
    },
    ...{ hidden_size: width, num_hidden_layers: layers, num_attention_heads: heads, num_key_value_heads: kvHeads },
    ...{
      intermediate_size: mlp,
      vocab_size: vocab,
      max_position_embeddings: context,
      rms_norm_eps: 1e-5,
      rope_theta: 1e4,
    },
    tie_word_embeddings: false,
  };
  writeFileSync(join(dir, "config.json"), JSON.stringify(config));
  const next = uniform(17);
  const header: Record<string, unknown> = {};
  const parts: Buffer[] = [];
  let offset = 0;
  for (const [name, rows, cols] of tensors()) {
    const size = Math.max(rows, 1) * cols;
    const scale = Math.sqrt(3 / cols);
    const data = Float32Array.from({ length: size }, () => (rows === 0 ? 1 + 0.1 * next() : scale * next()));
    header[name] = {
      dtype: "F32",
      shape: rows === 0 ? [cols] : [rows, cols],
      data_offsets: [offset, offset + 4 * size],
    };
    offset += 4 * size;
    parts.push(Buffer.from(data.buffer));
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(join(dir, "model.safetensors"), Buffer.concat([length, text, ...parts]));
  made = dir;
  return dir;
}
