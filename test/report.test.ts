// The report's numbers against arithmetic of the test's own, and hostile folders: what is told, what never becomes markup.
import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { exists, includes, none, ordered, sameBytes, some } from "./helpers/assert.js";
import { report } from "../src/index.js";
import { countsOf, shares, sorted } from "../src/iterate/iteration-exports.js";
import { sectionsOf } from "../src/report/figures.js";
import { escaped, scriptJson } from "../src/report/html.js";
import { visible } from "../src/report/page/shared.js";
import type { SampleRecords } from "../src/report/read-journal.js";
import { readFolder } from "../src/report/read-run.js";
import { writeReport } from "../src/report/write-report.js";
import { SampleTable } from "../src/report/judged-samples.js";
import { ticks } from "../src/report/chart.js";
import { cliCommand, node } from "./helpers/child.js";
import { caught } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";
import {
  drawnRun,
  hostileRun,
  type PlainRecord,
  writeComparison,
  writeRun,
  writeTraining,
} from "./helpers/run-folder.js";
import { memoized } from "./helpers/memoized.js";

const test = suite("report");

const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=";

/** What the page's script gets. */
function dataOf(html: string) {
  const [, json] = /<script type="application\/json" id="data">(.*?)<\/script>/s.exec(html) ?? [];
  return JSON.parse(json!);
}

// A run small enough to count by hand: sample, words of both responses, verdicts (choice, margin) by order, status, chosen.
type Verdict = [choice: string, margin?: number];
const rows: readonly [id: string, words: [number, number], verdicts: Verdict[], status: string, chosen?: 0 | 1][] = [
  [
    "a",
    [6, 3],
    [
      ["0", 1],
      ["0", 3],
    ],
    "pair",
    0,
  ],
  [
    "b",
    [2, 8],
    [
      ["1", -0.5],
      ["1", -1.5],
    ],
    "pair",
    1,
  ],
  [
    "c",
    [5, 5],
    [
      ["0", 1],
      ["1", -1],
    ],
    "disagree",
  ],
  [
    "d",
    [4, 2],
    [
      ["1", -4],
      ["1", -4],
    ],
    "pair",
    1,
  ],
  [
    "e",
    [1, 1],
    [
      ["none", 0],
      ["0", 0.25],
    ],
    "tie",
  ],
  ["f", [1, 2], [["none"], ["none"]], "unparsed"],
  ["g", [7, 7], [], "identical"],
];
const counted = (): PlainRecord[] =>
  rows.flatMap(([sample, words, verdicts, status, chosen]) => [
    ...words.map((n, copy) => ({
      ...({ type: "rsp", sample, copy, ids: [1], end: "eos" } as const),
      text: Array.from({ length: n }, (_, i) => `${sample}${i}`).join(copy === 0 ? " " : "\n "),
    })),
    ...verdicts.map(
      ([choice, margin], order) =>
        ({
          type: "verdict",
          sample,
          order,
          choice,
          ...(margin === undefined ? {} : { margin }),
        }) as unknown as PlainRecord,
    ),
    { type: "pair" as const, sample, status, ...(chosen === undefined ? {} : { chosen }) },
  ]);

const samples = rows.map(([id]) => ({ id, video: `${id}.mp4`, question: `what is ${id}?` }));

test("numbers of an iteration, counted by hand", async () => {
  const dir = join(temporaryFolder(), "run");
  const last = { id: "h", video: "h.mp4", question: "not reached yet" };
  await writeRun(dir, {
    design: "none",
    samples: [...samples, last],
    iterations: [{ t: 1, records: counted(), stage: "generate" }],
  });
  const { runs } = await readFolder(dir);
  const { statistics: s, stage } = runs[0]!.iterations[0]!;
  assert.is(stage, "generate");
  assert.equal(
    { ...s.status },
    { pair: 3, tie: 1, identical: 1, disagree: 1, unparsed: 1, truncated: 0, skipped: 0, open: 1 },
  );
  assert.is(s.samples, 8);
  const [chosen, rejected] = [(6 + 8 + 2) / 3, (3 + 2 + 4) / 3];
  assert.equal(s.words, { chosen, rejected, ratio: chosen / rejected, longerChosen: 2 / 3 });
  // With a choice: a 0 0, b 1 1, c 0 1, d 1 1, e - 0. Shown first in order 0: response 0; in order 1: response 1.
  assert.equal(s.judge, { verdicts: 12, preferring: 9, first: 1 + 1 + 2 + 1, ties: 1, unread: 2, both: 4, flips: 1 });
  assert.equal(s.margins!.quartiles, { low: 1.5, median: 2, high: 3 }); // 2, 1, 4
  assert.is(
    s.margins!.histogram.counts.reduce((a, b) => a + b),
    3,
  );
});

