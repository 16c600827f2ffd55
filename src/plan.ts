// plan(): what a run will need, said before anything is loaded. Sizes come from the engine itself (src/plan/outline.ts); here
// they are put together and held against the machine.
import { adviceFor } from "./plan/advice.js";
import { bytesOf, memoryOf } from "./plan/bytes.js";
import { diskOf, limitsOf } from "./plan/disk.js";
import { outline } from "./plan/outline.js";
import { provePlan } from "./plan/prove.js";
import { type PlanOptions, planSettings } from "./plan/settings.js";
import { type ScoredTokens, scoredTokens } from "./plan/scored.js";
import { secondsOf } from "./plan/time.js";

export type { ScoredTokens } from "./plan/scored.js";
export type { PlanIteration, PlanOptions } from "./plan/settings.js";

/** What a run will need. */
export interface Plan {
  /**
   * Whether memory and disk stay within `limit`: all of `bytes` but disk (of kvCache and of gradients with optimizer the larger,
   * for they are never there together), and the disk with one checkpoint more, which stands while it is written.
   */
  fits: boolean;
  /**
   * Estimated length of the run on this machine when it does nothing else, as a range; null where it is planned for another one.
   */
  seconds: { from: number; to: number } | null;
  /**
   * Of one rank; disk is that of the run folder, which ranks share. weights: the decoder; vision: towers, projector, and
   * the media of a step; activations: of the largest micro-batch, with the kernels' scratch; runtime: the process itself.
   */
  bytes: Readonly<
    Record<"weights" | "gradients" | "optimizer" | "activations" | "kvCache" | "vision" | "runtime" | "disk", number>
  >;
  /** Bytes that a rank may use, and that are free where the run folder will be. */
  limit: { memory: number; disk: number };
  /** Tokens that are scored in the first 1,000 rows that would be trained on; null where no rows of training data were read. */
  scored: ScoredTokens | null;
  /** What to change where it does not fit, with what each change makes of it; and what the plan had to leave out. */
  advice: readonly string[];
}

const towersUnknown =
  "the towers and their features are not counted: put video_tower_config.json beside config.json, or give load.visionTower";

/**
 * Memory, disk and time of a training run or of iterations, from config.json alone: no weights have to be there. Media need
 * the configs of the towers beside it. INVALID_ARGUMENT for bad options, CONTEXT_OVERFLOW for items longer than the model's
 * context, for config.json what loadModel throws, and what the run would refuse: NOT_FOUND and DATA_INVALID for files that
 * are named and not there or hold no rows, INVALID_CONFIG for prompts that cannot fit, DEGENERATE for a learning rate of 0
 * throughout.
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
      ...(fits ? [] : await adviceFor(facts, settings, limit)),
    ],
  };
}
