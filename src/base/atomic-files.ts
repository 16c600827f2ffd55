// Files and folders that appear complete or not at all: they are written beside their path under a name that no other program
// uses (.<name>.isr-dpo-<12 digits>.tmp), synced, renamed, and the folder is synced. A path has one writer at a time: the
// process that holds the run's lock.
import { constants } from "node:fs";
import { type FileHandle, lstat, mkdir, open, readdir, rename, rm, stat, unlink } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { isObject } from "./check.js";
import { IsrDpoError } from "./errors.js";
import { between, die, due } from "./failpoint.js";
import { codeOf, type FileErrorOptions, fileError, guarded } from "./file-errors.js";
import { isTemporary, temporaryOf } from "./output-path.js";

/** The name of a temporary for failpoints, which must be the same each time. */
const failpointOf = (path: string): string => `${path}.tmp`;

/** All of `bytes` at `at`, in one call unless the system takes only a part. */
export async function writeAll(file: FileHandle, bytes: Uint8Array, at: number, path: string): Promise<void> {
  await between("write", path, async () => {
    if (due("half", "write", path)) {
      await file.write(bytes, 0, bytes.length >> 1, at);
      die();
    }
    await writeParts(file, bytes, at);
  });
}

async function writeParts(file: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length; )
    done += (await file.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
}

/** Fills `bytes` from `at` on; how many there were before the file's end. */
export async function readAll(file: FileHandle, bytes: Uint8Array, at: number): Promise<number> {
  for (let done = 0; ; ) {
    const { bytesRead } = await file.read(bytes, done, bytes.length - done, at + done);
    done += bytesRead;
    if (bytesRead === 0 || done === bytes.length) return done;
  }
}

async function wholeText(file: FileHandle, size: number): Promise<string> {
  const bytes = Buffer.alloc(size);
  return bytes.toString("utf8", 0, await readAll(file, bytes, 0));
}

/** A file's text. readFile() takes a read that was cut short for the file's end. */
export async function readText(path: string): Promise<string> {
  return guarded(path, "read", async () => {
    const file = await open(path);
    try {
      return await wholeText(file, (await file.stat()).size);
    } finally {
      await file.close();
    }
  });
}

async function syncPath(path: string, flags: number): Promise<void> {
  const file = await open(path, flags);
  try {
    await between("sync", path, () => file.sync());
  } finally {
    await file.close();
  }
}

/** Makes the names in a folder durable. */
export async function syncFolder(dir: string): Promise<void> {
  await guarded(dir, "sync", () =>
    syncPath(dir, constants.O_RDONLY | constants.O_DIRECTORY).catch((e) => {
      // Some file systems have no sync for folders.
      if (!["EINVAL", "ENOTSUP"].includes(codeOf(e))) throw e;
    }),
  );
}

/** The topmost folder that had to be made. mkdir's own `recursive` says ENOENT of a disk that failed or is full. */
async function makeMissing(dir: string, tries = 0): Promise<string | undefined> {
  try {
    await mkdir(dir);
    return dir;
  } catch (e) {
    const above = dirname(dir);
    if (codeOf(e) === "ENOENT" && above !== dir) {
      const first = await makeMissing(above);
      const here = await makeMissing(dir); // another process may have made it meanwhile
      return first ?? here;
    }
    // One look decides: between two, others may make the folder or remove it.
    const is = await lstat(dir).catch(() => null);
    if (is?.isDirectory()) return undefined;
    if (is?.isSymbolicLink() && (await stat(dir).catch(() => null))?.isDirectory()) return undefined;
    if (codeOf(e) === "EEXIST" && is === null && tries < 100) return await makeMissing(dir, tries + 1); // removed again meanwhile
    throw e;
  }
}

