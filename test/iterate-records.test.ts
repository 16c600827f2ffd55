// The records of an iteration where they stand in the journal: equal to those that were held, in memory that does not grow with
// the answers; and the index of places, where two keys may have one checksum.
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { excludes, rejects } from "./helpers/assert.js";
import { censoredOf, countsOf, pairsOf, sorted } from "../src/iterate/iteration-exports.js";
import type { GroupRecord } from "../src/iterate/generate-group.js";
import { StoredRecords } from "../src/iterate/iteration-records.js";
import { crc32c } from "../src/runfolder/crc32c.js";
import { Journal, journalName } from "../src/runfolder/journal.js";
import { PlaceIndex } from "../src/runfolder/line-index.js";
import { temporaryFolder } from "./helpers/files.js";
import { uniform } from "./helpers/seeded.js";

const test = suite("isr records");
setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;
const policies = { tie: "drop", disagree: "average", identical: "drop", unparsed: "drop", truncated: "drop" } as const;

const samples = Array.from({ length: 1200 }, (_, i) => ({ id: `s${i}`, video: `v${i >> 1}.mp4`, question: `q${i}?` }));

function recordsOf(words: number): GroupRecord[][] {
  const next = uniform(7);
  return samples.map(({ id, video }, i): GroupRecord[] => {
    const margins = [next(), next()];
    const status = ["pair", "disagree", "truncated"][i % 3]!;
    const answers = [0, 1].map((copy) => ({
      ...({ type: "rsp", sample: id, copy, end: "eos" } as const),
      ids: Array.from({ length: 1 + ((i + copy) % words) }, (_, k) => k),
      text: `é 視 ${copy} ${"word ".repeat(words)}`,
    }));
    return [
      ...answers.reverse(),
      ...(i % 2 === 0 ? [{ type: "ctx", video, ids: [i], text: ` of ${video} `, cut: true } as const] : []),
      ...(i === 5 ? [{ type: "damage", video, lost: 1, damaged: 0, frames: 8 } as const] : []),
      ...margins.map(
        (margin, order) =>
          ({ type: "verdict", sample: id, order, choice: margin > 0 ? "0" : "1", margin, raw: "1" }) as const,
      ),
      { type: "pair", sample: id, status, ...(status === "pair" ? { chosen: i % 2 } : {}) },
    ];
  });
}

/** A folder whose one journal holds the groups. */
async function written(groups: readonly GroupRecord[][]): Promise<string> {
  const dir = temporaryFolder();
  const { journal } = await Journal.open(join(dir, "journal.0.log"));
  for (const [i, group] of groups.entries()) {
    for (const record of group) void journal.append(record);
    await journal.endGroup(`${i}`);
  }
  for (const record of groups[3]!) void journal.append(record); // begun again, and not finished
  await journal.append({ type: "pair", sample: "never", status: "tie" });
  await journal.close();
  return dir;
}

/** A folder with a journal of each rank, which holds groups by their numbers. */
async function byRanks(ranks: readonly (readonly (readonly [number, GroupRecord[]])[])[]): Promise<string> {
  const dir = temporaryFolder();
  for (const [rank, groups] of ranks.entries()) {
    const { journal } = await Journal.open(join(dir, journalName(rank)));
    for (const [number, group] of groups) {
      for (const record of group) void journal.append(record);
      await journal.endGroup(`${number}`);
    }
    await journal.close();
  }
  return dir;
}

test("journals of several ranks: what one would hold, in the order of the groups", async () => {
  const groups = recordsOf(5);
  const held = sorted(groups.flat());
  const ofRank = (rank: number) =>
    groups.map((g, i) => [i, g] as const).filter(([i]) => (i * 7) % 12 === rank || (rank === 0 && i === 4));
  const parts = Array.from({ length: 12 }, (_, rank) => ofRank(rank).reverse());
  const stored = await StoredRecords.open(await byRanks(parts));
  assert.equal([...stored.contexts.values()], [...held.contexts.values()]);
  assert.equal(countsOf(samples, stored), countsOf(samples, held));
  assert.equal([stored.promptsCut, stored.damagedVideos], [600, 1], "a group that two ranks have counts once");
  stored.close();
});

test("a group that two ranks have with other records: NONDETERMINISM", async () => {
  const [group] = recordsOf(5) as [GroupRecord[]];
  const other = group.map((r) => (r.type === "pair" ? { ...r, status: "tie" } : r));
  const dir = await byRanks([[[0, group]], [[0, other]]]);
  await rejects(() => StoredRecords.open(dir), "NONDETERMINISM", /journal\.1\.log: group 0 is in another rank/, "it");
});

test("stored records are those that a journal holds", async () => {
  const groups = recordsOf(5);
  const held = sorted(groups.flat());
  const stored = await StoredRecords.open(await written(groups));
  assert.equal(countsOf(samples, stored), countsOf(samples, held));
  assert.equal([...stored.contexts.values()], [...held.contexts.values()]);
  const pairs = (records: typeof held) => [
    ...pairsOf(samples, records, (v) => records.contexts.get(v)?.text ?? null, policies),
  ];
  assert.equal(pairs(stored), pairs(held));
  assert.equal(censoredOf(stored), censoredOf(held));
  assert.equal([stored.promptsCut, stored.damagedVideos], [600, 1]);
  excludes(stored.pairs, "never", "its group was not finished");
  assert.is(stored.responses.get("none"), undefined);
  stored.close();
});

test("answers stay on disk: what is held does not grow with them", async () => {
  const heldFor = async (words: number) => {
    const dir = await written(recordsOf(words));
    collect();
    const before = process.memoryUsage().heapUsed;
    const stored = await StoredRecords.open(dir);
    collect();
    const grown = process.memoryUsage().heapUsed - before;
    assert.is(stored.pairs.size, samples.length);
    stored.close();
    return grown;
  };
  await heldFor(5); // code that is compiled once
  const [short, long] = [await heldFor(5), await heldFor(500)]; // 2,400 answers of 2,500 characters more: 6 MB
  assert.ok(long < short + 2e6, `${short} and ${long} bytes`);
});

test("a key is not taken for another of its checksum", async () => {
  const seen = new Map<number, string>();
  let two: [string, string] | undefined;
  for (let i = 0; !two; i++) {
    const sample = `s${i}`;
    const crc = crc32c(Buffer.from(JSON.stringify(["pair", sample])));
    const other = seen.get(crc);
    if (other !== undefined) two = [other, sample];
    seen.set(crc, sample);
  }
  const path = join(temporaryFolder(), "journal.0.log");
  const { journal } = await Journal.open(path);
  for (const sample of two) await journal.append({ type: "pair", sample, status: "tie" });
  for (const sample of two) await journal.append({ type: "pair", sample, status: "tie" }); // again, and the same
  await journal.endGroup("g");
  await journal.close();
  const again = await Journal.open(path);
  assert.is(again.records.length, 5);
  await again.journal.close();
});

test("places are found again among many", () => {
  const index = new PlaceIndex();
  const place = (i: number) => ({ offset: 2 ** 33 + 7 * i, bytes: i % 1000 });
  for (let i = 0; i < 20_000; i++) index.add(`key ${i}`, place(i));
  assert.is(index.size, 20_000);
  for (let i = 0; i < 20_000; i += 7)
    assert.ok(
      [...index.find(`key ${i}`)].some(({ offset }) => offset === place(i).offset),
      `key ${i}`,
    );
  assert.equal([...index.find("key 20000")], []);
});

test.run();
