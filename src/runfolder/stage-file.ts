// stage.json: the current stage of a folder of work. It only moves forward, and only after the inputs of the next stage are
// durable.
import { join } from "node:path";
import { IsrDpoError } from "../base/errors.js";
import { readState, writeAtomic } from "../base/atomic-files.js";
import { canonicalJson } from "./run-json.js";

/** The stage, and what else was noted with it. */
export type StageFile<S extends string> = { stage: S } & Record<string, unknown>;

const nameOf = (dir: string): string => join(dir, "stage.json");

/** What `dir`/stage.json says, or null before the first stage. JOURNAL_CORRUPT for anything but one of `stages`. */
export async function readStage<S extends string>(dir: string, stages: readonly S[]): Promise<StageFile<S> | null> {
  const path = nameOf(dir);
  const found = await readState(path);
  if (found === null) return null;
  if (!stages.includes(found.stage as S))
    throw new IsrDpoError(
      "JOURNAL_CORRUPT",
      `${path}: expected a stage of ${stages.join(", ")}, got ${JSON.stringify(found.stage)}`,
      { hint: "the file was changed: restore it, or start in a new folder", path },
    );
  return found as StageFile<S>;
}

/** Moves to a later stage of `stages`, durably. BUG for the same or an earlier one. */
export async function moveStage<S extends string>(
  dir: string,
  stages: readonly S[],
  to: S,
  facts: Record<string, unknown> = {},
): Promise<void> {
  const from = (await readStage(dir, stages))?.stage;
  const before = from === undefined ? -1 : stages.indexOf(from);
  if (!stages.includes(to) || stages.indexOf(to) <= before)
    throw new IsrDpoError(
      "BUG",
      `${nameOf(dir)}: expected a stage after ${from ?? "none"} of ${stages.join(", ")}, got ${to}`,
    );
  await writeAtomic(nameOf(dir), `${canonicalJson({ ...facts, stage: to })}\n`);
}
