// start.json: the inputs that an iteration starts from. At a later start they must be the same.
import { stat } from "node:fs/promises";
import { readState, writeAtomic } from "../base/atomic-files.js";
import { IsrDpoError } from "../base/errors.js";
import { guarded } from "../base/file-errors.js";
import { canonicalJson } from "../runfolder/run-json.js";

export interface IterationStart extends Record<string, unknown> {
  /** Files of the model but its weights, with the SHA-256 of each. */
  files: Readonly<Record<string, string>>;
}

/** Writes it at the first start; RUN_MISMATCH where it says something else. */
export async function settleStart(path: string, start: IterationStart): Promise<void> {
  const found = await readState(path);
  if (found === null) return writeAtomic(path, `${canonicalJson(start)}\n`);
  const same = (a: unknown, b: unknown) => canonicalJson(a ?? null) === canonicalJson(b ?? null);
  const differing = Object.entries(start).flatMap(([key, value]) => (same(found[key], value) ? [] : [key]));
  if (differing.length === 0) return;
  const old = (found.files ?? {}) as Record<string, string>;
  const files = Object.keys({ ...old, ...start.files }).filter((name) => old[name] !== start.files[name]);
  const told = differing.map((key) => (key === "files" ? `content of the model's ${files.join(", ")}` : key));
  const { mtime } = await guarded(path, "stat", () => stat(path));
  throw new IsrDpoError(
    "RUN_MISMATCH",
    `${path}: the iteration was started, on ${mtime.toISOString()}, with another ${told.join(", ")}`,
    {
      hint: "give the model and the settings that it was started with, or start in a new folder",
      path,
      detail: { differences: differing },
    },
  );
}
