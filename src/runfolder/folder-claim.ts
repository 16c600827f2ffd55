// How a folder becomes that of a run: it is missing, or empty, or holds the file that says so. Any other folder is refused
// before anything in it is made, changed or removed. Until a start has been checked, the folder only holds a note that it has
// begun.
import { lstat, open, readdir, rmdir, unlink } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { isFeatureName, isLeftOver } from "../video/feature-cache.js";
import { isTemporary } from "../base/output-path.js";
import { makeFolders, readState, readText, removeTemporaries, writeAtomic } from "../base/atomic-files.js";
import { codeOf, fileError, guarded } from "../base/file-errors.js";
import { acquireLock, type Lock } from "./folder-lock.js";
import { realPlace } from "./path-overlap.js";

/** In a folder that was missing or empty when a start of ours came, until it carries its mark. */
export const begunName = ".isr-dpo-begun";
const note = "A run of isr-dpo begins here. This file goes when it has begun, or when its start was refused.\n";

export interface Owner<T> {
  /** The file that makes the folder ours: run.json, ... */
  mark: string;
  /** What such a folder is, for messages. */
  what: string;
  /** What the mark says; throws where it is not of this kind. null: it is not ours at all. */
  read(path: string, found: Record<string, unknown>): T | null;
  /** Files, and behind them folders, that a start makes before the mark: they go when it is refused. */
  drafts?: { files: readonly string[]; folders: readonly string[] };
}

/** INVALID_ARGUMENT for a folder that holds what is not ours. */
export function refuseForeign(dir: string, what: string, names: readonly string[]): never {
  const some = [...names].sort().slice(0, 5).join(", ");
  const more = names.length > 5 ? ` and ${names.length - 5} more` : "";
  throw new IsrDpoError(
    "INVALID_ARGUMENT",
    `${dir}: expected ${what}, or no or an empty folder, got one with ${some}${more}`,
    {
      hint: "name a new folder; nothing in this one was changed",
      path: dir,
      detail: { names: [...names].sort().slice(0, 100) },
    },
  );
}

/** Names in a folder; null where there is none. */
async function namesIn(dir: string): Promise<string[] | null> {
  try {
    return await readdir(dir);
  } catch (e) {
    const link = (await lstat(dir).catch(() => null))?.isSymbolicLink() ?? false;
    if (codeOf(e) === "ENOENT" && !link) return null;
    const got = codeOf(e) === "ENOENT" ? "a link to nothing" : codeOf(e) === "ENOTDIR" ? "a file" : null;
    if (got !== null)
      throw new IsrDpoError("INVALID_ARGUMENT", `${dir}: expected a folder, got ${got}`, { path: dir, cause: e });
    throw fileError(e, dir, "list");
  }
}

type State<T> = { is: "missing" | "empty" | "begun" } | { is: "ours"; found: T };

const lockText = /^\S+ \d+ \S+ \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n/;

/** Whether a lone lock is that of a start which is giving up. It is empty for a moment, as those of other programs may always be. */
async function isOurLock(path: string): Promise<boolean> {
  const until = performance.now() + 2000; // on a busy machine the other process may wait for its turn as long
  do {
    const facts = await lstat(path).catch(() => null);
    if (!facts) return true; // gone meanwhile: the next look will say
    if (!facts.isFile() || facts.size > 1024) return false;
    const text = facts.size > 0 ? await readText(path).catch(() => "") : "";
    if (text !== "") return lockText.test(text); // else it is being written, or went since
    await sleep(10);
  } while (performance.now() < until);
  return false;
}

/** What a folder is to us; reads only. */
async function stateOf<T>(dir: string, { mark, what, read }: Owner<T>): Promise<State<T>> {
  const names = await namesIn(dir);
  if (names === null) return { is: "missing" };
  if (names.length === 0) return { is: "empty" };
  if (names.includes(mark)) {
    const path = join(dir, mark);
    const state = await readState(path);
    const found = state && read(path, state);
    if (found) return { is: "ours", found };
  } else if (names.includes(begunName)) return { is: "begun" };
  else if (names.every((name) => name === "lock") && (await isOurLock(join(dir, "lock")))) return { is: "empty" };
  return refuseForeign(dir, what, names);
}

/** Notes that a start has begun; somebody else's note does as well. */
async function begin(dir: string): Promise<void> {
  const path = join(dir, begunName);
  await guarded(path, "create", async () => {
    const file = await open(path, "wx").catch((e) => {
      if (codeOf(e) === "EEXIST") return null;
      throw e;
    });
    if (!file) return;
    try {
      await file.writeFile(note);
    } finally {
      await file.close();
    }
  });
}

/** Folders that a run makes in its own. */
const ownFolders = [
  "iterations",
  "seed",
  "train",
  "model",
  "adapter",
  "features",
  "evaluation",
  "tensorboard",
  "frames",
];

/** INVALID_ARGUMENT for a folder inside one that another run keeps its own things in; a run's seed stage is no other run. */
async function refuseInside(dir: string, what: string): Promise<void> {
  const real = await realPlace(dir);
  for (let above = dirname(real), below = real; above !== below; [above, below] = [dirname(above), above]) {
    const name = basename(below);
    if (!ownFolders.includes(name)) continue;
    const run = await readState(join(above, "run.json")).catch(() => null);
    if (typeof run?.format !== "number" || typeof run.configSha256 !== "string") continue;
    const seeded = (run.config as { seedData?: unknown } | undefined)?.seedData !== undefined;
    if (name === "seed" && below === real && seeded) continue;
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `${dir}: expected ${what} apart from other runs, got one inside of ${join(above, name)}, where the run of ${join(above, "run.json")} keeps its own`,
      { hint: "name a folder of its own, beside that run", path: dir, detail: { run: above } },
    );
  }
}

