// --ranks N: this command, N times on this machine, as the ranks of one job. And the ranks that a launcher has started.
import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:net";
import { createInterface } from "node:readline";
import { Option } from "commander";
import { plural } from "../base/counts.js";
import { sha256 } from "../base/sha256.js";
import { IsrDpoError } from "../base/errors.js";
import { ranksNative } from "../base/addon.js";
import { type Communicator, createCommunicator } from "../index.js";
import type { CommunicatorOptions } from "../train/ranks/communicator.js";
import { type Machine, machineFrom, placeFrom } from "../train/ranks/launch-variables.js";
import { ExitWith } from "./exit-code.js";
import { wholeNumber } from "./flags.js";
import { gradualInterruption, Interrupted } from "./interrupt.js";
import { say } from "./terminal.js";

const graceMs = 15_000; // for ranks that outlive another one: they end by themselves

export const ranksOption = (): Option =>
  new Option(
    "--ranks <n>",
    "work with so many processes of this machine (of each machine, where a launcher starts one on each)",
  ).argParser(wholeNumber(1, 4096));

interface Ended {
  rank: number;
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** A port of the loopback that nobody has. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

/** This command line without --ranks. */
export function withoutRanks(args: readonly string[]): string[] {
  const at = args.findIndex((a) => a === "--ranks" || a.startsWith("--ranks="));
  return at < 0 ? [...args] : [...args.slice(0, at), ...args.slice(at + (args[at] === "--ranks" ? 2 : 1))];
}

/** What a job's command ends with, of what its ranks ended with: the first of them that says more than that another was lost. */
export function exitOf(ends: readonly Ended[], interrupted: boolean): { code: number; line?: string } {
  const told = (e: Ended) => `rank ${e.rank} ${e.signal ? `was ended by ${e.signal}` : `ended with ${e.code}`}`;
  const own = ends.find((e) => e.code !== null && e.code !== 0 && e.code !== 75);
  if (own && !(interrupted && own.code === 130)) return { code: own.code!, line: told(own) };
  if (interrupted) return { code: 130 };
  const killed = ends.find((e) => e.signal !== null) ?? ends.find((e) => e.code === 75);
  return killed ? { code: 75, line: told(killed) } : { code: 0 };
}

function start(
  rank: number,
  local: number,
  size: number,
  where: { host: string; port: number; token: string | undefined },
): ChildProcess {
  const env = {
    ...process.env,
    ...{
      RANK: `${rank}`,
      WORLD_SIZE: `${size}`,
      LOCAL_RANK: `${local}`,
      MASTER_ADDR: where.host,
      MASTER_PORT: `${where.port}`,
    },
    ...(where.token === undefined ? {} : { ISR_DPO_RANKS_TOKEN: where.token }),
    ISR_DPO_LAUNCHED: "1",
  };
  // A group of its own: the terminal's Ctrl-C comes here alone, and is passed on once. Its input ends with this process.
  const stdio = ["pipe", local === 0 ? "inherit" : "ignore", local === 0 ? "inherit" : "pipe"] as const;
  const args = [...process.execArgv, process.argv[1]!, ...withoutRanks(process.argv.slice(2))];
  const child = spawn(process.execPath, args, { env, stdio: [...stdio], detached: true });
  if (child.stderr)
    createInterface({ input: child.stderr }).on("line", (line) => process.stderr.write(`[rank ${rank}] ${line}\n`));
  return child;
}

/** Runs the command as `count` ranks of this machine, and ends with what they end with. */
async function launch(count: number, on: Machine | undefined): Promise<never> {
  const size = count * (on?.count ?? 1);
  const where = {
    host: on?.host ?? "127.0.0.1",
    port: on?.port ?? (await freePort()),
    token: process.env.ISR_DPO_RANKS_TOKEN ?? (on ? undefined : randomUUID()),
  };
  if (on && (where.host === "127.0.0.1" || on.port === undefined))
    throw new IsrDpoError("INVALID_ARGUMENT", `${on.launcher}: expected the address of machine 0, got none`, {
      hint: "set MASTER_ADDR and MASTER_PORT, or PET_MASTER_ADDR and PET_MASTER_PORT, to the same on all machines",
    });
  const children = Array.from({ length: count }, (_, i) => start((on?.index ?? 0) * count + i, i, size, where));
  let interrupted = false;
  const kill = (signal: NodeJS.Signals) => {
    for (const child of children) if (child.exitCode === null && child.signalCode === null) child.kill(signal);
  };
  const pass = (signal: NodeJS.Signals) => {
    interrupted = true;
    kill(signal);
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, pass);
  let late: NodeJS.Timeout | undefined;
  const ends = await Promise.all(
    children.map(async (child, i): Promise<Ended> => {
      const [code, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
      if (code !== 0) late ??= setTimeout(() => kill("SIGKILL"), graceMs);
      return { rank: (on?.index ?? 0) * count + i, code, signal };
    }),
  );
  clearTimeout(late);
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, pass);
  const { code, line } = exitOf(ends, interrupted);
  if (line !== undefined) say(`${line}; ${code === 75 ? "the same command resumes" : "see above"}`);
  if (code === 130) throw new Interrupted("interrupted");
  throw new ExitWith(code);
}

/**
 * The ranks of this command: undefined where it computes alone. With --ranks in a process that nobody has made a rank, the command is
 * run by that many processes, and this call does not come back.
 */
async function ranksOf(
  count: number | undefined,
  settings: Pick<CommunicatorOptions, "facts" | "device">,
): Promise<Communicator | undefined> {
  const place = placeFrom(process.env);
  if (count !== undefined && place)
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `--ranks ${count}, and this process is rank ${place.rank} of ${place.size} by ${place.launcher}`,
      { hint: "leave --ranks out where a launcher starts the ranks" },
    );
  if (count !== undefined && (count > 1 || machineFrom(process.env))) return launch(count, machineFrom(process.env));
  if (!place || place.size === 1) return undefined;
  endWithLauncher();
  const ranks = await createCommunicator(settings);
  if (ranks.size > 1) ranks.lost.addEventListener("abort", endSoon, { once: true });
  return ranks;
}

