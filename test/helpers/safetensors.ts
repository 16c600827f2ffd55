// A small safetensors reader for the golden data, independent of the engine's.
import { readFileSync, writeFileSync } from "node:fs";

export interface Stored {
  dtype: string;
  shape: number[];
  data: Float32Array | Int32Array | Uint16Array | Uint8Array; // F32, I64 (narrowed), I32, BF16 bit patterns, U8 and BOOL
}

export function readSafetensors(path: string): Map<string, Stored> {
  const bytes = readFileSync(path);
  const begin = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, begin).toString("utf8")) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const all = new Map<string, Stored>();
  for (const [name, t] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [from, to] = t.data_offsets;
    const copy = Uint8Array.prototype.slice.call(bytes, begin + from, begin + to).buffer as ArrayBuffer;
    all.set(name, { dtype: t.dtype, shape: t.shape, data: decode(t.dtype, copy) });
  }
  return all;
}

function decode(dtype: string, bytes: ArrayBuffer): Stored["data"] {
  if (dtype === "F32") return new Float32Array(bytes);
  if (dtype === "I64") return Int32Array.from(new BigInt64Array(bytes), Number);
  if (dtype === "I32") return new Int32Array(bytes);
  if (dtype === "U8" || dtype === "BOOL") return new Uint8Array(bytes);
  if (dtype === "BF16") return new Uint16Array(bytes);
  throw new Error(`golden data of type ${dtype}`);
}

export function floatsOf(all: Map<string, Stored>, name: string): Float32Array {
  const t = all.get(name);
  if (!(t?.data instanceof Float32Array)) throw new Error(`no float32 tensor ${name}`);
  return t.data;
}

export function intsOf(all: Map<string, Stored>, name: string): Int32Array {
  const t = all.get(name);
  if (!(t?.data instanceof Int32Array)) throw new Error(`no integer tensor ${name}`);
  return t.data;
}

const elementBytes: Record<string, number> = { F32: 4, BF16: 2, U8: 1 };

/** The reverse, for tensors whose bytes it keeps (no I64). */
export function writeSafetensors(path: string, tensors: ReadonlyMap<string, Stored>): void {
  let at = 0;
  const header: Record<string, object> = {};
  const bytes: Buffer[] = [];
  for (const [name, t] of tensors) {
    if (!elementBytes[t.dtype]) throw new Error(`cannot write ${t.dtype}`);
    const data = Buffer.from(t.data.buffer, t.data.byteOffset, t.data.byteLength);
    header[name] = { dtype: t.dtype, shape: t.shape, data_offsets: [at, at + data.length] };
    at += data.length;
    bytes.push(data);
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, ...bytes]));
}
