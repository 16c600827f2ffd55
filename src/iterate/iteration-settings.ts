// The settings of an iteration: the configuration with resolved paths.
import { loadOptionsOf, mediaOptionsOf } from "../config/function-options.js";
import type { RunValues } from "../config/config-rows.js";
import type { Without } from "../config/read-config.js";
import type { Unused } from "../config/unused-keys.js";
import type { TrainerSettings } from "../train/trainer-options.js";
import type { LoadOptions } from "../base/types.js";

export type ContextDesign = RunValues["context"]["design"];

type StepSettings = "epochs" | "pairsPerStep" | "saveEverySteps" | "trainPrompt";

export interface RunSettings extends Omit<Without<RunValues, "samples">, "seed" | "videos" | "train"> {
  seed: bigint;
  /** Folder that videos of samples are relative to. */
  videos: string;
  train: Pick<RunValues["train"], StepSettings>;
  trainer: Omit<TrainerSettings, "seed">;
}

export async function settingsOf(config: Record<string, unknown>): Promise<RunSettings> {
  const { resolveConfig } = await import("../config/read-config.js"); // YAML and the schema are loaded at first use
  const { seed, train, videos, ...rest } = resolveConfig("run", config, "config", ["samples"]).config;
  const { epochs, pairsPerStep, saveEverySteps, trainPrompt, ...trainer } = train;
  return {
    ...rest,
    seed: BigInt(seed),
    videos: videos ?? ".",
    train: { epochs, pairsPerStep, saveEverySteps, trainPrompt },
    trainer,
  };
}

/** Keys of the settings that differ from their default and have no effect beside the others. */
export async function unusedSettings({ train, trainer, ...rest }: RunSettings): Promise<Unused[]> {
  const { unusedKeys } = await import("../config/unused-keys.js");
  return unusedKeys("run", { ...rest, train: { ...train, ...trainer } });
}

/** How every stage of a run loads its models: the configuration's values, under those that the caller gave. */
export const loadingOf = ({ load, features, video }: RunSettings, runDir: string, given: LoadOptions): LoadOptions => ({
  ...loadOptionsOf(load, features, runDir),
  ...mediaOptionsOf(video),
  ...given,
});
