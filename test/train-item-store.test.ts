// Items of a run: what was given comes back by index, whatever kind it is; paths stand on their root.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { digested } from "../src/train/item-digest.js";
import { ItemSet, rooted } from "../src/train/item-store.js";
import type { Sequence, TrainItem } from "../src/base/types.js";
import { rejects } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";

const frames = { frames: new Uint8Array(12), width: 2, height: 2 };
const rows: TrainItem[] = [
  { id: "a", prompt: "why?\u2028\n", media: ["a.mp4"], chosen: "yes", rejected: "no" },
  { prompt: { ids: Int32Array.of(1, 2, 3) }, chosen: Int32Array.of(4, 2), rejected: [5, 2] },
  {
    prompt: { ids: [1] },
    chosen: [2],
    rejected: [3],
    reference: { chosen: Float32Array.of(-0.1), rejected: Float32Array.of(-1e-7) },
  },
  { prompt: [{ role: "user", content: [{ type: "video", media: frames }] }], answer: "held in memory" },
  { ids: Int32Array.of(1, 2), lossMask: Uint8Array.of(0, 1) },
  { id: "b", prompt: "what?", media: ["a.mp4"], chosen: "yes", rejected: "no" },
];

async function* stream(items: readonly TrainItem[]) {
  for (const item of items) yield { item, tokens: [3, 4], cut: item === rows[1] };
}

test("every kind of item comes back as it was, in any order", async () => {
  const set = await ItemSet.gather(stream(rows), join(temporaryFolder(), "items.jsonl"));
  assert.is(set.length, rows.length);
  for (const i of [5, 0, 3, 1, 4, 2]) assert.equal(await set.item(i), rows[i]);
  assert.is(await set.item(3), rows[3], "media by value are not copied");
  assert.is(set.group(0), set.group(5), "the same clip");
  assert.not.equal(set.group(0), set.group(1));
  assert.is(set.tokens(0), 7);
  assert.equal([set.cut(0), set.cut(1), set.cutCount], [false, true, 1]);
  await set.close();
});

test("reopened, a set is the same; what was held in memory must be given again", async () => {
  const path = join(temporaryFolder(), "items.jsonl");
  assert.is(await ItemSet.reopen(path, () => stream(rows)), null);
  const first = await ItemSet.gather(stream(rows), path);
  const again = (await ItemSet.reopen(path, () => stream(rows)))!;
  assert.is(again.hash, first.hash);
  for (let i = 0; i < rows.length; i++) {
    assert.equal(await again.item(i), rows[i]);
    assert.equal([again.group(i), again.tokens(i), again.cut(i)], [first.group(i), first.tokens(i), first.cut(i)]);
  }
  await first.close();
  await again.close();
  await rejects(() => ItemSet.reopen(path, () => stream(rows.slice(1))), "RUN_MISMATCH", /items\.jsonl/, "other items");
  writeFileSync(path, readFileSync(path, "utf8").replace('"tokens"', '"token"'));
  await rejects(() => ItemSet.reopen(path, () => stream(rows)), "JOURNAL_CORRUPT", /item 0/, "a changed line");
});

const lines = (path: string) => readFileSync(path, "utf8").split("\n");

test("a mask has the name in the file that it had when the format was made, by whatever name it comes", async () => {
  const path = join(temporaryFolder(), "items.jsonl");
  const masked = rows[4] as Sequence;
  const before = { ids: masked.ids, scored: masked.lossMask! };
  const pair = (s: Sequence): TrainItem => ({ id: "p", chosen: s, rejected: s });
  await (await ItemSet.gather(stream([masked, pair(masked)]), path)).close();
  const now = lines(path);
  assert.match(now[0]!, /^\{"item":\{"ids":\{[^}]*\},"scored":\{"\$":"u8","v":\[0,1\]\}\}/);
  const set = await ItemSet.gather(stream([before, pair(before)]), path);
  assert.equal(lines(path), now);
  assert.equal(await set.items([0, 1]), [masked, pair(masked)]);
  await set.close();
  const sum = async (...items: TrainItem[]) => (await digested(each(items)).sum()).sha256;
  assert.is(await sum(masked, pair(masked)), await sum(before, pair(before)));
  assert.is(await sum(masked), "59d4935a9c0f41c5e1ecf60ac9f90f854aa24673fc5d8d48d829fb7948ab6a70", "as 0.1.0 had it");
  assert.is.not(await sum(masked), await sum({ ...masked, lossMask: Uint8Array.of(0, 0) }));
});

async function* each(items: readonly TrainItem[]) {
  yield* items;
}

test("the hash is that of the items", async () => {
  const hash = async (items: readonly TrainItem[]) => {
    const set = await ItemSet.gather(stream(items), join(temporaryFolder(), "items.jsonl"));
    await set.close();
    return set.hash;
  };
  assert.is(await hash(rows), await hash(rows));
  assert.is.not(await hash(rows.slice(1)), await hash(rows));
  assert.is.not(await hash([rows[1]!, rows[0]!]), await hash([rows[0]!, rows[1]!]));
});

/** Without it, what is measured is when the collector last came by. */
function collect(): void {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
}

test("100,000 items take little memory", async () => {
  async function* many() {
    for (let i = 0; i < 100_000; i++)
      yield {
        item: { prompt: `question ${i} ${"x".repeat(200)}`, chosen: "yes", rejected: "no" },
        tokens: [i, i],
        cut: false,
      };
  }
  collect();
  const before = process.memoryUsage().heapUsed;
  const set = await ItemSet.gather(many(), join(temporaryFolder(), "items.jsonl"));
  collect();
  const grown = process.memoryUsage().heapUsed - before;
  assert.ok(grown < 40e6, `${grown} bytes for 28 MB of items`);
  assert.match(((await set.item(99_999)) as { prompt: string }).prompt, /^question 99999 /);
  await set.close();
});

test("paths stand on their root", () => {
  const at = (item: TrainItem) => JSON.stringify(rooted(item, "/data"));
  assert.match(at(rows[0]!), /"media":\["\/data\/a\.mp4"\]/);
  assert.match(at({ prompt: "x", media: [{ path: "/b.mp4" }], answer: "y" }), /"path":"\/b\.mp4"/);
  assert.match(at({ ids: [1], media: [{ kind: "image", path: "c.png" }] }), /"path":"\/data\/c\.png"/);
  const content = [{ type: "video" as const, media: "d.mp4" }];
  assert.match(at({ prompt: [{ role: "user", content }], answer: "y" }), /"media":"\/data\/d\.mp4"/);
  assert.match(at({ prompt: { ids: [1], media: ["e.mp4"] }, answer: "y" }), /"\/data\/e\.mp4"/);
  assert.equal(rooted(rows[1]!, "/data"), rows[1]);
});

test.run();
