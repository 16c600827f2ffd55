// A file that appears whole or not at all: written beside its place, synced, renamed.
import { type FileHandle, open, rename, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { temporaryOf } from "../outputs.js";
import { ioError } from "./fault.js";

export interface AtomicFile {
  write(bytes: Uint8Array): Promise<void>;
}

async function syncFolder(folder: string): Promise<void> {
  if (process.platform === "win32") return; // folders cannot be opened there
  const handle = await open(folder);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Runs `work` on a new file and puts it at `path`. After any failure nothing is left and `path` is as it was. */
export async function writeAtomically(path: string, work: (file: AtomicFile) => Promise<void>): Promise<void> {
  const temporary = temporaryOf(path);
  let file: FileHandle | undefined;
  const guarded = async <T>(step: () => Promise<T>): Promise<T> => {
    try {
      return await step();
    } catch (e) {
      throw ioError(path, e, "write");
    }
  };
  try {
    const handle = await guarded(() => open(temporary, "wx"));
    file = handle;
    await work({ write: (bytes) => guarded(() => handle.appendFile(bytes)) });
    await guarded(() => handle.sync());
    file = undefined;
    await guarded(async () => {
      await handle.close();
      await rename(temporary, path);
      await syncFolder(dirname(path));
    });
  } catch (e) {
    await file?.close().catch(() => {});
    await unlink(temporary).catch(() => {});
    throw e;
  }
}
