// A damaged video in a run: used and told under video.maxLost, skipped or refused above it; a later start counts the same.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { type IterationEvent, type RunIterationsOptions, report, runIterations, train } from "../src/index.js";
import { trainOptionsOf } from "../src/config/function-options.js";
import { resolveConfig } from "../src/config/read-config.js";
import { caught } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";
import { isrOptions, journalOf } from "./helpers/isr-run.js";
import { writeClips } from "./helpers/train-run.js";
import { makeVideo } from "./helpers/video.js";

const test = suite("isr damage");
const data = temporaryFolder();
const bad = "bad.mp4";

const samples = [bad, "clip0", "clip1", bad].map((video, i) => ({
  id: `s${i}`,
  video,
  question: `What is seen in part ${i}?`,
}));

test.before(async () => {
  await writeClips(data, 2);
  const bytes = readFileSync(makeVideo(join(data, bad), ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "10"]));
  for (let i = Math.floor(bytes.length * 0.5); i < bytes.length * 0.6; i++) bytes[i] = 0;
  writeFileSync(join(data, bad), bytes);
});

function options(video: object, more: Partial<RunIterationsOptions> = {}): RunIterationsOptions {
  const base = isrOptions(data, join(temporaryFolder(), "run"));
  return { ...base, samples, to: 2, config: { ...base.config, train: { pairsPerStep: 1 }, video }, ...more };
}

const iteration = (o: RunIterationsOptions) => join(o.runDir, "iterations/1");
const journal = (o: RunIterationsOptions) => journalOf(join(iteration(o), "journal.0.log"));

/** What is said of the damaged video where it counts: the journal, the counts, the report, the events. */
async function follow(o: RunIterationsOptions) {
  const events: IterationEvent[] = [];
  const run = runIterations(o);
  for await (const e of run) events.push(e);
  const [result] = await run;
  const page = join(o.runDir, "page.html");
  await report(o.runDir, page);
  return { events, counts: result!.counts, records: await journal(o), html: readFileSync(page, "utf8") };
}

test("within the bound: used, and told in journal, counts, report and events", async () => {
  const o = options({ maxLost: 0.9 });
  const { events, counts, records, html } = await follow(o);
  const found = records.filter((r) => r.type === "damage");
  assert.is(found.length, 1);
  const { video, lost, damaged, frames } = found[0]!;
  assert.is(video, bad);
  assert.ok(lost + damaged > 0 && lost + damaged < frames && frames >= 20, JSON.stringify(found));
  assert.equal([counts.damagedVideos, counts.skipped], [1, 0]);
  const told = `${bad}: ${lost} frames lost and ${damaged} damaged of ${frames}`;
  assert.ok(html.includes(told), told);
  const warnings = events.flatMap((e) => (e.type === "warning" && e.code === "MEDIA" ? [e.message] : []));
  assert.ok(warnings.length > 0 && warnings.every((w) => w.includes(bad)), warnings.join());
  assert.match(warnings[0]!, new RegExp(`${lost} frames lost and ${damaged} damaged, of ${frames}`));
});

test("above the bound, onError skip: its samples are left out and counted, and nothing says that it was used", async () => {
  const { counts, records } = await follow(options({ maxLost: 0.01, onError: "skip" }));
  assert.equal([counts.skipped, counts.damagedVideos], [2, undefined]);
  assert.equal(
    records.flatMap((r) => (r.type === "skip" ? [[r.video, r.code]] : r.type === "damage" ? [[r.video, ""]] : [])),
    [[bad, "MEDIA_UNREADABLE"]],
  );
});

test("above the bound, as it stands: the run ends, with the key that would take the file", async () => {
  const e = await caught(() => runIterations(options({})).result);
  assert.is(e.code, "MEDIA_UNREADABLE");
  assert.match(e.message, /bad\.mp4: expected at most 0 % .* got \d+ lost and \d+ damaged of/);
  assert.match(e.hint!, /video\.maxLost/);
});

for (const stop of ["pair", "step"] as const)
  test(`stopped at the first ${stop} and started again: counted once, as without a stop`, async () => {
    const finish = new AbortController();
    const o = options({ maxLost: 0.9 }, { finish: finish.signal });
    const run = runIterations(o);
    const reading = async () => {
      for await (const e of run) if (e.type === stop) finish.abort(new Error("enough"));
    };
    await assertStops(reading);
    const { finish: _, ...again } = o;
    const { counts, records, html } = await follow(again);
    assert.is(counts.damagedVideos, 1);
    assert.is(records.filter((r) => r.type === "damage").length, 1);
    assert.match(html, /bad\.mp4: \d+ frames lost and \d+ damaged of \d+/);
  });

async function assertStops(reading: () => Promise<void>): Promise<void> {
  const end = await reading().then(
    () => "to its end",
    (e: Error) => e.message,
  );
  assert.is(end, "enough");
}

test("training: the same bound, and the same command goes on under another one", async () => {
  const rows = samples.map(({ id, video, question }) => {
    const pair = { chosen: "A dog.", rejected: "A cat." };
    return `${JSON.stringify({ id, video, prompt: `<video>\n${question}`, answer: "", ...pair })}\n`;
  });
  writeFileSync(join(data, "pairs.jsonl"), rows.join(""));
  const runDir = join(temporaryFolder(), "run");
  const given = { model: "test/golden/llava_hound/policy", data: join(data, "pairs.jsonl"), runDir };
  const asked = (video?: object) => {
    const config = { ...given, load: { threads: 1 }, ...(video && { video }) };
    return trainOptionsOf("dpo", resolveConfig("train", config));
  };
  assert.equal([asked().load.mediaMaxLost, asked().load.mediaTimeoutMs], [0, 300_000]);
  assert.is(asked({ timeoutS: 1.5 }).load.mediaTimeoutMs, 1500);
  for (const options of [asked(), { ...given, kind: "dpo" as const, load: { threads: 1 } }])
    assert.is((await caught(() => train(options).result)).code, "MEDIA_UNREADABLE");
  const { pairs } = await train(asked({ maxLost: 0.9 })).result;
  assert.is(pairs, samples.length);
});

test.run();
