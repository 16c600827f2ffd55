// A model of 1.5 M parameters with random weights, and sums for it to learn, from nothing:
//   node examples/tiny.mjs tiny
//   npx isr-dpo train sft --model tiny/model --data tiny/train.jsonl --eval-data tiny/eval.jsonl --run-dir tiny/run --learning-rate 2e-3 --schedule cosine --epochs 20 --items-per-step 32
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";

const [dir, ...rest] = process.argv.slice(2);
if (!dir || dir.startsWith("-") || rest.length > 0) {
  console.error("usage: node examples/tiny.mjs FOLDER");
  process.exit(2);
}
if (existsSync(dir) && readdirSync(dir).length > 0) {
  console.error(`${dir}: expected a new or an empty folder, got one with ${readdirSync(dir).slice(0, 5).join(", ")}`);
  process.exit(2);
}
const [width, mlp, layers, heads] = [128, 384, 7, 4];
const special = ["<pad>", "<s>", "</s>"];
const characters = Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i));
const vocab = [...special, ...characters];

let state = 1;
const random = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32;
};
const noise = (n, scale) => Float32Array.from({ length: n }, () => (2 * random() - 1) * scale);

function* tensors() {
  const matrix = (name, out, by) => [name, [out, by], noise(out * by, Math.sqrt(3 / by) * 0.7)];
  const norm = (name) => [name, [width], new Float32Array(width).fill(1)];
  yield matrix("model.embed_tokens.weight", vocab.length, width);
  for (let l = 0; l < layers; l++) {
    const at = `model.layers.${l}.`;
    for (const part of ["q", "k", "v", "o"]) yield matrix(`${at}self_attn.${part}_proj.weight`, width, width);
    for (const part of ["gate", "up"]) yield matrix(`${at}mlp.${part}_proj.weight`, mlp, width);
    yield matrix(`${at}mlp.down_proj.weight`, width, mlp);
    yield norm(`${at}input_layernorm.weight`);
    yield norm(`${at}post_attention_layernorm.weight`);
  }
  yield norm("model.norm.weight");
  yield matrix("lm_head.weight", vocab.length, width);
}

function safetensors(list) {
  const header = {};
  let at = 0;
  for (const [name, shape, data] of list) {
    header[name] = { dtype: "F32", shape, data_offsets: [at, at + data.byteLength] };
    at += data.byteLength;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, ...list.map(([, , data]) => Buffer.from(data.buffer))]);
}

const config = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: width,
  intermediate_size: mlp,
  num_hidden_layers: layers,
  num_attention_heads: heads,
  num_key_value_heads: heads,
  vocab_size: vocab.length,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  bos_token_id: 1,
  eos_token_id: 2,
  tie_word_embeddings: false,
};
const tokenizer = {
  version: "1.0",
  added_tokens: special.map((content, id) => ({ id, content, special: true, normalized: false })),
  model: { type: "BPE", vocab: Object.fromEntries(vocab.map((token, id) => [token, id])), merges: [] },
  decoder: { type: "Fuse" },
};
const template =
  "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + eos_token }}{% else %}{{ m.content + ' = ' }}{% endif %}{% endfor %}";

function* sums(first, step) {
  for (let i = first; i < 3600; i += step) {
    const [a, b] = [i % 60, Math.floor(i / 60)];
    yield `${JSON.stringify({ prompt: `${a} + ${b}`, completion: String(a + b) })}\n`;
  }
}

mkdirSync(`${dir}/model`, { recursive: true });
const write = (name, data) => writeFileSync(`${dir}/${name}`, data);
write("model/config.json", JSON.stringify(config, null, 2));
write("model/tokenizer.json", JSON.stringify(tokenizer));
write("model/tokenizer_config.json", JSON.stringify({ bos_token: "<s>", eos_token: "</s>", chat_template: template }));
const all = [...tensors()];
write("model/model.safetensors", safetensors(all));
write("train.jsonl", [...sums(0, 7), ...sums(1, 7), ...sums(2, 7), ...sums(3, 7)].join(""));
write("eval.jsonl", [...sums(5, 70)].join(""));
const parameters = all.reduce((n, [, , data]) => n + data.length, 0);
console.log(
  `${dir}/model: ${parameters.toLocaleString("en-US")} parameters; ${dir}/train.jsonl, ${dir}/eval.jsonl: sums`,
);
