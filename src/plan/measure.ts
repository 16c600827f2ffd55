// Sizes that the engine measures: it builds a model without weights, and runs one micro-batch without computing.
import { machine, type NativePlan, sharedHost } from "../base/addon.js";
import { findCards } from "../base/device.js";
import { stepItems } from "./byte-sizes.js";
import type { PlanSettings } from "./plan-settings.js";

/**
 * Bytes of a rank: of the first card, or of its share of this machine, unless `memory` says it. A cgroup's limit is the machine's.
 * A card that is not there is planned for with the machine's memory, in whole.
 */
export async function memoryLimit(s: PlanSettings): Promise<number> {
  if (s.memory !== undefined) return s.memory;
  const card = s.card ? (await findCards()).cards[0] : undefined;
  return card?.memoryBytes ?? Math.floor(machine().memoryBytes / (s.card ? 1 : s.ranks));
}

/** `rates`: also measure how fast this machine is, where that says something about the run. */
export async function outline(s: PlanSettings, rates: boolean): Promise<NativePlan> {
  return sharedHost().call<NativePlan>("planTraining", {
    dir: s.model,
    device: s.card ? "cuda" : "cpu",
    dtype: s.dtype,
    threads: s.threads,
    ...(s.visionTower === undefined ? {} : { visionTower: s.visionTower }),
    trainer: s.trainer,
    supervised: s.kind === "sft",
    items: stepItems(s),
    tokens: s.tokensPerItem,
    answerTokens: s.answerTokens,
    memory: s.card ? await memoryLimit(s) : (s.memory ?? 0),
    measureRates: rates && s.memory === undefined && !s.card,
  });
}
