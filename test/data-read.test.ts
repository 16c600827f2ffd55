// Rows of every format become the same pairs, examples and samples; bad rows are refused with their place and field, or
// told and left out.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";
import { ByteWriter, ParquetWriter, schemaFromColumnData } from "hyparquet-writer";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { readExamples } from "../src/data/read-examples.js";
import { type ReadOptions, readPairs } from "../src/data/read-pairs.js";
import type { SkippedRow } from "../src/data/bad-rows.js";
import { readSamples } from "../src/data/read-samples.js";
import type { Pair } from "../src/base/types.js";
import { all, caught, rowsFile } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("data-read");
const folder = fileURLToPath(new URL("data/", import.meta.url));
const user = (content: unknown) => ({ role: "user", content });
const assistant = (content: string) => ({ role: "assistant", content });
const system = (content: string) => ({ role: "system", content });
const text = (text: string) => ({ type: "text", text });
const video = (media: string) => ({ type: "video", media });
const image = (path: string) => ({ type: "image", media: { kind: "image", path } });

const pairs: Record<string, unknown[]> = {
  "hound_dpo.jsonl": [
    {
      id: "v_abc-Scene-003_1",
      prompt: "What is the dog chasing?",
      media: ["v_abc-Scene-003"],
      chosen: "The dog chases a red ball across grass.",
      rejected: "The dog chases a cat.",
    },
    {
      id: "10003718_0",
      prompt: "What colour is the water?",
      media: ["train/10003718"],
      chosen: "Murky blue.",
      rejected: "Green.",
    },
    { id: "7", prompt: "Who sings?", media: ["a/../b c.mp4"], chosen: "A tenor\u2028in black.", rejected: "Nobody." },
    {
      prompt: [user([video("10"), text("A?")]), assistant("B."), user("And C?")],
      chosen: "Yes, C.",
      rejected: "No C.",
    },
    {
      prompt: "What is it?",
      media: [{ kind: "image", path: "pic.jpg" }],
      chosen: Int32Array.of(5, 6, 2),
      rejected: Int32Array.of(7, 2),
    },
  ],
  "trl_plain.jsonl": [
    { prompt: "What is 2+2?", chosen: " 4", rejected: " 5" },
    { prompt: "Who runs? Not a <b>tag</b>.", media: ["v/1.mp4"], chosen: "A man.", rejected: "A dog." },
    {
      prompt: [user([text("Which differs: "), image("a.png"), text(" or "), image("b.png"), text("?")])],
      chosen: "The first.",
      rejected: "The second.",
    },
  ],
  "trl_chat.json": [
    { prompt: [system("Be brief."), user("Hi")], chosen: "Hello.", rejected: "What?" },
    { prompt: "Sky?", chosen: "Blue.", rejected: "Green." },
    { prompt: "Sea?", chosen: "Salty.", rejected: "Sweet." },
    {
      prompt: [user([video("v.mp4"), text("Who?")]), assistant("A man."), user([text("And here?"), image("x.png")])],
      chosen: "A cat.",
      rejected: "A dog.",
    },
  ],
  "sharegpt.jsonl": [
    { prompt: "What is it?", media: ["k.mp4"], chosen: "A kite.", rejected: "A bird." },
    {
      prompt: [
        system("Be brief."),
        user("Hi"),
        assistant("Hello."),
        user([text("Compare "), image("a.png"), text(" and "), image("b.png"), text(".")]),
      ],
      chosen: "Same.",
      rejected: "Different.",
    },
  ],
  "pyarrow_chat.parquet": Array.from({ length: 5 }, (_, i) => ({
    prompt: `question ${i}`,
    ...(i ? { media: [`${i}.mp4`] } : {}),
    chosen: `yes ${i}`,
    rejected: `no ${i}`,
  })),
};

