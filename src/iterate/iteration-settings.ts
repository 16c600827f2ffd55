// The settings of an iteration: the configuration with resolved paths.
import { loadOptionsOf, mediaOptionsOf, seedOf } from "../config/function-options.js";
import type { RunConfig } from "../config/schema.js";
import type { TrainerOptions } from "../train/trainer.js";
import type { LoadOptions } from "../base/types.js";

export type ContextDesign = RunConfig["context"]["design"];

export interface RunSettings extends Omit<RunConfig, "seed" | "videos" | "train" | "load" | "features"> {
  seed: bigint;
  /** Folder that videos of samples are relative to. */
  videos: string;
  train: Pick<RunConfig["train"], "epochs" | "pairsPerStep" | "saveEverySteps" | "trainPrompt">;
  trainer: TrainerOptions;
  load: RunConfig["load"];
  features: RunConfig["features"];
}

export async function settingsOf(config: Record<string, unknown>): Promise<RunSettings> {
  const { resolveConfig } = await import("../config/read-config.js"); // YAML and the schema are loaded at first use
  const { seed, train, videos, ...rest } = resolveConfig("run", config).config;
  const { epochs, pairsPerStep, saveEverySteps, trainPrompt, ...trainer } = train;
  return {
    ...rest,
    seed: BigInt(seedOf(seed)),
    videos: videos ?? ".",
    train: { epochs, pairsPerStep, saveEverySteps, trainPrompt },
    trainer: trainer as TrainerOptions,
  };
}

/** How every stage of a run loads its models: the configuration's values, under those that the caller gave. */
export const loadingOf = ({ load, features, video }: RunSettings, runDir: string, given: LoadOptions): LoadOptions => ({
  ...loadOptionsOf(load, features, runDir),
  ...mediaOptionsOf(video),
  ...given,
});
