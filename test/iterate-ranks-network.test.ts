// Iterations among ranks of two machines, whose cable is cut or drops packets, and one of which stands still: at instants over all
// stages both ranks end in the promised time, and the same call resumes to the bits of the straight run.
import { rmSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { includes, ordered } from "./helpers/assert.js";
import { Cable, cablesMissing } from "./helpers/cable.js";
import { equalsStraight, isDone, isrData, iterating, newFolder, timeoutMs } from "./helpers/iterating-ranks.js";
import { memoized } from "./helpers/memoized.js";
import { needing } from "./helpers/optional.js";
import {
  doneRanks,
  errorOf,
  glooMissing,
  type RankEnd,
  type RankProcess,
  slackMs,
  startRanks,
} from "./helpers/rank-group.js";
import { uniform } from "./helpers/seeded.js";

const test = suite("iterate ranks, network");
const instants = Number(process.env.ISR_DPO_KILLS ?? 2); // of each fault
const cables = 3; // at a time: most of the time is waiting for a silence

/** Where an instant can be: what rank 0 has told, and the milliseconds that it usually takes until it tells the next. */
const stages = [
  ["ready", 1600],
  ["generate 1", 1300],
  ["score 1", 200],
  ["train 1", 550],
  ["save 1", 130],
  ["generate 2", 200],
  ["score 2", 40],
  ["train 2", 550],
  ["save 2", 90],
] as const;

type Ranks = readonly RankProcess[];
interface Fault {
  name: string;
  begin(cable: Cable, ranks: Ranks, lost: number): void;
  end(cable: Cable, ranks: Ranks, lost: number): void;
  /** Only the other rank can end before the fault does. */
  still?: boolean;
}
const mend = (cable: Cable) => cable.mend();
const faults: readonly Fault[] = [
  { name: "a cut cable", begin: (cable) => cable.cut(), end: mend },
  { name: "dropped packets", begin: (cable) => cable.dropAll(), end: mend },
  {
    name: "a rank that stands still",
    begin: (_, ranks, lost) => void ranks[lost]!.child.kill("SIGSTOP"),
    end: (_, ranks, lost) => void ranks[lost]!.child.kill("SIGCONT"),
    still: true,
  },
];

async function start(cable: Cable, runDir: string): Promise<RankProcess[]> {
  const work = { ...iterating(await isrData(), runDir), transport: "gloo", address: cable.address };
  return startRanks(2, work, () => ({}), {}, cable.namespaces);
}

/** That a rank has ended since then, and says why; it may have been done before it noticed. */
function checkEnd(end: RankEnd, named: number | undefined, since: number, ms: number, what: string): void {
  if (end.code === 0 && isDone(end)) return;
  assert.is(end.code, 75, `${what}: ${end.signal ?? JSON.stringify(end.lines.at(-1))} ${end.err}`);
  assert.is(errorOf(end).code, "RANK_LOST", what);
  if (named !== undefined) includes(errorOf(end).message, `rank ${named} (`, what);
  ordered(end.at - since, "<", ms + slackMs, `${what}: milliseconds`);
}

/** The fault at one instant, until the ranks have ended: how. */
async function befall(fault: Fault, cable: Cable, ranks: Ranks, what: string, lost: number): Promise<RankEnd[]> {
  const met = ranks.every((r) => r.has("met"));
  const ms = met ? 12_000 : timeoutMs + 4000; // who waits for ranks to come waits longer, and rank 0 speaks first
  const since = performance.now();
  fault.begin(cable, ranks, lost);
  const late = setTimeout(() => ranks.map((r) => r.child.kill("SIGKILL")), ms + 20_000);
  try {
    for (const [rank, { end }] of ranks.entries())
      if (!fault.still || rank !== lost)
        checkEnd(await end, met ? 1 - rank : undefined, since, ms, `${what}, rank ${rank}`);
    const mended = performance.now();
    fault.end(cable, ranks, lost);
    if (fault.still)
      checkEnd(
        await ranks[lost]!.end,
        met ? lost : undefined,
        mended,
        met ? 2000 : ms,
        `${what}, rank ${lost} goes on`,
      );
    return await Promise.all(ranks.map((r) => r.end));
  } finally {
    clearTimeout(late);
    fault.end(cable, ranks, lost);
  }
}

/** A run that a fault ends at instant `i`, and that is then resumed. Whether the fault ended it. */
async function interrupted(fault: Fault, cable: Cable, i: number): Promise<boolean> {
  const kind = faults.indexOf(fault);
  const [stage, usual] = stages[(4 * i + 3 * kind) % stages.length]!;
  const delay = Math.round((usual * (uniform(1000 * kind + i)() + 1)) / 2);
  const what = `${fault.name} ${delay} ms after ${stage}`;
  const runDir = newFolder();
  const ranks = await start(cable, runDir);
  try {
    for (const r of stage === "ready" ? ranks : [ranks[0]!]) await r.heard(stage);
    await sleep(delay);
    const ends = await befall(fault, cable, ranks, what, i % 2);
    const [lines] = await doneRanks(await start(cable, runDir));
    await equalsStraight(runDir, lines!, what);
    return ends.some((e) => e.code === 75);
  } finally {
    for (const { child } of ranks) child.kill("SIGKILL");
    rmSync(runDir, { recursive: true, force: true });
  }
}

/** All faults at all instants, as many at a time as there are cables, in the order of the faults. */
const all = memoized(async () => {
  const rounds = Math.ceil((faults.length * instants) / cables);
  console.log(
    `${instants} instants of ${faults.length} faults, ${cables} at a time: about ${Math.ceil(rounds / 2.4)} min`,
  );
  const waiting = faults.flatMap((fault) => Array.from({ length: instants }, (_, i) => ({ fault, i })));
  const ended: { fault: Fault; result: boolean | { error: unknown } }[] = [];
  const lane = async (_: unknown, index: number) => {
    const cable = Cable.lay(index);
    for (let one = waiting.shift(); one; one = waiting.shift()) {
      const { fault, i } = one;
      const result = await interrupted(fault, cable, i).catch((error: unknown) => ({ error }));
      ended.push({ fault, result });
    }
    cable.remove();
  };
  await Promise.all(Array.from({ length: cables }, lane));
  return ended;
});

const between = needing(test, glooMissing ?? cablesMissing(true));
for (const fault of faults)
  between(`${fault.name}, at ${instants} instants: ranks end in time, and resume to the straight bits`, async () => {
    const results = (await all()).filter((one) => one.fault === fault).map((one) => one.result);
    for (const r of results) if (typeof r === "object") throw r.error;
    ordered(2 * results.filter(Boolean).length, ">=", instants, "twice the runs that the fault has ended"); // a run may be done before it
  });

between("3 % of all packets are lost: the straight bits", async () => {
  const cable = Cable.lay(cables);
  cable.lose(3);
  const runDir = newFolder();
  const [lines] = await doneRanks(await start(cable, runDir));
  await equalsStraight(runDir, lines!, "3 % lost");
  cable.remove();
});

test.run();
