// From the records of a journal to pairs, counts, guards and exports; looks; groups.
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { readPairs, type Sample } from "../src/index.js";
import {
  countsOf,
  guard,
  type Guards,
  pairsOf,
  type Provenance,
  shares,
  sorted,
  writeExports,
} from "../src/iterate/iteration-exports.js";
import type { GroupRecord } from "../src/iterate/generate-group.js";
import { byVideo, groupsOf } from "../src/iterate/video-groups.js";
import { type LookRule, lookOf, type Purpose, stretchOf } from "../src/iterate/frame-policy.js";
import { type Policies, statuses } from "../src/judge/judge.js";
import { every, rejects, sameBytes } from "./helpers/assert.js";
import { node } from "./helpers/child.js";
import { all, caught } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("isr-pairs");

const policies: Policies = { tie: "drop", disagree: "drop", identical: "drop", unparsed: "drop", truncated: "drop" };
const sample = (i: number): Sample => ({ id: `s${i}`, video: `v${i >> 1}.mp4`, question: `What is it ${i}?` });

/** One sample's records: status, and verdicts in terms of response 0 and 1. */
function recordsOf(
  i: number,
  status: string,
  verdicts: readonly { choice: string; margin?: number }[],
  chosen?: 0 | 1,
): GroupRecord[] {
  const { id } = sample(i);
  return [
    ...verdicts.map((v, order): GroupRecord => ({ type: "verdict", sample: id, order, ...v, raw: "x" })),
    { type: "rsp", sample: id, copy: 1, ids: [i, 7, 2], text: `no ${i}`, end: "stop" },
    { type: "rsp", sample: id, copy: 0, ids: [i, 5, 6, 2], text: `yes ${i}`, end: "stop" },
    { type: "pair", sample: id, status, ...(chosen === undefined ? {} : { chosen }) },
  ];
}

const samples = Array.from({ length: 7 }, (_, i) => sample(i));
const records = sorted([
  ...recordsOf(
    0,
    "pair",
    [
      { choice: "0", margin: 2 },
      { choice: "0", margin: 1 },
    ],
    0,
  ),
  ...recordsOf(
    1,
    "pair",
    [
      { choice: "1", margin: -2 },
      { choice: "0", margin: 1 },
    ],
    1,
  ),
  ...recordsOf(2, "tie", [
    { choice: "none", margin: 0 },
    { choice: "none", margin: 0 },
  ]),
  ...recordsOf(3, "disagree", [
    { choice: "0", margin: 2 },
    { choice: "1", margin: -1 },
  ]),
  ...recordsOf(4, "pair", [{ choice: "1" }], 1),
  ...recordsOf(5, "identical", []),
  { type: "skip", video: "v3.mp4", code: "MEDIA_EMPTY", message: "v3.mp4: nothing" },
  { type: "pair", sample: "s6", status: "skipped" },
  { type: "ctx", video: "v0.mp4", ids: [9], text: "A cat." },
]);
const average = { ...policies, disagree: "average" as const };

test("counts have every status and add up to the samples", () => {
  const counts = countsOf(samples, records);
  assert.equal(Object.keys(counts), [...statuses]);
  assert.equal(counts, { pair: 3, tie: 1, identical: 1, disagree: 1, unparsed: 0, truncated: 0, skipped: 1 });
  assert.is(
    Object.values(counts).reduce((a, b) => a + b),
    samples.length,
  );
});

for (const [name, list] of [
  ["a sample without a status", [...samples, sample(7)]],
  ["a status that is none", [{ id: "odd", video: "v.mp4", question: "?" }]],
] as const)
  test(`counts refuse ${name}`, () => {
    const odd = sorted([...recordsOf(0, "pair", []), { type: "pair", sample: "odd", status: "constructor" }]);
    return rejects(
      () => countsOf(list, name.startsWith("a status") ? odd : records),
      "BUG",
      /expected one status/,
      name,
    );
  });

test("pairs keep the sampled ids; the margin is the chosen one's; agreement is of two orders", () => {
  const pairs = [...pairsOf(samples, records, (video) => (video === "v0.mp4" ? "A cat." : null), average)];
  assert.equal(
    pairs.map((p) => [p.sample.id, p.chosen.ids, p.rejected.ids, p.margin, p.agreement, p.context]),
    [
      ["s0", [0, 5, 6, 2], [0, 7, 2], 1.5, true, "A cat."],
      ["s1", [1, 7, 2], [1, 5, 6, 2], 0.5, false, "A cat."],
      ["s4", [4, 7, 2], [4, 5, 6, 2], null, null, null],
    ],
  );
});

