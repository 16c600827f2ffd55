// The newest finished model of a run folder, which may be given in place of a checkpoint's folder.
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { IsrDpoError } from "../base/errors.js";

const holdsModel = (dir: string): boolean => existsSync(join(dir, "config.json"));

/** `dir` itself, or where it is a run's folder the model that was made last. NOT_FOUND for a run that has made none. */
export function modelFolder(dir: string): string {
  if (holdsModel(dir) || !existsSync(join(dir, "run.json"))) return dir;
  const iterations = join(dir, "iterations");
  const made = existsSync(iterations) ? readdirSync(iterations).filter((name) => /^\d+$/.test(name)) : [];
  const folders = [
    ...made.sort((a, b) => Number(b) - Number(a)).map((t) => join(iterations, t, "model")),
    join(dir, "model"),
    join(dir, "seed", "model"),
  ];
  const newest = folders.find(holdsModel);
  if (newest !== undefined) return newest;
  throw new IsrDpoError("NOT_FOUND", `${dir}: expected a run with a finished model, got one that has made none`, {
    hint: "let the run go on, or name the checkpoint's folder",
    path: dir,
  });
}
