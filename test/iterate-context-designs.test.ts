// The four context designs of one seed: what they must share, and what each gives its judge. Resuming does nothing again.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { every, ordered } from "./helpers/assert.js";
import { type IterationEvent, runIterations } from "../src/index.js";
import { temporaryFolder } from "./helpers/files.js";
import { clips, isrOptions, isrResultOf, journalOf } from "./helpers/isr-run.js";
import { shared } from "./helpers/shared.js";
import { writeClips } from "./helpers/train-run.js";

const test = suite("isr designs");
const designs = ["none", "fixed", "renew", "retrospective"] as const;
type Design = (typeof designs)[number];
const data = temporaryFolder();
const above = temporaryFolder();
const folder = (design: Design) => join(above, design);

test.before(() => writeClips(data, clips));
const runOf = (design: Design) =>
  shared(async () => {
    const events: IterationEvent[] = [];
    const run = runIterations(isrOptions(data, folder(design), design));
    for await (const e of run) events.push(e);
    return { results: await run.result, events };
  });
/** A run of each design, made when a test asks for it. */
const runs = Object.fromEntries(designs.map((d) => [d, runOf(d)])) as Record<Design, ReturnType<typeof runOf>>;

async function records(design: Design, t: number) {
  await runs[design]();
  return journalOf(join(folder(design), "iterations", String(t), "journal.0.log"));
}
async function lines(design: Design, t: number): Promise<{ video: string; text: string; previous: string | null }[]> {
  await runs[design]();
  return readFileSync(join(folder(design), "iterations", String(t), "contexts.jsonl"), "utf8")
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
}

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

test("without contexts none are written", async () => assert.equal(await lines("none", 2), []));

test("fixed: the second contexts are the first ones", async () => {
  const texts = async (t: number) => (await lines("fixed", t)).map((c) => c.text);
  assert.equal(await texts(2), await texts(1));
});

test("renew: the second contexts are other ones, made without the first", async () => {
  const first = await lines("fixed", 1);
  every(await lines("renew", 2), (c, i) => c.text !== first[i]!.text && c.previous === null);
});

test("retrospective: the second contexts look back at the first", async () => {
  const first = (await lines("fixed", 1)).map((c) => c.text);
  const previous = (await lines("retrospective", 2)).map((c) => c.previous);
  assert.equal(previous, first);
});

for (const design of designs) {
  test(`on each iteration's first step every margin is 0, and the loss ln 2: ${design}`, async () => {
    for (const { metrics } of (await runs[design]()).results) {
      assert.is(metrics[0]!.margin, 0);
      ordered(Math.abs(metrics[0]!.loss - Math.LN2), "<=", 1e-12);
    }
  });

  test(`every sample has one status, and the counts add up: ${design}`, async () => {
    const { results, events } = await runs[design]();
    results.forEach(({ counts }, k) => {
      const { samples, promptsCut: _, ...statuses } = counts;
      assert.is(samples, 10);
      assert.is(
        Object.values(statuses).reduce((a, b) => a + b, 0),
        10,
      );
      assert.is(events.filter((e) => e.type === "pair" && e.iteration === k + 1).length, 10);
    });
  });

  test(`a clip is decoded and encoded once over both iterations: ${design}`, async () => {
    const [first, second] = (await runs[design]()).results.map((r) => r.work);
    assert.equal([first!.decodes, first!.towerPasses], [clips, clips]);
    assert.equal([second!.decodes, second!.towerPasses, second!.featureHits], [0, 0, clips]);
  });
}

test("called again, nothing is done again", async () => {
  const { results } = await runs.renew();
  const before = await isrResultOf(folder("renew"));
  const again = await runIterations(isrOptions(data, folder("renew"), "renew"));
  every(again, (r) => r.resumed && Object.values(r.work).every((n) => n === 0));
  assert.equal(
    again.map((r) => r.hash),
    results.map((r) => r.hash),
  );
  assert.equal(await isrResultOf(folder("renew")), before);
});

test.run();
