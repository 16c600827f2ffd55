// Checks before a run begins, without its model: whether every file and folder that it will read exists and holds what it
// should, and whether its training can teach anything. `run` refuses a wrong input before the first stage, and `plan` refuses
// the same.
import { existsSync } from "node:fs";
import { access } from "node:fs/promises";
import { join } from "node:path";
import { readPairs } from "../data/read-pairs.js";
import { readSamples, type Sample } from "../data/read-samples.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { stepPlan } from "../train/item-order.js";
import { mediaFiles } from "../train/load-dataset.js";
import type { Emit } from "../train/progress.js";
import { proveRate } from "../train/learning-rate.js";
import { byVideo } from "./video-groups.js";
import type { RunSettings } from "./iteration-settings.js";

const atOnce = 64;

/** Those of `names` that are not in `folder`. */
async function missingIn(folder: string, names: readonly string[], signal: AbortSignal): Promise<string[]> {
  const missing: string[] = [];
  for (let i = 0; i < names.length; i += atOnce) {
    signal.throwIfAborted();
    const some = names.slice(i, i + atOnce);
    const there = await Promise.all(
      some.map((name) =>
        access(join(folder, name)).then(
          () => true,
          () => false,
        ),
      ),
    );
    missing.push(...some.filter((_, k) => !there[k]));
  }
  return missing;
}

interface Checks {
  settings: RunSettings;
  emit: Emit;
  signal: AbortSignal;
}

/** NOT_FOUND with the first of the missing videos, or a warning where they are to be skipped. */
async function proveVideos(
  { settings, emit, signal }: Checks,
  samples: readonly Sample[],
  folder: string,
  keys: { of: string; folder: string },
): Promise<void> {
  const missing = await missingIn(
    folder,
    byVideo(samples).map((v) => v.video),
    signal,
  );
  if (missing.length === 0) return;
  const some = missing.slice(0, 5).join(", ") + (missing.length > 5 ? `, and ${missing.length - 5} more` : "");
  const message = `${folder}: expected the videos of ${keys.of}, ${missing.length} are missing: ${some}`;
  const detail = { missing: missing.length };
  if (settings.video.onError === "skip") emit({ type: "warning", code: "MISSING_VIDEOS", message, detail });
  else
    throw new IsrDpoError("NOT_FOUND", message, {
      hint: `set \`${keys.folder}\` to the folder that the paths are relative to, or video.onError to "skip" to leave such samples out`,
      path: folder,
      detail,
    });
}

/** The error of an input that a key of the configuration names. */
function ofKey(e: unknown, key: string): unknown {
  if (!isIsrDpoError(e)) return e;
  const { code, message, hint, path, detail } = e;
  return new IsrDpoError(code, `${key}: ${message}`, {
    ...(hint === undefined ? {} : { hint }),
    ...(path === undefined ? {} : { path }),
    detail: { ...detail, field: key },
    cause: e,
  });
}

/** The questions that every model will be asked: the first `count` of the file. DATA_INVALID for a file without any. */
export async function evaluationSamples({ samples, count }: NonNullable<RunSettings["evaluate"]>): Promise<Sample[]> {
  try {
    const list: Sample[] = [];
    for await (const sample of readSamples(samples)) if (list.push(sample) === count) break;
    if (list.length > 0) return list;
    throw new IsrDpoError("DATA_INVALID", `${samples}: expected at least one question, got none`, { path: samples });
  } catch (e) {
    throw ofKey(e, "evaluate.samples");
  }
}

/** The evaluation's questions and their videos. */
export async function proveEvaluation(c: Checks): Promise<void> {
  const { evaluate, videos } = c.settings;
  if (!evaluate) return;
  const list = await evaluationSamples(evaluate);
  await proveVideos(c, list, evaluate.videos ?? videos, { of: "evaluate.samples", folder: "evaluate.videos" });
}

/** The rows of the seed data and their media; whether they fit is seen when its training begins, before anything is computed. */
async function proveSeedData(c: Checks): Promise<void> {
  const { seedData, videos } = c.settings;
  if (seedData === undefined) return;
  const media = new Set<string>();
  let rows = 0;
  try {
    for await (const pair of readPairs(seedData)) {
      rows += 1;
      for (const m of mediaFiles(pair)) media.add(typeof m === "string" ? m : m.path);
    }
  } catch (e) {
    throw ofKey(e, "seedData");
  }
  const wrong = (code: "DATA_INVALID" | "NOT_FOUND", message: string, path: string) =>
    new IsrDpoError(code, `seedData: ${message}`, { path, detail: { field: "seedData" } });
  if (rows === 0) throw wrong("DATA_INVALID", `${seedData}: expected at least one row, got none`, seedData);
  const missing = await missingIn(videos, [...media], c.signal);
  if (missing.length === 0) return;
  const some = missing.slice(0, 5).join(", ");
  throw wrong("NOT_FOUND", `${videos}: expected the media of all rows, ${missing.length} are missing: ${some}`, videos);
}

function proveModel(dir: string): void {
  if (existsSync(join(dir, "config.json"))) return;
  const found = existsSync(dir) ? "a folder without config.json" : "nothing there";
  throw new IsrDpoError("NOT_FOUND", `model: expected the folder of a checkpoint, got ${found} (${dir})`, {
    hint: "name the folder that holds config.json and the weights",
    path: dir,
    detail: { field: "model" },
  });
}

/**
 * Fails before anything is computed or written: NOT_FOUND, DATA_INVALID and IO of what the run will read, DEGENERATE where
 * no step of an iteration would have a learning rate above 0, however many samples become pairs.
 */
export async function proveInputs(c: Checks, samples: readonly Sample[] | null): Promise<void> {
  const { settings } = c;
  proveModel(settings.model);
  if (samples) {
    provePlannedRate(settings, samples.length);
    await proveVideos(c, samples, settings.videos, { of: "all samples", folder: "videos" });
  }
  await proveSeedData(c);
  await proveEvaluation(c);
}

/** As proveRate, for the most pairs that `samples` can become. */
export function provePlannedRate({ train, trainer, guards }: RunSettings, samples: number): void {
  if (guards.zeroRate === "warn") return;
  const { totalSteps } = stepPlan(samples, train.pairsPerStep, train.epochs);
  proveRate(trainer, totalSteps, "train");
}
