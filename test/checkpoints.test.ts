// Spoiled checkpoints: each fault a typed error that names the file and what is wrong with it. A new fault is a new row.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import { type ErrorCode, loadModel } from "../src/index.js";
import { rejects } from "./helpers/assert.js";
import { copyOf } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";

const test = suite("checkpoints");

type Spoil = (dir: string) => void;
const editJson = (name: string, edit: (o: Record<string, unknown>) => unknown): Spoil => {
  return (dir) => {
    const path = join(dir, name);
    const value = JSON.parse(readFileSync(path, "utf8"));
    writeFileSync(path, JSON.stringify(edit(value) ?? value));
  };
};
const config = (change: object) => editJson("config.json", (o) => Object.assign(o, change));
const without = (key: string) => editJson("config.json", (o) => void delete o[key]);
/** Rewrites the header of model.safetensors: its text, where a string is given, or its entries. */
const header = (
  edit: (entries: Record<string, { dtype: string; shape: number[]; data_offsets: number[] }>) => unknown,
): Spoil => {
  return (dir) => {
    const path = join(dir, "model.safetensors");
    const bytes = readFileSync(path);
    const begin = 8 + Number(bytes.readBigUInt64LE(0));
    const entries = JSON.parse(bytes.subarray(8, begin).toString());
    const edited = edit(entries);
    const text = Buffer.from(typeof edited === "string" ? edited : JSON.stringify(entries), "latin1");
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.length));
    writeFileSync(path, Buffer.concat([length, text, bytes.subarray(begin)]));
  };
};
const norm = "model.norm.weight";
const many = () => {
  const entries = Array.from({ length: 100_000 }, (_, i) => `"t${i}":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`);
  return `{${entries.join(",")}}`;
};

