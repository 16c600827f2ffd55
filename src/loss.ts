// Options of the preference losses: one table of what each takes, for the trainer and for isr-dpo/native.
import { choice, number } from "./check.js";
import { IsrDpoError } from "./errors.js";

export const lossNames = [
  "sigmoid",
  "ipo",
  "hinge",
  "robust",
  "cdpo",
  "sigmoid_norm",
  "exo_pair",
  "nca_pair",
  "bco_pair",
  "sppo_hard",
  "aot",
  "aot_unpaired",
  "apo_zero",
  "apo_down",
  "discopop",
] as const;

/** A preference loss by TRL's name for it. */
export type LossName = (typeof lossNames)[number];

/** Which loss, and its parameters. INVALID_ARGUMENT for one that the loss does not have. */
export interface LossOptions {
  /** Default "sigmoid". */
  loss?: LossName | "sft";
  /** Default 0.1. */
  beta?: number;
  /** Default 0; only for losses that have it. */
  labelSmoothing?: number;
  /** Default off: weight of the tokens beyond the shorter side's length. */
  ldAlpha?: number;
  /** Default 0: weight of the cross-entropy of the chosen tokens. */
  gamma?: number;
  /** Default "reverse_kl"; others with "sigmoid" only. */
  divergence?: "reverse_kl" | "forward_kl" | "js_divergence";
}

export const lossKeys = ["loss", "beta", "labelSmoothing", "ldAlpha", "gamma", "divergence"];

export function nativeLoss(field: string, o: Record<string, unknown>, names: readonly string[] = lossNames) {
  const at = (key: string) => `${field}.${key}`;
  const loss = o.loss === undefined ? "sigmoid" : choice(at("loss"), o.loss, names);
  const divergence =
    o.divergence === undefined
      ? "reverse_kl"
      : choice(at("divergence"), o.divergence, ["reverse_kl", "forward_kl", "js_divergence"]);
  if (divergence !== "reverse_kl" && loss !== "sigmoid")
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `${at("divergence")}: '${divergence}' goes with loss 'sigmoid' only, not '${loss}'`,
    );
  return {
    loss,
    divergence,
    beta: o.beta === undefined ? 0.1 : number(at("beta"), o.beta, { above: 0 }),
    labelSmoothing:
      o.labelSmoothing === undefined ? 0 : number(at("labelSmoothing"), o.labelSmoothing, { min: 0, below: 0.5 }),
    gamma: o.gamma === undefined ? 0 : number(at("gamma"), o.gamma, { min: 0 }),
    ...(o.ldAlpha === undefined ? {} : { ldAlpha: number(at("ldAlpha"), o.ldAlpha, { min: 0, max: 1 }) }),
  };
}
