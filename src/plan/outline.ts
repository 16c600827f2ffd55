// Sizes as the engine gives them: a model without weights, and one micro-batch run under measuring arenas.
import { type NativePlan, sharedHost } from "../addon.js";
import { stepItems } from "./bytes.js";
import type { PlanSettings } from "./settings.js";

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
