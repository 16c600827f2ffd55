// Ranks as processes of a test: each runs test/children/rank.ts, does what it is asked, and prints lines of JSON.
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { freePort } from "../../src/cli/ranks.js";
import { root } from "./child.js";

export { freePort };

/** Milliseconds that a rank's own end may take beyond what is promised: a machine that does much else is no fault. */
export const slackMs = process.env.ISR_DPO_LONG === "1" ? 1000 : 6000;

/** Why ranks cannot speak through Gloo here; undefined where they can. */
export const glooMissing = existsSync(join(root, "build/Release/isr_dpo_gloo.so"))
  ? undefined
  : "the addon was built without Gloo (Debian: libgloo-dev)";

export interface RankEnd {
  code: number | null;
  signal: string | null;
  lines: Record<string, unknown>[];
  err: string;
  /** performance.now() at its end. */
  at: number;
}

/** The error that a rank told. */
export const errorOf = (end: RankEnd) =>
  end.lines.find((l) => "error" in l)?.error as { ours: boolean; code: string; message: string };

/** A rank's process; `heard` waits for a line that has the key. */
export class RankProcess {
  readonly child: ChildProcess;
  readonly end: Promise<RankEnd>;
  readonly #lines: Record<string, unknown>[] = [];
  readonly #waiting = new Map<string, () => void>();

  constructor(options: Record<string, unknown>, env: Record<string, string>, namespace?: string) {
    const args = ["--import", "tsx", "test/children/rank.ts", JSON.stringify(options)];
    const inside = namespace === undefined ? [] : ["ip", "netns", "exec", namespace];
    const [command, ...rest] = [...inside, process.execPath, ...args];
    this.child = spawn(command!, rest, { cwd: root, env: { ...process.env, ...env } });
    let err = "";
    this.child.stderr!.on("data", (text) => {
      err += text;
    });
    createInterface({ input: this.child.stdout! }).on("line", (text) => {
      const line = JSON.parse(text) as Record<string, unknown>;
      this.#lines.push(line);
      for (const key of Object.keys(line)) this.#waiting.get(key)?.();
    });
    this.end = new Promise((resolve) =>
      this.child.once("close", (code, signal) =>
        resolve({ code, signal, lines: this.#lines, err, at: performance.now() }),
      ),
    );
  }

  /** Whether it has told such a line. */
  has(key: string): boolean {
    return this.#lines.some((line) => key in line);
  }

  async heard(key: string): Promise<void> {
    if (this.has(key)) return;
    await Promise.race([new Promise<void>((resolve) => this.#waiting.set(key, resolve)), this.end]);
    if (!this.has(key)) throw new Error(`a rank ended without "${key}": ${(await this.end).err}`);
  }
}

/** Starts ranks 0 to size - 1 with the same work; what differs by rank comes from `of`. */
export async function startRanks(
  size: number,
  work: Record<string, unknown>,
  of: (rank: number) => Record<string, unknown> = () => ({}),
  env: Record<string, string> = {},
  namespaces: readonly string[] = [],
): Promise<RankProcess[]> {
  const address = `127.0.0.1:${await freePort()}`;
  return Array.from(
    { length: size },
    (_, rank) => new RankProcess({ rank, size, address, token: "t", ...work, ...of(rank) }, env, namespaces[rank]),
  );
}

/** The ends of ranks that are all expected to do well, in their order: the lines of each. */
export async function doneRanks(ranks: readonly RankProcess[]): Promise<Record<string, unknown>[][]> {
  const ends = await Promise.all(ranks.map((r) => r.end));
  const bad = ends.findIndex((e) => e.code !== 0);
  if (bad >= 0) throw new Error(`rank ${bad} ended with ${ends[bad]!.code ?? ends[bad]!.signal}: ${ends[bad]!.err}`);
  return ends.map((e) => e.lines);
}
