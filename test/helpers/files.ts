// Throw-away folders, removed when the process ends.
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const made: string[] = [];
process.on("exit", () => {
  for (const dir of made) rmSync(dir, { recursive: true, force: true });
});

export function temporaryFolder(): string {
  const dir = mkdtempSync(join(tmpdir(), "isr-dpo-test-"));
  made.push(dir);
  return dir;
}

/** A copy of a folder that may be spoiled. */
export function copyOf(dir: string): string {
  const copy = join(temporaryFolder(), "copy");
  cpSync(dir, copy, { recursive: true });
  return copy;
}
