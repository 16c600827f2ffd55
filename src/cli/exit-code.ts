// Exit codes (2 usage, 65 data, 75 try again, 78 configuration, 1 a bug), and how a failure is printed.
import pc from "picocolors";
import { type ErrorCode, isIsrDpoError } from "../base/errors.js";

const codes: Partial<Record<ErrorCode, number>> = {
  INVALID_ARGUMENT: 2,
  INVALID_CONFIG: 78,
  BINARY_MISSING: 78,
  DEVICE_UNAVAILABLE: 78,
  FFMPEG_MISSING: 78,
  OUT_OF_MEMORY: 78,
  RUN_MISMATCH: 78,
  DISK_FULL: 75,
  IO: 75,
  RUN_LOCKED: 75,
  RANK_LOST: 75,
  JUDGE_FAILED: 75,
  BUG: 1,
  DISPOSED: 1,
  NONDETERMINISM: 1,
};

/** The command ends with this code, and all has been said. */
export class ExitWith extends Error {
  override readonly name = "ExitWith";
  constructor(readonly code: number) {
    super(`exit code ${code}`);
  }
}

export function exitCode(e: unknown): number {
  return isIsrDpoError(e) ? (codes[e.code] ?? 65) : 1;
}

/** Colours on a terminal only. */
export const colours = (stream: NodeJS.WriteStream) => pc.createColors(pc.isColorSupported && stream.isTTY === true);

export function report(e: unknown): void {
  const c = colours(process.stderr);
  if (!isIsrDpoError(e) || exitCode(e) === 1) {
    console.error(`${c.red("bug:")} ${e instanceof Error ? e.stack : String(e)}`);
    return;
  }
  console.error(`${c.red(`${e.code}:`)} ${e.message}`);
  if (e.hint) console.error(`${c.cyan("hint:")} ${e.hint}`);
}