test("counts are those that the iteration itself goes by", async () => {
  const dir = join(temporaryFolder(), "run");
  const drawn = drawnRun({ design: "none", samples: 200, iterations: 1, seed: 11 });
  const [drawnFirst] = drawn.iterations;
  const once = drawnFirst!.records.filter((r) => !("order" in r && r.order === 1)); // asked in one order, which guards look at
  const run = { ...drawn, iterations: [{ ...drawnFirst!, records: once }] };
  await writeRun(dir, run);
  const { status, judge } = (await readFolder(dir)).runs[0]!.iterations[0]!.statistics;
  const records = sorted(run.iterations[0]!.records);
  const { open, ...decided } = status;
  assert.is(open, 0);
  assert.equal(decided, countsOf(run.samples, records));
  const { first, verdicts, usable } = shares(records, 200);
  ordered(verdicts, ">", 50);
  assert.equal([judge.first / judge.preferring, judge.preferring, status.pair! / 200], [first, verdicts, usable]);
});

const columns = memoized(async () => {
  const dir = join(temporaryFolder(), "run");
  const contexts = samples.map(({ video }) => ({ video, text: `context of ${video}` }));
  await writeRun(dir, { design: "renew", samples, iterations: [{ t: 4, records: counted(), contexts }] });
  const path = await report(dir);
  const data = dataOf(readFileSync(path, "utf8"));
  return { dir, path, data, it: data.runs[0].iterations[0] };
});

test("the page is of the run that the journal is of", async () => {
  const { dir, path, data, it } = await columns();
  assert.is(path, join(dir, "report.html"));
  assert.equal(
    data.ids,
    rows.map(([id]) => id),
  );
  assert.equal([data.runs.length, data.runs[0].name, data.runs[0].iterations.length, it.t], [1, "renew", 1, 4]);
});

for (const [i, [id, words, verdicts, status, chosen]] of rows.entries())
  test(`the page's columns are the journal's records: ${id}`, async () => {
    const { data, it } = await columns();
    assert.is(data.statuses[it.status[i]], status, id);
    assert.is(it.chosen[i], chosen ?? -1, id);
    assert.is(data.texts[it.a[i]].split(/\s+/).length, words[0], id);
    assert.is(data.texts[it.b[i]].split(/\s+/).length, words[1], id);
    assert.is(data.texts[data.question[i]], `what is ${id}?`);
    assert.is(data.texts[it.context[data.video[i]]], `context of ${id}.mp4`);
    const orders = verdicts.map(([choice, margin]) => [choice === "none" ? -1 : Number(choice), margin ?? null, -1]);
    assert.equal([it.first[i], it.second[i]], orders.length === 0 ? [0, 0] : orders, id);
  });

test("accuracy, intervals and chance come from the evaluation files", async () => {
  const dir = join(temporaryFolder(), "run");
  const run = drawnRun({ design: "fixed", samples: 10, iterations: 2, seed: 5 });
  await writeRun(dir, run);
  const figures = sectionsOf(await readFolder(dir)).flatMap((s) => s.figures);
  const { chart } = figures.find((f) => f.id.startsWith("accuracy"))!;
  assert.is(chart?.kind, "line");
  if (chart?.kind !== "line") return;
  const points = run.evaluations!.map((e) => ({
    ...{ x: e.model, y: e.accuracy },
    ...{ low: (e.interval as number[])[0], high: (e.interval as number[])[1] },
  }));
  assert.equal(chart.series[0]!.points, points);
  assert.is(chart.reference?.y, 0.2);
});

/** The report of a run that holds nothing but an empty iteration. */
const bare = memoized(async () => {
  const dir = join(temporaryFolder(), "run");
  await writeRun(dir, { design: "none", samples, iterations: [{ t: 1, records: [] }] });
  return { dir, ...(await writeReport(dir)) };
});
for (const [what, about] of [
  ["evaluations", /^Accuracy by iteration: No evaluation of a model/],
  ["verdicts", /^Win rates: /],
  ["answers to evaluate", /^Words by benchmark: /],
  ["margins", /^Typical margin: /],
  ["metrics", /^Curves of training: /],
] as const)
  test(`without ${what} the page says so`, async () => {
    some((await bare()).missing, (m) => about.test(m), String(about));
  });

test("the page of a run that holds nothing", async () => {
  const { dir } = await bare();
  const html = readFileSync(join(dir, "report.html"), "utf8");
  assert.match(html, /compares two models head to head/);
});

