// Options of train() that are given and change nothing beside the others, in words.
import { join, resolve } from "node:path";
import type { TrainSettings } from "./options.js";

/** Known from the options alone. */
export async function unusedOptions({ trainer, load }: TrainSettings): Promise<string[]> {
  const { unusedOfTrainer, unusedText } = await import("../config/effects.js"); // the schema is loaded at first use
  return [
    ...unusedOfTrainer({ ...trainer }).map(unusedText),
    ...(load.signal === undefined ? [] : ["load.signal has no effect: the run's own signal ends the loading, too"]),
  ];
}

/** Of a model that takes no media. */
export function unusedOfTextModel({ load, runDir }: TrainSettings): string[] {
  const cache = load.featureCache;
  const own = cache && resolve(cache.dir) === resolve(join(runDir, "features")); // what a configuration file comes to
  return [
    ...(load.visionTower === undefined ? [] : ["load.visionTower"]),
    ...(cache && !own ? ["load.featureCache"] : []),
  ].map((key) => `${key} has no effect: the model takes no videos and no images`);
}
