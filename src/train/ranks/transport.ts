// Which transport carries the messages of a group: chosen by all ranks alike, from what each has told of itself.
import { ranksNative } from "../../base/addon.js";
import { plural } from "../../base/counts.js";
import { chooseDevice, findCards } from "../../base/device.js";
import { IsrDpoError } from "../../base/errors.js";

/** What a rank tells of itself. */
export interface Offer {
  machine: string;
  /** Transports of its binary, and why not, by name. */
  missing: Record<string, string>;
  /** Cards that its model may live on: the number in its process, and the place on the machine's bus. None: it computes on the CPU. */
  cards: { number: number; address: string }[];
  /** Why it cannot have the device that it was told to. */
  problem?: { message: string; hint: string | undefined };
}

function factsOf(onCard: boolean): Pick<Offer, "machine" | "missing"> {
  const { machine, transports } = ranksNative().facts(onCard);
  return { machine, missing: Object.fromEntries(transports.map((t) => [t.name, t.missing])) };
}

/** This rank's offer. */
export async function offerOf(device: string): Promise<Offer> {
  let one: string;
  try {
    one = await chooseDevice("options.device", device);
  } catch (e) {
    const { message, hint } = e as IsrDpoError; // all ranks are told
    return { ...factsOf(false), cards: [], problem: { message, hint } };
  }
  if (one === "cpu") return { ...factsOf(false), cards: [] };
  const all = (await findCards()).cards.map(({ address }, number) => ({ number, address }));
  const own = device.includes(":") ? all.filter(({ number }) => one === `cuda:${number}`) : all;
  return { ...factsOf(true), cards: own };
}

const localRank = (rank: number, offers: readonly Offer[]): number =>
  offers.slice(0, rank).filter((o) => o.machine === offers[rank]!.machine).length;

const cardOf = (rank: number, offers: readonly Offer[]): Offer["cards"][number] | undefined => {
  const { cards } = offers[rank]!;
  return cards[localRank(rank, offers) % Math.max(1, cards.length)];
};

/** Why cards that all ranks have cannot speak with each other; undefined: they can. */
function cardProblem(offers: readonly Offer[]): string | undefined {
  const without = offers.findIndex((o) => o.missing.nccl !== "");
  if (without >= 0) return `rank ${without} has no NCCL: ${offers[without]!.missing.nccl}`;
  const places = offers.map((o, r) => `${o.machine} ${cardOf(r, offers)!.address}`);
  const second = places.findIndex((p, r) => places.indexOf(p) < r);
  return second < 0 ? undefined : `ranks ${places.indexOf(places[second]!)} and ${second} share a card`;
}

/**
 * The transport that all ranks have, and what to tell where cards speak through the host's memory.
 * @throws IsrDpoError DEVICE_UNAVAILABLE
 */
export function chooseTransport(
  asked: string,
  offers: readonly Offer[],
): { transport: string; notice: string | undefined } {
  for (const [rank, { problem }] of offers.entries())
    if (problem)
      throw new IsrDpoError("DEVICE_UNAVAILABLE", `rank ${rank}: ${problem.message}`, {
        ...(problem.hint === undefined ? {} : { hint: problem.hint }),
      });
  const onOneMachine = offers.every((o) => o.machine === offers[0]!.machine);
  const problem = offers.every((o) => o.cards.length > 0) ? cardProblem(offers) : "";
  const host = onOneMachine ? "shared" : "gloo";
  const name = asked !== "auto" ? asked : problem === undefined ? "nccl" : host;
  const notice =
    asked === "auto" && problem ? `messages between cards pass through the host's memory: ${problem}` : undefined;
  const without = offers.findIndex((o) => o.missing[name] !== "");
  if (without < 0) return { transport: name, notice };
  const why = offers[without]!.missing[name] ?? "this version has no such transport";
  throw new IsrDpoError(
    "DEVICE_UNAVAILABLE",
    `${plural(offers.length, "rank")} over '${name}': rank ${without} cannot: ${why}`,
    { hint: hintFor(name, onOneMachine) },
  );
}

function hintFor(transport: string, onOneMachine: boolean): string {
  if (transport === "nccl") return "transport 'auto' takes NCCL where every rank has a card and NCCL";
  if (onOneMachine) return "processes of one machine need no such transport: leave it out";
  return "ranks of several machines speak through Gloo";
}

/** Where a rank is on its machine, and its device; `card`: its number, -1: none. */
export function ownPlace(
  rank: number,
  offers: readonly Offer[],
): { localRank: number; localSize: number; device: `cuda:${number}` | "cpu"; card: number } {
  const card = cardOf(rank, offers)?.number ?? -1;
  const here = offers.filter((o) => o.machine === offers[rank]!.machine).length;
  return { localRank: localRank(rank, offers), localSize: here, device: card < 0 ? "cpu" : `cuda:${card}`, card };
}