test("figures 5 and 6 from evaluations that count words and compare", async () => {
  const dir = join(temporaryFolder(), "run");
  const evaluations = ["msvd", "tgif"].map((name, i) => ({
    ...{ name, title: name.toUpperCase(), kind: "winrate", model: 2, count: 10, words: 12 + i },
    versus: { other: "self-rewarding", wins: 6 + i, losses: 2, ties: 2 },
  }));
  await writeRun(dir, { design: "none", samples, iterations: [{ t: 1, records: counted() }], evaluations });
  const figures = sectionsOf(await readFolder(dir)).flatMap((s) => s.figures);
  const rates = figures.find((f) => f.id === "win-rates")!;
  assert.equal(rates.table!.rows, [
    ["MSVD vs self-rewarding", "6", "2", "2", "70.0 %"],
    ["TGIF vs self-rewarding", "7", "2", "2", "72.7 %"],
  ]);
  const words = figures.find((f) => f.id === "benchmark-words")!;
  assert.equal(
    words.table!.rows.map((r) => r.at(-1)),
    ["12", "13"],
  );
});

test("a comparison: runs by name, agreement of the judge, shared texts once", async () => {
  const dir = temporaryFolder();
  await writeComparison(dir, { samples: 20, iterations: 2 });
  const found = await readFolder(dir);
  assert.equal(
    [found.kind, found.runs.map((r) => r.name)],
    ["comparison", ["none", "fixed", "renew", "retrospective"]],
  );
  const { truth } = JSON.parse(readFileSync(join(dir, "comparison.json"), "utf8"));
  for (const [design, list] of Object.entries(found.alignment!))
    for (const { iteration, agree } of list) assert.is(agree, truth.judgeAlignment[design][iteration].agree);
  const { texts } = found.table.page(new Map());
  assert.is(new Set(texts).size, texts.length);
});

test("a comparison has one set of pictures for all of its runs", async () => {
  const dir = temporaryFolder();
  await writeComparison(dir, { samples: 4, iterations: 1 });
  writeFileSync(join(dir, "thumbnails.json"), JSON.stringify({ "clips/clip-0001.mp4": png }));
  const { path } = await writeReport(dir);
  assert.equal(Object.keys(dataOf(readFileSync(path, "utf8")).frames), ["1"]);
});

test("a folder outside of the comparison, and shares that are none, are left out and told", async () => {
  const dir = join(temporaryFolder(), "inside");
  mkdirSync(dir);
  const runs = [{ name: "a", dir: "../elsewhere" }, { name: "b", dir: "../inside-not" }, { name: "c" }, 7];
  const truth = { judgeAlignment: { a: { 1: { agree: 9, of: 4 } } } };
  writeFileSync(join(dir, "comparison.json"), JSON.stringify({ title: "x", runs, truth }));
  const { missing } = await writeReport(dir);
  assert.is(missing.filter((m) => /names no folder inside/.test(m)).length, 4);
  some(missing, (m) => /judgeAlignment\.a\.1 is no share/.test(m));
});

test("a training run: curves are means of neighbouring steps", async () => {
  const dir = temporaryFolder();
  const metrics = Array.from({ length: 1000 }, (_, step) => ({
    step,
    loss: step,
    accuracy: 0.5,
    margin: 1,
    learningRate: 1,
  }));
  writeTraining(join(dir, "train"), metrics, [{ step: 0, loss: 2, accuracy: 0.5, margin: 0 }]);
  const { kind, runs } = await readFolder(dir);
  assert.is(kind, "training");
  const { steps, stride, at, curves, evaluations } = runs[0]!.training!;
  assert.equal([steps, stride, at.length, at.at(-1)], [1000, 5, 200, 999]);
  assert.equal(curves.loss.slice(0, 2), [2, 7]); // 0..4, 5..9
  assert.equal(curves.chosenReward[0], null);
  assert.is(evaluations.length, 1);
  exists(await report(dir));
});

