// Places for media in the texts of rows have their media, whatever the form of the row; a row is read by its own form; an id
// that two rows share names neither twice; columns that are meant as media and are not read are told.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { DataNote } from "../src/data/bad-rows.js";
import { cutAtPlaces } from "../src/data/media-placeholders.js";
import { readExamples, readPairs, readSamples, type SkippedRow } from "../src/index.js";
import { all, caught, rowsFile } from "./helpers/data.js";

const test = suite("data-places");

const answers = { chosen: "A ball.", rejected: "A cat." };
const human = (value: unknown) => [{ from: "human", value }];
const asked = (content: unknown) => [{ role: "user", content }];
const said = { role: "assistant", content: "A ball." };
const gpt = { from: "gpt", value: "A ball." };
const words = "<video>\nWhat is it?";

type Case = readonly [
  name: string,
  reader: typeof readPairs | typeof readExamples | typeof readSamples,
  row: object,
  field: string,
];

/** Rows whose text has a place that nothing stands for. */
const refused: readonly Case[] = [
  ["pair, no column", readPairs, { prompt: words, ...answers }, "prompt"],
  ["pair, null", readPairs, { video: null, prompt: words, ...answers }, "prompt"],
  ["pair, an empty list", readPairs, { videos: [], prompt: words, ...answers }, "prompt"],
  ["pair, a misspelt column", readPairs, { video_path: "a.mp4", prompt: words, ...answers }, "prompt"],
  ["pair, an image's place", readPairs, { images: [], prompt: "<image> What?", ...answers }, "prompt"],
  [
    "pair, an image's place beside a video",
    readPairs,
    { videos: ["a.mp4"], prompt: "<image> What?", ...answers },
    "prompt",
  ],
  ["pair, messages", readPairs, { prompt: asked(words), ...answers }, "prompt"],
  [
    "pair, a part without its medium",
    readPairs,
    { prompt: asked([{ type: "video" }, { type: "text", text: "What?" }]), ...answers },
    "prompt",
  ],
  [
    "pair, the prompt in its answers",
    readPairs,
    { chosen: [...asked(words), said], rejected: [...asked(words), { ...said, content: "No." }] },
    "prompt",
  ],
  ["pair, conversations", readPairs, { conversations: human(words), ...answers }, "conversations"],
  [
    "pair, the place in the system text",
    readPairs,
    { system: "<video> Be brief.", conversations: human("What?"), ...answers },
    "system",
  ],
  [
    "pair, the place in a system message",
    readPairs,
    { prompt: [{ role: "system", content: words }, ...asked("What?")], ...answers },
    "prompt[0].content",
  ],
  ["pair, two places for a video", readPairs, { video: "a.mp4", prompt: "<video><video> What?", ...answers }, "prompt"],
  ["pair, an image's place for a video", readPairs, { video: "a.mp4", prompt: "<image>\nWhat?", ...answers }, "prompt"],
  [
    "pair, another family's words",
    readPairs,
    { video: "a.mp4", prompt: "<|vision_start|><|video_pad|><|vision_end|>What?", ...answers },
    "prompt",
  ],
  ["example, messages", readExamples, { messages: [...asked(words), said] }, "messages"],
  ["example, prompt and completion", readExamples, { prompt: words, completion: "A ball." }, "prompt"],
  ["example, conversations", readExamples, { conversations: [...human(words), gpt], images: [] }, "conversations"],
  [
    "example, the place in a later turn",
    readExamples,
    { conversations: [...human("Hi"), gpt, ...human(words), gpt] },
    "conversations",
  ],
  [
    "example, a place too many",
    readExamples,
    { video: "a.mp4", conversations: [...human(words), gpt, ...human(words), gpt] },
    "conversations",
  ],
  ["sample, two places", readSamples, { video: "a.mp4", question: "<video> <video> Who?" }, "question"],
  ["sample, an image's place", readSamples, { video: "a.mp4", prompt: "<image>\nWho?" }, "prompt"],
  [
    "sample, a test row",
    readSamples,
    { video: "a.mp4", conversations: [...human("<image> Who?"), gpt] },
    "conversations[0].value",
  ],
];
for (const [name, read, row, field] of refused)
  test(`refused: ${name}`, async () => {
    const path = rowsFile([row]);
    const e = await caught(() => all(read(path) as AsyncIterable<unknown>));
    assert.is(e.code, "DATA_INVALID");
    assert.ok(e.message.startsWith(`${path}:1: ${field}: `), e.message);
    assert.equal(e.detail, { line: 1, field });
  });

test("a place in a text part of a message is a word", async () => {
  const prompt = asked([{ type: "text", text: "What does the <video> tag do?" }]);
  const [pair] = await all(readPairs(rowsFile([{ prompt, ...answers }])));
  assert.is(pair!.prompt, "What does the <video> tag do?");
});

