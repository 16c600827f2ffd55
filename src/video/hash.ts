// SHA-256 of files and of large arrays without holding up the event loop.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { IsrDpoError } from "../errors.js";

const step = 4 << 20;

/** SHA-256 in hexadecimal of the parts one after the other. */
export async function hashOf(parts: readonly (string | ArrayBufferView)[]): Promise<string> {
  const hash = createHash("sha256");
  for (const part of parts) {
    if (typeof part === "string") {
      hash.update(part);
      continue;
    }
    const bytes = new Uint8Array(part.buffer, part.byteOffset, part.byteLength);
    for (let at = 0; at < bytes.length; at += step) {
      hash.update(bytes.subarray(at, at + step));
      if (at + step < bytes.length) await new Promise((next) => setImmediate(next));
    }
  }
  return hash.digest("hex");
}

const known = new Map<string, string>();
const maxKnown = 65536;

/** SHA-256 of a file's content, remembered while its path, number, size and times stay what they are. */
export async function hashFile(path: string, signal?: AbortSignal): Promise<string> {
  try {
    const facts = await stat(path, { bigint: true });
    if (!facts.isFile()) throw new Error("no regular file");
    const key = [path, facts.ino, facts.size, facts.mtimeNs, facts.ctimeNs].join("\0");
    const before = known.get(key);
    if (before !== undefined) return before;
    const digest = await digestOf(path, signal);
    if (known.size >= maxKnown) known.delete(known.keys().next().value!); // the oldest
    known.set(key, digest);
    return digest;
  } catch (cause) {
    if (signal?.aborted) throw signal.reason;
    throw new IsrDpoError("MEDIA_UNREADABLE", `${path}: expected a readable file, got ${(cause as Error).message}`, {
      path,
      cause,
    });
  }
}

async function digestOf(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
    signal?.throwIfAborted();
    hash.update(chunk as Buffer);
  }
  return hash.digest("hex");
}
