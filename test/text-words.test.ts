// Special tokens in somebody's words, tokens that the embedding lacks, and texts that are too long.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { loadModel } from "../src/index.js";
import { buildPrompt, type PlaceholderRules } from "../src/text/media-prompt.js";
import { inSlices } from "../src/text/pausable.js";
import { loadTokenizer } from "../src/text/tokenizer.js";
import type { Message } from "../src/base/types.js";
import { excludes, includes, ordered, rejects } from "./helpers/assert.js";
import { copyOf, temporaryFolder } from "./helpers/files.js";

const test = suite("text-words");
const golden = fileURLToPath(new URL("golden/", import.meta.url));
const ask = (content: string): Message => ({ role: "user", content });
const kinds = ["llama2", "llama3", "qwen2", "smol", "sentencepiece_bpe"];

for (const kind of kinds.filter((k) => k !== "sentencepiece_bpe"))
  test(`specialTokens: text leaves what a user types words, parse takes it for tokens: ${kind}`, async () => {
    const t = await loadTokenizer(`${golden}tokenizers/${kind}`);
    const end = t.piece(t.endId!)!;
    const text = `a ${end} dog${end}`;
    const count = (ids: Int32Array) => ids.filter((id) => id === t.endId).length;
    assert.is(count(t.encode(text, { special: false })), 2, kind);
    assert.is(count(t.encode(text, { special: false, specialTokens: "text" })), 0, kind);
    assert.is(t.decode(t.encode(text, { special: false, specialTokens: "text" })).trim(), text, kind);
    if (!t.template) return;
    const plain = count(t.applyChatTemplate([ask("a dog")], { generate: true }).ids);
    assert.is(count(t.applyChatTemplate([ask(text)], { generate: true }).ids), plain + 2, kind);
    const words = t.applyChatTemplate([ask(text)], { generate: true, specialTokens: "text" });
    assert.is(count(words.ids), plain, kind);
    assert.is(words.text, t.applyChatTemplate([ask(text)], { generate: true }).text, "the text is the same");
  });

test("specialTokens: another word is refused", async () => {
  const t = await loadTokenizer(`${golden}tokenizers/llama3`);
  await rejects(() => t.encode("a", { specialTokens: "word" as never }), "INVALID_ARGUMENT", /specialTokens/, "a word");
});

test("specialTokens: text in the Vicuna prompt and with placeholders of media", async () => {
  const llama = await loadTokenizer(`${golden}tokenizers/llama2`);
  const rules: PlaceholderRules = { style: "original", image: -200, video: -201, perVideo: 1, visualTokens: () => 1 };
  const ends = (words: boolean) =>
    buildPrompt(llama, rules, [ask("What</s>?")], { generate: true, words }).ids.filter((id) => id === llama.endId)
      .length;
  assert.equal([ends(false), ends(true)], [1, 0]);
  const expanded: PlaceholderRules = { ...rules, style: "expanded", image: 432, video: 433 };
  assert.throws(
    () => buildPrompt(llama, expanded, [ask("<video>?")], { generate: true }),
    /in the text of the messages/,
  );
  const built = buildPrompt(llama, expanded, [ask("<video>?")], { generate: true, words: true });
  excludes(built.ids, 433, "typed, and so no placeholder");
});

{
  const source = copyOf(`${golden}tokenizers/llama2`);
  const json = JSON.parse(readFileSync(join(source, "tokenizer.json"), "utf8"));
  const next =
    Math.max(...Object.values(json.model.vocab as object), ...json.added_tokens.map((t: { id: number }) => t.id)) + 1;
  const word = Object.keys(json.model.vocab).find((piece) => /^[a-z]{3}$/.test(piece))!;
  const rows: [string, Record<string, object>, (string | number)[] | RegExp][] = [
    ["the next id", { tokenizer_config: { added_tokens_decoder: { [next]: { content: "<new>" } } } }, ["<new>", next]],
    ["of added_tokens.json", { added_tokens: { "<new>": next } }, ["<new>", next]],
    ["named", { tokenizer_config: { pad_token: "<new>" } }, ["<new>", next]],
    ["named by the map", { special_tokens_map: { additional_special_tokens: ["<new>"] } }, ["<new>", next]],
    ["a word", { tokenizer_config: { pad_token: word } }, [word, json.model.vocab[word]]],
    [
      "a gap",
      { tokenizer_config: { added_tokens_decoder: { [next + 5]: { content: "<new>" } } } },
      /"<new>": expected the id \d+, the next/,
    ],
    ["another id", { added_tokens: { "</s>": 7 } }, /added_tokens\.json: the token "<\/s>": expected the id 2 /],
    ["no token", { tokenizer_config: { added_tokens_decoder: { 3: 5 } } }, /added_tokens_decoder\[3\]/],
  ];
  for (const [what, files, expected] of rows)
    test(`tokens that stand beside tokenizer.json, as transformers adds them: ${what}`, async () => {
      const dir = temporaryFolder();
      writeFileSync(join(dir, "tokenizer.json"), JSON.stringify(json));
      for (const [name, content] of Object.entries(files))
        writeFileSync(join(dir, `${name}.json`), JSON.stringify(content));
      if (expected instanceof RegExp) return rejects(() => loadTokenizer(dir), "TOKENIZER", expected, what);
      const t = await loadTokenizer(dir);
      const [text, id] = expected as [string, number];
      includes(t.encode(`${text} b`), id, what); // at the beginning: some are found with the space that is put there
      assert.is(t.piece(id), text, what);
    });
}