test("a training run of ranks: the time that they waited, and the slowest; a step that was computed again counts once", async () => {
  const dir = temporaryFolder();
  writeTraining(
    join(dir, "train"),
    [0, 1, 2].map((step) => ({ step, loss: 1, accuracy: 0.5, margin: 1, learningRate: 1 })),
  );
  const timings = [
    { step: 0, seconds: 99, communicationSeconds: 99, slowestRank: 0 },
    { step: 0, seconds: 2, communicationSeconds: 0.5, slowestRank: 1 },
    { step: 1, seconds: 2, communicationSeconds: 0, slowestRank: 0 },
    { step: 2, seconds: 4, communicationSeconds: 0.3, slowestRank: 1 },
  ];
  writeFileSync(join(dir, "train/timings.jsonl"), timings.map((t) => `${JSON.stringify(t)}\n`).join(""));
  const found = await readFolder(dir);
  const { steps, share, slowest } = found.runs[0]!.training!.waiting!;
  assert.equal([steps, share, slowest], [3, 0.1, { rank: 1, share: 2 / 3 }]);
  const says = "run: rank 0 spent 10.0 % of the time of 3 steps with the other ranks, waiting for them included";
  includes(readFileSync(await report(dir), "utf8"), `${says}; rank 1 was the slowest in 66.7 % of the steps.`);
});

test("damaged journals: what does not hold is left out and counted, and the file stays as it is", async () => {
  const dir = join(temporaryFolder(), "run");
  await writeRun(dir, { design: "none", samples, iterations: [{ t: 1, records: counted() }] });
  const path = join(dir, "iterations/1/journal.0.log");
  appendFileSync(path, '00000000 {"type":"pair","sample":"a","status":"tie"}\nhalf a li');
  const before = readFileSync(path);
  const { missing } = await writeReport(dir);
  assert.ok(
    missing.some((m) => /2 lines of the journal do not hold/.test(m)),
    missing.join("; "),
  );
  sameBytes(readFileSync(path), before);
  const { runs } = await readFolder(dir);
  assert.is(runs[0]!.iterations[0]!.statistics.status.pair, 3);
});

test("records of a group that is not finished do not count", async () => {
  const dir = join(temporaryFolder(), "run");
  await writeRun(dir, { design: "none", samples, iterations: [{ t: 1, records: counted() }] });
  const path = join(dir, "iterations/1/journal.0.log");
  const lines = readFileSync(path, "utf8").trimEnd().split("\n");
  writeFileSync(path, `${lines.slice(0, -1).join("\n")}\n`);
  const { runs, problems } = await readFolder(dir);
  assert.match(problems.join(), /records of unfinished groups do not count/);
  assert.equal(
    [runs[0]!.iterations[0]!.statistics.status.pair, runs[0]!.iterations[0]!.statistics.status.open],
    [3, 2],
  );
});

test("hostile texts: none of them is markup, all of them are data", async () => {
  const dir = join(temporaryFolder(), "run");
  const run = hostileRun();
  await writeRun(dir, run);
  const html = readFileSync(await report(dir), "utf8");
  assert.is(html.match(/<script/g)!.length, 2);
  assert.is(html.match(/<\/script/g)!.length, 2);
  const data = dataOf(html);
  assert.equal(
    data.ids,
    run.samples.map((s) => s.id),
  );
  const responses = run.iterations[0]!.records.flatMap((r) => (r.type === "rsp" && r.copy === 0 ? [r.text] : []));
  assert.equal(
    data.runs[0].iterations[0].a.map((k: number) => data.texts[k]),
    responses,
  );
  const shell = html.replace(/<script.*?<\/script>/gs, "");
  assert.not.match(shell, /<img|<b>bold|<i>x/);
  assert.not.match(shell, /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u, "nothing hidden outside of the data");
  assert.not.match(html, /[\u2028\u2029]/);
});