test("shares: the place that was shown first, whatever response stood there", () => {
  // s4 alone was asked in one order, and the second place won; in two orders a liking for a place is in no pair.
  assert.equal(shares(records, samples.length), { first: 0, verdicts: 1, usable: 3 / 7 });
  const other = sorted([{ type: "verdict", sample: "s8", order: 1, choice: "1" }]);
  assert.equal(shares(other, 1), { first: 1, verdicts: 1, usable: 0 }, "order 1 shows response 1 first");
  assert.equal(shares(sorted([]), 5), { first: 0.5, verdicts: 0, usable: 0 });
});

/** `first` of `n` verdicts for the place shown first, `usable` of `n` samples pairs; one order each, this one or that. */
const crowd = (n: number, first: number, usable: number) =>
  sorted(
    Array.from({ length: n }, (_, i): GroupRecord[] => {
      const order = i % 2;
      const place = i < first ? 0 : 1;
      const choice = String(order === 0 ? place : 1 - place);
      const { id } = sample(i);
      return [
        { type: "verdict", sample: id, order, choice },
        { type: "pair", sample: id, status: i < usable ? "pair" : "tie" },
      ];
    }).flat(),
  );

const usual: Guards = { maxPosition: 0.9, minUsable: 0.1 };
const guards: [name: string, n: number, first: number, usable: number, guards: Guards, message?: RegExp][] = [
  ["half and half", 40, 20, 40, usual],
  ["at the bound of place", 40, 36, 40, usual],
  ["above it", 40, 37, 40, usual, /^the judge chose the first answer in 92\.5 % of 40 verdicts, more than 90\.0 %$/],
  ["below it, of the second", 40, 3, 40, usual, /^the judge chose the second answer in 92\.5 % of 40 verdicts/],
  ["switched off", 40, 40, 40, { ...usual, maxPosition: 1 }],
  ["too few verdicts to tell", 19, 19, 19, usual],
  ["just enough", 20, 20, 20, usual, /^the judge chose the first answer in 100\.0 % of 20 verdicts/],
  ["at the bound of use", 40, 20, 4, usual],
  ["below it", 40, 20, 3, usual, /^7\.5 % of the samples became pairs, fewer than 10\.0 %; the others: 37 tie$/],
  ["no pair", 40, 20, 0, usual, /^0\.0 % of the samples/],
  ["no pair, switched off", 40, 20, 0, { ...usual, minUsable: 0 }],
];
for (const [name, n, first, usable, bounds, message] of guards)
  test(`guard: ${name}`, () => {
    const work = () => guard(crowd(n, first, usable), n, bounds, policies);
    return message ? rejects(work, "DEGENERATE", message, name) : work();
  });

/** What readers of others do with a line: the fields that they take, as they take them. */
const readers: readonly [name: string, read: (row: Record<string, unknown>) => unknown][] = [
  // LLaVA-Hound's DPO data set: words of `video`, `prompt`, `chosen`, `rejected`; a folder of frames named by `video`.
  ["LLaVA-Hound", (r) => [`<video>\n${text(r.prompt)}`, text(r.chosen), text(r.rejected), `frames/${text(r.video)}`]],
  // TRL's standard preference form: columns of text, each of one type in all rows.
  ["TRL", (r) => [text(r.prompt), text(r.chosen), text(r.rejected)]],
];
function text(value: unknown): string {
  assert.type(value, "string");
  assert.is.not((value as string).trim(), "");
  return value as string;
}

for (const [name, read] of readers)
  test(`exports: rows of pairs.jsonl as ${name} reads them`, async () => {
    const dir = temporaryFolder();
    const pairs = () => pairsOf(samples, records, () => "A cat.", average);
    await writeExports(dir, [], pairs, { iteration: 1, seed: 3n, promptHash: "p", modelHash: "m" });
    const rows = readFileSync(join(dir, "pairs.jsonl"), "utf8").trimEnd().split("\n");
    const found = rows.map((l) => read(JSON.parse(l)) as unknown[]);
    assert.equal(found[0]!.map((v) => String(v).replace("<video>\n", "")).slice(0, 3), [
      "What is it 0?",
      "yes 0",
      "no 0",
    ]);
    assert.is(found.length, 3);
    const kinds = (l: string) => Object.entries(JSON.parse(l)).map(([k, v]) => [k, v === null ? "null" : typeof v]);
    for (const l of rows)
      for (const [i, [key, kind]] of kinds(l).entries()) {
        const [first, of] = kinds(rows[0]!)[i]!;
        assert.is(key, first, "the same columns in each row");
        assert.ok(kind === of || kind === "null" || of === "null", `${key}: ${kind} and ${of}`);
      }
  });

