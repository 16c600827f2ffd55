// Ranks that speak through Gloo: the bits of shared memory, on loopback and between two network namespaces, and what a cut link does.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { includes, ordered } from "./helpers/assert.js";
import { Cable, cablesMissing } from "./helpers/cable.js";
import { dpo, type Family } from "./helpers/golden.js";
import { memoized } from "./helpers/memoized.js";
import { needing } from "./helpers/optional.js";
import { doneRanks, errorOf, glooMissing, type RankProcess, slackMs, startRanks } from "./helpers/rank-group.js";

const test = suite("ranks, network");
const temporary = mkdtempSync(join(tmpdir(), "isr-dpo-gloo-"));
test.after(() => rmSync(temporary, { recursive: true, force: true }));

const withGloo = needing(test, glooMissing);

const parameters = [...dpo("text_llama" as Family).after.keys()];
let models = 0;
const work = (transport: string) => ({
  ...{ work: "train", family: "text_llama", steps: 3, shard: true, transport, parameters },
  model: join(temporary, `model-${models++}`),
});
const savedBy = (lines: readonly Record<string, unknown>[]) =>
  lines.find((l) => "saved" in l)!.saved as { hash: string };
const shared = [2, 4].map((n) =>
  memoized(async () => savedBy((await doneRanks(await startRanks(n, work("shared"))))[0]!)),
);

withGloo("two ranks on loopback: the bits of shared memory", async () => {
  for (const lines of await doneRanks(await startRanks(2, work("gloo")))) {
    assert.equal(
      lines.filter((l) => "transport" in l).map((l) => l.transport),
      ["gloo"],
    );
    assert.equal(savedBy(lines), await shared[0]!());
  }
});

async function endWithin(ranks: readonly RankProcess[], since: number, ms: number, name: string): Promise<void> {
  for (const end of await Promise.all(ranks.map((r) => r.end))) {
    assert.is(end.code, 75, JSON.stringify(end.lines.at(-1)));
    assert.is(errorOf(end).code, "RANK_LOST");
    includes(errorOf(end).message, name);
    ordered(end.at - since, "<", ms + slackMs, "milliseconds");
  }
}

withGloo("a rank that is killed: the other ends with 75 within 2 s, and names it", async () => {
  const ranks = await startRanks(2, { work: "forever", family: "text_llama", transport: "gloo" });
  try {
    await Promise.all(ranks.map((r) => r.heard("begun")));
    const at = performance.now();
    ranks[1]!.child.kill("SIGKILL");
    await endWithin([ranks[0]!], at, 2000, "rank 1 (");
  } finally {
    for (const { child } of ranks) child.kill("SIGKILL");
  }
});

// ---- two network namespaces, as two machines

const between = needing(test, glooMissing ?? cablesMissing());
const cable = memoized(() => Cable.lay());

const placed = (size: number) => ({
  address: cable().address,
  inNamespace: Array.from({ length: size }, (_, r) => cable().namespaces[Math.floor((2 * r) / size)]!),
});

between("two machines of two ranks each: the bits of four ranks on one", async () => {
  const { address, inNamespace } = placed(4);
  const ranks = await startRanks(4, { ...work("gloo"), address }, () => ({}), {}, inNamespace);
  for (const lines of await doneRanks(ranks)) assert.equal(savedBy(lines), await shared[1]!());
});

between("a cut cable: both sides end with 75 within 12 s", async () => {
  const { address, inNamespace } = placed(2);
  const forever = { work: "forever", family: "text_llama", transport: "gloo", address };
  const ranks = await startRanks(2, forever, () => ({}), {}, inNamespace);
  try {
    await Promise.all(ranks.map((r) => r.heard("begun")));
    const at = performance.now();
    cable().cut();
    await endWithin(ranks, at, 12_000, "was lost");
  } finally {
    for (const { child } of ranks) child.kill("SIGKILL");
    cable().mend();
  }
});

// ---- before the ranks are connected

const filtered = needing(test, glooMissing ?? cablesMissing(true));
const meeting = (timeoutMs: number) => {
  const { address, inNamespace } = placed(2);
  return startRanks(2, { work: "meet", transport: "gloo", address, timeoutMs }, () => ({}), {}, inNamespace);
};

filtered("packets that are dropped while ranks meet: both end with 75 when they have waited long enough", async () => {
  cable().dropAll();
  try {
    const ranks = await meeting(2000);
    await Promise.all(ranks.map((r) => r.heard("ready")));
    await endWithin(ranks, performance.now(), 4000, "did not");
  } finally {
    cable().mend();
  }
});

for (const lost of [0, 1])
  filtered(
    `rank ${lost} is killed while Gloo's connection is waited for: the other ends with 75 within 2 s`,
    async () => {
      cable().dropOtherPorts(29700);
      const ranks = await meeting(60_000);
      try {
        for (let i = 0; i < 400 && cable().connections(29700) < 3; i++) await sleep(50); // of two ranks: both ends of one's, and the other's
        ordered(cable().connections(29700), ">=", 3, "connections to rank 0");
        await sleep(500);
        const at = performance.now();
        ranks[lost]!.child.kill("SIGKILL");
        setTimeout(() => ranks[1 - lost]!.child.kill("SIGKILL"), 20_000).unref();
        await endWithin([ranks[1 - lost]!], at, 2000, `rank ${lost} (`);
      } finally {
        for (const { child } of ranks) child.kill("SIGKILL");
        cable().mend();
      }
    },
  );

test.run();
