// Estimates the duration of the run from its FLOPs and bytes, at rates that are measured on this machine just before. The
// result is a range, since neither the rates nor the share that a step reaches of them is one number.
import type { NativePlan } from "../base/addon.js";
import type { Plan } from "./plan-result.js";
import type { PlanSettings } from "./plan-settings.js";

/** Shares of the rate of one product that a whole step reaches; norms, attention and the loss run slower. */
const efficiency = { low: 0.55, high: 0.95 };
const adamwBytes = 28; // per element: four arrays are read, three are written

interface Rates {
  flops: number; // per second
  bytes: number;
}

/** Seconds of CPU time on an otherwise idle machine, at the best and the worst of what was measured; null: not measured. */
export function secondsOf(facts: NativePlan, s: PlanSettings): Plan["seconds"] {
  const { flopsPerSecond: flops, bytesPerSecond: bytes } = facts;
  if (flops.high === 0) return null;
  const at = (end: "low" | "high") => total(facts, s, { flops: flops[end] * efficiency[end], bytes: bytes[end] });
  return { from: at("high"), to: at("low") };
}

function total(facts: NativePlan, s: PlanSettings, rates: Rates): number {
  const once = s.items * (facts.flopsScore + (s.trainer.trainVision ? 0 : facts.flopsMedia));
  const training = s.items * s.epochs * facts.flopsItem;
  const steps = Math.ceil(s.items / s.itemsPerStep) * s.epochs;
  const update = (steps * adamwBytes * facts.trainedElements) / rates.bytes;
  const one = (once + training) / rates.flops + update + s.items * generation(facts, s, rates);
  return ((s.iteration?.models ?? 1) * one) / s.ranks;
}

/** Seconds of one sample: prompts are computed, then answers grow by a token for each reading of the weights. */
function generation(facts: NativePlan, s: PlanSettings, { flops, bytes }: Rates): number {
  const it = s.iteration;
  if (!it) return 0;
  const prompt = facts.tokens - 2 * facts.answerTokens;
  const judged = it.judged * (2 * it.responseTokens + it.contextTokens);
  const prefill = ((prompt + judged) * facts.flopsToken) / flops;
  const passes = (it.responseTokens + it.contextTokens) / Math.max(1, it.groupVideos); // both answers at once
  const drawn = 2 * it.responseTokens + it.contextTokens;
  return prefill + Math.max((passes * facts.decoder.panels) / bytes, (drawn * facts.flopsToken) / flops);
}
