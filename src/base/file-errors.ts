// Failures of file operations as errors of this package. Only this file knows the system's error codes.
import { IsrDpoError, isIsrDpoError } from "./errors.js";

/** The system's name for an error; empty for an error that has none. */
export const codeOf = (e: unknown): string => (e as { code?: string } | null | undefined)?.code ?? "";

export interface FileErrorOptions {
  /** What to do about a full disk. */
  full?: string;
  /** What to do about everything else but a missing file. */
  other?: string;
  /** The code for a file or folder that is not there. */
  absent?: "NOT_FOUND" | "IO";
}

const fullCodes: readonly string[] = ["ENOSPC", "EDQUOT", "EFBIG"];
const absentCodes: readonly string[] = ["ENOENT", "ENOTDIR"];

/** Hints for files that the same call writes anew when it is made again. */
export const writeAgain: FileErrorOptions = { full: "free space and write again; nothing was left behind" };

/** DISK_FULL, NOT_FOUND or IO for what the system refused; an error of this package as it is. */
export function fileError(e: unknown, path: string, doing: string, o: FileErrorOptions = {}): IsrDpoError {
  if (e instanceof IsrDpoError) return e;
  const expected = `${path}: expected to ${doing} it, got`;
  const facts = { path, cause: e };
  if (fullCodes.includes(codeOf(e)))
    return new IsrDpoError("DISK_FULL", `${expected} a full disk (${codeOf(e)})`, {
      hint: o.full ?? "free disk space; the same command resumes",
      ...facts,
    });
  if (absentCodes.includes(codeOf(e)) && o.absent !== "IO")
    return new IsrDpoError("NOT_FOUND", `${expected} no such file or folder`, facts);
  return new IsrDpoError("IO", `${expected} ${(e as Error).message}`, {
    hint: o.other ?? "check the disk and the permissions of the path",
    ...facts,
  });
}

/** An error of the file system as one of ours; errors of ours and of other origin stay as they are. */
export function ioError(path: string, e: unknown, doing: "read" | "write"): unknown {
  const { code, syscall } = (e ?? {}) as { code?: string; syscall?: string };
  if (isIsrDpoError(e) || !(e instanceof Error) || code === undefined || syscall === undefined) return e;
  return fileError(e, path, doing, writeAgain);
}

/** Runs a call of the system; its errors become ours. */
export async function guarded<T>(
  path: string,
  doing: string,
  work: () => Promise<T>,
  o: FileErrorOptions = {},
): Promise<T> {
  try {
    return await work();
  } catch (e) {
    throw fileError(e, path, doing, o);
  }
}