const arrow = Array.from({ length: 300 }, (_, i) => ({
  id: String(i),
  prompt: `question ${i % 7} é\u2028`,
  media: [`clips/${String(i >> 1).padStart(3, "0")}.mp4`],
  chosen: i % 2 ? Int32Array.of(i, i + 1, 2) : `yes ${i % 7} é\u2028`,
  rejected: i % 2 ? Int32Array.of(i, 2) : `no ${i % 7} é\u2028`,
}));
for (const kind of ["none", "snappy", "gzip", "zstd", "brotli", "v2", "delta"])
  pairs[`pyarrow_${kind}.parquet`] = arrow;

for (const [name, expected] of Object.entries(pairs)) {
  test(`pairs: ${name}`, async () => assert.equal(await all(readPairs(folder + name)), expected));
  const format = /trl|chat/.test(name) ? "trl" : name.startsWith("sharegpt") ? "sharegpt" : "hound";
  test(`pairs: ${name} as ${format}`, async () =>
    assert.equal(await all(readPairs(folder + name, { format })), expected));
}

const examples: Record<string, unknown[]> = {
  "hound_sft.jsonl": [
    { id: "10003718_0", prompt: "What colour is the water?", media: ["10003718"], answer: "It is murky blue." },
    {
      id: "10003718_1",
      prompt: [user([video("10003718"), text("What colour?")]), assistant("Blue."), user("Sure?")],
      answer: "Yes.",
    },
    { id: "i", prompt: "Name it.", media: [{ kind: "image", path: "COCO_1.jpg" }], answer: "A kite." },
  ],
  "trl_sft.jsonl": [
    { prompt: [system("Be brief."), user("Hi"), assistant("Hello."), user("Bye")], answer: "Bye." },
    { prompt: "The sky is", answer: " blue." },
    { prompt: "Who?", media: ["v.mp4"], answer: "A man." },
  ],
  "sharegpt_sft.jsonl": [
    { prompt: [system("Be brief."), user("Hi")], answer: "Hello." },
    { prompt: "Who?", media: ["v.mp4"], answer: "A man." },
  ],
};
for (const [name, expected] of Object.entries(examples))
  test(`examples: ${name}`, async () => assert.equal(await all(readExamples(folder + name)), expected));

test("samples: LLaVA-Hound preferences, test rows, plain rows", async () => {
  assert.equal(await all(readSamples(`${folder}hound_test.jsonl`)), [
    { id: "10003718_0_0", video: "test/webvid/10003718", question: "What colour is it?" },
    { id: "3", video: "test/msvd/v1", question: "who sings?" },
  ]);
  assert.equal((await all(readSamples(`${folder}pyarrow_zstd.parquet`)))[299], {
    id: "299",
    video: "clips/149.mp4",
    question: "question 5 é\u2028",
  });
  const plain = rowsFile([
    { id: "a", video: "v.mp4", question: "Who?" },
    "",
    { video: "v.mp4", question: "<video>\nWhat?" },
  ]);
  assert.equal(await all(readSamples(plain)), [
    { id: "a", video: "v.mp4", question: "Who?" },
    { id: "v.mp4#3", video: "v.mp4", question: "What?" },
  ]);
  const dpo = rowsFile([{ video: "v", prompt: "<video>\nWho?", chosen: "a", rejected: "b" }]);
  assert.equal(await all(readSamples(dpo)), [{ id: "v#1", video: "v", question: "Who?" }]);
  assert.equal(await all(readSamples(rowsFile([]))), []);
});

const good = { id: "g", video: "v.mp4", prompt: "Who?", chosen: "A.", rejected: "B." };
const but = (change: Record<string, unknown>) => ({ ...good, id: "x", ...change });
const deep = `{"video":${"[".repeat(100_000)}${"]".repeat(100_000)}}`;
const trl = { prompt: "Who?", chosen: "A.", rejected: "B." };
const chat = { conversations: [{ from: "human", value: "Who?" }], chosen: "A.", rejected: "B." };

