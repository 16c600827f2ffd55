// plan(): the needs of a run, before anything is loaded. The engine measures the sizes (src/plan/measure.ts); here they are
// added up and compared with the machine.
import { adviceFor } from "./advice.js";
import { bytesOf, memoryOf } from "./byte-sizes.js";
import { diskOf, limitsOf } from "./disk-space.js";
import { outline } from "./measure.js";
import { provePlan } from "./check-run.js";
import type { Plan } from "./plan-result.js";
import { type PlanOptions, planSettings } from "./plan-settings.js";
import { scoredTokens } from "./scored-tokens.js";
import { secondsOf } from "./time-estimate.js";

export type { Plan } from "./plan-result.js";
export type { ScoredTokens } from "./scored-tokens.js";
export type { PlanIteration, PlanOptions } from "./plan-settings.js";

const workspaceGuessed =
  "the workspace of the card's kernels is a guess: this binary has no CUDA (docs/gpu.md says how it is built)";
const towersUnknown =
  "the towers and their features are not counted: put video_tower_config.json beside config.json, or give load.visionTower";
const sizesGuessed =
  "each video is counted as the model's usual number of frames of 8 x 8 rows: this model takes pictures of any size";

/**
 * Computes the memory, disk and time of a training run or of iterations. It needs config.json alone, and for media the configs of
 * the towers; the weights need not be there.
 *
 * @param options - options of the run, and how much data there is
 * @throws {@link IsrDpoError} INVALID_ARGUMENT; CONTEXT_OVERFLOW: items longer than the model's context; the errors of {@link loadModel}
 * for config.json; and those that the run would throw: NOT_FOUND, DATA_INVALID (missing files, files without rows),
 * INVALID_CONFIG (prompts that cannot fit), DEGENERATE (a learning rate that is always 0)
 *
 * @example
 * ```ts
 * import { plan } from "isr-dpo";
 *
 * const { fits, bytes, advice } = await plan({ model: "checkpoint", runDir: "runs/isr", from: 1, to: 9, items: 17000 });
 * console.log(fits, bytes.disk, advice);
 * ```
 */
export async function plan(options: PlanOptions): Promise<Plan> {
  const settings = await planSettings(options);
  const notes = await provePlan(settings);
  const scored = await scoredTokens(settings, notes);
  const facts = await outline(settings, true);
  const bytes = { ...bytesOf(facts, settings), disk: diskOf(facts, settings).kept };
  const limit = await limitsOf(settings);
  const fits = memoryOf(bytes) <= limit.memory && diskOf(facts, settings).most <= limit.disk;
  return {
    fits,
    seconds: secondsOf(facts, settings),
    bytes,
    limit,
    scored,
    advice: [
      ...notes,
      ...(facts.towersUnknown ? [towersUnknown] : []),
      ...(facts.sizesGuessed ? [sizesGuessed] : []),
      ...(facts.deviceMeasured ? [] : [workspaceGuessed]),
      ...(fits ? [] : await adviceFor(facts, settings, limit)),
    ],
  };
}
