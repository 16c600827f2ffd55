// What judge.truncated "drop" leaves out is named: in an iteration's counts and warning, in the report's numbers and figure.
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ordered } from "./helpers/assert.js";
import { runIterations } from "../src/index.js";
import { censoredOf, sorted } from "../src/iterate/iteration-exports.js";
import type { GroupRecord } from "../src/iterate/generate-group.js";
import { sectionsOf } from "../src/report/figures.js";
import { readFolder } from "../src/report/read-run.js";
import type { IterationEvent } from "../src/train/run-events.js";
import { caught } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";
import { clips, isrOptions } from "./helpers/isr-run.js";
import { writeRun } from "./helpers/run-folder.js";
import { writeClips } from "./helpers/train-run.js";

const test = suite("censored");

/** A sample with answers of so many tokens, a word each. */
const answered = (sample: string, status: string, ...lengths: [number, number]) => [
  ...lengths.map((n, copy) => ({
    ...({ type: "rsp", sample, copy, end: n >= 8 ? "length" : "eos" } as const),
    ids: Array.from({ length: n }, (_, i) => i),
    text: Array.from({ length: n }, (_, i) => `w${i}`).join(" "),
  })),
  { type: "pair" as const, sample, status, ...(status === "pair" ? { chosen: 0 } : {}) },
];

const rows: readonly [name: string, records: GroupRecord[], tokens: ReturnType<typeof censoredOf>][] = [
  ["none cut", answered("a", "pair", 3, 2), null],
  ["no answers", [{ type: "pair", sample: "a", status: "skipped" }], null],
  [
    "cut ones beside others, one of them left out otherwise",
    [...answered("a", "pair", 3, 2), ...answered("b", "truncated", 8, 3), ...answered("c", "identical", 4, 4)],
    { truncatedTokens: 5.5, keptTokens: 13 / 4 },
  ],
  ["cut ones alone", answered("a", "truncated", 8, 8), { truncatedTokens: 8, keptTokens: 0 }],
  ["a long answer that was kept", answered("a", "pair", 8, 2), null],
];
for (const [name, records, tokens] of rows)
  test(`tokens of what is left out: ${name}`, () => {
    assert.equal(censoredOf(sorted(records)), tokens);
  });

test("the report: count, share, and words beside those of the others, by iteration", async () => {
  const dir = join(temporaryFolder(), "run");
  const records = rows[2]![1];
  const ids = ["a", "b", "c", "d"];
  await writeRun(dir, {
    design: "none",
    samples: ids.map((id) => ({ id, video: `${id}.mp4`, question: "what?" })),
    iterations: [
      { t: 1, records },
      { t: 2, records: rows[0]![1] },
    ],
  });
  const found = await readFolder(dir);
  const [first, second] = found.runs[0]!.iterations;
  assert.equal(first!.statistics.censored, { samples: 1, share: 1 / 4, words: 5.5, keptWords: 13 / 4 });
  assert.is(second!.statistics.censored, null);
  const figure = sectionsOf(found)
    .flatMap((s) => s.figures)
    .find((f) => f.id === "censored");
  assert.equal(figure!.table!.rows, [["iteration 1", "1", "25.0 %", "5.5", "3.25"]]);
});

test("an iteration says what it left out, before its guards end it", async () => {
  const root = temporaryFolder();
  const data = join(root, "data");
  await writeClips(data, clips);
  const o = isrOptions(data, join(root, "run"), "none");
  const judge = { ...o.config!.judge, truncated: "drop" as const };
  const run = runIterations({
    ...o,
    to: 2,
    config: { ...o.config, response: { maxTokens: 4 }, guards: { minUsable: 1 }, judge },
  });
  const events: IterationEvent[] = [];
  const reading = async () => {
    for await (const e of run) events.push(e);
  };
  const e = await caught(reading);
  assert.is(e.code, "DEGENERATE", e.message); // random weights hardly ever end an answer
  const told = events.find((e) => e.type === "warning" && e.code === "ANSWERS_DROPPED");
  assert.match(
    (told as { message: string }).message,
    /^\d+ of 10 samples \(\d+\.0 %\) were left out because an answer was cut at response\.maxTokens 4: their answers have [34]\.\d tokens on average, those of the others \d\.\d$/,
  );
});

test("an iteration that keeps cut answers warns of no rows: it has made them itself", async () => {
  const root = temporaryFolder();
  const data = join(root, "data");
  await writeClips(data, clips);
  const warned: string[] = [];
  const listen = (w: Error & { code?: string }) => void (w.code === "ISR_DPO_DATA" && warned.push(w.message));
  process.on("warning", listen);
  const o = isrOptions(data, join(root, "run"), "none");
  const [result] = await runIterations({ ...o, to: 2, config: { ...o.config, response: { maxTokens: 4 } } });
  await new Promise((resolve) => setImmediate(resolve));
  process.off("warning", listen);
  ordered(result!.pairs, ">", 0); // cut ones among them: random weights hardly ever end an answer
  assert.equal(warned, []);
});

test.run();