/** A rank that is told of another's loss ends by itself, unless what it does hangs: NCCL, a driver, a file system. */
const endSoon = (): void => ranksNative().endProcessAfter(15_000, 75);

/** A rank that `--ranks` has started does not outlive the process that did. */
function endWithLauncher(): void {
  if (process.env.ISR_DPO_LAUNCHED !== "1") return;
  process.stdin.on("end", () => process.exit(75)).on("error", () => process.exit(75));
  process.stdin.resume();
  (process.stdin as { unref?(): void }).unref?.();
}

const carriers: Record<string, string> = { shared: "shared memory", gloo: "Gloo", nccl: "NCCL" };

/** Said once by rank 0. */
export function tellRanks(ranks: Communicator | undefined, tell: (line: string) => void): void {
  if (ranks?.rank === 0)
    tell(
      `${plural(ranks.size, "rank")}, which speak through ${carriers[ranks.transport] ?? ranks.transport}${ranks.notice === undefined ? "" : `; ${ranks.notice}`}`,
    );
}

/** Does a command's work as one of its ranks, or alone. `options`: what has to be equal on all of them; `device`: of their models. */
export async function amongRanks(
  count: number | undefined,
  options: object,
  device: CommunicatorOptions["device"],
  work: (ranks: Communicator | undefined) => Promise<void>,
): Promise<void> {
  const plain = JSON.stringify(options, (_, x) => (typeof x === "bigint" ? String(x) : x));
  const facts = { "the configuration": sha256(plain) };
  const ranks = await ranksOf(count, { facts, ...(device === undefined ? {} : { device }) });
  try {
    await work(ranks);
  } finally {
    await ranks?.dispose();
  }
}

/** The work of a rank that rank 0 speaks for. */
export async function follow(work: (finish: AbortSignal) => PromiseLike<unknown>): Promise<void> {
  const { finish, off } = gradualInterruption(() => {});
  try {
    await work(finish);
  } finally {
    off();
  }
}
