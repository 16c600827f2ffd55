// Rows as public files have them: read with what counts in them; what a chat template would be given beside the messages is
// never read past.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parquetWriteBuffer } from "hyparquet-writer";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { readExamples, readPairs, readSamples } from "../src/index.js";
import { all, caught, rowsFile } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("data-public");
const user = (content: unknown) => ({ role: "user", content });
const assistant = (content: unknown) => ({ role: "assistant", content });
const human = (value: string) => ({ from: "human", value });
const gpt = (value: string) => ({ from: "gpt", value });
const read = {
  pairs: (path: string) => all(readPairs(path)),
  examples: (path: string) => all(readExamples(path)),
  samples: (path: string) => all(readSamples(path)),
};
type Kind = keyof typeof read;

const scored = { score_chosen: 8.5, score_rejected: 1, prompt_id: "f0e3" };
const rows: readonly [name: string, kind: Kind, row: object, item: object][] = [
  [
    "LLaVA-Hound preferences with their reference answer and scores",
    "pairs",
    {
      ...{ id: "v_a", video: "v_a", prompt: "<video>\nWho?", answer: "A man." },
      ...{ chosen: "A man runs.", rejected: "A dog.", chosen_score: 5, rejected_score: 1 },
    },
    { id: "v_a", prompt: "Who?", media: ["v_a"], chosen: "A man runs.", rejected: "A dog." },
  ],
  [
    "LLaVA-Hound preferences as questions",
    "samples",
    { id: "v_a", video: "v_a", prompt: "Who?", answer: "A man.", chosen: "x", rejected: "y" },
    { id: "v_a", video: "v_a", question: "Who?" },
  ],
  [
    "a video as an object with its path",
    "pairs",
    { video: { bytes: null, path: "v.mp4" }, prompt: "Who?", chosen: "a", rejected: "b" },
    { prompt: "Who?", media: ["v.mp4"], chosen: "a", rejected: "b" },
  ],
  [
    "TRL: prompt as text beside messages that begin with it",
    "pairs",
    { prompt: "Q", chosen: [user("Q"), assistant("a")], rejected: [user("Q"), assistant("b")], ...scored },
    { prompt: "Q", chosen: "a", rejected: "b" },
  ],
  [
    "TRL: messages of the same begin, over several turns",
    "pairs",
    {
      chosen: [user("Q"), assistant("A"), user("R"), assistant("a")],
      rejected: [user("Q"), assistant("A"), user("R"), assistant("b")],
    },
    { prompt: [user("Q"), assistant("A"), user("R")], chosen: "a", rejected: "b" },
  ],
  [
    "TRL: parts whose other keys are null, as a table has them",
    "pairs",
    {
      prompt: [
        user([
          { type: "image", text: null },
          { type: "text", text: "What?" },
        ]),
      ],
      chosen: [assistant([{ type: "text", text: "a" }])],
      rejected: [assistant([{ type: "text", text: "b" }])],
      images: [{ bytes: null, path: "a.png" }],
    },
    { prompt: "What?", media: [{ kind: "image", path: "a.png" }], chosen: "a", rejected: "b" },
  ],
  [
    "conversations whose turns are named as messages",
    "examples",
    { conversations: [user("Q"), assistant("a")], source: "x" },
    { prompt: "Q", answer: "a" },
  ],
  [
    "the same beside a video",
    "examples",
    { video: "v", conversations: [user("<video>\nQ"), assistant("a")] },
    { prompt: "Q", media: ["v"], answer: "a" },
  ],
  [
    "messages beside the prompt that they begin with",
    "examples",
    { messages: [user("Q"), assistant("a")], prompt: "Q", prompt_id: "x" },
    { prompt: "Q", answer: "a" },
  ],
];
for (const [name, kind, row, item] of rows)
  test(`read: ${name}`, async () => {
    assert.equal(await read[kind](rowsFile([row])), [item] as never);
  });

const carriers: readonly [name: string, kind: Kind, row: object][] = [
  ["TRL pairs", "pairs", { prompt: [user("Q")], chosen: [assistant("a")], rejected: [assistant("b")] }],
  ["TRL examples", "examples", { messages: [user("Q"), assistant("a")] }],
  ["TRL completions", "examples", { prompt: "Q", completion: "a" }],
  ["ShareGPT pairs", "pairs", { conversations: [human("Q")], chosen: gpt("a"), rejected: gpt("b") }],
  ["ShareGPT examples", "examples", { conversations: [human("Q"), gpt("a")] }],
  ["LLaVA-Hound pairs", "pairs", { video: "v", prompt: "Q", chosen: "a", rejected: "b" }],
];
const tool = { type: "function", function: { name: "f", parameters: {} } };
const given: readonly [key: string, value: unknown, refused: boolean][] = [
  ["tools", [tool], true],
  ["tools", JSON.stringify([tool]), true],
  ["chat_template_kwargs", { enable_thinking: false }, true],
  ["chat_template_kwargs", { enable_thinking: null, reasoning: "low" }, true],
  ["tools", [], false],
  ["tools", "[]", false],
  ["tools", "", false],
  ["tools", null, false],
  ["chat_template_kwargs", {}, false],
  ["chat_template_kwargs", { enable_thinking: null }, false],
];
for (const [carrier, kind, row] of carriers)
  for (const [key, value, refused] of given)
    test(`${carrier} with ${key} ${JSON.stringify(value)}: ${refused ? "refused by name" : "read"}`, async () => {
      const path = rowsFile([row, { ...row, [key]: value }]);
      if (!refused) return assert.is((await read[kind](path)).length, 2);
      const e = await caught(() => read[kind](path));
      assert.is(e.code, "DATA_INVALID");
      assert.ok(e.message.startsWith(`${path}:2: ${key}: expected nothing (it is not given`), e.message);
      assert.equal(e.detail, { line: 2, field: key });
    });

test("a column of tools in a Parquet file is seen", async () => {
  const path = join(temporaryFolder(), "rows.parquet");
  const text = (name: string, ...data: string[]) => ({ name, data, type: "STRING" as const });
  const columnData = [text("prompt", "Q", "R"), text("completion", "a", "b"), text("tools", "[]", '[{"name":"f"}]')];
  writeFileSync(path, Buffer.from(parquetWriteBuffer({ columnData })));
  const e = await caught(() => read.examples(path));
  assert.ok(e.message.startsWith(`${path}: row 2: tools: `), e.message);
});

test("tools inside a turn are refused as its other parts are", async () => {
  const e = await caught(() =>
    read.examples(
      rowsFile([{ messages: [{ role: "system", content: "s", tools: "[1]" }, user("Q"), assistant("a")] }]),
    ),
  );
  assert.match(e.message, /messages\[0\]\.tools: expected nothing/);
});

test.run();