const maxTries = 100; // while others begin and give up in the same folder

/** A folder that is ours, and locked. */
export class Claim<T> {
  #fresh: boolean;
  #ended = false;

  private constructor(
    readonly dir: string,
    readonly lock: Lock,
    /** What the mark says; null: nothing has come of the folder yet. */
    readonly found: T | null,
    readonly owner: Owner<T>,
    /** The topmost folder that had to be made. */
    readonly top: string | undefined,
  ) {
    this.#fresh = found === null;
  }

  /** Takes a folder. INVALID_ARGUMENT for one that is not ours, RUN_LOCKED, and what the owner's read() throws: nothing is touched then. */
  static async take<T>(dir: string, owner: Owner<T>): Promise<Claim<T>> {
    await refuseInside(dir, owner.what);
    let top: string | undefined;
    for (let tries = 0; ; tries++) {
      const before = await stateOf(dir, owner);
      try {
        if (before.is === "missing") top = (await makeFolders(dir)) ?? top;
        if (before.is === "missing" || before.is === "empty") await begin(dir);
        const lock = await acquireLock(dir);
        const claim = await Claim.#locked(dir, lock, owner, top).catch((e) => {
          lock.release();
          throw e;
        });
        if (claim) return claim;
      } catch (e) {
        // Another start gave up and removed the folder meanwhile.
        if (!isIsrDpoError(e, "NOT_FOUND") || tries >= maxTries) {
          if (top !== undefined) await removeEmpty(dir, top);
          throw e;
        }
      }
    }
  }

  static async #locked<T>(dir: string, lock: Lock, owner: Owner<T>, top: string | undefined): Promise<Claim<T> | null> {
    const names = await namesIn(dir);
    const alone = names?.every((name) => name === "lock") ?? true; // another start gave up after our note
    if (alone) {
      if (names) await unlink(join(dir, "lock")).catch(() => {});
      lock.release();
      return null;
    }
    const state = await stateOf(dir, owner);
    if (state.is === "ours") await unlink(join(dir, begunName)).catch(() => {});
    return new Claim(dir, lock, state.is === "ours" ? state.found : null, owner, top);
  }

  /** The folder has its mark: from now on it stays. */
  async settled(): Promise<void> {
    this.#fresh = false;
    await unlink(join(this.dir, begunName)).catch(() => {});
  }

  /** Removes the temporaries of killed processes from the named folders, which are relative to this one, and from its cache. */
  async tidy(folders: readonly string[]): Promise<void> {
    await removeTemporaries(folders.map((name) => join(this.dir, name)));
    const features = join(this.dir, "features");
    for (const name of await listed(features)) if (isLeftOver(name)) await unlink(join(features, name)).catch(() => {}); // the cache ignores these
  }

  /** Lets go of the folder. What a start that came to nothing made in it is gone then; what others put there stays. */
  async end(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    try {
      if (this.#fresh) await this.#undo();
      else await unlink(join(this.dir, begunName)).catch(() => {}); // gone, unless the disk failed when it was settled
    } finally {
      this.lock.release();
    }
  }

  async #undo(): Promise<void> {
    const { files, folders } = this.owner.drafts ?? { files: [], folders: [] };
    for (const name of files) await unlink(join(this.dir, name)).catch(() => {});
    for (const name of await listed(join(this.dir, "features")))
      if (isFeatureName(name)) await unlink(join(this.dir, "features", name)).catch(() => {});
    for (const name of ["features", ...folders]) await rmdir(join(this.dir, name)).catch(() => {});
    for (const name of await listed(this.dir))
      if (isTemporary(name)) await unlink(join(this.dir, name)).catch(() => {});
    const left = await listed(this.dir);
    if (left.some((name) => name !== "lock" && name !== begunName)) return; // the folder holds more by now: the note stays
    for (const name of ["lock", begunName]) await unlink(join(this.dir, name)).catch(() => {});
    if (this.top !== undefined) await removeEmpty(this.dir, this.top);
  }
}

/** Makes a folder ours that is missing or empty, or finds it ours: for what several processes do not write at once. */
export async function ownFolder(dir: string, owner: Owner<object>): Promise<void> {
  const { is } = await stateOf(dir, owner);
  if (is === "ours") return;
  await makeFolders(dir);
  await writeAtomic(join(dir, owner.mark), `${JSON.stringify({ "isr-dpo": owner.mark.replace(".json", "") })}\n`);
}

const listed = (dir: string): Promise<string[]> =>
  lstat(dir)
    .then((facts) => (facts.isDirectory() ? readdir(dir) : []))
    .catch(() => []);

/** Removes folders from `dir` up to `top`, as long as they are empty. */
async function removeEmpty(dir: string, top: string): Promise<void> {
  for (let at = resolve(dir); at.length >= top.length; at = dirname(at)) {
    const gone = await rmdir(at).then(
      () => true,
      () => false,
    );
    if (!gone) return;
  }
}
