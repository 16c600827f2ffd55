// Turns a resolved configuration into the options of the function that does the work.
import { join } from "node:path";
import { IsrDpoError } from "../base/errors.js";
import { lossKeys } from "../train/loss-options.js";
import type { TrainerOptions } from "../train/trainer-options.js";
import type { LoadOptions } from "../base/types.js";
import type { ResolvedConfig } from "./read-config.js";
import type { RunValues, TrainValues } from "./config-rows.js";

/** A seed as the functions take it: a string of digits becomes a bigint. */
function seedOf(seed: number | string): number | bigint {
  return typeof seed === "number" ? seed : BigInt(seed);
}

type Features = TrainValues["features"] | RunValues["features"];

export function loadOptionsOf(load: TrainValues["load"], features: Features, runDir: string): LoadOptions {
  const cache = features === false ? false : { ...features, dir: features.dir ?? join(runDir, "features") };
  return { ...load, featureCache: cache } as LoadOptions;
}

/** What may be lost of a video, and how long it may take. */
export const mediaOptionsOf = ({ timeoutS, maxLost }: TrainValues["video"]): LoadOptions => ({
  mediaTimeoutMs: Math.ceil(timeoutS * 1e3),
  mediaMaxLost: maxLost,
});

/** Options of train(). INVALID_CONFIG for keys of a preference loss in a supervised run. */
export function trainOptionsOf<V extends Omit<TrainValues, "data">>(
  kind: "sft" | "dpo",
  { config, sources }: ResolvedConfig<V>,
) {
  const { preset: _, trainer, load, features, video, ...rest } = config;
  const { seed, ...options } = trainer;
  const entries = Object.entries(options);
  if (kind === "sft")
    for (const key of lossKeys) {
      const source = sources.get(`trainer.${key}`);
      if (source === "file" || source === "set")
        throw new IsrDpoError("INVALID_CONFIG", `trainer.${key}: expected nothing in a supervised run, got a value`, {
          hint: "it belongs to preference losses: leave it out, or run `isr-dpo train dpo`",
          detail: { field: `trainer.${key}` },
        });
    }
  const kept = kind === "sft" ? entries.filter(([key]) => !lossKeys.includes(key)) : entries;
  return {
    kind,
    ...rest,
    trainer: { ...(Object.fromEntries(kept) as TrainerOptions), seed: seedOf(seed) },
    load: { ...loadOptionsOf(load, features, config.runDir), ...mediaOptionsOf(video) },
  };
}
