// How iterations begin and end early: what is tried before a folder becomes a run, what is left out and counted, an end in
// order, and the questions that every model is asked.
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { missing, some } from "./helpers/assert.js";
import { type IterationEvent, type RunIterationsOptions, runIterations } from "../src/index.js";
import { caught } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";
import { clips, isrOptions, isrResultOf, journalOf, samples } from "./helpers/isr-run.js";
import { writeClips } from "./helpers/train-run.js";

const test = suite("isr start");
const data = temporaryFolder();

test.before(() => writeClips(data, clips));

/** One iteration, with keys of the configuration laid over. */
function options(config: Record<string, unknown> = {}, more: Partial<RunIterationsOptions> = {}): RunIterationsOptions {
  const base = isrOptions(data, join(temporaryFolder(), "run"));
  return { ...base, to: 2, ...more, config: { ...base.config, ...config } };
}

async function followed(o: RunIterationsOptions) {
  const events: IterationEvent[] = [];
  const run = runIterations(o);
  for await (const e of run) events.push(e);
  const [result] = await run.result;
  return { events, result: result! };
}

const journal = (o: RunIterationsOptions) => journalOf(join(o.runDir, "iterations/1/journal.0.log"));
const elsewhere = [{ id: "gone", video: "no-such-clip", question: "What is seen?" }];
const long = { id: "long", video: "clip1", question: `What is seen ${"here, and there, ".repeat(60)}?` };
/** Beside a context and an answer there is room for it; beside a context and two answers there is not. */
const longish = { id: "longish", video: "clip2", question: `What is ${"a".repeat(232)}?` };

for (const [name, o, code, said] of [
  [
    "videos that are not there",
    options({}, { samples: [...samples, ...elsewhere] }),
    "NOT_FOUND",
    /1 are missing: no-such-clip/,
  ],
  [
    "a video that cannot be read",
    options({ videos: join("test", "golden") }, { samples: [{ ...samples[0]!, video: "README.md" }] }),
    "MEDIA_UNREADABLE",
    /README/,
  ],
  ["budgets that do not fit", options({ response: { maxTokens: 120 } }), "INVALID_CONFIG", /120 \+ 120/],
] as const)
  test(`${name}: refused before the folder becomes a run`, async () => {
    const e = await caught(() => runIterations(o).result);
    assert.is(e.code, code, e.message);
    assert.match(e.message, said);
    missing(o.runDir, "a refused start leaves nothing");
  });

test("what was refused may be corrected in the same folder", async () => {
  const refused = options({ response: { maxTokens: 120 } });
  await caught(() => runIterations(refused).result);
  const { result } = await followed({ ...refused, config: { ...refused.config, response: { maxTokens: 8 } } });
  assert.is(result.counts.samples, samples.length);
});

test("missing videos and questions without room are told, skipped and counted", async () => {
  const { events, result } = await followed(
    options({ video: { onError: "skip" } }, { samples: [...samples, ...elsewhere, long] }),
  );
  assert.is(result.counts.skipped, 2);
  assert.equal(
    events.flatMap((e) => (e.type === "warning" ? [e.code] : [])),
    ["MISSING_VIDEOS"],
  );
  assert.equal(events.flatMap((e) => (e.type === "pair" && e.status === "skipped" ? [e.sample] : [])).sort(), [
    "gone",
    "long",
  ]);
});

test("a question that fits the answer's prompt and not the judge's is skipped with its answers kept", async () => {
  const o = options({}, { samples: [...samples, longish] });
  const { result } = await followed(o);
  const records = await journal(o);
  assert.is(result.counts.skipped, 1);
  assert.is(records.filter((r) => r.type === "rsp" && r.sample === "longish").length, 2);
  const [skip] = records.filter((r) => r.type === "skip");
  assert.equal([skip!.sample, skip!.code], ["longish", "CONTEXT_OVERFLOW"]);
});

test("prompts that were cut are in the journal, so that a resumed run counts them too", async () => {
  const filling = { id: "filling", video: "clip3", question: `What is ${"a".repeat(135)}?` };
  const o = options({ context: { maxTokens: 16 } }, { samples: [...samples, filling] });
  const { result, events } = await followed(o);
  const cut = (await journal(o)).filter((r) => "cut" in r);
  assert.ok(cut.length > 0 && cut.every((r) => r.type === "verdict" && r.sample === "filling"), JSON.stringify(cut));
  assert.is(result.counts.promptsCut, cut.length);
  some(events, (e) => e.type === "warning" && e.code === "PROMPTS_CUT");
  assert.is((await followed(o)).result.counts.promptsCut, cut.length);
});

test("finish: the group or the step at hand is done, and the same call goes on to the same bytes", async () => {
  const straight = options();
  await runIterations(straight).result;
  const expected = await isrResultOf(straight.runDir);
  const o = options();
  const told = new Error("enough");
  /** Runs until an event of this kind has come, and then asks for the end. */
  const until = async (is: (e: IterationEvent) => boolean) => {
    const stop = new AbortController();
    const run = runIterations({ ...o, finish: stop.signal });
    const reading = async () => {
      for await (const e of run) if (is(e)) stop.abort(told);
    };
    assert.is(await reading().catch((e: unknown) => e), told);
  };
  await until((e) => e.type === "pair");
  const done = new Set((await journal(o)).flatMap((r) => (r.type === "pair" ? [r.sample] : [])));
  assert.ok(done.size > 0 && done.size < samples.length, `${done.size} samples`);
  await until((e) => e.type === "stage" && e.stage === "score" && e.state === "begin");
  await until((e) => e.type === "step");
  const steps = readdirSync(join(o.runDir, "iterations/1/train")).filter((name) => name.startsWith("step-"));
  assert.is(steps.length, 1, "a checkpoint at the step that it stopped at");
  await runIterations(o).result;
  assert.equal(await isrResultOf(o.runDir), expected);
});

