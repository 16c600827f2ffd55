// Options of train() that have no effect beside the others, with their reasons.
import { join, resolve } from "node:path";
import { trainerEffects, type TrainerOptions } from "./trainer-options.js";
import type { TrainSettings } from "./train-options.js";

/** The options of a trainer that have no effect, with their reasons. */
export function unusedTrainerOptions(options: TrainerOptions): string[] {
  const given: Readonly<Record<string, unknown>> = { ...options };
  return Object.entries(trainerEffects).flatMap(([key, reason]) => {
    const why = given[key] !== undefined && reason(given, "trainer.");
    return why ? [`trainer.${key} has no effect: ${why}`] : [];
  });
}

/** Known from the options alone. */
export function unusedOptions({ givenTrainer, load, ranks }: TrainSettings): string[] {
  return [
    ...unusedTrainerOptions(givenTrainer),
    ...(["shard", "shardGradients"] as const)
      .filter((key) => !ranks && givenTrainer[key] === (key !== "shard"))
      .map((key) => `trainer.${key} has no effect: one rank keeps everything`),
    ...(load.signal === undefined ? [] : ["load.signal has no effect: the run's own signal ends the loading, too"]),
  ];
}

/** The options that have no effect with a model that takes no media. */
export function unusedOfTextModel({ load, runDir }: TrainSettings): string[] {
  const cache = load.featureCache;
  const own = cache && resolve(cache.dir) === resolve(join(runDir, "features")); // the value that a configuration file resolves to
  return [
    ...(load.visionTower === undefined ? [] : ["load.visionTower"]),
    ...(cache && !own ? ["load.featureCache"] : []),
  ].map((key) => `${key} has no effect: the model takes no videos and no images`);
}
