// Options of the preference losses: one table of the options of each loss, for the trainer and for isr-dpo/native.
import { choice, number } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";

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

/** The loss and its parameters. A parameter that the loss does not have is INVALID_ARGUMENT. */
export interface LossOptions {
  /** The loss; default "sigmoid". "sft" is the cross-entropy of answers, without pairs. */
  loss?: LossName | "sft";
  /** Strength of the reference, above 0; default 0.1. */
  beta?: number;
  /** Share of pairs that are assumed to be swapped, at least 0 and below 0.5; default 0. Only some losses have it. */
  labelSmoothing?: number;
  /** Weight, from 0 to 1, of the tokens beyond the length of the shorter answer (LD-DPO); default 1. */
  ldAlpha?: number;
  /** Weight of the cross-entropy of the chosen answers beside the loss, at least 0; default 0. */
  gamma?: number;
  /** Divergence from the reference; default "reverse_kl". The others need loss "sigmoid". */
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