/** Bad rows after a good one of the same form; the field that the refusal names, where a field is at fault. */
const badRows: readonly [name: string, row: unknown, field: string | undefined, message: RegExp, first?: object][] = [
  ["no rejected", but({ rejected: undefined }), "rejected", /rejected: expected a string/],
  ["null chosen", but({ chosen: null }), "chosen", /chosen: expected a string/],
  ["no video", but({ video: undefined }), "video", /neither/],
  ["video and image", but({ image: "a.jpg" }), "video", /both/],
  ["no prompt", but({ prompt: undefined }), "prompt", /prompt: expected a string/],
  ["a number as an answer", but({ chosen: 5 }), "chosen", /got 5/],
  ["an object without value", but({ chosen: { text: "A" } }), "chosen.value", /chosen\.value/],
  ["a list as a prompt", but({ prompt: ["a"] }), "prompt[0]", /prompt\[0\]: expected an object/],
  ["an empty answer", but({ rejected: " \n" }), "rejected", /not empty/],
  ["an empty question", but({ prompt: "<video>\n" }), "prompt", /not empty/],
  ["an id that is an object", but({ id: {} }), "id", /id: expected a string/],
  ["an absolute path", but({ video: "/etc/passwd" }), "video", /relative/],
  ["a path of Windows", but({ video: "C:\\a" }), "video", /relative/],
  ["a share", but({ video: "\\\\host\\a" }), "video", /relative/],
  ["an address", but({ video: "https://a.b/c.mp4" }), "video", /relative/],
  ["a path upward", but({ video: "a/../../b" }), "video", /inside the data folder/],
  ["a path upward, backwards", but({ video: "..\\b" }), "video", /inside the data folder/],
  ["ids of one answer", but({ chosen_ids: [1] }), "rejected_ids", /rejected_ids: expected a list/],
  ["a negative id", but({ chosen_ids: [1, -200], rejected_ids: [1] }), "chosen_ids[1]", /-200/],
  ["half an id", but({ chosen_ids: [1.5], rejected_ids: [1] }), "chosen_ids[0]", /1\.5/],
  ["no ids", but({ chosen_ids: [], rejected_ids: [1] }), "chosen_ids", /token ids/],
  ["NaN", '{"video":"v","prompt":"p","chosen":"c","rejected":NaN}', undefined, /expected JSON/],
  ["half a row", '{"video":"v","prompt"', undefined, /expected JSON/],
  ["no object", "[1]", undefined, /expected a JSON object, got an array of 1/],
  ["null", "null", undefined, /expected a JSON object, got null/],
  ["too deep", deep, undefined, /nested at most 64/],
  ["no UTF-8", Buffer.from('{"video":"\xff"}', "latin1"), undefined, /UTF-8/],
  ["a NUL byte", '{"video":"a\0"}', undefined, /NUL/],
  ["NUL in a path", but({ video: "a\0b" }), "video", /a path/],
  ["a line of 100 MB", Buffer.alloc(100 << 20, 0x20), undefined, /at most 16777216 bytes, got 104857600/],
  [
    "a turn of nobody",
    but({ prompt: undefined, conversations: [{ from: "tool", value: "x" }] }),
    "conversations[0].from",
    /tool/,
  ],
  [
    "two users in a row",
    { ...chat, conversations: [...chat.conversations, ...chat.conversations] },
    "conversations[1]",
    /assistant/,
    chat,
  ],
  [
    "a place without its video",
    { ...chat, conversations: [{ from: "human", value: "<video>Who?" }] },
    "conversations",
    /each of 1 place/,
    chat,
  ],
  ["a video too many", { ...trl, prompt: "<video>Who?", videos: ["a", "b"] }, "prompt", /got 2/, trl],
  ["embedded media", { ...trl, images: [{ bytes: "xx", path: "a" }] }, "images[0]", /keep them as files/, trl],
  ["a path upward in a list", { ...trl, videos: ["a", "../b"] }, "videos[1]", /inside/, trl],
  [
    "answers to other prompts",
    { chosen: [user("a"), assistant("b")], rejected: [user("c"), assistant("d")] },
    "rejected",
    /same messages/,
    trl,
  ],
  [
    "an answer to another prompt",
    { ...trl, chosen: [user("a"), assistant("b")], rejected: [user("a"), assistant("d")] },
    "chosen",
    /begin with the prompt/,
    trl,
  ],
  ["no prompt anywhere", { chosen: [assistant("b")], rejected: [assistant("d")] }, "prompt", /prompt/, trl],
  ["an answer by the user", { ...trl, chosen: [user("a")] }, "chosen", /assistant's turn/, trl],
];

for (const [name, row, field, message, first = good] of badRows) {
  const rows = [first, "", row, { ...first, id: "last" }];
  test(`bad row: ${name}`, async () => {
    const e = await caught(() => all(readPairs(rowsFile(rows))));
    assert.is(e.code, "DATA_INVALID");
    assert.match(e.message, message);
    assert.match(e.message, /rows\.jsonl:3: /);
    assert.equal(e.detail, { line: 3, ...(field === undefined ? {} : { field }) });
    assert.type(e.hint, "string");
  });
  test(`bad row, skipped: ${name}`, async () => {
    const skipped: SkippedRow[] = [];
    const path = rowsFile(rows);
    const read = await all(readPairs(path, { onBadRow: "skip", onSkip: (s) => skipped.push(s) }));
    assert.equal(
      read.map((p) => p.id),
      [(first as Pair).id, "last"],
    );
    assert.is(skipped.length, 1);
    assert.equal([skipped[0]!.path, skipped[0]!.line], [path, 3]);
    assert.match(skipped[0]!.message, message);
  });
}

test("bad rows of an array name their row", async () => {
  const e = await caught(() => all(readPairs(rowsFile([[good, but({ chosen: "" })]], "a.json"))));
  assert.match(e.message, /a\.json: row 2: chosen/);
  assert.equal(e.detail, { row: 2, field: "chosen" });
});

for (const [what, text, message] of [
  ["an object", "{}", /array of rows/],
  ["half an array", "[1", /expected JSON/],
  ["no UTF-8", Buffer.from([255]), /UTF-8/],
] as const)
  test(`a .json file that holds ${what}`, async () => {
    assert.match((await caught(() => all(readPairs(rowsFile([text], "a.json"))))).message, message);
  });

test("a Parquet file of a codec that is not read", async () => {
  const lz4 = await caught(() => all(readPairs(`${folder}pyarrow_lz4.parquet`, { onBadRow: "skip" })));
  assert.match(lz4.message, /got LZ4_RAW/);
  assert.is(lz4.code, "DATA_INVALID");
});

test("Parquet: text that is no UTF-8 is a fault of its rows alone", async () => {
  const bytes = readFileSync(`${folder}pyarrow_none.parquet`);
  const word = Buffer.from("no 3 é");
  for (let at = bytes.indexOf(word); at >= 0; at = bytes.indexOf(word, at + 1)) bytes[at + word.length - 1] = 0x28;
  const path = join(temporaryFolder(), "a.parquet");
  writeFileSync(path, bytes);
  const spoilt = arrow.flatMap((row, i) => (i % 7 === 3 && typeof row.rejected === "string" ? [i + 1] : []));
  const lines: number[] = [];
  const read = await all(readPairs(path, { onBadRow: "skip", onSkip: ({ line }) => lines.push(line) }));
  assert.equal(lines, spoilt);
  assert.equal(
    read,
    arrow.filter((_, i) => !spoilt.includes(i + 1)),
  );
  const e = await caught(() => all(readPairs(path)));
  assert.match(e.message, /a\.parquet: row 11: rejected: expected a string, got an instance of InvalidUtf8/);
  assert.equal(e.detail, { row: 11, field: "rejected" });
});

const whole = readFileSync(`${folder}pyarrow_none.parquet`);
const patched = (at: number, value: number) => {
  const bytes = Buffer.from(whole);
  bytes.writeUInt32LE(value, bytes.length + at);
  return bytes;
};
const files: readonly [name: string, bytes: Buffer, message: RegExp][] = [
  ["nothing", Buffer.alloc(0), /got 0 bytes/],
  ["text", Buffer.from('{"prompt":"a","chosen":"b","rejected":"c"}'), /PAR1 at both ends/],
  ["its first half", whole.subarray(0, whole.length >> 1), /PAR1 at both ends/],
  ["a footer longer than the file", patched(-8, whole.length), /footer inside the file/],
  ["a footer of 4 GiB", patched(-8, 2 ** 32 - 1), /footer inside the file, got 4294967295/],
  ["a footer of nothing", patched(-8, 0), /got a fault/],
];
for (const [name, bytes, message] of files)
  for (const onBadRow of ["fail", "skip"] as const)
    test(`no Parquet file: ${name}, onBadRow ${onBadRow}`, async () => {
      const path = join(temporaryFolder(), "a.parquet");
      writeFileSync(path, bytes);
      const e = await caught(() => all(readPairs(path, { onBadRow, onSkip: () => assert.unreachable() })));
      assert.equal([e.code, e.path], ["DATA_INVALID", path]);
      assert.match(e.message, message);
    });

for (const [what, group, total, message] of [
  ["the limits", 2n ** 20n + 1n, 2n ** 20n + 1n, /at most 1048576 rows, got 1048577/],
  ["each other", 1n, 2n, /expected 2 rows, got groups of 1/],
] as const)
  test(`Parquet: counts of rows are held against ${what}`, async () => {
    const row = { prompt: ["a"], chosen: ["b"], rejected: ["c"] };
    const columnData = Object.entries(row).map(([name, data]) => ({ name, data, type: "STRING" as const }));
    const schema = schemaFromColumnData({ columnData });
    const writer = new ByteWriter();
    const parquet = new ParquetWriter({ writer, schema });
    parquet.write({ columnData });
    parquet.row_groups[0]!.num_rows = group;
    parquet.num_rows = total;
    parquet.finish();
    const path = join(temporaryFolder(), "a.parquet");
    writeFileSync(path, writer.getBytes());
    assert.match((await caught(() => all(readPairs(path)))).message, message);
  });

const unknown: readonly [name: string, row: object, message: RegExp][] = [
  [
    "no key of any",
    { question: "a", answer: "b" },
    /known format, got keys question, answer; known: hound \(video.*trl.*sharegpt/,
  ],
  ["no key at all", {}, /got keys \(none\)/],
  ["TRL or LLaVA-Hound", { ...good, videos: ["a"] }, /which fit hound and trl/],
  ["TRL or ShareGPT", { ...trl, conversations: [] }, /which fit trl and sharegpt/],
];
for (const [name, row, message] of unknown)
  for (const onBadRow of ["fail", "skip"] as const)
    test(`unknown or ambiguous format: ${name}, onBadRow ${onBadRow}`, async () => {
      const e = await caught(() => all(readPairs(rowsFile([row]), { onBadRow, onSkip: () => {} })));
      assert.is(e.code, "DATA_INVALID");
      assert.match(e.message, message);
    });

test("an ambiguous file is read when its format is named", async () => {
  const path = rowsFile([{ ...good, videos: ["a"] }]);
  assert.is((await all(readPairs(path, { format: "hound" })))[0]!.media![0], "v.mp4");
});

test("skipped rows without onSkip are a process warning", async () => {
  const warned = new Promise<Error>((resolve) => process.once("warning", resolve));
  await all(readPairs(rowsFile([good, "x", "y"]), { onBadRow: "skip" }));
  const warning = await warned;
  assert.is((warning as Error & { code?: string }).code, "ISR_DPO_DATA");
  assert.match(warning.message, /2 bad rows were left out; the first: .*:2: expected JSON/);
});

test("samples and examples refuse bad rows too", async () => {
  const both = await caught(() => all(readSamples(rowsFile([{ video: "v", question: "q", prompt: "p" }]))));
  assert.match(both.message, /which fit plain and hound/);
  const neither = {
    conversations: [
      { from: "human", value: "a" },
      { from: "gpt", value: "b" },
    ],
  };
  const sft = [{ ...neither, video: "v" }, neither];
  assert.equal((await caught(() => all(readExamples(rowsFile(sft))))).detail, { line: 2, field: "video" });
  const open = { messages: [user("a"), assistant("b"), user("c")] };
  assert.match((await caught(() => all(readExamples(rowsFile([open]))))).message, /assistant's turn at the end/);
});

test("paths and options", async () => {
  const read = (path: string, o?: unknown) => caught(() => all(readPairs(path, o as ReadOptions)));
  assert.is((await read(join(temporaryFolder(), "no.jsonl"))).code, "NOT_FOUND");
  assert.is((await read(join(temporaryFolder(), "no.parquet"))).code, "NOT_FOUND");
  assert.is((await read("a.csv")).code, "INVALID_ARGUMENT");
  assert.is((await read("a.jsonl", { format: "alpaca" })).code, "INVALID_ARGUMENT");
  assert.is((await read("a.jsonl", { onBadRow: "ignore" })).code, "INVALID_ARGUMENT");
  assert.is((await read("a.jsonl", { onSkip: 1 })).code, "INVALID_ARGUMENT");
  assert.is((await read("a.jsonl", { onbadrow: "skip" })).code, "INVALID_ARGUMENT");
  const samples = await caught(() => all(readSamples("a.jsonl", { format: "plain" } as never)));
  assert.is(samples.code, "INVALID_ARGUMENT");
});

test("leaving the loop closes the file; an error of onSkip comes out as it is", async () => {
  const path = join(temporaryFolder(), "a.jsonl");
  writeFileSync(path, `${JSON.stringify(trl)}\nx\n`.repeat(1000));
  for await (const pair of readPairs(path)) {
    assert.is(pair.chosen, "A.");
    break;
  }
  const own = new Error("enough");
  const stop = () => {
    throw own;
  };
  const e = await all(readPairs(path, { onBadRow: "skip", onSkip: stop })).catch((e) => e);
  assert.is(e, own);
});

const packed: [what: string, bytes: Buffer, message: RegExp][] = [
  ["gzip", gzipSync(JSON.stringify({ prompt: "p" })), /got a gzip file.*gzip -dc/s],
  ["zstd", Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 4, 0]), /got a Zstandard file.*zstd -dc/s],
  ["xz", Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]), /got an xz file/],
  ["bzip2", Buffer.from("BZh91AY"), /got a bzip2 file/],
  ["zip", Buffer.from([0x50, 0x4b, 3, 4, 20, 0]), /got a zip archive.*name the file inside/s],
  ["UTF-16", Buffer.from('\ufeff{"prompt": "p"}', "utf16le"), /got UTF-16 text.*iconv/s],
];
for (const [what, bytes, message] of packed)
  for (const name of ["rows.jsonl.gz", "rows.jsonl", "rows.json", "rows.parquet", "rows"])
    test(`a file that is ${what}, named ${name}: told as that, also where bad rows are skipped`, async () => {
      const path = join(temporaryFolder(), name);
      writeFileSync(path, bytes);
      const e = await caught(() => all(readPairs(path, { onBadRow: "skip" })));
      assert.is(e.code, "DATA_INVALID", name);
      assert.match(`${e.message}\n${e.hint}`, message);
      assert.is(e.path, path);
    });

test.run();
