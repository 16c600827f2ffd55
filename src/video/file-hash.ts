// SHA-256 of files and of large arrays without holding up the event loop.
import { createHash } from "node:crypto";
import { stat } from "node:fs/promises";
import { setImmediate as pause } from "node:timers/promises";
import { Lru } from "../base/lru.js";
import { sha256OfStream } from "../base/sha256.js";
import { IsrDpoError } from "../base/errors.js";
import { Shared } from "./shared-work.js";

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
      if (at + step < bytes.length) await pause();
    }
  }
  return hash.digest("hex");
}

/** What tells one content of a file from another without reading it; null where there is no file. */
export async function identityOf(path: string): Promise<string | null> {
  const facts = await stat(path, { bigint: true }).catch(() => null);
  return facts && [path, facts.dev, facts.ino, facts.size, facts.mtimeNs, facts.ctimeNs].join("\0");
}

const known = new Lru<string>(65536);
const running = new Shared<string>();
const tickMs = 20; // two changes within one tick of the system's clock have the same time

/**
 * SHA-256 of a file's content, remembered while its path, number, size and times stay what they are; asked for by many at
 * once it is read once. MEDIA_UNREADABLE for what cannot be read, or changes while it is.
 */
export async function hashFile(path: string, signal?: AbortSignal): Promise<string> {
  try {
    for (let round = 0; round < 2; round++) {
      const facts = await stat(path, { bigint: true });
      if (!facts.isFile()) throw new Error("no regular file");
      const identity = (await identityOf(path)) ?? "";
      const found = known.get(identity);
      if (found !== undefined) return found;
      const digest = await running.run(identity, signal, (all) => sha256OfStream(path, all));
      if ((await identityOf(path)) !== identity) continue;
      if (Date.now() - Number(facts.ctimeMs) > tickMs) known.put(identity, digest);
      return digest;
    }
  } catch (cause) {
    if (signal?.aborted) throw signal.reason;
    throw new IsrDpoError("MEDIA_UNREADABLE", `${path}: expected a readable file, got ${(cause as Error).message}`, {
      path,
      cause,
    });
  }
  throw changing(path);
}

/** The error for a file that is written to while it is read. */
export const changing = (path: string): IsrDpoError =>
  new IsrDpoError(
    "MEDIA_UNREADABLE",
    `${path}: expected a file that stays what it is, got one that changes while it is read`,
    {
      hint: "wait until it is copied or downloaded, then try again",
      path,
    },
  );
