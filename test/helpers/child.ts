// Scripts in a process of their own: what may crash takes no test run with it.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../..", import.meta.url));

export interface Ended {
  code: number | null;
  signal: string | null;
  out: string;
  err: string;
}

/** Runs a node command line in the package's folder. */
export function node(
  args: readonly string[],
  env: Record<string, string> = {},
  timeoutMs = 600_000,
  input?: string,
): Ended {
  const child = spawnSync(process.execPath, [...args], {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, ...env },
    timeout: timeoutMs,
    ...(input === undefined ? {} : { input }),
  });
  return { code: child.status, signal: child.signal, out: child.stdout, err: child.stderr };
}

/**
 * The command line isr-dpo as node runs it: the built one where the suite has just built it (ISR_DPO_BUILT), which starts five
 * times as fast, else its source.
 */
export const cliCommand: readonly string[] =
  process.env.ISR_DPO_BUILT === "1" ? ["dist/cli.js"] : ["--import", "tsx", "src/cli/main.ts"];

/** Runs a TypeScript file of test/children; `flags` are node's. */
export const script = (name: string, args: string[] = [], flags: string[] = []): Ended =>
  node([...flags, "--import", "tsx", `test/children/${name}`, ...args]);
