// What this machine and a checkpoint are, without loading weights.
import { binaryPath, machine, type NativeReport, sharedHost } from "./addon.js";
import { options, path } from "./check.js";
import { visualTokens } from "./media.js";
import type { ModelInfo, Tokenizer, TokenizerOptions } from "./types.js";

export interface DeviceReport {
  /** The binary in use. */
  binary: string;
  isa: string;
  threads: number;
  memoryBytes: number;
  cuda: readonly { name: string; memoryBytes: number; capability: string }[];
  problems: readonly string[];
}

export async function inspectDevice(): Promise<DeviceReport> {
  const m = machine();
  return {
    binary: binaryPath(),
    isa: m.isa ?? m.machineIsa,
    threads: m.threads,
    memoryBytes: m.memoryBytes,
    cuda: [],
    problems: m.problem === undefined ? [] : [m.problem],
  };
}

export interface CheckpointReport extends Omit<ModelInfo, "device" | "isa"> {
  files: readonly string[];
  parts: readonly { name: string; parameters: number; dtypes: readonly string[] }[];
  /** Tensors that the model needs and the files lack. */
  missing: readonly string[];
  /** Tensors of the files that the model does not use. */
  unused: readonly string[];
  /** What is unusual, for people. */
  notes: readonly string[];
}

export async function inspectCheckpoint(dir: string): Promise<CheckpointReport> {
  const r = await sharedHost().call<NativeReport>("inspect", { dir: path("dir", dir) });
  return {
    family: r.family,
    modelType: r.modelType,
    dtype: r.parts.some((p) => p.dtypes.includes("BF16")) ? "bf16" : "f32",
    parameters: r.parameters,
    trainable: r.parameters,
    contextLength: r.contextLength,
    vocabSize: r.vocabSize,
    endTokenIds: [...r.endTokenIds],
    visualTokens: visualTokens(r),
    files: r.files,
    parts: r.parts,
    missing: r.missing,
    unused: r.unused,
    notes: r.notes,
  };
}

/** The tokenizer of a checkpoint folder (tokenizer.json, or tokenizer.model), without its weights. */
export async function loadTokenizer(dir: string, o?: TokenizerOptions): Promise<Tokenizer> {
  const folder = path("dir", dir);
  const { templateDate } = options("options", o, ["templateDate"]) as TokenizerOptions;
  const text = await import("./text/tokenizer.js");
  return text.loadTokenizer(folder, templateDate === undefined ? {} : { templateDate });
}
