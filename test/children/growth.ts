// Every reader of text meets long texts (a megabyte with ISR_DPO_LONG, else a quarter) that send a backtracking search back and forth. What grows faster than the
// text does not end before this process is killed.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { commandOf } from "../../src/cli/conversation-loop.js";
import { namesMedia } from "../../src/data/file-notes.js";
import { cutAtPlaces, foreignPlace } from "../../src/data/media-placeholders.js";
import { piecesOf } from "../../src/data/conversation-turns.js";
import { pathOf } from "../../src/data/row-fields.js";
import { readExamples, readPairs, readSamples } from "../../src/index.js";
import { addressOf } from "../../src/judge/openai-endpoint.js";
import { readChoice } from "../../src/judge/openai-judge.js";
import { parseChoice } from "../../src/judge/self-judge.js";
import { wordCount } from "../../src/base/counts.js";
import { inSlices } from "../../src/text/pausable.js";
import { loadTokenizer } from "../../src/text/tokenizer.js";
import { complaint } from "../../src/video/probe.js";

const size = process.env.ISR_DPO_LONG ? 1 << 20 : 1 << 18;
const units = [
  "\n",
  " ",
  " \n",
  "<",
  "<video>",
  "<video>\n",
  "\n<",
  "[",
  "[a @ ",
  "{",
  '{"a":',
  '"',
  "\\",
  "/",
  "a",
  "1",
  ". ",
  "/a ",
];
const tails = ["", "x", "<video>", "\n<image>\n", "]", "}", "!", "\u2028"];

const readers: Record<string, (text: string) => unknown> = {
  cutAtPlaces,
  foreignPlace,
  pieces: (text) => piecesOf("prompt", text),
  path: (text) => pathOf("video", text),
  namesMedia,
  command: (text) => commandOf(`/a ${text}`),
  address: (text) => addressOf(`https://a.b/${text.replace(/\s/g, "/")}`),
  verdict: (text) => readChoice(text, "0123456789abcdef", ["1", "2"]),
  choice: (text) => parseChoice(`${text} 1 or 2`, ["1", "2"]),
  words: wordCount,
  complaint,
};

const quietly = (read: () => unknown) => {
  try {
    read();
  } catch {} // a refusal ends the reading too
};

const [dir] = process.argv.slice(2) as [string];
for (const [name, read] of Object.entries(readers)) {
  for (const unit of units) for (const tail of tails) quietly(() => read(unit.repeat(size / unit.length) + tail));
  console.log(name);
}
// A tokenizer that puts marks in order (NFC), and one with spaces made visible.
for (const kind of ["qwen2", "llama2"]) {
  const tokenizer = await loadTokenizer(fileURLToPath(new URL(`../golden/tokenizers/${kind}`, import.meta.url)));
  for (const unit of ["\u0316\u0301", "\u0344\u0316", "a", " ", "\n", "1", "'"])
    await inSlices(tokenizer.encodeSteps(`${unit.repeat(size / unit.length)}x`));
  console.log(`tokens of ${kind}`);
}
const answers = { chosen: "a", rejected: "b" };
for (const unit of units) {
  const text = unit.repeat(size / unit.length);
  const file = (row: object) => {
    const path = join(dir, "rows.jsonl");
    writeFileSync(path, JSON.stringify(row));
    return path;
  };
  const drain = async (rows: AsyncIterable<unknown>) => {
    for await (const _ of rows);
  };
  const o = { onBadRow: "skip", onSkip() {}, onNote() {} } as const;
  const user = { from: "human", value: text };
  await drain(readPairs(file({ video: "v", prompt: text, ...answers }), o)).catch(() => {});
  await drain(readPairs(file({ prompt: text, ...answers, [text]: 1 }), o)).catch(() => {});
  await drain(readExamples(file({ conversations: [user, { from: "gpt", value: text }] }), o)).catch(() => {});
  await drain(
    readExamples(
      file({
        messages: [
          { role: "user", content: text },
          { role: "assistant", content: text },
        ],
      }),
      o,
    ),
  ).catch(() => {});
  await drain(readSamples(file({ video: text, question: text, id: text }), o)).catch(() => {});
}
console.log("rows");
