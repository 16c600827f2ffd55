// The four context designs of one seed: what they must share, and what each gives its judge. Resuming does nothing again.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { type IterationEvent, type IterationResult, runIterations } from "../src/index.js";
import { temporaryFolder } from "./helpers/files.js";
import { clips, isrOptions, isrResultOf, journalOf } from "./helpers/isr-run.js";
import { writeClips } from "./helpers/train-run.js";

const test = suite("isr designs");
const designs = ["none", "fixed", "renew", "retrospective"] as const;
type Design = (typeof designs)[number];
const data = temporaryFolder();
const above = temporaryFolder();
const folder = (design: Design) => join(above, design);
const results = new Map<Design, IterationResult[]>();
const events: IterationEvent[] = [];

test.before(async () => {
  await writeClips(data, clips);
  for (const design of designs) {
    const run = runIterations(isrOptions(data, folder(design), design));
    for await (const e of run) events.push(e);
    results.set(design, await run.result);
  }
});

const records = (design: Design, t: number) =>
  journalOf(join(folder(design), "iterations", String(t), "journal.0.log"));
const lines = (design: Design, t: number): { video: string; text: string; previous: string | null }[] =>
  readFileSync(join(folder(design), "iterations", String(t), "contexts.jsonl"), "utf8")
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));

test("one seed: the same answers in all designs, the same first contexts in three", async () => {
  const of = async (design: Design, type: string) => (await records(design, 1)).filter((r) => r.type === type);
  const answers = await of("none", "rsp");
  assert.is(answers.length, 20);
  for (const design of designs) assert.equal(await of(design, "rsp"), answers, design);
  const contexts = await of("fixed", "ctx");
  assert.is(contexts.length, clips);
  for (const design of ["renew", "retrospective"] as const) assert.equal(await of(design, "ctx"), contexts, design);
  assert.is((await of("none", "ctx")).length, 0);
});

test("each design's second contexts", () => {
  const first = lines("fixed", 1);
  assert.equal(lines("none", 2), []);
  assert.equal(
    lines("fixed", 2).map((c) => c.text),
    first.map((c) => c.text),
  );
  assert.ok(lines("renew", 2).every((c, i) => c.text !== first[i]!.text && c.previous === null));
  assert.equal(
    lines("retrospective", 2).map((c) => c.previous),
    first.map((c) => c.text),
  );
});

test("on each iteration's first step every margin is 0, and the loss ln 2", () => {
  for (const design of designs)
    for (const { metrics } of results.get(design)!) {
      assert.is(metrics[0]!.margin, 0);
      assert.ok(Math.abs(metrics[0]!.loss - Math.LN2) <= 1e-12);
    }
});

test("every sample has one status, and the counts add up", () => {
  for (const design of designs)
    results.get(design)!.forEach(({ counts }, k) => {
      const { samples, promptsCut: _, ...statuses } = counts;
      assert.is(samples, 10);
      assert.is(
        Object.values(statuses).reduce((a, b) => a + b, 0),
        10,
      );
      assert.ok(events.filter((e) => e.type === "pair" && e.iteration === k + 1).length >= 10);
    });
});

test("a clip is decoded and encoded once over both iterations", () => {
  for (const design of designs) {
    const [first, second] = results.get(design)!.map((r) => r.work);
    assert.equal([first!.decodes, first!.towerPasses], [clips, clips], design);
    assert.equal([second!.decodes, second!.towerPasses, second!.featureHits], [0, 0, clips], design);
  }
});

test("called again, nothing is done again", async () => {
  const before = await isrResultOf(folder("renew"));
  const again = await runIterations(isrOptions(data, folder("renew"), "renew"));
  assert.ok(again.every((r) => r.resumed && Object.values(r.work).every((n) => n === 0)));
  assert.equal(
    again.map((r) => r.hash),
    results.get("renew")!.map((r) => r.hash),
  );
  assert.equal(await isrResultOf(folder("renew")), before);
});

test.run();