test("evaluate: the same questions for the first model and the one that is made, with no bit of the training changed", async () => {
  const plain = options();
  await runIterations(plain).result;
  const asked = join(data, "asked.jsonl");
  const rows = [...samples.slice(0, 4), ...elsewhere, samples[5]!];
  writeFileSync(asked, rows.map((r) => `${JSON.stringify(r)}\n`).join(""));
  const o = options({ evaluate: { samples: asked, count: 5, name: "few" }, video: { onError: "skip" } });
  const { events } = await followed(o);
  const read = (name: string) => readFileSync(join(o.runDir, "evaluation", name), "utf8");
  assert.equal(readdirSync(join(o.runDir, "evaluation")).sort(), [
    ...["few.1.answers.jsonl", "few.1.json", "few.2.answers.jsonl", "few.2.json"],
  ]);
  for (const model of [1, 2]) {
    const { count, skipped, words } = JSON.parse(read(`few.${model}.json`));
    assert.equal([count, skipped, words > 0], [4, 1, true]);
    assert.is(read(`few.${model}.answers.jsonl`).split("\n").length, 6);
    assert.is(events.filter((e) => e.type === "answer" && e.model === model).length, 3);
  }
  const results = async (r: RunIterationsOptions) =>
    Object.fromEntries(Object.entries(await isrResultOf(r.runDir)).filter(([name]) => !name.startsWith("evaluation/")));
  assert.equal(await results(o), await results(plain));
});

test("evaluate, added to a finished run, asks the models that are there and tells of those that are not", async () => {
  const asked = join(data, "later.jsonl");
  const write = (...rows: object[]) => writeFileSync(asked, rows.map((r) => `${JSON.stringify(r)}\n`).join(""));
  write(samples[0]!, samples[3]!);
  const o = options({ keep: "last" }, { to: 3 });
  await runIterations(o).result;
  const finished = await isrResultOf(o.runDir);
  const more = { ...o, config: { ...o.config, evaluate: { samples: asked, name: "later" } } };
  const { events } = await followed(more);
  assert.equal(
    readdirSync(join(o.runDir, "evaluation")).filter((n) => n.endsWith(".json")),
    ["later.1.json", "later.3.json"],
  );
  assert.equal(
    events.flatMap((e) => (e.type === "answer" ? [e.model] : [])),
    [1, 1, 3, 3],
  );
  const told = events.flatMap((e) => (e.type === "warning" ? [`${e.code}: ${e.message}`] : []));
  assert.is(told.length, 1);
  assert.match(told[0]!, /^NOT_EVALUATED: model 2 cannot be asked.*keep: last/);
  assert.equal(
    (await followed(more)).events.filter((e) => e.type === "answer"),
    [],
    "once is enough",
  );
  write(samples[0]!, samples[4]!);
  const e = await caught(() => runIterations(more).result);
  assert.is(e.code, "RUN_MISMATCH");
  assert.match(
    e.message,
    /^evaluate\.samples: expected the questions that model 1 was asked on 20\S+ as "later", got others$/,
  );
  const renamed = { ...o, config: { ...o.config, evaluate: { samples: asked, name: "other" } } };
  assert.is((await followed(renamed)).events.filter((e) => e.type === "answer").length, 4);
  const now = Object.entries(await isrResultOf(o.runDir)).filter(([name]) => !name.startsWith("evaluation/"));
  assert.equal(Object.fromEntries(now), finished);
});

test("a diagnostics channel tells the events of a run that is only awaited", async () => {
  const o = options();
  const told: IterationEvent[] = [];
  const take = (message: unknown) => {
    const { runDir, event } = message as { runDir: string; event: IterationEvent };
    if (runDir === o.runDir && event.type !== "progress") told.push(event);
  };
  subscribe("isr-dpo:run", take);
  await runIterations(o);
  unsubscribe("isr-dpo:run", take);
  const again = await followed({ ...o, runDir: join(temporaryFolder(), "run") });
  const kinds = (list: readonly IterationEvent[]) => list.filter((e) => e.type !== "progress").map((e) => e.type);
  assert.equal(kinds(told), kinds(again.events));
});

test("run.json says the machine's level; going on at another one is told", async () => {
  const o = options();
  await runIterations(o).result;
  const path = join(o.runDir, "run.json");
  const run = JSON.parse(readFileSync(path, "utf8"));
  assert.equal([typeof run.facts.isa, run.facts.dtype, run.facts.family], ["string", "f32", "llava_hound"]);
  writeFileSync(path, JSON.stringify({ ...run, facts: { ...run.facts, isa: "another" } }));
  const { events } = await followed({ ...o, to: 3 });
  some(events, (e) => e.type === "warning" && e.code === "ISA_CHANGED");
  const other = { ...o, load: { ...o.load, dtype: "bf16" as const } };
  const e = await caught(() => runIterations({ ...other, to: 4 }).result);
  assert.is(e.code, "RUN_MISMATCH");
  assert.match(e.message, /facts\.dtype: expected .*f32.*bf16/);
});

test.run();
