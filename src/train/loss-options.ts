// Options of the preference losses: one table of the options of each loss, for the trainer, for isr-dpo/native, and for
// configuration files.
import { oneOf, real, type Resolved, resolved, type Rule, share } from "../base/option-rows.js";
import type { LossOptions } from "../base/option-types.js";

export type { LossOptions };

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

export const lossRows = {
  loss: oneOf("The preference loss.", ...lossNames).or("sigmoid"),
  beta: real("Strength of the reference in the loss.", { above: 0 }).or(0.1),
  labelSmoothing: real("Share of pairs that are assumed to be swapped; only some losses have it.", {
    min: 0,
    below: 0.5,
  }).or(0),
  ldAlpha: share("Weight of the tokens beyond the length of the shorter answer (LD-DPO); default: 1."),
  sftWeight: real("Weight of the cross-entropy of the chosen answers beside the loss (TRL's rpo_alpha).", { min: 0 })
    .or(0)
    .formerly("gamma"),
  divergence: oneOf(
    "Divergence from the reference; all but reverse_kl need loss sigmoid.",
    "reverse_kl",
    "forward_kl",
    "js_divergence",
  ).or("reverse_kl"),
};

/** Names of the options of a preference loss. */
export const lossKeys: readonly string[] = Object.keys(lossRows);

/** Losses that take labelSmoothing; exo_pair needs it above 0. */
const smoothed: readonly unknown[] = ["cdpo", "robust", "exo_pair", "aot", "aot_unpaired"];

export const lossRules: readonly Rule[] = [
  ({ loss, labelSmoothing }) =>
    labelSmoothing !== 0 && !smoothed.includes(loss)
      ? { key: "labelSmoothing", expected: `0 beside loss ${loss} (others go with ${smoothed.join(", ")})` }
      : undefined,
  ({ loss, labelSmoothing }) =>
    labelSmoothing === 0 && loss === "exo_pair"
      ? { key: "labelSmoothing", expected: "a number above 0 beside loss exo_pair" }
      : undefined,
  ({ loss, divergence }) =>
    divergence !== "reverse_kl" && loss !== "sigmoid"
      ? { key: "divergence", expected: `reverse_kl beside loss ${loss} (others go with sigmoid only)` }
      : undefined,
];

/** The options of a loss as the engine takes them. */
export function nativeLoss(o: Omit<Resolved<typeof lossRows>, "loss"> & { readonly loss: string }) {
  const { loss, divergence, beta, labelSmoothing, sftWeight: gamma, ldAlpha } = o;
  return { loss, divergence, beta, labelSmoothing, gamma, ...(ldAlpha === undefined ? {} : { ldAlpha }) };
}

/** Options of a preference loss, checked. */
export const lossOptions = (field: string, value: unknown): Resolved<typeof lossRows> =>
  resolved(field, value, lossRows, lossRules);
