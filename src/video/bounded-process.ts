// Runs ffmpeg and ffprobe with bounds: no shell, no terminal, and a process group that is killed on timeout, abort or too much
// output, and together with this process.
import { spawn } from "node:child_process";

export interface Bounds {
  signal?: AbortSignal | undefined;
  timeoutMs: number;
}

export interface Ended {
  code: number | null;
  /** Why this process killed it, if it did: out of time, its output refused, or nothing more wanted of it. */
  killed?: "timeout" | "output" | "enough";
  /** The signal that ended it otherwise. */
  signal?: NodeJS.Signals;
  /** The start and the end of what it wrote to stderr, without the lines that `line` took. */
  log: string;
}

/** What is done with a line of stderr: kept in the log, taken out of it, or taken as the sign that the process may end. */
export type LineUse = "keep" | "taken" | "enough";

const logBytes = 256 * 1024;
const maxLine = 64 * 1024;
const live = new Set<number>();

function killGroup(pid: number): void {
  try {
    process.kill(process.platform === "win32" ? pid : -pid, "SIGKILL");
  } catch {
    // The process has ended already.
  }
}

const killAll = () => live.forEach(killGroup);

/** Splits a text that may be endless into lines; keeps the first and the last `logBytes` of those that are kept. */
class Log {
  readonly #use: (line: string) => LineUse;
  #rest: Buffer = Buffer.alloc(0); // of a line that has not ended
  readonly #head: string[] = [];
  #headBytes = 0;
  #tail: string[] = [];
  #tailBytes = 0;

  constructor(use: (line: string) => LineUse) {
    this.#use = use;
  }

  /** True once a line said that it is enough. */
  add(chunk: Buffer): boolean {
    const all = this.#rest.length > 0 ? Buffer.concat([this.#rest, chunk]) : chunk;
    const end = Math.max(all.lastIndexOf(10), all.lastIndexOf(13));
    this.#rest = all.subarray(end + 1);
    if (this.#rest.length > maxLine) {
      this.#keep(this.#rest.subarray(0, maxLine).toString("utf8"));
      this.#rest = Buffer.alloc(0);
    }
    if (end < 0) return false;
    for (const line of all
      .subarray(0, end)
      .toString("utf8")
      .split(/[\r\n]+/)) {
      const use = this.#use(line);
      if (use === "keep") this.#keep(line);
      else if (use === "enough") return true;
    }
    return false;
  }

  #keep(line: string): void {
    if (this.#headBytes < logBytes) {
      this.#headBytes += line.length + 1;
      this.#head.push(line);
      return;
    }
    this.#tail.push(line);
    this.#tailBytes += line.length + 1;
    if (this.#tailBytes < 2 * logBytes) return; // cut seldom, so that a long log costs no more than its length
    while (this.#tailBytes > logBytes && this.#tail.length > 1) {
      const half = this.#tail.splice(0, Math.ceil(this.#tail.length / 2));
      for (const gone of half) this.#tailBytes -= gone.length + 1;
    }
  }

  get text(): string {
    const last = this.#rest.length > 0 ? [this.#rest.toString("utf8")] : [];
    return [...this.#head, ...this.#tail, ...last].join("\n");
  }
}

function environment(): NodeJS.ProcessEnv {
  const { FFREPORT: _, ...env } = process.env; // with FFREPORT, ffmpeg would write a file of its own
  return { ...env, AV_LOG_FORCE_NOCOLOR: "1" };
}

/**
 * Rejects with what spawn says (ENOENT) or the signal's reason. `take` sees the output; false ends the process. `line` sees
 * each line of stderr.
 */
export function run(
  command: string,
  args: readonly string[],
  { signal, timeoutMs }: Bounds,
  take: (chunk: Buffer) => boolean,
  line: (line: string) => LineUse = () => "keep",
): Promise<Ended> {
  signal?.throwIfAborted();
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], detached: true, env: environment() });
    const log = new Log(line);
    let killed: Ended["killed"];
    const kill = () => {
      if (child.pid !== undefined) killGroup(child.pid);
      child.stdout.destroy(); // a grandchild that left the group may hold it open
      child.stderr.destroy();
    };
    const timer = setTimeout(() => {
      killed = "timeout";
      kill();
    }, timeoutMs);
    const finish = (settle: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", kill);
      if (child.pid !== undefined) live.delete(child.pid);
      if (live.size === 0) process.removeListener("exit", killAll);
      settle();
    };
    if (child.pid !== undefined && live.add(child.pid).size === 1) process.on("exit", killAll);
    signal?.addEventListener("abort", kill, { once: true });
    child.stdout.on("data", (chunk: Buffer) => {
      if (killed || take(chunk)) return;
      killed = "output";
      kill();
    });
    child.stderr.on("data", (chunk: Buffer) => {
      if (!log.add(chunk) || killed) return;
      killed = "enough";
      kill();
    });
    child.once("error", (e) => finish(() => reject(e)));
    child.once("close", (code, by) =>
      finish(() => {
        if (signal?.aborted) reject(signal.reason);
        else resolve({ code, log: log.text, ...(killed ? { killed } : by ? { signal: by } : {}) });
      }),
    );
  });
}
