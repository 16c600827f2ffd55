// generateFile() and judgeFile(): what the commands do with files of rows, as calls of a program.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import {
  type GenerateFileOptions,
  generateFile,
  type Judge,
  type JudgeFileOptions,
  judgeFile,
  loadModel,
  modelJudge,
  type VideoLM,
} from "../src/index.js";
import { rejects } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";

const test = suite("row files");
const sampling = { maxTokens: 4, temperature: 0 };
let model: VideoLM;

test.before(async () => {
  model = await loadModel(folder("text_llama"));
});
test.after(() => model.dispose());

const lines = (path: string) =>
  readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

function written(...rows: readonly unknown[]): { input: string; output: string; dir: string } {
  const dir = temporaryFolder();
  const input = join(dir, "rows.jsonl");
  writeFileSync(input, rows.map((row) => `${typeof row === "string" ? row : JSON.stringify(row)}\n`).join(""));
  return { dir, input, output: join(dir, "out.jsonl") };
}

const ids = [
  [1, 5, 6],
  [1, 9, 8, 7],
];

test("answers are those of generate(), in the order of the rows", async () => {
  const { input, output } = written({ id: "a", ids: ids[0] }, { ids: ids[1], maxTokens: 2, n: 2 });
  const result = await generateFile(model, input, output, { ...sampling, topP: 0.5 });
  assert.equal(result, {
    rows: 2,
    answers: 3,
    skipped: [],
    used: ["temperature", "maxTokens", "stop", "n"],
  });
  const requests = [
    { prompt: { ids: Int32Array.from(ids[0]!) }, ...sampling },
    { prompt: { ids: Int32Array.from(ids[1]!) }, ...sampling, maxTokens: 2, n: 2 },
  ];
  const expected = await model.generate(requests);
  const found = lines(output);
  assert.equal(
    found.map(({ id, copy, text }) => ({ id, copy, text })),
    expected.map(({ request, copy, text }) => ({ id: request === "0" ? "a" : 2, copy, text })),
  );
  assert.equal(
    found.map((line) => line.ids),
    expected.map((c) => Array.from(c.ids)),
  );
});

test("from a stream of bytes to what takes lines, batch by batch", async () => {
  async function* bytes() {
    for (const row of ids) {
      const line = Buffer.from(`${JSON.stringify({ ids: row })}\n`);
      yield line.subarray(0, 3);
      yield line.subarray(3);
    }
  }
  const got: string[] = [];
  const seen: object[] = [];
  const sink = { write: (line: string) => void got.push(line) };
  await generateFile(model, bytes(), sink, { ...sampling, batch: 1, onProgress: (done) => seen.push(done) });
  const { input, output } = written({ ids: ids[0] }, { ids: ids[1] });
  await generateFile(model, input, output, sampling);
  assert.is(got.join(""), readFileSync(output, "utf8"));
  assert.equal(seen, [
    { rows: 1, answers: 1 },
    { rows: 2, answers: 2 },
  ]);
});

const badRow = '{"ids": "none"}';
const always: Judge = {
  id: "first",
  compare: async (items) => items.map(({ responses: [a] }) => ({ prefer: a.startsWith("A") ? 0 : 1 })),
};
const pair = (first: string, second: string) => ({ question: "What?", responses: [first, second] });

/** Both calls with one good row, one bad row, and options. */
const calls: Readonly<
  Record<string, (rows: readonly unknown[], o: object) => Promise<{ result: { rows: number }; output: string }>>
> = {
  generateFile: async (rows, o) => {
    const { input, output } = written(...rows.map((row) => (row === "good" ? { ids: ids[0] } : row)));
    return { output, result: await generateFile(model, input, output, { ...sampling, ...(o as GenerateFileOptions) }) };
  },
  judgeFile: async (rows, o) => {
    const { input, output } = written(...rows.map((row) => (row === "good" ? pair("A dog", "B cat") : row)));
    return { output, result: await judgeFile(always, input, output, o as JudgeFileOptions) };
  },
};

