// How to talk with the model of a run: in the prompts that are kept in its folder, and with the frames that it was trained on.
import { join } from "node:path";
import { IsrDpoError } from "../base/errors.js";
import { readState } from "../base/atomic-files.js";
import type { FrameSampling } from "../base/types.js";
import { defaultPrompts, type Prompts, promptsHash, promptsOf, readPrompts } from "./method-prompts.js";

/** Name of the file in a run folder that holds all prompts as they were used. */
export const promptsName = "prompts.json";

export interface Speech {
  /** null: those of the rows that it was trained on, which are in no one form. */
  prompts: Prompts | null;
  /** Frames of a video, as in the run; undefined: the family's. */
  frames: FrameSampling | undefined;
  /** What chat templates print as the date. */
  templateDate: string | undefined;
}

interface KeptRun {
  kind?: unknown;
  templateDate?: unknown;
  config?: { prompts?: unknown; video?: FrameSampling };
  inputs?: { prompts?: { sha256?: unknown } };
}

async function keptPrompts(dir: string, run: KeptRun): Promise<Prompts> {
  const wanted = run.inputs?.prompts?.sha256;
  const kept = await readState(join(dir, promptsName));
  if (kept !== null) {
    const prompts = promptsOf(kept);
    if (wanted === undefined || promptsHash(prompts) === wanted) return prompts;
  }
  if (promptsHash(defaultPrompts) === wanted) return defaultPrompts;
  const path = run.config?.prompts;
  if (kept === null && typeof path === "string") {
    const found = await readPrompts(path).catch(() => null); // moved or changed: reported below
    if (found && promptsHash(found) === wanted) return found;
  }
  throw new IsrDpoError(
    "RUN_MISMATCH",
    `${join(dir, promptsName)}: expected the prompts that the run was started with, got ${kept === null ? "none" : "others"}`,
    { hint: "ask with --raw, in prompts of your own; the run's own command writes them again", path: dir },
  );
}

/** Null for what is no folder of a run. */
export async function speechOf(dir: string): Promise<Speech | null> {
  const run = (await readState(join(dir, "run.json"))) as KeptRun | null;
  if (run === null) return null;
  const templateDate = typeof run.templateDate === "string" ? run.templateDate : undefined;
  if (run.kind !== "isr") return { prompts: null, frames: undefined, templateDate };
  const { frames, window, fps } = run.config?.video ?? {};
  const sample = { ...(frames && { frames }), ...(window && { window }), ...(fps && { fps }) };
  const prompts = await keptPrompts(dir, run);
  return { prompts, frames: Object.keys(sample).length > 0 ? sample : undefined, templateDate };
}
