// The golden adapters: PEFT's folders beside the family that each belongs to, and what PEFT computes with them.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { SequencePair } from "../../src/index.js";
import { dpo, folder, pairs } from "./golden.js";
import { folderOf, videoDpo, videoPairs } from "./golden-video.js";
import { floatsOf, readSafetensors } from "./safetensors.js";

const root = fileURLToPath(new URL("../golden/", import.meta.url));

export const adapters = ["lora_text_qwen2", "lora_llava_next_video"] as const;
export type AdapterName = (typeof adapters)[number];

interface Side {
  chosen: Float32Array;
  rejected: Float32Array;
}

export interface Lora {
  /** The base's folder, and the adapter's. */
  base: string;
  dir: string;
  facts: {
    loss: number;
    losses_before_each_step_then_final: number[];
    grad_norms_before_clip: number[];
    merged_tensors: string[];
  };
  config: { r: number; lora_alpha: number; target_modules: string | string[] };
  pairs: SequencePair[];
  /** Log-probs of scored tokens, with the adapter and without it. */
  policy: Side[];
  reference: Side[];
  gradients: Map<string, Float32Array>;
  after: Map<string, Float32Array>;
  merged: Map<string, Float32Array>;
}

export function lora(name: AdapterName): Lora {
  const json = (path: string) => JSON.parse(readFileSync(`${root}${name}/${path}`, "utf8"));
  const facts = json("lora.json");
  const data = readSafetensors(`${root}${name}/lora.safetensors`);
  const batch = readSafetensors(`${root}${facts.base}/dpo.safetensors`);
  const merged = readSafetensors(`${root}${name}/merged.safetensors`);
  const mask = batch.get("completion_mask")!.data;
  const [rows, S] = batch.get("completion_mask")!.shape as [number, number];
  const row = (of: string, r: number) =>
    floatsOf(data, of)
      .subarray(r * (S - 1), (r + 1) * (S - 1))
      .filter((_, t) => mask[r * S + t + 1] === 1);
  const sides = (of: string): Side[] =>
    Array.from({ length: rows / 2 }, (_, i) => ({ chosen: row(of, i), rejected: row(of, rows / 2 + i) }));
  const under = (prefix: string) =>
    new Map(
      [...data.keys()]
        .filter((key) => key.startsWith(prefix))
        .map((key) => [key.slice(prefix.length), floatsOf(data, key)]),
    );
  const text = facts.base === "text_qwen2";
  return {
    base: text ? folder(facts.base) : folderOf(facts.base),
    dir: `${root}${name}/adapter`,
    facts,
    config: json("adapter/adapter_config.json"),
    pairs: text ? pairs(dpo(facts.base), false) : videoPairs(videoDpo(facts.base), false),
    policy: sides("policy_token_logps"),
    reference: sides("ref_token_logps"),
    gradients: under("grad/"),
    after: under("after/"),
    merged: new Map([...merged.keys()].map((key) => [key, floatsOf(merged, key)])),
  };
}