/** A folder with its parents, as `mkdir -p`; their names are durable. The topmost one that had to be made. */
export async function makeFolders(dir: string): Promise<string | undefined> {
  const first = await guarded(dir, "make", () => makeMissing(resolve(dir)));
  if (first === undefined) return undefined;
  const top = resolve(first);
  for (let made = resolve(dir); made.length >= top.length; made = dirname(made)) await syncFolder(dirname(made));
  return top;
}

export interface AtomicFileOptions extends FileErrorOptions {
  /** The name until then; default: one that nobody else gives. */
  temporary?: string;
  /** What is read again where it is missing: it needs no failpoints. */
  cache?: boolean;
}

/** A file that appears whole: written under another name beside its place, put there by commit(). */
export class AtomicFile {
  readonly #file: FileHandle;
  readonly #temporary: string;
  readonly #o: AtomicFileOptions;
  #at = 0;
  #open = true;

  private constructor(
    readonly path: string,
    file: FileHandle,
    temporary: string,
    o: AtomicFileOptions,
  ) {
    this.#file = file;
    this.#temporary = temporary;
    this.#o = o;
  }

  /** A new, empty file. The folder must exist. */
  static async create(path: string, o: AtomicFileOptions = {}): Promise<AtomicFile> {
    const temporary = o.temporary ?? temporaryOf(path);
    return new AtomicFile(path, await guarded(path, "create", () => open(temporary, "wx", 0o666), o), temporary, o);
  }

