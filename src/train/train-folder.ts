// The files that a training run writes in its folder, the files that it reads, and the settings that it keeps in run.json.
import { join } from "node:path";
import { type InputPlace, refuseMeeting, samePlace } from "../runfolder/path-overlap.js";
import { mayDiffer, readRun, runName } from "../runfolder/run-json.js";
import type { TrainSettings } from "./train-options.js";

/** Keys that change no result. */
const free: readonly string[] = [
  ...mayDiffer,
  "config.load.threads",
  "config.load.featureCache",
  ...["config.model", "config.videos"], // known by their content
  "config.saveEverySteps",
  "config.onRanks",
  "facts.isa", // reported as a warning
];

/** The same of a run that may be resumed by another number of ranks. */
export const freeOf = ({ onRanks }: Pick<TrainSettings, "onRanks">): readonly string[] =>
  onRanks === "warn" ? [...free, "facts.ranks"] : free;

const without = (value: object, ...keys: readonly string[]): Record<string, unknown> =>
  Object.fromEntries(Object.entries(value).filter(([key]) => !keys.includes(key)));

const given = (value: unknown) => (value === undefined ? undefined : "given");

export function configOf(s: TrainSettings): Record<string, unknown> {
  const { seed, data, load, givenTrainer } = s;
  return {
    ...without(s, "finish", "givenTrainer", "ranks"),
    seed,
    data: typeof data === "string" ? "a file" : "given by the program", // what they hold is in `inputs`
    evalData: given(s.evalData),
    runDir: undefined,
    load: without(load, "signal", "onProgress", "onMedia", "mediaTimeoutMs", "mediaMaxLost", "templateDate"),
    trainer: without(givenTrainer, "communicator"),
  };
}

/** What a run writes, relative to its folder. */
const written = [
  ...[runName, "lock", "items.jsonl", "eval-items.jsonl", "refs.f32", "eval-refs.f32", "stage.json", "report.html"],
  ...["train", "model", "adapter", "tensorboard", "features"],
];

function inputPlaces({ model, data, evalData, videos, load }: TrainSettings): InputPlace[] {
  const cache = load.featureCache;
  return [
    { name: "model", path: model, whole: true },
    ...(typeof data === "string" ? [{ name: "data", path: data }] : []),
    ...(evalData === undefined ? [] : [{ name: "evalData", path: evalData }]),
    ...(videos === undefined ? [] : [{ name: "videos", path: videos }]),
    ...(cache ? [{ name: "load.featureCache", path: cache.dir }] : []),
    ...(load.visionTower === undefined ? [] : [{ name: "load.visionTower", path: load.visionTower, whole: true }]),
    ...(load.adapter === undefined ? [] : [{ name: "load.adapter", path: load.adapter, whole: true }]),
  ];
}

/** Refuses what is to be read from where a run in `runDir` writes, and a cache in the model's folder. */
export async function checkPlaces(s: TrainSettings): Promise<void> {
  const cache = s.load.featureCache;
  const inputs = inputPlaces(s);
  const own = cache && (await samePlace(cache.dir, join(s.runDir, "features")));
  await refuseMeeting(s.runDir, written, own ? inputs.filter(({ name }) => name !== "load.featureCache") : inputs);
  if (cache)
    await refuseMeeting(
      cache.dir,
      [],
      inputs.filter(({ whole }) => whole),
    );
}

/** The owner of the folder of a run of this kind. */
export const ownerOf = (kind: TrainSettings["kind"]) => ({
  mark: runName,
  what: "the folder of a run",
  read: (path: string, found: Record<string, unknown>) => readRun(path, found, kind),
  drafts: { files: ["items.jsonl", "eval-items.jsonl"], folders: [] },
});