test("the policy forbids everything but this style, this script and data images", async () => {
  const dir = join(temporaryFolder(), "run");
  await writeRun(dir, { design: "none", samples, iterations: [{ t: 1, records: counted() }] });
  const html = readFileSync(await report(dir), "utf8");
  const [, policy] = /Content-Security-Policy" content="([^"]*)"/.exec(html)!;
  assert.match(
    policy!,
    /^default-src 'none'; script-src 'sha256-[\w+/=]+'; style-src 'sha256-[\w+/=]+'; img-src data:; base-uri 'none'; form-action 'none'$/,
  );
  assert.not.match(
    html.replaceAll("http://www.w3.org/2000/svg", ""),
    / style="| on\w+="|https?:|<link|<iframe|@import|url\(/,
  );
});

const signs: readonly [text: string, shown: string][] = [
  ["plain\n\ttext", "plain\n\ttext"],
  ["a\0b\u001b[31m", "a[U+0000]b[U+001B][31m"],
  ["\u202eevil\u2066", "[U+202E]evil[U+2066]"],
  ["\u007f\u0085\u2028", "[U+007F][U+0085][U+2028]"],
  ["\ud800 alone, 😀 whole", "[U+D800] alone, 😀 whole"],
];
for (const [text, shown] of signs)
  test(`hidden characters are shown: ${JSON.stringify(text)}`, () => assert.is(visible(text), shown));

test("escapes for markup and for script elements", () => {
  assert.is(escaped(`<a href="x" b='y'>&`), "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp;");
  const json = scriptJson(["</script><!--", "\u2028\u2029&"]);
  assert.not.match(json, /[<>&\u2028\u2029]/);
  assert.equal(JSON.parse(json), ["</script><!--", "\u2028\u2029&"]);
});

test("what would make the page too large is left out, evenly, and told", () => {
  const many = Array.from({ length: 1000 }, (_, i) => ({ id: String(i), video: "v", question: "q" }));
  const table = new SampleTable(many, 2, 400_000);
  const judged = many.map(({ id }): [string, SampleRecords] => [
    id,
    { responses: ["x".repeat(500) + id, "y"], verdicts: [null, null], status: "pair", chosen: 0 },
  ]);
  const found = {
    contexts: new Map(),
    samples: new Map(judged),
    skips: new Map(),
    damage: new Map(),
    badLines: 0,
    openRecords: 0,
  };
  table.add("run", 1, found, new Map());
  const page = table.page(new Map());
  assert.is(page.total, 1000);
  assert.ok(page.ids.length > 300 && page.ids.length < 400, String(page.ids.length));
  const gaps = page.ids.slice(1).map((id, i) => Number(id) - Number(page.ids[i]));
  ordered(Math.max(...gaps), "<=", 3);
});

test("frames: pictures that the run keeps; what is no picture is not taken", async () => {
  const dir = join(temporaryFolder(), "run");
  await writeRun(dir, { design: "none", samples, iterations: [{ t: 1, records: counted() }] });
  mkdirSync(join(dir, "frames"));
  writeFileSync(join(dir, "frames", "b.png"), Buffer.from(png, "base64"));
  writeFileSync(join(dir, "frames", "c.png"), "<svg onload=alert(1)>");
  writeFileSync(
    join(dir, "thumbnails.json"),
    JSON.stringify({ "a.mp4": png, "d.mp4": `"onerror=alert(1)`, "e.mp4": 7, "zz.mp4": png }),
  );
  const { missing } = await writeReport(dir);
  const { frames, videos } = dataOf(readFileSync(join(dir, "report.html"), "utf8"));
  assert.equal(
    Object.keys(frames)
      .map((v) => videos[v])
      .sort(),
    ["a.mp4", "b.mp4"],
  );
  for (const url of Object.values(frames)) assert.is(url, `data:image/png;base64,${png}`);
  none(missing, (m) => m.startsWith("No frames"));
});

const spans: readonly [low: number, high: number, wanted: number, whole: boolean, expected: number[]][] = [
  [0, 1, 4, false, [0, 0.5, 1]],
  [0.42, 0.58, 4, false, [0.4, 0.45, 0.5, 0.55, 0.6]],
  [1, 3, 4, true, [1, 2, 3]],
  [0, 0, 4, false, [0, 0.5]],
  [-3, 7, 4, false, [-5, 0, 5, 10]],
];
for (const [low, high, wanted, whole, expected] of spans)
  test(`ticks from ${low} to ${high}`, () => assert.equal(ticks(low, high, wanted, whole), expected));

for (const [what, dir] of [
  ["an empty folder", temporaryFolder()],
  ["no folder", join(temporaryFolder(), "nowhere")],
] as const)
  test(`no folder of a run: NOT_FOUND: ${what}`, async () => {
    const e = await caught(() => report(dir));
    assert.is(e.code, "NOT_FOUND");
    assert.type(e.hint, "string");
  });

test("isr-dpo report: path on stdout, what is missing on stderr", async () => {
  const dir = join(temporaryFolder(), "run");
  await writeRun(dir, { design: "none", samples, iterations: [{ t: 1, records: counted() }] });
  const out = join(temporaryFolder(), "page.html");
  const cli = (...args: string[]) => node([...cliCommand, "report", ...args], { NODE_NO_WARNINGS: "1" });
  const ended = cli(dir, "--out", out, "--open", "no");
  assert.is(ended.code, 0, ended.err);
  assert.is(ended.out, `${out}\n`);
  assert.match(ended.err, /note: Win rates: /);
  exists(out);
  const json = JSON.parse(cli(dir, "--json").out);
  assert.equal([json.path, json.kind, json.samples, json.shown], [join(dir, "report.html"), "run", 7, 7]);
  assert.is(cli(temporaryFolder()).code, 65);
});

test("the package ships the page's parts", () => {
  const { files } = JSON.parse(readFileSync("package.json", "utf8"));
  includes(files, "src/report/page");
});

test.run();
