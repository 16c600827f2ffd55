// The golden families: files as values that the tests can compare with.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { SequencePair } from "../../src/index.js";
import { floatsOf, intsOf, readSafetensors, type Stored } from "./safetensors.js";

const root = fileURLToPath(new URL("../golden/", import.meta.url));
const json = (path: string) => JSON.parse(readFileSync(root + path, "utf8"));

export const families = [
  "text_llama",
  "text_llama_gqa_tied",
  "text_llama3_rope",
  "text_llama_bias",
  "text_qwen2",
  "text_qwen3",
] as const;
export type Family = (typeof families)[number];

/** Families that ISR_DPO_GOLDEN, a pattern of names, leaves in: all without it. */
export const isChosen = (family: string): boolean => new RegExp(process.env.ISR_DPO_GOLDEN ?? "").test(family);

export const folder = (family: Family, part = "policy"): string => `${root}${family}/${part}`;

export interface Case {
  name: string;
  ids: Int32Array;
  prompt: Int32Array;
  lossMask: Uint8Array;
  firstRow: number; // of logits and hidden
  logits: Float32Array;
  hidden: Float32Array;
  logps: Float32Array;
  generated: Int32Array;
}

export function cases(family: Family): { cases: Case[]; suppress: number[] } {
  const facts = json(`${family}/cases.json`);
  const data = readSafetensors(`${root}${family}/cases.safetensors`);
  const numbered = facts.cases.filter((c: { case: unknown }) => typeof c.case === "number");
  const all = numbered.map((c: { case: number; prompt_len: number; first_logit_position: number }): Case => {
    const name = `case${c.case}`;
    const ids = intsOf(data, `${name}/input_ids`);
    return {
      name,
      ids,
      prompt: ids.slice(0, c.prompt_len),
      lossMask: new Uint8Array(ids.length).fill(1, c.prompt_len),
      firstRow: c.first_logit_position,
      logits: floatsOf(data, `${name}/logits`),
      hidden: floatsOf(data, `${name}/last_hidden`),
      logps: floatsOf(data, `${name}/response_logps`),
      generated: intsOf(data, `${name}/generated`),
    };
  });
  return { cases: all, suppress: facts.suppressed_token_ids };
}

export interface Side {
  ids: Int32Array;
  lossMask: Uint8Array;
  policy: Float32Array; // per scored token
  reference: Float32Array;
}

export interface Dpo {
  facts: {
    loss_beta_0_1: number;
    loss_beta_0_5: number;
    rewards_chosen_beta_0_1: number[];
    rewards_rejected_beta_0_1: number[];
    parameters_without_gradient: string[];
    adam_ill_conditioned: string[];
    adamw: { losses_before_each_step_then_final: number[]; grad_norms_before_clip: number[] };
    trl: { loss_variants_at_fixed_logps: Record<string, number> };
  };
  chosen: Side[];
  rejected: Side[];
  gradients: Map<string, Float32Array>;
  after: Map<string, Float32Array>;
}

/** Row `row` of the padded batch, without its padding. */
function side(data: Map<string, Stored>, row: number): Side {
  const [, S] = data.get("input_ids")!.shape as [number, number];
  const at = <T extends Int32Array | Float32Array>(x: T, width: number, n = width) =>
    x.subarray(row * width, row * width + n) as T;
  const length = at(intsOf(data, "attention_mask"), S).reduce((n, x) => n + x, 0);
  const lossMask = Uint8Array.from(at(intsOf(data, "completion_mask"), S, length));
  const perToken = (name: string) =>
    at(floatsOf(data, name), S - 1, length - 1).filter((_, t) => lossMask[t + 1] === 1); // column t belongs to token t + 1
  return {
    ids: at(intsOf(data, "input_ids"), S, length).slice(),
    lossMask,
    policy: perToken("policy_token_logps"),
    reference: perToken("ref_token_logps"),
  };
}

function withPrefix(data: Map<string, Stored>, prefix: string): Map<string, Float32Array> {
  const names = [...data.keys()].filter((name) => name.startsWith(prefix));
  return new Map(names.map((name) => [name.slice(prefix.length), floatsOf(data, name)]));
}

export function dpo(family: Family): Dpo {
  const data = readSafetensors(`${root}${family}/dpo.safetensors`);
  const n = data.get("input_ids")!.shape[0]! / 2;
  const rows = (from: number) => Array.from({ length: n }, (_, i) => side(data, from + i));
  return {
    facts: json(`${family}/dpo.json`),
    chosen: rows(0),
    rejected: rows(n),
    gradients: withPrefix(data, "grad/"),
    after: withPrefix(data, "after/"),
  };
}

/** The pairs of a batch, with the reference's log-probs where asked. */
export function pairs(d: Dpo, withReference: boolean): SequencePair[] {
  return d.chosen.map((chosen, i) => {
    const rejected = d.rejected[i]!;
    return {
      chosen: { ids: chosen.ids, lossMask: chosen.lossMask },
      rejected: { ids: rejected.ids, lossMask: rejected.lossMask },
      ...(withReference ? { reference: { chosen: chosen.reference, rejected: rejected.reference } } : {}),
    };
  });
}

export interface LongRun {
  examples: { prompt_ids: number[]; chosen_ids: number[]; rejected_ids: number[] }[];
  history: { loss: number; grad_norm: number; learning_rate: number }[];
  final: Map<string, Float32Array>;
}

export function longRun(): LongRun {
  const { examples, history } = json("text_llama/longrun.json");
  return { examples, history, final: withPrefix(readSafetensors(`${root}text_llama/longrun.safetensors`), "final/") };
}

export function bf16Case(): { ids: Int32Array; logits: Float32Array } {
  const data = readSafetensors(`${root}text_llama_gqa_tied/bf16_checkpoint_case.safetensors`);
  return { ids: intsOf(data, "input_ids"), logits: floatsOf(data, "logits_fp32_compute") };
}
