// The learning rate of each step, as the trainer computes it (native/train/trainer.cc), for checks before anything is loaded:
// transformers rounds the share of warm-up steps up, and gives the first of them rate 0.
import { plural } from "../base/counts.js";
import { IsrDpoError } from "../base/errors.js";
import type { TrainerSettings } from "./trainer-options.js";

type Rates = Pick<TrainerSettings, "learningRate" | "schedule" | "warmupRatio" | "warmupSteps" | "totalSteps">;

/** Steps of the warm-up of a schedule of `total` steps. */
const warmupOf = ({ warmupSteps = 0, warmupRatio = 0 }: Rates, total: number): number =>
  warmupSteps > 0 ? warmupSteps : Math.ceil(warmupRatio * total);

/** Learning rate of step `k` (from 0) of a run of `steps`, of which `totalSteps` may give the schedule another length. */
export function rateAt(o: Rates, k: number, steps: number): number {
  const total = o.totalSteps ?? steps;
  const warmup = warmupOf(o, total);
  const peak = o.learningRate;
  if (k < warmup) return (peak * k) / warmup;
  if (o.schedule === "constant") return peak;
  const progress = (k - warmup) / Math.max(1, total - warmup);
  if (o.schedule === "linear") return peak * Math.max(0, 1 - progress);
  return peak * Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
}

/** Whether any step of the run changes the model. Rates above 0 stand at the peak or right beside it. */
function teaches(o: Rates, steps: number): boolean {
  const peak = Math.min(steps - 1, warmupOf(o, o.totalSteps ?? steps));
  return [1, peak - 1, peak].some((k) => k >= 0 && k < steps && rateAt(o, k, steps) > 0);
}

/** Why no step has a rate above 0. */
const reasonOf = (o: Rates, steps: number): string => {
  const total = o.totalSteps ?? steps;
  const warmup = warmupOf(o, total);
  if (o.learningRate === 0) return "learningRate is 0";
  if (warmup === 0) return `the schedule of ${total} steps gives no rate above 0`;
  const from = (o.warmupSteps ?? 0) > 0 ? "" : `, warmupRatio ${o.warmupRatio} of ${total} rounded up`;
  return `the warm-up is ${plural(warmup, "step")} long${from}, and its first step has rate 0`;
};

/**
 * DEGENERATE where every one of `steps` steps would have learning rate 0, so that training would end with the model that it
 * began with. `keys` is where the options stand in the configuration, for the message.
 */
export function proveRate(o: Rates, steps: number, keys: "trainer" | "train"): void {
  if (steps === 0 || teaches(o, steps)) return;
  throw new IsrDpoError(
    "DEGENERATE",
    `${keys}: expected a learning rate above 0 in some step, got 0 in all ${steps}: ${reasonOf(o, steps)}`,
    {
      hint:
        o.learningRate === 0
          ? `set ${keys}.learningRate above 0`
          : `set ${keys}.warmupSteps to 0 (or warmupRatio to 0), or have more steps: more epochs, or fewer items in a step`,
      detail: { field: o.learningRate === 0 ? `${keys}.learningRate` : `${keys}.warmupRatio`, steps },
    },
  );
}
