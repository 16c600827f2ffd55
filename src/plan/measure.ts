// Sizes that the engine measures: it builds a model without weights, and runs one micro-batch without computing.
import { type NativePlan, sharedHost } from "../base/addon.js";
import { stepItems } from "./byte-sizes.js";
import type { PlanSettings } from "./plan-settings.js";

/** `rates`: also measure how fast this machine is, where that says something about the run. */
export function outline(s: PlanSettings, rates: boolean): Promise<NativePlan> {
  return sharedHost().call<NativePlan>("planTraining", {
    dir: s.model,
    dtype: s.dtype,
    threads: s.threads,
    ...(s.visionTower === undefined ? {} : { visionTower: s.visionTower }),
    trainer: s.trainer,
    supervised: s.kind === "sft",
    items: stepItems(s),
    tokens: s.tokensPerItem,
    answerTokens: s.answerTokens,
    memory: s.memory ?? 0,
    measureRates: rates && s.memory === undefined && !s.card,
  });
}
