// Runs ffmpeg and ffprobe as a user would, but bounded: no shell, no terminal, a process group of its own that is killed on
// timeout, abort or too much output, and with this process.
import { spawn } from "node:child_process";

export interface Bounds {
  signal?: AbortSignal | undefined;
  timeoutMs: number;
}

export interface Ended {
  code: number | null;
  /** Why it was killed, if it was. */
  killed?: "timeout" | "output";
  /** The start and the end of what it wrote to stderr. */
  log: string;
}

const logBytes = 256 * 1024;
const live = new Set<number>();

function killGroup(pid: number): void {
  try {
    process.kill(process.platform === "win32" ? pid : -pid, "SIGKILL");
  } catch {
    // it has ended by itself
  }
}

const killAll = () => live.forEach(killGroup);

/** Keeps the first and the last `logBytes` of a text that may be endless. */
class Log {
  #head = "";
  #tail = "";
  add(chunk: Buffer): void {
    if (this.#head.length < logBytes) this.#head += chunk.toString("latin1");
    else this.#tail = (this.#tail + chunk.toString("latin1")).slice(-logBytes);
  }
  get text(): string {
    return Buffer.from(this.#head + this.#tail, "latin1").toString("utf8");
  }
}

function environment(): NodeJS.ProcessEnv {
  const { FFREPORT: _, ...env } = process.env; // would write a file of its own
  return { ...env, AV_LOG_FORCE_NOCOLOR: "1" };
}

/** Rejects with what spawn says (ENOENT) or the signal's reason. `take` sees the output; false ends the process. */
export function run(
  command: string,
  args: readonly string[],
  { signal, timeoutMs }: Bounds,
  take: (chunk: Buffer) => boolean,
): Promise<Ended> {
  signal?.throwIfAborted();
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], detached: true, env: environment() });
    const log = new Log();
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
    child.stderr.on("data", (chunk: Buffer) => log.add(chunk));
    child.once("error", (e) => finish(() => reject(e)));
    child.once("close", (code) =>
      finish(() =>
        signal?.aborted ? reject(signal.reason) : resolve({ code, log: log.text, ...(killed ? { killed } : {}) }),
      ),
    );
  });
}
