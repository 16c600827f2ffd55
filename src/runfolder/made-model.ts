// The model that a run has made, identified by the content of its files, so that a run that resumes, or is asked, uses that
// model.
import { readdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Lru } from "../base/lru.js";
import { shortHash } from "../base/sha256.js";
import { IsrDpoError } from "../base/errors.js";
import { isTemporary } from "../base/output-path.js";
import { Content, decides, stampOf } from "./content-digest.js";
import { readState } from "../base/atomic-files.js";
import { guarded } from "../base/file-errors.js";

/** SHA-256 of the model's files, by name. */
export type MadeFiles = Readonly<Record<string, string>>;

/** Where the records stand in a stage.json. */
const key = "madeFiles";

/** Files under a folder, as names with slashes. */
async function* filesUnder(dir: string, inside = ""): AsyncGenerator<string> {
  const entries = await guarded(dir, "list", () => readdir(join(dir, inside), { withFileTypes: true }));
  for (const { name } of entries.filter((e) => e.isDirectory())) yield* filesUnder(dir, join(inside, name));
  for (const entry of entries) if (entry.isFile() && !isTemporary(entry.name)) yield join(inside, entry.name);
}

/** What this process has read of files that look as they did then; a copy of a run is read once. */
const known = new Lru<{ sha256: string; stamp: string }>(1000);

async function sha256At(path: string): Promise<string | null> {
  const facts = await stat(path, { bigint: true }).catch(() => null);
  if (!facts?.isFile()) return null;
  const before = known.get(path);
  if (before?.stamp === stampOf(facts)) return before.sha256;
  const { sha256, stamp } = await Content.of(path);
  known.put(path, { sha256, stamp });
  return sha256;
}

/** What is noted of a model when it has been saved, to be written into the stage.json beside its folder. */
export async function madeFiles(dir: string): Promise<{ [key]: MadeFiles }> {
  const found: Record<string, string> = {};
  for await (const name of filesUnder(dir)) found[name] = (await Content.of(join(dir, name))).sha256;
  return { [key]: found };
}

function changed(path: string, expected: string, got: string): IsrDpoError {
  return new IsrDpoError("RUN_MISMATCH", `${path}: expected ${expected}, got ${got}`, {
    hint: "put back what the run has made; a model that is to be changed belongs in a copy, outside of the run",
    path,
  });
}

async function check(path: string, made: string): Promise<void> {
  const sha256 = await sha256At(path);
  if (sha256 === null) throw changed(path, "the file that the run has made", "none");
  if (sha256 !== made)
    throw changed(
      path,
      `the file that the run has made (sha256 ${shortHash(made)})`,
      `other content (${shortHash(sha256)})`,
    );
}

/**
 * Checks `dir`, the folder `model` of a run or of one of its iterations, against the records of the stage.json beside it:
 * RUN_MISMATCH with the name of a file that is changed, gone, or new and decides what the model reads or says. A folder that
 * is not there, and one without records, hold.
 */
export async function checkMade(dir: string): Promise<void> {
  const made = (await readState(join(dirname(dir), "stage.json")))?.[key] as MadeFiles | undefined;
  const there = await stat(dir).catch(() => null);
  if (made === undefined || !there) return;
  for (const [name, file] of Object.entries(made)) await check(join(dir, name), file);
  for await (const name of filesUnder(dir))
    if (!Object.hasOwn(made, name) && decides(name))
      throw changed(join(dir, name), "no such file, as the run has made none", "one");
}
