// The demo in small: all designs from the shipped model, what they share, the files of the report, and going on.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { exists, includes } from "./helpers/assert.js";
import { demoTable } from "../src/cli/demo-command.js";
import { writeReport } from "../src/report/write-report.js";
import { type DemoEvent, demo, demoDesigns } from "../src/synthetic/demo.js";
import { wilson } from "../src/base/statistics.js";
import { temporaryFolder } from "./helpers/files.js";
import { shared } from "./helpers/shared.js";

const test = suite("demo");
const dir = join(temporaryFolder(), "demo");
const small = { clips: 8, heldOut: 4, iterations: 2 };
/** One demo, its result and its events. */
const shown = shared(async () => {
  const events: DemoEvent[] = [];
  const run = demo({ dir, ...small });
  for await (const e of run) events.push(e);
  return { result: await run.result, events };
});

const read = (...names: string[]) => readFileSync(join(dir, ...names));

test("four designs, each model measured; the first iteration with a context is computed once", async () => {
  const { result, events } = await shown();
  for (const design of demoDesigns) {
    assert.is(result.accuracy[design].length, 3);
    assert.is(result.alignment[design].length, 2);
    assert.equal(result.accuracy[design][0], result.accuracy.none[0], "one start");
  }
  const begun = events.flatMap((e) =>
    e.type === "iteration" && e.event.type === "stage" && e.event.stage === "generate" && e.event.state === "begin"
      ? [`${e.design} ${e.event.iteration}`]
      : [],
  );
  assert.equal(begun.sort(), ["fixed 2", "none 1", "none 2", "renew 2", "retrospective 1", "retrospective 2"]);
  for (const name of ["journal.0.log", "contexts.jsonl", "model/model.safetensors"])
    for (const design of ["fixed", "renew"])
      assert.equal(read(design, "iterations", "1", name), read("retrospective", "iterations", "1", name), name);
  for (const design of demoDesigns)
    assert.is(JSON.parse(String(read(design, "iterations", "1", "start.json"))).context, design);
});

test("nothing is warned of: what a design does not use of the prompts is the demo's doing, not the user's", async () => {
  const { events } = await shown();
  const warned = events.flatMap((e) => (e.type === "iteration" && e.event.type === "warning" ? [e.event.message] : []));
  assert.equal(warned, []);
});

test("accuracies with intervals and chance, and a table of them", async () => {
  const { result } = await shown();
  const { accuracy, interval, chance, count } = JSON.parse(String(read("renew", "evaluation", "world.3.json")));
  const { sampled } = result.accuracy.renew[2]!;
  assert.equal([accuracy, count], [sampled.exact, 8]);
  assert.equal(interval, wilson(accuracy, 8));
  assert.ok(chance > 0 && chance <= 0.05, `${chance}`);
  const table = demoTable(result).join("\n");
  for (const design of demoDesigns) assert.match(table, new RegExp(`^${design} +[\\d.]+ %`, "m"));
});

test("Wilson's interval", () => {
  const [low, high] = wilson(0.5, 100);
  assert.ok(Math.abs(low - 0.4038) < 1e-4 && Math.abs(high - 0.5962) < 1e-4, `${low} ${high}`);
  assert.is(wilson(0, 10)[0], 0);
});

test("the report takes it", async () => {
  await shown();
  const made = await writeReport(dir);
  assert.is(made.kind, "comparison");
  includes(readFileSync(made.path, "utf8"), "retrospective");
});

test("called again, nothing is computed again", async () => {
  const { result } = await shown();
  const again = demo({ dir, ...small });
  const stages: string[] = [];
  for await (const e of again) if (e.type === "iteration" && e.event.type === "stage") stages.push(e.event.stage);
  assert.equal(stages, []);
  assert.equal(await again.result, result);
});

test("without ffmpeg: folders of frames, and it says so", async () => {
  const other = join(temporaryFolder(), "demo");
  const before = process.env.ISR_DPO_FFMPEG;
  process.env.ISR_DPO_FFMPEG = join(dir, "no-ffmpeg");
  try {
    const run = demo({ dir: other, clips: 3, heldOut: 2, iterations: 1, seed: 2 });
    const notes: string[] = [];
    for await (const e of run) if (e.type === "note") notes.push(e.message);
    await run.result;
    assert.match(notes.join(), /no ffmpeg/);
  } finally {
    if (before === undefined) delete process.env.ISR_DPO_FFMPEG;
    else process.env.ISR_DPO_FFMPEG = before;
  }
  const [name] = readdirSync(join(other, "videos"));
  assert.is(readdirSync(join(other, "videos", name!)).length, 16);
  exists(join(other, "none/iterations/1/model/model.safetensors"));
});

test.run();
