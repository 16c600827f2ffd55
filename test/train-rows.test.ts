// Rows that a run cannot use: refused with file, row and field, or left out and listed; answers that are too long are cut
// where that was asked for, and counted.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { type ErrorCode, loadModel, type TrainItem, type TrainOptions, train } from "../src/index.js";
import { missing, ordered, rejects, startsWith } from "./helpers/assert.js";
import { caught, rowsFile } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";
import { folderOf } from "./helpers/golden-video.js";
import { bytesOf, clipFolder, eventsOf, idPairs, textRows } from "./helpers/training.js";

const test = suite("training rows");
const newDir = () => join(temporaryFolder(), "run");
const good = { id: "g", video: "0.mp4", prompt: "Who?", chosen: "A.", rejected: "B." };
const but = (change: object) => ({ ...good, id: "x", ...change });
const ask = (from: string, value: unknown) => ({ from, value });
const example = { id: "g", video: "0.mp4", conversations: [ask("human", "Who?"), ask("gpt", "A.")] };
const told = (change: object) => ({ ...example, id: "x", ...change });
const words = "word ".repeat(400);

const bad: readonly [name: string, row: unknown, field: string | undefined, message: RegExp][] = [
  ["a missing key", but({ rejected: undefined }), "rejected", /expected a string, got undefined/],
  ["a wrong type", but({ chosen: 5 }), "chosen", /expected a string, got 5/],
  ["an empty answer", but({ chosen: " " }), "chosen", /not empty/],
  [
    "an answer longer than the context",
    but({ rejected: words }),
    "rejected",
    /\d+ tokens do not fit into the context of 512/,
  ],
  ["a prompt longer than the context", but({ prompt: words }), "prompt", /\d+ tokens do not fit/],
  ["an unknown video", but({ video: "nowhere.mp4" }), "video", /got nothing at .*nowhere\.mp4/],
  ["an unknown image", { ...but({ image: "no.png" }), video: undefined }, "image", /got nothing at .*no\.png/],
  ["a path that leaves the data folder", but({ video: "../0.mp4" }), "video", /inside the data folder/],
  ["an absolute path", but({ video: "/etc/passwd" }), "video", /relative to the data folder/],
  ["bytes that are no UTF-8", Buffer.from('{"video":"\xff"}', "latin1"), undefined, /UTF-8/],
  ["half a character", but({ chosen: "\ud800" }), "chosen", /well-formed text/],
  ["a line that never ends", Buffer.alloc(20 << 20, 0x20), undefined, /at most 16777216 bytes, got 20971520/],
  ["NaN", '{"video":"0.mp4","prompt":"p","chosen":"c","rejected":NaN}', undefined, /expected JSON/],
  ["an array", "[1]", undefined, /expected a JSON object, got an array of 1/],
  ["an id outside the vocabulary", but({ chosen_ids: [1, 448], rejected_ids: [2] }), "chosen[1]", /in \[0, 448\)/],
  ["a placeholder in an answer", but({ chosen_ids: [433, 2], rejected_ids: [2] }), "chosen.ids", /placeholder/],
];
const badExamples: typeof bad = [
  ["no answer", told({ conversations: [ask("human", "Who?")] }), "conversations", /assistant's turn at the end/],
  [
    "an empty answer",
    told({ conversations: [ask("human", "Who?"), ask("gpt", "")] }),
    "conversations[1].value",
    /empty/,
  ],
  [
    "an answer that is too long",
    told({ conversations: [ask("human", "Who?"), ask("gpt", words)] }),
    "answer",
    /do not fit/,
  ],
  ["an unknown video", told({ video: "nowhere.mp4" }), "video", /got nothing at/],
];

for (const [kind, first, rows] of [
  ["dpo", good, bad],
  ["sft", example, badExamples],
] as const)
  for (const [name, row, field, message] of rows) {
    const data = rowsFile([first, "", row, { ...first, id: "last" }]);
    const options = (): TrainOptions => ({
      kind,
      model: folderOf("video_llava"),
      data,
      videos: clipFolder(),
      load: { threads: 1 },
      runDir: newDir(),
    });
    test(`${kind}: ${name} ends the run before anything is computed`, async () => {
      const o = options();
      const e = await caught(async () => train(o));
      assert.is(e.code, "DATA_INVALID");
      assert.ok(e.message.startsWith(`${data}:3: ${field === undefined ? "" : `${field}: `}`), e.message);
      assert.match(e.message, message);
      assert.equal(e.detail, { line: 3, ...(field === undefined ? {} : { field }) });
      assert.is(e.path, data);
      assert.match(e.hint!, /onBadRow: "skip"/);
      missing(o.runDir);
      // the hint may be followed in the same folder
      const { result } = await eventsOf({ ...o, onBadRow: "skip" });
      assert.is(result.pairs, 2);
    });
    test(`${kind}: ${name} is left out, counted and listed`, async () => {
      const { result, events } = await eventsOf({ ...options(), onBadRow: "skip" });
      assert.equal([result.pairs, result.counts.items, result.counts.skippedRows], [2, 2, 1]);
      const warnings = events.filter((e) => e.type === "warning");
      assert.is(warnings.length, 1);
      const w = warnings[0]!;
      assert.is(w.code, "BAD_ROW");
      startsWith(w.message, `${data}:3: `);
      assert.match(w.message, message);
      assert.equal(w.detail, { path: data, line: 3, count: 1 });
    });
  }

const text = (more: Partial<TrainOptions>): TrainOptions => ({
  kind: "dpo",
  model: folder("text_llama"),
  data: rowsFile(textRows()),
  itemsPerStep: 4,
  load: { threads: 1 },
  runDir: newDir(),
  ...more,
});

function parquetLike(): string {
  const path = join(temporaryFolder(), "rows.parquet");
  writeFileSync(path, "PAR1 no table PAR1");
  return path;
}

const files: readonly [name: string, data: string, code: ErrorCode, message: RegExp][] = [
  ["no file", "/nowhere/rows.jsonl", "NOT_FOUND", /\/nowhere\/rows\.jsonl/],
  ["a folder", temporaryFolder(), "INVALID_ARGUMENT", /\.jsonl, \.json or \.parquet/],
  ["an empty file", rowsFile([]), "DATA_INVALID", /rows\.jsonl: expected items to train on, got none/],
  ["only empty lines", rowsFile(["", " ", ""]), "DATA_INVALID", /expected items to train on, got none/],
  ["an object in a .json file", rowsFile(["{}"], "rows.json"), "DATA_INVALID", /expected an array of rows/],
  [
    "rows of no known format",
    rowsFile([{ a: 1 }]),
    "DATA_INVALID",
    /rows\.jsonl:1: expected a row of a known format, got keys a/,
  ],
  ["a broken Parquet file", parquetLike(), "DATA_INVALID", /rows\.parquet/],
  ["examples for a preference run", rowsFile([{ prompt: "a", completion: "b" }]), "DATA_INVALID", /known format/],
];
for (const [name, data, code, message] of files)
  for (const onBadRow of ["fail", "skip"] as const)
    test(`${name} (${onBadRow})`, () => rejects(() => train(text({ data, onBadRow })), code, message, name));

const bare = (n: number, change: object) => Array.from({ length: n }, () => ({ prompt: "p", chosen: "c", ...change }));
const nothings: readonly [name: string, rows: object[], says: RegExp][] = [
  [
    "of one reason",
    bare(3, { rejected: 5 }),
    /rows\.jsonl: expected items to train on, got 3 rows left out: 3 as \S+:1: rejected\[0\]: expected an object, got 5$/,
  ],
  [
    "of several reasons, the most frequent first",
    [...bare(1, {}), ...bare(2, { rejected: " " }), ...bare(1, { rejected: 6 }), ...bare(1, { rejected: 7 })],
    /got 5 rows left out: 2 as \S+:2: rejected: [^;]* not empty[^;]*; 1 as \S+:1: rejected: [^;]*undefined; 1 as \S+:4: [^;]*6; 1 for other reasons$/,
  ],
  [
    "beside pairs of equal answers",
    [...bare(1, { rejected: "c" }), ...bare(1, { rejected: 5 })],
    /got 1 pairs whose two answers are the same, and 1 rows left out: 1 as \S+:2: rejected/,
  ],
];
for (const [name, rows, says] of nothings)
  test(`nothing is left of rows that are skipped: ${name}`, async () => {
    const skipped = rows.filter((row) => (row as { rejected?: unknown }).rejected !== "c").length;
    const e = await caught(async () => train(text({ data: rowsFile(rows), onBadRow: "skip" })));
    assert.match(e.message, says);
    assert.equal(e.detail, { identical: rows.length - skipped, skippedRows: skipped });
  });

test("nothing is left of a program's items that are skipped", async () => {
  const items = bare(2, {}) as unknown as TrainItem[];
  const e = await caught(async () => train(text({ data: items, onBadRow: "skip" })));
  assert.match(e.message, /^data: expected items to train on, got 2 rows left out: 2 as data\[0\]: /);
});

test("many bad rows: each is told with its count, and all but them are trained on", async () => {
  const rows = textRows(12).map((row, i) => (i % 3 === 0 ? { ...row, chosen: "" } : row));
  const { result, events } = await eventsOf(text({ data: rowsFile(rows), onBadRow: "skip" }));
  const lines = events.flatMap((e) => (e.type === "warning" ? [(e.detail as { line: number }).line] : []));
  assert.equal(lines, [1, 4, 7, 10]);
  assert.equal([result.counts.skippedRows, result.pairs, result.metrics.length], [4, 8, 2]);
  const [straight, without] = [newDir(), newDir()];
  await train(text({ data: rowsFile(rows), onBadRow: "skip", runDir: straight }));
  await train(text({ data: rowsFile(rows.filter((r) => r.chosen !== "")), runDir: without }));
  const [a, b] = [bytesOf(straight), bytesOf(without)];
  for (const key of Object.keys(a)) if (key !== "stage.json") assert.is(a[key], b[key], key);
});

const program: readonly [name: string, item: unknown, code: ErrorCode, message: RegExp, field: string][] = [
  [
    "an id outside the vocabulary",
    { ...idPairs(1)[0], id: "x", chosen: [448] },
    "INVALID_ARGUMENT",
    /^data\[1\]: chosen\[0\]: /,
    "chosen[0]",
  ],
  [
    "too many tokens",
    { ...idPairs(1)[0], id: "x", chosen: Array(600).fill(5) },
    "CONTEXT_OVERFLOW",
    /^data\[1\]: chosen: \d+ tokens/,
    "chosen",
  ],
  ["an example", { prompt: { ids: [1] }, answer: [2] }, "INVALID_ARGUMENT", /^data\[1\]: .*preference loss/, ""],
  ["null", null, "INVALID_ARGUMENT", /^data\[1\]: .*an object/, ""],
  [
    "a text model's video",
    { prompt: "a", media: ["/nowhere.mp4"], chosen: "b", rejected: "c" },
    "INVALID_ARGUMENT",
    /^data\[1\]: messages.*it has no videos/,
    "",
  ],
  [
    "media that are no list",
    { prompt: "a", media: 5, chosen: "b", rejected: "c" },
    "INVALID_ARGUMENT",
    /^data\[1\]: prompt\.media/,
    "prompt.media",
  ],
];
for (const [name, item, code, message, field] of program)
  test(`an item of the program: ${name}`, async () => {
    const [first, , last] = idPairs(3);
    const data = [first, item, last] as TrainItem[];
    const e = await caught(async () => train(text({ data })));
    assert.is(e.code, code);
    assert.match(e.message, message);
    assert.is(e.detail?.item, 1);
    if (field !== "") assert.is(e.detail?.field, field);
    const { result, events } = await eventsOf(text({ data, onBadRow: "skip" }));
    assert.equal([result.pairs, result.counts.skippedRows], [2, 1]);
    assert.equal((events.find((w) => w.type === "warning") as { detail: unknown }).detail, {
      path: "data",
      line: 1,
      count: 1,
    });
  });

test("items that share an id are all trained on, with keys of their own, counted", async () => {
  const [a, b] = idPairs(2);
  const data = [a, b, a, a] as TrainItem[];
  const { result, events } = await eventsOf(text({ data }));
  assert.is(result.pairs, 4);
  const lines = readFileSync(join(result.model, "../items.jsonl"), "utf8").trim().split("\n");
  assert.equal(
    lines.map((l) => JSON.parse(l).item.id),
    ["pair 0", "pair 1", "pair 0#2", "pair 0#3"],
  );
  const told = events.flatMap((e) => (e.type === "warning" ? [[e.code, (e.detail as { count: number }).count]] : []));
  assert.equal(told, [["DUPLICATE_ID", 2]]);
});

for (const onBadRow of ["fail", "skip"] as const)
  test(`what the program's iterable throws ends the run as it is: onBadRow ${onBadRow}`, async () => {
    const mine = new Error("the database is gone");
    async function* broken() {
      yield idPairs(1)[0]!;
      throw mine;
    }
    const runDir = newDir();
    const e = await train(text({ data: broken(), onBadRow, runDir })).result.catch((x) => x);
    assert.is(e, mine);
    await train(text({ data: idPairs(4), onBadRow, runDir })); // nothing was begun
  });

test("onLong: answers are cut to the context, counted in all and by step; what has no room is a bad row", async () => {
  const rows = textRows(8).map((row, i) => (i === 2 || i === 5 ? { ...row, chosen: words } : row));
  const cut = await eventsOf(text({ data: rowsFile(rows), onLong: "truncate" }));
  assert.is(cut.result.counts.truncated, 2);
  const steps = cut.events.flatMap((e) => (e.type === "step" ? [e.metrics.truncated] : []));
  assert.is(steps.length, 2);
  assert.is(
    steps.reduce((a, b) => a + b, 0),
    2,
  );
  const items = readFileSync(join(cut.result.model, "../items.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((l) => JSON.parse(l));
  for (const i of [2, 5]) {
    assert.equal([items[i].cut, Math.max(...items[i].tokens)], [true, 512], "as long as the context");
  }
  assert.is(items.filter((x) => x.cut).length, 2);
  const tooLong = rowsFile([...rows, { ...textRows(1)[0], prompt: words.repeat(2) }]);
  await rejects(
    () => train(text({ data: tooLong, onLong: "truncate" })),
    "DATA_INVALID",
    /rows\.jsonl:9: prompt: \d+ tokens do not fit/,
    "a prompt without room",
  );
  const { result } = await eventsOf(text({ data: tooLong, onLong: "truncate", onBadRow: "skip" }));
  assert.equal([result.counts.truncated, result.counts.skippedRows, result.pairs], [2, 1, 8]);
});

test("a cut answer is the beginning of the whole one, and both sides are cut alone", async () => {
  const row = { ...textRows(1)[0]!, chosen: words };
  const { result } = await eventsOf(text({ data: rowsFile([row]), onLong: "truncate" }));
  const [line] = readFileSync(join(result.model, "../items.jsonl"), "utf8").split("\n");
  const { item } = JSON.parse(line!);
  await using model = await loadModel(folder("text_llama"));
  const idsOf = async (answer: string) => {
    const { ids, lossMask } = await model.sequence([{ role: "user", content: row.prompt }], answer);
    return [...ids].slice(lossMask!.indexOf(1));
  };
  const begin = (await idsOf("word ".repeat(50))).slice(0, -4); // without its end
  ordered(begin.length, ">", 100);
  assert.equal(item.chosen.v.slice(0, begin.length), begin);
  assert.equal(item.rejected.v, await idsOf(row.rejected), "the short one keeps its end token");
});

test("visual tokens are never cut: sequences and prompts that are too long stay bad rows", async () => {
  const long = { ids: Int32Array.from({ length: 600 }, () => 5), lossMask: new Uint8Array(600).fill(1, 1) };
  const data = [{ id: "s", chosen: long, rejected: long }];
  await rejects(
    () => train(text({ data, onLong: "truncate" })),
    "CONTEXT_OVERFLOW",
    /data\[0\]: chosen: 600/,
    "a sequence",
  );
});

test("media of a wrong kind fail before anything is computed, with their path", async () => {
  const dir = temporaryFolder();
  mkdirSync(join(dir, "clips"));
  writeFileSync(join(dir, "clips/0.mp4"), "no video");
  const data = join(dir, "rows.jsonl");
  writeFileSync(data, JSON.stringify({ ...good, video: "clips/0.mp4" }));
  const e = await caught(async () => train({ kind: "dpo", model: folderOf("llava_hound"), data, runDir: newDir() }));
  assert.is(e.code, "MEDIA_UNREADABLE");
  assert.match(e.message, /clips\/0\.mp4/);
});

test.run();