{
  const vocab = { a: 0, b: 1, c: 2, ab: 3 };
  const rows: [string, [content: string, id: number][], RegExp | number[]][] = [
    ["another piece's id", [["<x>", 1]], /added_tokens\[0\]: "<x>": expected an id of its own, got 1, which is "b"/],
    ["a piece with another id", [["c", 7]], /added_tokens\[0\]: "c": expected the id 2, which it has already, got 7/],
    ["a piece with a piece's id", [["c", 0]], /added_tokens\[0\]: "c": expected the id 2/],
    [
      "two with one id",
      [
        ["<x>", 4],
        ["<y>", 4],
      ],
      /added_tokens\[1\]: "<y>": .*got 4, which is "<x>"/,
    ],
    [
      "one with two ids",
      [
        ["<x>", 4],
        ["<x>", 5],
      ],
      /added_tokens\[1\]: "<x>": expected the id 4/,
    ],
    [
      "a piece, with its id",
      [
        ["c", 2],
        ["<x>", 4],
      ],
      [0, 4, 2],
    ],
    [
      "the same one twice",
      [
        ["<x>", 4],
        ["<x>", 4],
      ],
      [0, 4, 2],
    ],
    ["an id beyond the next", [["<x>", 9]], [0, 9, 2]],
  ];
  for (const [what, added, expected] of rows)
    test(`an added token and the ids of the vocabulary: ${what}`, async () => {
      const dir = temporaryFolder();
      const added_tokens = added.map(([content, id]) => ({ content, id }));
      const model = { type: "BPE", vocab, merges: ["a b"] };
      writeFileSync(join(dir, "tokenizer.json"), JSON.stringify({ added_tokens, model }));
      if (expected instanceof RegExp) await rejects(() => loadTokenizer(dir), "TOKENIZER", expected, what);
      else assert.equal([...(await loadTokenizer(dir)).encode("a<x>c")], expected, what);
    });
}

const contradictions: [what: string, ids: (taken: string) => Record<string, number>, message: RegExp][] = [
  ["a piece's id", () => ({ "<x>": 300 }), /"<x>": expected an id of its own, got 300/],
  ["a piece", (taken) => ({ [taken]: 2000 }), /expected the id 300, which it has already, got 2000/],
];
for (const [what, ids, expected] of contradictions)
  test(`an added token that contradicts a SentencePiece model is refused by its name: ${what}`, async () => {
    const slow = copyOf(`${golden}tokenizers/sentencepiece_bpe`);
    const given = ids((await loadTokenizer(slow)).piece(300)!);
    writeFileSync(join(slow, "added_tokens.json"), JSON.stringify(given));
    await rejects(() => loadTokenizer(slow), "TOKENIZER", expected, JSON.stringify(given));
  });

test("a token that the embedding lacks is told by its name", async () => {
  const dir = copyOf(`${golden}text_llama/policy`);
  const file = join(dir, "tokenizer.json");
  const source = copyOf(`${golden}tokenizers/llama2`);
  const json = JSON.parse(readFileSync(join(source, "tokenizer.json"), "utf8"));
  json.added_tokens.push({ ...json.added_tokens[0], id: 5000, content: "<far>" });
  writeFileSync(file, JSON.stringify(json));
  writeFileSync(join(dir, "chat_template.jinja"), "{{ messages[0].content }}");
  await using model = await loadModel(dir);
  const asked = model.generate({ prompt: "a<far>b", maxTokens: 1 });
  await rejects(
    async () => await asked,
    "TOKENIZER",
    /prompt: the text holds the token "<far>" \(id 5000\).*embedding/,
    "id",
  );
  const [said] = await model.generate({ prompt: "a<far>b", maxTokens: 1, specialTokens: "text" });
  assert.is(said!.ids.length, 1);
  await model.chat([ask("a<far>b")], { maxTokens: 1 });
});

test("a text that cannot fit is refused by its length; one that is cut lets a signal in", async () => {
  const dir = copyOf(`${golden}text_llama/policy`);
  const source = copyOf(`${golden}tokenizers/llama2`);
  for (const name of ["tokenizer.json", "tokenizer_config.json"])
    writeFileSync(join(dir, name), readFileSync(join(source, name)));
  writeFileSync(join(dir, "chat_template.jinja"), "{{ messages[0].content }}");
  await using model = await loadModel(dir);
  const long = model.generate({ prompt: "word ".repeat(200_000) });
  await rejects(async () => await long, "CONTEXT_OVERFLOW", /prompt: at least \d+ tokens/, "long");
  const t = await loadTokenizer(`${golden}tokenizers/qwen2`);
  const stop = new AbortController();
  setImmediate(() => stop.abort(new Error("enough")));
  const cut = inSlices(t.encodeSteps("a dog and ".repeat(300_000)), stop.signal);
  let reason: unknown;
  await cut.catch((e: unknown) => {
    reason = e;
  });
  assert.is((reason as Error | undefined)?.message, "enough");
});

const longTexts: [what: string, text: (end: string) => string][] = [
  ["words", () => "a dog\n ".repeat(3000)],
  ["one long word", () => "ab".repeat(20_000)],
  ["spaces and end tokens", (end) => `${" ".repeat(5000)}x${end}日本`.repeat(3)],
];
for (const kind of kinds)
  for (const [what, text] of longTexts)
    test(`in slices or at once, the ids are the same: ${what}, ${kind}`, async () => {
      const t = await loadTokenizer(`${golden}tokenizers/${kind}`);
      const long = text(t.piece(t.endId!)!);
      assert.equal([...(await inSlices(t.encodeSteps(long)))], [...t.encode(long)], kind);
    });

for (const kind of kinds)
  test(`a text has no fewer ids than are told before it is cut: ${kind}`, async () => {
    const t = await loadTokenizer(`${golden}tokenizers/${kind}`);
    const text = "a dog and the man ".repeat(50);
    ordered(t.fewest(text), "<=", t.encode(text).length, kind);
  });

test.run();