test("media whose place is written stand there, those without stand before the words", async () => {
  const rows = [
    { videos: ["a.mp4"], prompt: "First <video> then?", ...answers },
    { videos: ["a.mp4"], images: ["b.png"], prompt: "Look:\n<video>\n\nWhat?", ...answers },
    { video: "a.mp4", prompt: "What?\n<video>", ...answers },
  ];
  const read = await all(readPairs(rowsFile(rows)));
  const text = (t: string) => ({ type: "text", text: t });
  const [video, image] = [
    { type: "video", media: "a.mp4" },
    { type: "image", media: { kind: "image", path: "b.png" } },
  ];
  assert.equal(read[0]!.prompt, asked([text("First "), video, text(" then?")]));
  assert.equal(read[1]!.prompt, asked([image, text("Look:"), video, text("What?")]));
  assert.equal([read[2]!.prompt, read[2]!.media], ["What?", ["a.mp4"]]);
});

const cuts: readonly [text: string, texts: string[], kinds: string[]][] = [
  ["", [""], []],
  ["a<vide>b", ["a<vide>b"], []],
  ["<video>", ["", ""], ["video"]],
  ["a\n\n<video>\n\nb\n<image>c", ["a", "b", "c"], ["video", "image"]],
  ["<video>\n<video>", ["", "", ""], ["video", "video"]],
  ["<<video>>", ["<", ">"], ["video"]],
];
for (const [text, texts, kinds] of cuts)
  test(`places of ${JSON.stringify(text)}`, () => assert.equal(cutAtPlaces(text), { texts, kinds }));

const hound = (id: string) => ({ id, video: "v.mp4", prompt: "Who?", ...answers });
const trl = (id: string) => ({ id, prompt: asked("Who?"), ...answers });
const broken = { id: "x", colour: "red" };
const forms: readonly [name: string, rows: unknown[], ids: string[], bad: number[]][] = [
  ["two forms", [hound("a"), trl("b"), hound("c")], ["a", "b", "c"], []],
  ["the first row of no form", [broken, hound("a"), hound("b")], ["a", "b"], [1]],
  ["the first row without its video", [{ ...hound("x"), video: undefined }, hound("a"), hound("b")], ["a", "b"], [1]],
  ["the first row of another form", [trl("a"), hound("b"), hound("c")], ["a", "b", "c"], []],
  [
    "a row of two forms among others",
    [hound("a"), { ...trl("b"), conversations: human("Who?"), prompt: asked("Who?") }, hound("c")],
    ["a", "c"],
    [2],
  ],
  [
    "a late row of another form",
    [...Array.from({ length: 40 }, (_, i) => hound(`${i}`)), trl("z")],
    [...Array.from({ length: 40 }, (_, i) => `${i}`), "z"],
    [],
  ],
  ["a row that is no JSON before all others", ["{", hound("a")], ["a"], [1]],
];
for (const [name, rows, ids, bad] of forms)
  test(`each row by its form: ${name}`, async () => {
    const skipped: SkippedRow[] = [];
    const read = await all(
      readPairs(rowsFile(rows), { onBadRow: "skip", onSkip: (s) => skipped.push(s), onNote() {} }),
    );
    assert.equal([read.map((p) => p.id), skipped.map((s) => s.line)], [ids, bad]);
  });

const notes = async (rows: unknown[], read: typeof readPairs = readPairs) => {
  const told: DataNote[] = [];
  const items = await all(read(rowsFile(rows), { onNote: (n) => told.push(n) }));
  return {
    ids: items.map((x) => x.id),
    told: told.map(({ code, count, line }) => [code, count, line]),
    messages: told.map((n) => n.message),
  };
};

test("rows that share an id get keys of their own, counted", async () => {
  const { ids, told } = await notes([hound("a"), hound("a"), hound("b"), hound("a"), { ...hound("a#2") }]);
  assert.equal(ids, ["a", "a#2", "b", "a#4", "a#2#5"]);
  assert.equal(told, [["DUPLICATE_ID", 3, 2]]);
  const samples = [
    { id: "v#2", video: "v", question: "q" },
    { video: "v", question: "q" },
  ];
  const read = await all(readSamples(rowsFile(samples), { onNote() {} }));
  assert.equal(
    read.map((s) => s.id),
    ["v#2", "v#2#2"],
  );
});

test("a bad row takes no id", async () => {
  const rows = [{ ...hound("a"), chosen: "" }, hound("a")];
  const read = await all(readPairs(rowsFile(rows), { onBadRow: "skip", onSkip() {} }));
  assert.equal(
    read.map((p) => p.id),
    ["a"],
  );
});

for (const column of ["video_path", "Videos", "videoFile", "img", "image_url", "clips", "video-id"])
  test(`a column that looks like media is told: ${column}`, async () => {
    const { told, messages } = await notes([trl("a"), { ...trl("b"), [column]: "x.mp4" }]);
    assert.equal(told, [["MEDIA_COLUMN", 1, 2]]);
    assert.match(messages[0]!, column);
  });

test("other columns, and rows of words alone, are nothing to tell", async () => {
  const rows = [
    { ...trl("a"), source: "web", imagined: 1, medium: "x" },
    { ...trl("b"), video_path: null },
  ];
  assert.equal((await notes(rows)).told, []);
});

test("rows without media beside rows with are counted", async () => {
  const rows = [{ ...trl("a"), videos: ["a.mp4"] }, trl("b"), trl("c")];
  assert.equal((await notes(rows)).told, [["NO_MEDIA", 2, 2]]);
});

test.run();
