// Tensors of a safetensors file by name, for the benches.
import { readFileSync } from "node:fs";

export function tensors(path) {
  const bytes = readFileSync(path);
  const begin = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, begin).toString("utf8"));
  return (name) => {
    const { dtype, shape, data_offsets: at } = header[name];
    const copy = new Uint8Array(bytes.subarray(begin + at[0], begin + at[1])).buffer;
    return { shape, data: dtype === "I64" ? Int32Array.from(new BigInt64Array(copy), Number) : new Float32Array(copy) };
  };
}