for (const [name, call] of Object.entries(calls)) {
  test(`${name}: a bad row ends the call by its file and line`, () =>
    rejects(() => call(["good", badRow], {}), "DATA_INVALID", /rows\.jsonl:2: /, name));

  test(`${name}: a bad row is left out and told`, async () => {
    const told: { line: number; code: string }[] = [];
    const onSkip = ({ line, code }: { line: number; code: string }) => told.push({ line, code });
    const { result, output } = await call([badRow, "good"], { onBadRow: "skip", onSkip });
    assert.equal(told, [{ line: 1, code: "DATA_INVALID" }]);
    assert.is(result.rows, 1);
    assert.equal((result as unknown as { skipped: number[] }).skipped, [1]);
    assert.is(lines(output).length, 1);
  });

  test(`${name}: nothing that can be used is DATA_INVALID`, () =>
    rejects(
      () => call([badRow, badRow], { onBadRow: "skip" }),
      "DATA_INVALID",
      /expected at least one usable row, got 2 rows left out: 2 as /,
      name,
    ));

  const wrong: readonly [what: string, o: object, message: RegExp][] = [
    ["an unknown option", { bach: 1 }, /bach/],
    ["a batch of none", { batch: 0 }, /options\.batch/],
    ["a policy of no name", { onBadRow: "ignore" }, /options\.onBadRow/],
  ];
  for (const [what, o, message] of wrong)
    test(`${name}: ${what}`, () => rejects(() => call(["good"], o), "INVALID_ARGUMENT", message, what));
}

test("a file is replaced where that is asked for, and only one of the same kind", async () => {
  const { dir, input, output } = written({ ids: ids[0] });
  await generateFile(model, input, output, sampling);
  const before = readFileSync(output, "utf8");
  await rejects(() => generateFile(model, input, output, sampling), "INVALID_ARGUMENT", /expected no file/, "again");
  await generateFile(model, input, output, { ...sampling, overwrite: true });
  assert.is(readFileSync(output, "utf8"), before);
  writeFileSync(output, "notes of mine\n");
  await rejects(
    () => generateFile(model, input, output, { ...sampling, overwrite: true }),
    "INVALID_ARGUMENT",
    /an output of this command/,
    "another's",
  );
  assert.equal(readdirSync(dir).sort(), ["out.jsonl", "rows.jsonl"]);
});

test("judgeFile: verdicts in the order of the rows, the same words are asked of nobody", async () => {
  let asked = 0;
  const judge: Judge = {
    id: "counted",
    compare: async (items, o) => {
      asked += items.length;
      return always.compare(items, o);
    },
  };
  const { input, output } = written(pair("A", "B"), pair("same", "same "), pair("B", "A"));
  const result = await judgeFile(judge, input, output);
  assert.equal(result, { rows: 3, counts: { pair: 2, identical: 1 }, skipped: [] });
  assert.is(asked, 4); // two pairs in both orders
  assert.equal(
    lines(output).map(({ id, prefer, status, judge }) => [id, prefer, status, judge]),
    [
      ["1", 0, "pair", "counted"],
      ["2", null, "identical", "counted"],
      ["3", 1, "pair", "counted"],
    ],
  );
});

test("modelJudge: an item without a video is the row's fault", async () => {
  const { input, output } = written(pair("A", "B"));
  await rejects(
    () => judgeFile(modelJudge(model), input, output),
    "DATA_INVALID",
    /expected a video for the model to look at/,
    "no video",
  );
  assert.equal(readdirSync(dirname(output)), ["rows.jsonl"]); // and no output
  await rejects(async () => modelJudge(model, { method: "guess" } as never), "INVALID_ARGUMENT", /method/, "method");
});

test("a signal ends the call with its reason, and leaves no file", async () => {
  const { dir, input, output } = written({ ids: ids[0] }, { ids: ids[1] });
  const controller = new AbortController();
  const reason = new Error("enough");
  const onProgress = () => controller.abort(reason);
  const error = await generateFile(model, input, output, {
    ...sampling,
    batch: 1,
    onProgress,
    signal: controller.signal,
  }).catch((e) => e);
  assert.is(error, reason);
  assert.equal(readdirSync(dir), ["rows.jsonl"]);
});

test.run();