test("exports: any number of pairs in bounded memory", () => {
  const ended = node([
    "--max-old-space-size=64",
    "--import",
    "tsx",
    "test/children/exports-memory.ts",
    temporaryFolder(),
  ]);
  assert.is(ended.code, 0, ended.err.slice(-2000));
  assert.is(ended.out.trim(), "150000 lines, 0 left out");
});

/** A judge that always likes the first place, asked in both orders: with what is left of it. */
const biased = (status: string, chosen?: 0 | 1) =>
  sorted(
    Array.from({ length: 40 }, (_, i) =>
      recordsOf(
        i,
        status,
        [
          { choice: "0", margin: 2 },
          { choice: "1", margin: chosen === undefined ? -2 : -1 },
        ],
        chosen,
      ),
    ).flat(),
  );

test("guard: a liking for a place that both orders cancel is no fault", () => {
  assert.is(guard(biased("pair", 0), 40, usual, average), undefined);
});

const remedies: readonly [status: string, change: object, hint: RegExp][] = [
  ["disagree", { orders: "both" }, /^the judge contradicts itself.*judge\.disagree "average"/],
  ["disagree", { orders: "both", disagree: "average" }, /^look at the counts of the other samples; guards\.minUsable/],
  ["truncated", {}, /^answers are cut off: raise response\.maxTokens/],
  ["identical", {}, /^both answers are often the same: raise response\.temperature/],
  ["unparsed", { method: "text" }, /^replies hold no choice: judge\.method "logprob"/],
  ["unparsed", { method: "logprob" }, /^look at the counts/],
  ["skipped", {}, /^videos cannot be read or questions do not fit/],
  ["tie", {}, /^look at the counts/],
];
for (const [status, change, hint] of remedies)
  test(`guard: too few pairs by ${status} with ${JSON.stringify(change)} says what is not yet done`, async () => {
    const e = await caught(async () => guard(biased(status), 40, usual, { ...policies, ...change }));
    assert.match(e.message, new RegExp(`^0\\.0 % .*; the others: 40 ${status}$`));
    assert.match(e.hint!, hint);
    assert.not.match(e.hint!, /orders/);
  });

test("exports: what is read back is what was sampled", async () => {
  const provenance: Provenance = { iteration: 2, seed: 2n ** 60n, promptHash: "p", modelHash: "m" };
  const pairs = [...pairsOf(samples, records, () => "A \u2028 cat.", average)];
  const contexts = [{ video: "v0.mp4", text: "A \u2028 cat.", ids: [9], previous: null }];
  const bytes: Buffer[] = [];
  for (const name of ["a", "b"]) {
    const dir = join(temporaryFolder(), name);
    mkdirSync(dir);
    assert.is(await writeExports(dir, contexts, () => pairs, provenance), 0);
    for (const file of ["pairs.parquet", "pairs.jsonl"])
      assert.equal(
        (await all(readPairs(join(dir, file)))).map((p) => [
          p.id,
          p.media,
          p.prompt,
          Array.from(p.chosen as Int32Array),
          Array.from(p.rejected as Int32Array),
        ]),
        pairs.map((p) => [p.sample.id, [p.sample.video], p.sample.question, p.chosen.ids, p.rejected.ids]),
        file,
      );
    const lines = (file: string) =>
      readFileSync(join(dir, file), "utf8")
        .split("\n")
        .slice(0, -1)
        .map((l) => JSON.parse(l));
    assert.equal(lines("contexts.jsonl"), contexts);
    assert.equal(
      lines("pairs.jsonl").map((l) => [l.id, l.chosen, l.rejected_ids, l.margin, l.agreement, l.context, l.iteration]),
      [
        ["s0", "yes 0", [0, 7, 2], 1.5, true, "A \u2028 cat.", 2],
        ["s1", "no 1", [1, 5, 6, 2], 0.5, false, "A \u2028 cat.", 2],
        ["s4", "no 4", [4, 5, 6, 2], null, null, "A \u2028 cat.", 2],
      ],
    );
    bytes.push(
      Buffer.concat(["contexts.jsonl", "pairs.jsonl", "pairs.parquet"].map((f) => readFileSync(join(dir, f)))),
    );
  }
  sameBytes(bytes[0]!, bytes[1]!, "the same bytes each time");
});