  async write(bytes: Uint8Array): Promise<void> {
    const { path } = this;
    const write = () =>
      this.#o.cache
        ? writeParts(this.#file, bytes, this.#at)
        : writeAll(this.#file, bytes, this.#at, failpointOf(path));
    await guarded(path, "write", write, this.#o);
    this.#at += bytes.length;
  }

  /** Makes it durable and puts it in place; only when the last step, the folder's sync, fails, it stands there all the same. */
  async commit(): Promise<void> {
    const { path } = this;
    const step: typeof between = this.#o.cache ? (_doing, _path, work) => work() : between;
    try {
      await guarded(path, "sync", () => step("sync", failpointOf(path), () => this.#file.sync()), this.#o);
    } finally {
      await guarded(path, "close", () => this.#close(), this.#o);
    }
    const placed = () => step("rename", path, () => rename(this.#temporary, path));
    await guarded(path, "put in place", placed, this.#o);
    if (this.#o.cache) await guarded(path, "sync", () => syncPath(dirname(path), constants.O_RDONLY), this.#o);
    else await syncFolder(dirname(path));
  }

  async #close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#file.close();
  }

  /** Leaves nothing of it behind. Behind a commit it does nothing. */
  async discard(): Promise<void> {
    await this.#close().catch(() => {}); // the error that is being thrown says more
    await unlink(this.#temporary).catch(() => {});
  }
}

/**
 * Runs `work` on a new file and puts it in place, whole and durable. After an error the old file stands and nothing
 * temporary does; only when the last step, the folder's sync, fails, the new one may stand instead. An error of `work`'s
 * own passes as it is. DISK_FULL, NOT_FOUND (no such folder), IO.
 */
export async function writeAtomically(
  path: string,
  work: (file: AtomicFile) => Promise<void>,
  o: AtomicFileOptions = {},
): Promise<void> {
  const file = await AtomicFile.create(path, o);
  try {
    await work(file);
    await file.commit();
  } catch (e) {
    await file.discard();
    throw e;
  }
}

/** writeAtomically() of what is at hand, or comes part by part. */
export const writeAtomic = (path: string, data: string | Uint8Array | AsyncIterable<Uint8Array>): Promise<void> =>
  writeAtomically(path, async (file) => {
    const whole = typeof data === "string" ? Buffer.from(data) : data;
    for await (const part of whole instanceof Uint8Array ? [whole] : whole) await file.write(part);
  });

async function syncTree(dir: string): Promise<void> {
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) await syncTree(path);
    else if (entry.isFile()) await syncPath(path, constants.O_RDONLY);
    else throw new IsrDpoError("BUG", `${path}: expected a file or folder, got something else`, { path });
  }
  await syncFolder(dir);
}

/** A folder that appears whole: filled at `path`, put in place by commit(). */
export class AtomicDir {
  /** Where its files go until then. */
  readonly path: string;

  private constructor(readonly final: string) {
    this.path = temporaryOf(final);
  }

  /** A new, empty temporary folder. The parent must exist. */
  static async create(final: string): Promise<AtomicDir> {
    const dir = new AtomicDir(final);
    await guarded(final, "make", () => mkdir(dir.path));
    return dir;
  }

  /** Makes every file durable, then the folder appears. The place must be free; after an error it still is. */
  async commit(): Promise<void> {
    let moved = false;
    try {
      await guarded(this.path, "sync", () => syncTree(this.path));
      await guarded(this.final, "put in place", () =>
        between("rename", this.final, () => rename(this.path, this.final)),
      );
      moved = true;
      await syncFolder(dirname(this.final));
    } catch (e) {
      if (moved) await rename(this.final, this.path).catch(() => {});
      await this.abandon().catch(() => {});
      throw e;
    }
  }

  /** Removes what was written. */
  async abandon(): Promise<void> {
    await guarded(this.path, "remove", () => rm(this.path, { recursive: true, force: true }));
  }
}

/** Removes a folder so that no reader ever sees a part of it. */
export async function removeFolder(dir: string): Promise<void> {
  const temporary = temporaryOf(dir);
  await guarded(dir, "remove", async () => {
    await between("rename", failpointOf(dir), () => rename(dir, temporary));
    await between("remove", failpointOf(dir), () => rm(temporary, { recursive: true, force: true }));
  });
}

/** Names in a folder that is a folder and no link to one; none where there is nothing. */
async function ownNames(dir: string): Promise<string[]> {
  const facts = await lstat(dir).catch(() => null);
  if (!facts?.isDirectory()) return [];
  return guarded(dir, "list", () => readdir(dir));
}

/**
 * Deletes what killed processes left in the named folders of a run: names that temporaryOf() or model.save() gave.
 * Neither other names nor other folders are looked at, and links are not followed. The deleted paths.
 */
export async function removeTemporaries(folders: readonly string[]): Promise<string[]> {
  const removed: string[] = [];
  for (const dir of folders)
    for (const name of await ownNames(dir)) {
      if (!isTemporary(name)) continue;
      const path = join(dir, name);
      await guarded(path, "remove", () => between("remove", path, () => rm(path, { recursive: true, force: true })));
      removed.push(path);
    }
  return removed;
}

const maxStateBytes = 64 << 20;

/** A JSON object that a run keeps, or null where there is none. JOURNAL_CORRUPT for anything else. */
export async function readState(path: string): Promise<Record<string, unknown> | null> {
  const corrupt = (got: string, cause?: unknown) =>
    new IsrDpoError("JOURNAL_CORRUPT", `${path}: expected a JSON object, got ${got}`, {
      hint: "the file was changed or damaged: restore it, or start in a new folder",
      path,
      cause,
    });
  const flags = constants.O_RDONLY | constants.O_NONBLOCK; // a FIFO without a writer must not hang the open
  const file = await open(path, flags).catch((e) => {
    if (codeOf(e) === "ENOENT") return null;
    throw fileError(e, path, "open");
  });
  if (!file) return null;
  try {
    const facts = await file.stat();
    if (!facts.isFile()) throw corrupt("no regular file");
    if (facts.size > maxStateBytes) throw corrupt(`${facts.size} bytes, above the limit of ${maxStateBytes}`);
    const text = await guarded(path, "read", () => wholeText(file, facts.size));
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (e) {
      throw corrupt("other text", e);
    }
    if (!isObject(value)) throw corrupt("another value");
    return value;
  } finally {
    await file.close();
  }
}
