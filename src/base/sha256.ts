// SHA-256 in hexadecimal, of what is in memory and of files.
import { type BinaryLike, createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { guarded } from "./file-errors.js";

export const sha256 = (content: BinaryLike): string => createHash("sha256").update(content).digest("hex");

/** As messages and names show one. */
export const shortHash = (sha256: string): string => sha256.slice(0, 12);

/** SHA-256 of a file; the system's errors, or the signal's, come as they are. */
export async function sha256OfStream(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20, ...(signal ? { signal } : {}) }))
    hash.update(chunk as Buffer);
  return hash.digest("hex");
}

/** SHA-256 of a file. NOT_FOUND, IO. */
export const sha256Of = (path: string): Promise<string> => guarded(path, "read", () => sha256OfStream(path));
