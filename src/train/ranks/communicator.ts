// Communicators: the ranks that train together, and how they meet. Their messages go through the engine (group.ts), by a transport that
// all of them have (transport.ts); that they live, and what they agree on before, through the control connection (control.ts).
import { createHash } from "node:crypto";
import { packageVersion, ranksNative } from "../../base/addon.js";
import { choice, integer, isObject, options, refuse, signal, text } from "../../base/check.js";
import { IsrDpoError } from "../../base/errors.js";
import type { Cancel, LoadOptions } from "../../base/types.js";
import { Control } from "./control.js";
import { type Communicator, Group, OneProcess } from "./group.js";
import { placeFrom } from "./launch-variables.js";
import { chooseTransport, type Offer, offerOf, ownPlace } from "./transport.js";

export type { Communicator } from "./group.js";

const transports = ["auto", "shared", "gloo", "nccl", "none"] as const;

/** Options of a communicator. */
export interface CommunicatorOptions extends Cancel {
  /** Index of this process; default: as the launcher's environment says (docs/ranks.md), else 0. */
  rank?: number;
  /** Number of ranks; default: as the launcher's environment says, else 1. */
  size?: number;
  /** Where rank 0 listens, `host:port`; default: ISR_DPO_RANKS_ADDRESS, else as the launcher says, else 127.0.0.1:29533. */
  address?: string;
  /**
   * What carries the messages; default "auto": NCCL where each rank has a card of its own and all have NCCL; else shared memory where
   * all ranks are processes of one machine, else Gloo. "none": this process alone, whatever the environment says.
   */
  transport?: (typeof transports)[number];
  /**
   * Where this rank's model lives: "cpu", "cuda" (one of the cards that this process sees: the one whose number is the rank's among
   * those of its machine, counted round), "cuda:1", or "auto", the default: "cuda" if a card can be used, else "cpu".
   */
  device?: LoadOptions["device"];
  /** Longest wait for the other ranks to come, in milliseconds. Default: 60000. */
  timeoutMs?: number;
  /** Silence after which a rank counts as lost, in milliseconds. Default: 10000. */
  silenceMs?: number;
  /**
   * Time without a sign of progress after which a rank counts as stuck, in milliseconds, while a call of this package runs in its engine
   * and does not wait for other ranks; five times the longest such time seen so far, where that is more. 0: never. Default: 1800000.
   */
  stuckMs?: number;
  /** A secret of this job; default: the environment's ISR_DPO_RANKS_TOKEN, else made of the launcher's name of the job. */
  token?: string;
  /** What has to be equal on all ranks besides the package's version, by name. */
  facts?: Readonly<Record<string, string>>;
}

const keys = [
  "signal",
  "rank",
  "size",
  "address",
  "transport",
  "device",
  "timeoutMs",
  "silenceMs",
  "stuckMs",
  "token",
  "facts",
];

interface Settings {
  rank: number;
  size: number;
  host: string;
  port: number;
  transport: (typeof transports)[number];
  device: string;
  token: string;
  timeoutMs: number;
  silenceMs: number;
  stuckMs: number;
  facts: Record<string, string>;
  signal: AbortSignal | undefined;
}

function addressOf(field: string, value: unknown): { host: string; port: number } {
  const given = text(field, value);
  const found = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(given);
  if (!found || Number(found[3]) < 1 || Number(found[3]) > 65_535)
    refuse(field, "host:port, as 10.0.0.1:29533 or [::1]:29533", value);
  return { host: found![1] ?? found![2]!, port: Number(found![3]) };
}

function factsOf(value: unknown): Record<string, string> {
  if (value === undefined) return {};
  if (!isObject(value)) refuse("options.facts", "an object of strings", value);
  return Object.fromEntries(
    Object.entries(value as object).map(([name, fact]) => [name, text(`options.facts.${name}`, fact)]),
  );
}

