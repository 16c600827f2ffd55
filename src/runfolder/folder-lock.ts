// The lock of a run folder: one process holds it at a time, and it is free as soon as that process ends, in whatever way.
import { join } from "node:path";
import { path as checkPath } from "../base/check.js";
import { lockFileNative } from "../base/addon.js";

/** A held lock. It is held until release() or the end of the process. */
export interface Lock {
  readonly path: string;
  /** Calling it again does nothing. */
  release(): void;
}

// Keeps locks of callers that dropped theirs: collecting the native handle would unlock.
const held = new Set<Lock>();

/** Takes `<dir>/lock`. RUN_LOCKED, naming host, process and since when, while this or another process has it; NOT_FOUND, IO. */
export async function acquireLock(dir: string): Promise<Lock> {
  const path = join(checkPath("dir", dir), "lock");
  const unlock = lockFileNative(path);
  const lock: Lock = {
    path,
    release: () => {
      if (held.delete(lock)) unlock();
    },
  };
  held.add(lock);
  return lock;
}