test("exports: a pair of no words stays in pairs.jsonl, and is counted", async () => {
  const dir = temporaryFolder();
  const empty = sorted([
    ...recordsOf(0, "pair", [{ choice: "0" }], 0),
    { type: "rsp", sample: "s9", copy: 0, ids: [2], text: " ", end: "stop" },
    { type: "rsp", sample: "s9", copy: 1, ids: [5, 2], text: "x\ud800", end: "stop" },
    { type: "verdict", sample: "s9", order: 0, choice: "1" },
    { type: "pair", sample: "s9", status: "pair", chosen: 1 },
  ]);
  const pairs = () => pairsOf([sample(0), sample(9)], empty, () => null, policies);
  assert.is(await writeExports(dir, [], pairs, { iteration: 1, seed: 0n, promptHash: "p", modelHash: "m" }), 1);
  assert.is(readFileSync(join(dir, "pairs.jsonl"), "utf8").split("\n").length, 3);
  assert.is((await all(readPairs(join(dir, "pairs.parquet")))).length, 1);
});

// ---- looks

const rule = (change: Partial<LookRule> = {}): LookRule => ({
  looks: "varied",
  stretches: 4,
  seed: 0n,
  sample: undefined,
  ...change,
});

for (const purpose of ["response", "context", "judge"] as Purpose[])
  test(`same: the sampling of the run, or the family's: ${purpose}`, () => {
    assert.is(lookOf(rule({ looks: "same" }), "v", purpose, 3), undefined);
    const sample = { frames: 8, fps: 2 };
    assert.is(lookOf(rule({ looks: "same", sample }), "v", purpose, 3), sample);
  });

test("varied: one stretch, with the run's number of frames", () => {
  const look = lookOf(rule({ sample: { frames: 3 } }), "v", "judge", 1)!;
  assert.is(look.frames, 3);
  assert.is(look.part![1], 4);
  assert.equal(Object.keys(lookOf(rule(), "v", "judge", 1)!), ["part"]);
});

test("varied: drawn evenly, from seed, key, purpose and iteration alone", () => {
  const counts = new Array<number>(4).fill(0);
  for (let i = 0; i < 4000; i++) counts[stretchOf(rule(), `v${i}`, "context", 1)]! += 1;
  for (const count of counts) assert.ok(count > 850 && count < 1150, counts.join(" ")); // 5 sigma
  const draws = (change: Partial<LookRule>, purpose: Purpose, iteration: number) =>
    Array.from({ length: 64 }, (_, i) => stretchOf(rule(change), `v${i}`, purpose, iteration)).join("");
  const all = [
    draws({}, "context", 1),
    draws({}, "context", 2),
    draws({}, "judge", 1),
    draws({}, "judge", 2),
    draws({}, "response", 1),
    draws({ seed: 1n }, "context", 1),
    draws({ seed: 2n ** 64n - 1n }, "context", 1),
  ];
  assert.is(new Set(all).size, all.length);
  assert.is(draws({}, "response", 9), draws({}, "response", 1), "an answer keeps its look");
  assert.is(draws({}, "context", 1), draws({ sample: { frames: 2 } }, "context", 1));
  assert.match(draws({ stretches: 1 }, "judge", 1), /^0+$/);
});

// ---- groups

const list = ["b", "a", "b", "c", "a", "d", "e"].map((video, i) => ({ id: String(i), video, question: "?" }));

test("videos in the order of their first sample, samples in theirs", () => {
  assert.equal(
    byVideo(list).map((v) => [v.video, v.samples.map((s) => s.id).join("")]),
    [
      ["b", "02"],
      ["a", "14"],
      ["c", "3"],
      ["d", "5"],
      ["e", "6"],
    ],
  );
});

for (const size of [1, 2, 5, 9])
  test(`every sample in one group, of at most ${size} videos`, () => {
    const groups = groupsOf(list, size);
    assert.equal(
      groups.map((g) => g.name),
      groups.map((_, i) => String(i)),
    );
    every(groups, (g) => g.videos.length <= size && g.videos.length > 0);
    assert.equal(
      groups.flatMap((g) => g.videos),
      byVideo(list),
    );
  });

test("no samples are no groups", () => assert.equal(groupsOf([], 3), []));

test.run();