function settingsOf(o: CommunicatorOptions | undefined): Settings {
  const given = options("options", o, keys);
  const cancel = signal("options.signal", given.signal);
  const transport = given.transport === undefined ? "auto" : choice("options.transport", given.transport, transports);
  const place = transport === "none" ? undefined : placeFrom(process.env);
  const size = given.size === undefined ? (place?.size ?? 1) : integer("options.size", given.size, 1, 65_536);
  const rank = given.rank === undefined ? (place?.rank ?? 0) : integer("options.rank", given.rank, 0);
  if (rank >= size) refuse("options.rank", `a rank below the size of ${size}`, rank);
  if (transport === "none" && size > 1) refuse("options.size", "1 with transport 'none'", size);
  const fromEnvironment = process.env.ISR_DPO_RANKS_ADDRESS;
  const address =
    given.address !== undefined
      ? addressOf("options.address", given.address)
      : fromEnvironment
        ? addressOf("environment variable ISR_DPO_RANKS_ADDRESS", fromEnvironment)
        : {};
  const token = given.token === undefined ? process.env.ISR_DPO_RANKS_TOKEN : text("options.token", given.token);
  const facts = factsOf(given.facts);
  const device = given.device === undefined ? "auto" : text("options.device", given.device);
  if (!/^(auto|cpu|cuda(:\d{1,4})?)$/.test(device))
    refuse("options.device", '"auto", "cpu", "cuda" or "cuda:N"', device);
  const wait = (field: string, value: unknown, or: number) => (value === undefined ? or : integer(field, value, 1));
  return {
    ...{ rank, size, transport, device, facts, signal: cancel },
    ...{ host: "127.0.0.1", port: 29_533 },
    ...(place?.host === undefined ? {} : { host: place.host, ...(place.port ? { port: place.port } : {}) }),
    ...address,
    token: token ?? createHash("sha256").update(`isr-dpo ${place?.launcher} ${place?.job}`).digest("hex"),
    timeoutMs: wait("options.timeoutMs", given.timeoutMs, 60_000),
    silenceMs: wait("options.silenceMs", given.silenceMs, 10_000),
    stuckMs: given.stuckMs === undefined ? 1_800_000 : integer("options.stuckMs", given.stuckMs, 0),
  };
}

/**
 * Joins a group of ranks, which every one of them does alike; the first call of a process that was started alone needs nobody.
 * @param o - rank, size and where rank 0 listens; by default all of it from the environment of the launcher
 * @throws {@link IsrDpoError} INVALID_ARGUMENT: wrong options, two launchers that disagree, a rank that comes twice or from another job;
 * RUN_MISMATCH: another version, size or fact on another rank; RANK_LOST: ranks that did not come in time; DEVICE_UNAVAILABLE: a
 * transport that a binary lacks, or a port that is taken
 */
export async function createCommunicator(o?: CommunicatorOptions): Promise<Communicator> {
  const s = settingsOf(o);
  s.signal?.throwIfAborted();
  if (s.size === 1) {
    if (s.transport !== "auto" && s.transport !== "none") chooseTransport(s.transport, [await offerOf(s.device)]); // refused where there is none
    return new OneProcess();
  }
  const facts = { "the version of isr-dpo": packageVersion(), "the transport asked for": s.transport, ...s.facts };
  const { control, offers } = await Control.meet({ ...s, facts }, await offerOf(s.device));
  try {
    const { transport, notice } = chooseTransport(s.transport, offers as Offer[]);
    const host = process.env.ISR_DPO_RANKS_HOST ?? control.localAddress;
    const { card, ...place } = ownPlace(s.rank, offers as Offer[]);
    const handle = ranksNative().open(transport, s.rank, s.size, host, card);
    const addresses = (await control.tell("addresses", ranksNative().address(handle))) as string[];
    const group = new Group({ rank: s.rank, size: s.size, ...place, transport, notice }, control, handle);
    await group.connect(addresses);
    return group;
  } catch (e) {
    control.abort(`rank ${s.rank}: ${(e as Error).message}`);
    throw e;
  }
}