const checkpointRows: [what: string, spoil: Spoil, code: ErrorCode, message: RegExp][] = [
  ["no config", (d) => rmSync(join(d, "config.json")), "NOT_FOUND", /config\.json/],
  ["no weights", (d) => rmSync(join(d, "model.safetensors")), "NOT_FOUND", /safetensors/],
  [
    "a folder in place of weights",
    (d) => {
      rmSync(join(d, "model.safetensors"));
      mkdirSync(join(d, "model.safetensors"));
    },
    "CHECKPOINT_CORRUPT",
    /safetensors/,
  ],
  ["a config that is no JSON", (d) => writeFileSync(join(d, "config.json"), "{"), "INVALID_CONFIG", /config\.json/],
  [
    "a model type of another kind",
    config({ model_type: "mamba", architectures: ["MambaForCausalLM"] }),
    "CHECKPOINT_UNSUPPORTED",
    /mamba/i,
  ],
  ["no width", without("hidden_size"), "INVALID_CONFIG", /hidden_size/],
  ["a negative width", config({ hidden_size: -48 }), "INVALID_CONFIG", /hidden_size.*-48/],
  ["a huge vocabulary", config({ vocab_size: 2 ** 40 }), "INVALID_CONFIG", /vocab_size/],
  ["layers as words", config({ num_hidden_layers: "two" }), "INVALID_CONFIG", /num_hidden_layers/],
  ["a width that the tensors lack", config({ hidden_size: 64 }), "CHECKPOINT_CORRUPT", /\[448, 64\].*\[448, 48\]/],
  ["kv heads that do not divide", config({ num_key_value_heads: 3 }), "INVALID_CONFIG", /num_key_value_heads|kv/i],
  [
    "a rope of unknown type",
    config({ rope_parameters: { rope_type: "spiral", rope_theta: 1e4, factor: 2 } }),
    "CHECKPOINT_UNSUPPORTED",
    /spiral/,
  ],
  [
    "a truncated file",
    (d) => {
      const p = join(d, "model.safetensors");
      writeFileSync(p, readFileSync(p).subarray(0, 9000));
    },
    "CHECKPOINT_CORRUPT",
    /model\.safetensors/,
  ],
  ["an empty file", (d) => writeFileSync(join(d, "model.safetensors"), ""), "CHECKPOINT_CORRUPT", /model\.safetensors/],
  [
    "a header longer than the file",
    (d) => {
      const p = join(d, "model.safetensors");
      const b = readFileSync(p);
      b.writeBigUInt64LE(1n << 40n);
      writeFileSync(p, b);
    },
    "CHECKPOINT_CORRUPT",
    /header/,
  ],
  ["a header that is no JSON", header(() => "{nonsense"), "CHECKPOINT_CORRUPT", /model\.safetensors/],
  ["a header that is not UTF-8", header(() => '{"\xff\xfe":1}'), "CHECKPOINT_CORRUPT", /UTF-8/i],
  [
    "a deep header",
    header(() => `{"a":${"[".repeat(5000)}${"]".repeat(5000)}}`),
    "CHECKPOINT_CORRUPT",
    /deep|depth|nest/i,
  ],
  ["a key twice", header(() => '{"a":1,"a":2}'), "CHECKPOINT_CORRUPT", /unique keys/],
  ["100,000 entries", header(many), "CHECKPOINT_CORRUPT", /./],
  [
    "two tensors in one place",
    header((h) => Object.assign(h[norm]!, { data_offsets: [0, 192] })),
    "CHECKPOINT_CORRUPT",
    /./,
  ],
  [
    "a tensor past the end",
    header((h) => Object.assign(h[norm]!, { data_offsets: [1 << 30, (1 << 30) + 192] })),
    "CHECKPOINT_CORRUPT",
    /./,
  ],
  ["offsets reversed", header((h) => void h[norm]!.data_offsets.reverse()), "CHECKPOINT_CORRUPT", /./],
  ["a hole", header((h) => void delete h[norm]), "CHECKPOINT_CORRUPT", /./],
  [
    "a shape that is not the bytes",
    header((h) => Object.assign(h[norm]!, { shape: [47] })),
    "CHECKPOINT_CORRUPT",
    /model\.norm\.weight/,
  ],
  [
    "a shape whose product wraps",
    header((h) => Object.assign(h[norm]!, { shape: [2 ** 33, 2 ** 33] })),
    "CHECKPOINT_CORRUPT",
    /./,
  ],
  ["an unknown type", header((h) => Object.assign(h[norm]!, { dtype: "F4" })), "CHECKPOINT_CORRUPT", /F4/],
  [
    "a tensor that is not there",
    header((h) => {
      h.other = h[norm]!;
      delete h[norm];
    }),
    "CHECKPOINT_CORRUPT",
    /model\.norm\.weight/,
  ],
];

for (const [what, spoil, code, message] of checkpointRows)
  test(`a checkpoint with ${what}`, async () => {
    const dir = copyOf(folder("text_llama"));
    spoil(dir);
    await rejects(() => loadModel(dir), code, message, what);
  });

const weightMap = (edit: (map: Record<string, string>) => unknown): Spoil =>
  editJson("model.safetensors.index.json", (o) => void edit(o.weight_map as Record<string, string>));

const shardRows: typeof checkpointRows = [
  ["a missing shard", (d) => rmSync(join(d, "model-00002-of-00003.safetensors")), "CHECKPOINT_CORRUPT", /00002/],
  [
    "an index that names no shard",
    weightMap((m) => Object.assign(m, { [norm]: "a.safetensors" })),
    "CHECKPOINT_CORRUPT",
    /a\.safetensors/,
  ],
  [
    "an index that leaves the folder",
    weightMap((m) => Object.assign(m, { [norm]: "../../a.safetensors" })),
    "CHECKPOINT_CORRUPT",
    /\.\./,
  ],
];

for (const [what, spoil, code, message] of shardRows)
  test(`a sharded checkpoint with ${what}`, async () => {
    const dir = copyOf(folder("text_llama3_rope"));
    spoil(dir);
    await rejects(() => loadModel(dir), code, message, what);
  });

test.run();
