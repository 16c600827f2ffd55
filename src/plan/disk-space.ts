// Bytes of the run folder, and the room on its disk.
import { statfs } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { codeOf } from "../base/file-errors.js";
import type { NativePlan } from "../base/addon.js";
import { IsrDpoError } from "../base/errors.js";
import { memoryLimit } from "./measure.js";
import type { Plan } from "./plan-result.js";
import type { PlanSettings } from "./plan-settings.js";

const keptSteps = 2; // checkpoints of training (runfolder/checkpoints.ts)
const recordBytes = 2048; // of an item: ids, references, its journal and metrics lines

/** `kept`: what stands in the folder. `most`: while a third checkpoint is written, or a new model beside the kept ones. */
export function diskOf(facts: NativePlan, s: PlanSettings): { kept: number; most: number } {
  const state = 12 * facts.trained; // masters and two moments, float32
  const vision = facts.mediaTokens > 0 && s.featureCache && !s.trainer.trainVision;
  const features = vision ? s.items * facts.featureBytes : 0;
  const models = s.iteration?.kept ?? 1;
  const records = s.items * (recordBytes + 8 * facts.answerTokens) * (s.iteration?.models ?? 1);
  const kept = models * facts.checkpointBytes + keptSteps * state + features + records;
  const another = s.iteration && s.iteration.models > models ? facts.checkpointBytes : 0;
  return { kept, most: kept + Math.max(state, another) };
}

/** Free bytes of the file system that a path is or will be on. */
async function freeAt(path: string): Promise<number> {
  for (let at = resolve(path); ; at = dirname(at))
    try {
      const { bavail, bsize } = await statfs(at);
      return bavail * bsize;
    } catch (e) {
      const code = codeOf(e);
      if ((code === "ENOENT" || code === "ENOTDIR") && dirname(at) !== at) continue;
      throw new IsrDpoError("IO", `${at}: expected a file system, but ${(e as Error).message}`, { path: at, cause: e });
    }
}

export const limitsOf = async (s: PlanSettings): Promise<Plan["limit"]> => ({
  memory: await memoryLimit(s),
  disk: await freeAt(s.runDir),
});
