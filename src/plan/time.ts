// An estimate of the run's length from its FLOPs and bytes, at rates that were measured on this machine a moment ago.
import type { NativePlan } from "../addon.js";
import type { PlanSettings } from "./settings.js";

/** Of the rate of one product, what a whole step reaches: norms, attention and the loss run slower. */
const efficiency = 0.8;
const adamwBytes = 28; // of an element: four arrays read, three written

export function secondsOf(facts: NativePlan, s: PlanSettings): number | null {
  if (facts.flopsPerSecond === 0) return null;
  const rate = facts.flopsPerSecond * efficiency;
  const once = s.items * (facts.flopsScore + (s.trainer.trainVision ? 0 : facts.flopsMedia));
  const training = s.items * s.epochs * facts.flopsItem;
  const steps = Math.ceil(s.items / s.itemsPerStep) * s.epochs;
  const update = (steps * adamwBytes * facts.trainedElements) / facts.bytesPerSecond;
  const one = (once + training) / rate + update + s.items * generation(facts, s, rate);
  return ((s.iteration?.models ?? 1) * one) / s.ranks;
}

/** Seconds of one sample: prompts are computed, then answers grow by a token for each reading of the weights. */
function generation(facts: NativePlan, s: PlanSettings, rate: number): number {
  const it = s.iteration;
  if (!it) return 0;
  const prompt = facts.tokens - 2 * facts.answerTokens;
  const judged = it.judged * (2 * it.responseTokens + it.contextTokens);
  const prefill = ((prompt + judged) * facts.flopsToken) / rate;
  const passes = (it.responseTokens + it.contextTokens) / Math.max(1, it.groupVideos); // both answers at once
  const drawn = 2 * it.responseTokens + it.contextTokens;
  return prefill + Math.max((passes * facts.decoder.panels) / facts.bytesPerSecond, (drawn * facts.flopsToken) / rate);
}
