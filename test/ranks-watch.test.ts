// Heartbeats and progress of ranks: who lives but is busy is not lost; who lives but stands still is.
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { RankSign } from "../src/base/addon.js";
import { ranksNative } from "../src/base/addon.js";
import { deadlockOf, loopbackOf, troubleOf } from "../src/train/ranks/watch.js";
import { includes, ordered } from "./helpers/assert.js";
import { doneRanks, type RankEnd, slackMs, startRanks } from "./helpers/rank-group.js";

const test = suite("ranks, watch");
const errorOf = (end: RankEnd) => end.lines.find((l) => "error" in l)?.error as { code: string; message: string };

for (const who of [0, 1])
  test(`rank ${who} of two does something else for three times silenceMs: nobody is lost`, async () => {
    const ranks = await startRanks(2, { work: "busy", silenceMs: 2000, block: 6000, who });
    for (const lines of await doneRanks(ranks)) assert.equal(lines.at(-1), { met: 2 });
  });

for (const who of [0, 1])
  test(`rank ${who} of two lives, and its work stands still: all end with 75, and name it`, async () => {
    const ranks = await startRanks(2, { work: "stuck", stuckMs: 2000, block: 8000, who });
    await Promise.all(ranks.map((r) => r.heard("begun")));
    const at = performance.now();
    setTimeout(() => ranks.map((r) => r.child.kill("SIGKILL")), 40_000).unref(); // they would wait for each other for ever
    for (const end of await Promise.all(ranks.map((r) => r.end))) {
      assert.is(end.code, 75, `${JSON.stringify(end.lines.at(-1))} ${end.err}`);
      assert.is(errorOf(end).code, "RANK_LOST");
      includes(errorOf(end).message, who === 0 ? "rank 0 (" : "rank 1 (");
      includes(errorOf(end).message, "its work has not moved for");
      ordered(end.at - at, "<", 8000 + 4000 + slackMs, "milliseconds");
    }
  });

const well: RankSign = { heard: true, silent: 0.5, stuck: 0, patience: 0, waiting: false };
const limits = { silenceMs: 10_000, stuckMs: 60_000 };
const verdicts: [string, Partial<RankSign>, number, number | undefined, string | undefined][] = [
  ["a rank that is well", {}, 20_000, 500, undefined],
  ["silence", { silent: 11 }, 20_000, 11_000, "nothing was heard of it for 11 s"],
  ["silence of one way alone", { silent: 11 }, 20_000, 500, undefined],
  ["silence before all were there", { silent: 30 }, 5000, 30_000, undefined],
  ["no heartbeat ever", { heard: false, silent: 30 }, 20_000, 500, "its heartbeats do not come"],
  ["a long step", { stuck: 59 }, 90_000, 500, undefined],
  ["no progress", { stuck: 61 }, 90_000, 500, "its work has not moved for 61 s"],
  ["no progress of this rank itself", { stuck: 61 }, 90_000, undefined, "its work has not moved for 61 s"],
  ["no progress, where longer times were seen", { stuck: 61, patience: 100 }, 90_000, 500, undefined],
  ["a rank that waits for the others", { stuck: 61, waiting: true }, 90_000, 500, undefined],
];
for (const [name, sign, since, heard, expected] of verdicts)
  test(`${name}: ${expected ?? "goes on"}`, () => {
    assert.is(troubleOf({ ...well, ...sign }, limits, since, heard), expected);
  });

test("never stuck, where stuckMs is 0", () => {
  assert.is(troubleOf({ ...well, stuck: 1e6 }, { ...limits, stuckMs: 0 }, 90_000, 500), undefined);
});

test("ranks that all wait for each other are told apart from ranks of which one works", () => {
  const waits = { ...well, stuck: 61, waiting: true };
  assert.is(deadlockOf([waits, { ...waits, stuck: 70 }], limits), 61);
  assert.is(deadlockOf([waits, well], limits), undefined);
  assert.is(deadlockOf([waits, { ...waits, stuck: 3 }], limits), undefined);
  assert.is(deadlockOf([], limits), undefined);
});

test("which addresses are loopback", () => {
  assert.equal(["localhost", "127.0.0.1", "::1", "10.0.0.1"].map(loopbackOf), ["127.0.0.1", "127.0.0.1", "::1", ""]);
});

const key = "k".repeat(64);
async function eventually(holds: () => boolean): Promise<void> {
  for (let i = 0; i < 2000 && !holds(); i++) await sleep(10);
  assert.ok(holds(), String(holds));
}
for (const loopback of ["127.0.0.1", "::1", ""])
  test(`heartbeats over ${loopback === "" ? "all addresses" : loopback}: both sides hear each other`, async () => {
    const native = ranksNative();
    const leader = native.lead(2, key, loopback);
    const member = native.join(1, key, loopback === "" ? "127.0.0.1" : loopback, native.beatPort(leader));
    try {
      await eventually(() => native.signs(leader)[1]!.heard && native.signs(member)[0]!.heard);
      ordered(native.signs(leader)[1]!.silent, "<", 5, "seconds");
    } finally {
      native.stopBeating(member);
      native.stopBeating(leader);
    }
    assert.equal(native.signs(leader), []);
  });

test("who does not know the key is not heard, and sent away", async () => {
  const native = ranksNative();
  const leader = native.lead(2, key, "127.0.0.1");
  const stranger = native.join(1, "x".repeat(64), "127.0.0.1", native.beatPort(leader));
  const noise = connect(native.beatPort(leader), "127.0.0.1").on("error", () => {});
  let closed = false;
  noise.on("close", () => {
    closed = true;
  });
  noise.write(Buffer.alloc(4096, 7));
  try {
    await eventually(() => closed);
    const heard = [native.signs(leader)[1]!, native.signs(stranger)[0]!].map((s) => s.heard);
    assert.equal(heard, [false, false]);
  } finally {
    noise.destroy();
    native.stopBeating(stranger);
    native.stopBeating(leader);
  }
});

test.run();
