// Tokenizers: ids and text equal to the reference, id by id; pieces of a stream join to what decode gives.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { readSentencePiece, SentencePieceEncoder } from "../src/text/sentencepiece.js";
import { loadTokenizer } from "../src/text/tokenizer.js";
import type { ModelTokenizer } from "../src/text/model-tokenizer.js";
import type { Message } from "../src/base/types.js";
import { ordered, rejects } from "./helpers/assert.js";
import { copyOf, temporaryFolder } from "./helpers/files.js";
import { uniform } from "./helpers/seeded.js";

const test = suite("text");
const golden = fileURLToPath(new URL("golden/tokenizers/", import.meta.url));
const json = (path: string) => JSON.parse(readFileSync(path, "utf8"));
const flavours = ["llama2", "llama3", "qwen2", "smol"] as const;
const all = [...flavours, "sentencepiece_bpe"] as const;
const loaded = new Map<string, ModelTokenizer>();
for (const name of all) loaded.set(name, await loadTokenizer(golden + name));
const tokenizer = (name: (typeof all)[number]) => loaded.get(name)!;

interface StringCase {
  text: string;
  ids: number[];
  ids_no_special: number[];
  decoded: string;
  decoded_skip_special: string;
  pieces: string[];
}
interface ChatCase {
  messages: { role: Message["role"]; content: string | { type: "text" | "video" | "image"; text?: string }[] }[];
  add_generation_prompt: boolean;
  rendered: string;
  ids_no_special: number[];
}

const withMedia = (messages: ChatCase["messages"]): Message[] =>
  messages.map(({ role, content }) => ({
    role,
    content:
      typeof content === "string"
        ? content
        : content.map((p) => (p.type === "text" ? { type: p.type, text: p.text! } : { type: p.type, media: "x" })),
  }));

for (const name of flavours) {
  const facts = json(`${golden}${name}/cases.json`);
  const t = tokenizer(name);

  test(`${name}: the reference is whole`, () => {
    assert.is(facts.strings.length, 300);
    assert.is(facts.chat.length, 10);
    assert.is(t.vocabSize, facts.vocab_size);
  });

  for (const s of facts.strings as StringCase[])
    test(`${name}: a string of the reference: ${JSON.stringify(s.text)}`, () => {
      assert.equal([...t.encode(s.text)], s.ids, s.text);
      assert.equal([...t.encode(s.text, { special: false })], s.ids_no_special, s.text);
      assert.is(t.decode(s.ids), s.decoded);
      assert.is(t.decode(Int32Array.from(s.ids), { skipSpecial: true }), s.decoded_skip_special);
    });

  for (const [i, c] of (facts.chat as ChatCase[]).entries())
    test(`${name}: conversation ${i} of the reference, and what the assistant said in it`, () => {
      const { text, ids, lossMask } = t.applyChatTemplate(withMedia(c.messages), { generate: c.add_generation_prompt });
      assert.is(text, c.rendered);
      assert.equal([...ids], c.ids_no_special);
      const answers = c.messages.filter((m) => m.role === "assistant").map((m) => plain(m.content));
      const said = runs(ids, lossMask).map((run) => ({ text: t.decode(run, { skipSpecial: true }), end: run.at(-1) }));
      assert.equal(
        said.map((s) => s.text.trim()),
        answers,
      );
      for (const s of said) assert.is(s.end, t.endId);
    });
}

const plain = (content: ChatCase["messages"][number]["content"]) =>
  typeof content === "string" ? content : content.map((p) => p.text ?? "").join("");

/** The stretches of ids that a mask marks. */
function runs(ids: Int32Array, lossMask: Uint8Array): number[][] {
  const found: number[][] = [];
  ids.forEach((id, i) => {
    if (!lossMask[i]) return;
    if (!lossMask[i - 1]) found.push([]);
    found.at(-1)!.push(id);
  });
  return found;
}

const pieces = json(`${golden}sentencepiece_bpe/cases.json`);

test("sentencepiece_bpe: the reference is whole", () => {
  assert.is(pieces.strings.length, 316);
  assert.is(tokenizer("sentencepiece_bpe").vocabSize, pieces.vocab_size);
});

for (const s of pieces.strings as StringCase[])
  test(`sentencepiece_bpe: ids, pieces and text of ${JSON.stringify(s.text)}`, () => {
    const t = tokenizer("sentencepiece_bpe");
    const ids = [...t.encode(s.text, { special: false })];
    assert.equal(ids, s.ids, s.text);
    assert.equal(
      ids.map((id) => t.piece(id)),
      s.pieces,
    );
    assert.is(t.decode(s.ids), s.decoded);
    // With special tokens it is Llama's tokenizer: bos in front, control symbols cut out of the text.
    if (!/<\/?s>|<unk>/.test(s.text)) assert.equal([...t.encode(s.text)], [1, ...s.ids], s.text);
  });

test("special tokens: bos, end, and what skipSpecial leaves out", () => {
  const ends = Object.fromEntries(all.map((name) => [name, [tokenizer(name).bosId, tokenizer(name).endId]]));
  assert.equal(ends, {
    llama2: [1, 2],
    llama3: [420, 424],
    qwen2: [null, 422],
    smol: [421, 423],
    sentencepiece_bpe: [1, 2],
  });
  const sp = tokenizer("sentencepiece_bpe");
  assert.is(sp.decode(sp.encode("a dog</s>"), { skipSpecial: true }), "a dog");
  assert.is(sp.decode(sp.encode("a dog")), "<s> a dog");
  assert.is(sp.tokenId("</s>"), 2);
  assert.is(sp.tokenId("no such piece"), null);
  assert.is(sp.piece(10_000), null);
});

// A model as the tests of `legacy` want it: letters, spaces and the prefix merge "▁a".
const slow: [string, object | null, string, string[]][] = [
  ["legacy by default", {}, "a</s>a", ["<s>", "▁a", "</s>", "▁a"]],
  ["legacy", { legacy: true }, "a</s> a", ["<s>", "▁a", "</s>", "▁", "▁a"]],
  ["not legacy: no dummy space after a special token", { legacy: false }, "a</s>a", ["<s>", "▁a", "</s>", "a"]],
  ["not legacy: a space that is there stays", { legacy: false }, "a</s> a", ["<s>", "▁a", "</s>", "▁a"]],
  ["not legacy: a special token in front swallows the space", { legacy: false }, "</s>a", ["<s>", "</s>", "a"]],
  [
    "not legacy: another token does not",
    { legacy: false, ...added("<video>", false) },
    "<video>a",
    ["<s>", "▁", "<video>", "a"],
  ],
  ["an added token", added("<video>", true), "a<video>a", ["<s>", "▁a", "<video>", "▁a"]],
  [
    "an added token that strips",
    added("<video>", true, { lstrip: true, rstrip: true }),
    "a  <video>  a",
    ["<s>", "▁a", "<video>", "▁a"],
  ],
  ["no bos", { add_bos_token: false }, "a", ["▁a"]],
  ["eos", { add_eos_token: true }, "a", ["<s>", "▁a", "</s>"]],
  ["no prefix space", { legacy: false, add_prefix_space: false }, "a", ["<s>", "a"]],
  ["empty text", {}, "", ["<s>"]],
];

function added(content: string, special: boolean, more: object = {}): object {
  return { added_tokens_decoder: { 600: { content, special, lstrip: false, rstrip: false, ...more } } };
}

for (const [what, config, text, pieces] of slow)
  test(`tokenizer.model, ${what}`, async () => {
    const dir = copyOf(`${golden}sentencepiece_bpe`);
    writeFileSync(join(dir, "tokenizer_config.json"), JSON.stringify(config));
    const t = await loadTokenizer(dir);
    assert.equal(
      [...t.encode(text)].map((id) => t.piece(id)),
      pieces,
    );
  });

test("added_tokens.json beside a tokenizer.model", async () => {
  const dir = copyOf(`${golden}sentencepiece_bpe`);
  writeFileSync(join(dir, "added_tokens.json"), '{"<pad>": 600}');
  const t = await loadTokenizer(dir);
  assert.is(t.vocabSize, 601);
  assert.equal([...t.encode("<pad>", { special: false })], [600]);
});

test("tokenizer.json wins over tokenizer.model", async () => {
  const dir = copyOf(`${golden}llama2`);
  writeFileSync(join(dir, "tokenizer.model"), readFileSync(`${golden}sentencepiece_bpe/tokenizer.model`));
  assert.is((await loadTokenizer(dir)).vocabSize, 435);
});

/** Text of every kind: ASCII, CJK, emoji, marks, controls, spaces, U+FEFF, special tokens. */
function randomText(next: () => number): string {
  const pick = (n: number) => Math.floor(((next() + 1) / 2) * n);
  const ranges: [number, number][] = [
    [32, 95],
    [0x4e00, 2000],
    [0x1f600, 80],
    [0x300, 100],
    [0, 32],
    [0x2000, 112],
    [0xfe00, 512],
    [0x10000, 0x20000],
  ];
  const words = [" ", "  ", "the man", "<s>", "</s>", "<video>", "<|im_end|>", "\ufeff", "\r\n", "▁"];
  return Array.from({ length: pick(12) }, () => {
    if (pick(3) === 0) return words[pick(words.length)]!;
    const [from, count] = ranges[pick(ranges.length)]!;
    return String.fromCodePoint(from + pick(count));
  }).join("");
}

/** Decoding at once and without stages: the oracle. */
function decodeAtOnce(name: (typeof all)[number], t: ModelTokenizer, ids: readonly number[]): string {
  const pieces = ids.map((id) => t.piece(id)!);
  if (name !== "llama2" && name !== "sentencepiece_bpe") {
    // Byte-level: the vocabulary's single-character tokens 0..255 are the bytes of these characters, in code point order.
    const bytes = pieces.flatMap((p) => byteLevelBytes(p));
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
  }
  const mark = "\ue000";
  const text = pieces
    .map((p) => p.replaceAll("▁", " "))
    .join(mark)
    .replace(/(?:<0x..>(?:\ue000|$))+/g, (run) => {
      const bytes = Buffer.from(run.replace(/[<>\ue000]|0x/g, ""), "hex");
      return `${name === "llama2" ? wholeRun(bytes) : perCharacter(bytes)}${mark}`;
    })
    .replaceAll(mark, "");
  return text.startsWith(" ") ? text.slice(1) : text;
}

function byteLevelBytes(piece: string): number[] {
  const spare = Array.from({ length: 256 }, (_, b) => b).filter((b) => b < 33 || (b > 126 && b < 161) || b === 173);
  const bytes = [...piece].map((c) => (c.codePointAt(0)! >= 256 ? spare[c.codePointAt(0)! - 256]! : c.codePointAt(0)!));
  return bytes;
}

const wholeRun = (bytes: Buffer) =>
  Buffer.from(bytes.toString()).equals(bytes) ? bytes.toString() : "\ufffd".repeat(bytes.length);

function perCharacter(bytes: Buffer): string {
  let text = "";
  for (let i = 0; i < bytes.length; ) {
    const n = [1, 2, 3, 4].find(
      (k) =>
        [...wholeRun(bytes.subarray(i, i + k))].length === 1 &&
        i + k <= bytes.length &&
        isOne(bytes.subarray(i, i + k)),
    );
    text += n ? bytes.toString("utf8", i, i + n) : "\ufffd";
    i += n ?? 1;
  }
  return text;
}

const isOne = (bytes: Buffer) => Buffer.from(bytes.toString()).equals(bytes) && [...bytes.toString()].length === 1;

for (const name of all)
  test(`${name}: 2,500 random streams join to what decode gives, and that is right`, () => {
    const t = tokenizer(name);
    const next = uniform(name.length);
    for (let n = 0; n < 2500; n++) {
      const random = Array.from({ length: n % 23 }, () => Math.floor(((next() + 1) / 2) * t.vocabSize));
      const ids = n % 2 ? [...t.encode(randomText(next))] : random;
      const stream = t.stream();
      const text = ids.map((id) => stream.push(id)).join("") + stream.end();
      assert.is(t.decode(ids), text);
      if (text !== decodeAtOnce(name, t, ids)) assert.equal([ids, text], [ids, decodeAtOnce(name, t, ids)]);
    }
  });

for (const name of flavours) test(`no ids are no text: ${name}`, () => assert.is(tokenizer(name).decode([]), ""));

test("what the tokenizer library gets wrong in decoding", async () => {
  const llama = tokenizer("llama2");
  assert.is(llama.decode(llama.encode("a\ufeffb", { special: false })), "a\ufeffb"); // U+FEFF in a run of byte tokens
  assert.is(llama.decode([3 + 0xe6, 3 + 0x97, 3 + 0x41]), "\ufffd\ufffd\ufffd"); // one for each byte of a run that is not UTF-8
  const dir = copyOf(`${golden}llama2`);
  const file = join(dir, "tokenizer.json");
  const content = json(file);
  content.added_tokens.push({ id: 435, content: "word", special: false, normalized: true });
  writeFileSync(file, JSON.stringify(content));
  const t = await loadTokenizer(dir);
  assert.is(t.decode(t.encode("a word", { special: false })), "a word"); // the space before a normalised added token
  assert.is(t.piece(435), "word");
});

for (const name of all)
  test(`lone surrogates are U+FFFD before they are cut into tokens: ${name}`, () => {
    const t = tokenizer(name);
    assert.equal(t.encode("a\ud800b"), t.encode("a\ufffdb"));
    assert.is(t.decode(t.encode("a\udc00b"), { skipSpecial: true }).trim(), "a\ufffdb");
  });

test("a stream holds back bytes, not whole characters", () => {
  const t = tokenizer("qwen2");
  const stream = t.stream();
  const parts = [...t.encode("é😀!")].map((id) => stream.push(id));
  assert.equal(parts, ["", "é", "", "", "", "😀", "!"]);
  assert.is(stream.end(), "");
  const cut = t.stream();
  assert.is(cut.push(t.encode("é")[0]!) + cut.end(), "\ufffd");
  const skipping = t.stream({ skipSpecial: true });
  assert.is(skipping.push(t.endId!) + skipping.push(t.encode("a")[0]!), "a");
});

test("decode: ids of a padded vocabulary have no text, ids that cannot be are refused", async () => {
  const t = tokenizer("llama2");
  assert.is(t.decode([364, 447, 1_000_000]), "USER:");
  await rejects(() => t.decode([-200]), "INVALID_ARGUMENT", /id: expected a token id.*-200/, "negative");
  await rejects(() => t.decode([1.5]), "INVALID_ARGUMENT", /1\.5/, "fraction");
  await rejects(() => t.decode("1" as never), "INVALID_ARGUMENT", /ids/, "string");
  await rejects(() => t.encode(5 as never), "INVALID_ARGUMENT", /text.*5/, "number");
});

test("long texts take time in proportion", () => {
  const t = tokenizer("sentencepiece_bpe");
  const before = performance.now();
  assert.is(t.encode("a".repeat(1e6), { special: false }).length, 1e6);
  assert.is(t.encode("the ".repeat(1e5), { special: false }).length, 1e5 + 1);
  ordered(performance.now() - before, "<", 20_000);
});

// ---------- SentencePiece files by hand
const bytesOf = (...parts: (number[] | Buffer)[]) => Buffer.concat(parts.map((p) => Buffer.from(p)));
const field = (number: number, body: Buffer) => bytesOf([(number << 3) | 2, ...varint(body.length)], body);
const varint = (n: number): number[] => (n < 128 ? [n] : [(n & 127) | 128, ...varint(Math.floor(n / 128))]);
const entry = (text: string, score: number, type = 1) => {
  const f = Buffer.alloc(4);
  f.writeFloatLE(score);
  return field(1, bytesOf(field(1, Buffer.from(text)), [0x15], f, [0x18, type]));
};
const specials = [entry("<unk>", 0, 2), entry("<s>", 0, 3), entry("</s>", 0, 3)];
const trainer = (more: number[] = []) => field(2, Buffer.from([0x18, 2, ...more]));
const normalizer = (more: number[] = [0x20, 0]) => field(3, Buffer.from(more));
const model = (...extra: Buffer[]) => bytesOf(...specials, ...extra, trainer(), normalizer());

test("SentencePiece: the best score merges first, then the leftmost; unknown neighbours are one token", () => {
  const read = readSentencePiece(
    "x",
    model(...["▁", "a", "b", "c"].map((p) => entry(p, -9)), entry("ab", -2), entry("bc", -1), entry("aa", -3)),
  );
  const pieces = (text: string) =>
    [...new SentencePieceEncoder(read).encode(text, false)].flat().map((id) => read.pieces[id]);
  assert.equal(pieces("abc"), ["a", "bc"]);
  assert.equal(pieces("aaa"), ["aa", "a"]);
  assert.equal(pieces("aab"), ["a", "ab"]);
  assert.equal(pieces("axyb"), ["a", "<unk>", "b"]);
  assert.equal(pieces("a x"), ["a", "▁", "<unk>"]);
  const user = readSentencePiece(
    "x",
    model(...["▁", "a", "b"].map((p) => entry(p, -9)), entry("ab", -2), entry("ba", 0, 4)),
  );
  const ids = [...new SentencePieceEncoder(user).encode("abab", false)].flat();
  assert.equal(
    ids.map((id) => user.pieces[id]),
    ["a", "ba", "b"],
  );
});

const badModels: [string, Buffer, RegExp][] = [
  ["empty", Buffer.alloc(0), /unigram is not supported/],
  ["text", Buffer.from("version https://git-lfs.github.com/spec/v1\n"), /tokenizer\.model/],
  ["cut", model().subarray(0, 20), /more bytes|unigram/],
  ["unigram", bytesOf(...specials, field(2, Buffer.from([0x18, 1])), normalizer()), /unigram is not supported/],
  [
    "another normalisation",
    bytesOf(...specials, trainer(), field(3, field(2, Buffer.from("x")))),
    /normalisation.*not supported/,
  ],
  ["spaces removed", bytesOf(...specials, trainer(), normalizer([])), /remove_extra_whitespaces is not supported/],
  ["suffix spaces", bytesOf(...specials, trainer([0xc0, 1, 1]), normalizer()), /treat_whitespace_as_suffix/],
  ["byte fallback without bytes", bytesOf(...specials, trainer([0x98, 2, 1]), normalizer()), /256 byte pieces/],
  ["a piece twice", model(entry("a", 0), entry("a", 0)), /"a" is there twice/],
  ["an empty piece", model(entry("", 0)), /pieces\[3\].*empty/],
  ["a score that is none", model(entry("a", Number.NaN)), /score/],
  ["an unused piece", model(entry("a", 0, 5)), /unused pieces/],
  ["a piece that is no UTF-8", model(field(1, field(1, Buffer.from([0xff])))), /UTF-8/],
  ["a long piece", model(entry("a".repeat(5000), 0)), /4096 bytes/],
  ["no unknown piece", bytesOf(trainer(), normalizer()), /unk_id/],
  ["a group", Buffer.from([0x0b, 0x0c]), /wire type/],
  ["an endless varint", Buffer.alloc(20, 0xff), /varint/],
];

for (const [what, bytes, message] of badModels)
  test(`a tokenizer.model that is wrong: ${what}`, async () => {
    const dir = temporaryFolder();
    writeFileSync(join(dir, "tokenizer.model"), bytes);
    await rejects(() => loadTokenizer(dir), "TOKENIZER", message, what);
  });

type Change = (json: Record<string, never> & { model: Record<string, unknown>; [key: string]: unknown }) => unknown;
const badJson: [string, Change, RegExp][] = [
  ["no model", (j) => Reflect.deleteProperty(j, "model"), /model: expected an object/],
  ["WordPiece", (j) => Object.assign(j.model, { type: "WordPiece" }), /only BPE.*"WordPiece"/],
  ["a vocabulary that is a list", (j) => Object.assign(j.model, { vocab: [] }), /model\.vocab/],
  ["a huge id", (j) => Object.assign(j.model.vocab as object, { zzz: 2 ** 31 }), /zzz.*2147483648/],
  ["an id twice", (j) => Object.assign(j.model.vocab as object, { zzz: 5 }), /two tokens have the id 5/],
  ["merges of numbers", (j) => Object.assign(j.model, { merges: [1] }), /merges\[0\]/],
  [
    "merges of three",
    (j) =>
      Object.assign(j.model, {
        merges: [
          ["a", "b"],
          ["a", "b", "c"],
        ],
      }),
    /merges\[1\]/,
  ],
  ["an unknown unk", (j) => Object.assign(j.model, { unk_token: "<nope>" }), /unk_token.*<nope>/],
  ["dropout", (j) => Object.assign(j.model, { dropout: 0.1 }), /dropout/],
  ["a suffix", (j) => Object.assign(j.model, { end_of_word_suffix: 5 }), /end_of_word_suffix/],
  ["a key of the model that nobody knows", (j) => Object.assign(j.model, { score: 1 }), /model\.score/],
  ["a key of the file that nobody knows", (j) => Object.assign(j, { extra: 1 }), /extra: a tokenizer\.json/],
  [
    "a mark of two characters",
    (j) => Object.assign(j, { pre_tokenizer: { type: "Metaspace", replacement: "__" } }),
    /replacement/,
  ],
  [
    "keys of a part that nobody knows",
    (j) => Object.assign(j, { pre_tokenizer: { type: "Digits", individual_digits: true, merge: 1 } }),
    /pre_tokenizer\.merge/,
  ],
  [
    "a merge of tokens that are not there",
    (j) => (j.model.merges as unknown[]).push(["qq", "zz"]),
    /merges\[\d+\]: "qq"/,
  ],
  ["added tokens as object", (j) => Object.assign(j, { added_tokens: {} }), /added_tokens: expected an array/],
  ["an added token without text", (j) => Object.assign(j, { added_tokens: [{ id: 1 }] }), /added_tokens\[0\]/],
  ["an unknown normalizer", (j) => Object.assign(j, { normalizer: { type: "Nmt" } }), /normalizer: "Nmt"/],
  [
    "a normalizer of the prototype",
    (j) => Object.assign(j, { normalizer: { type: "constructor" } }),
    /"constructor" is not supported/,
  ],
  [
    "a pattern that is none",
    (j) =>
      Object.assign(j, {
        pre_tokenizer: { type: "Split", pattern: { Regex: "(" }, behavior: "Isolated", invert: false },
      }),
    /cannot? be used|not a tokenizer/,
  ],
  [
    "a split without pattern",
    (j) => Object.assign(j, { pre_tokenizer: { type: "Split", behavior: "Isolated", invert: false } }),
    /pre_tokenizer\.pattern/,
  ],
  [
    "a post-processor with a hole",
    (j) => Object.assign(j, { post_processor: { type: "TemplateProcessing", single: [{}], pair: [] } }),
    /post_processor\.single/,
  ],
  ["an unknown decoder", (j) => Object.assign(j, { decoder: { type: "CTC" } }), /decoder: "CTC"/],
  [
    "a decoder out of order",
    (j) => Object.assign(j, { decoder: { type: "Sequence", decoders: [{ type: "Fuse" }, { type: "ByteFallback" }] } }),
    /"ByteFallback"/,
  ],
];

for (const [what, change, message] of badJson)
  test(`a tokenizer.json that is wrong: ${what}`, async () => {
    const dir = copyOf(`${golden}llama2`);
    const content = json(join(dir, "tokenizer.json"));
    change(content);
    writeFileSync(join(dir, "tokenizer.json"), JSON.stringify(content));
    await rejects(() => loadTokenizer(dir), "TOKENIZER", message, what);
  });

const deep = (n: number, open: string, close: string) => `${open.repeat(n)}null${close.repeat(n)}`;
const bombs: [what: string, content: () => string][] = [
  ["lists", () => deep(200_000, "[", "]")],
  ["objects", () => `{"model":${deep(100_000, '{"a":', "}")}}`],
  [
    "normalizers",
    () =>
      `{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"normalizer":${deep(10_000, '{"type":"Sequence","normalizers":[', "]}")}}`,
  ],
  [
    "decoders",
    () =>
      `{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"decoder":${deep(10_000, '{"type":"Sequence","decoders":[', "]}")}}`,
  ],
  ["a long list", () => `{"model":{"type":"BPE","vocab":[${"0,".repeat(1e6)}0],"merges":[]}}`],
  ["half an object", () => '{"model":'],
  ["a list", () => "[]"],
  ["no UTF-8", () => "\xff"],
];
for (const [what, content] of bombs)
  test(`JSON bombs: deep nesting and long lists end in TOKENIZER: ${what}`, async () => {
    const dir = temporaryFolder();
    writeFileSync(join(dir, "tokenizer.json"), content(), "latin1");
    await rejects(() => loadTokenizer(dir), "TOKENIZER", /tokenizer\.json/, what);
  });

test("folders without a tokenizer", async () => {
  const dir = temporaryFolder();
  await rejects(() => loadTokenizer(dir), "NOT_FOUND", /tokenizer\.json or tokenizer\.model, got neither/, "empty");
  await rejects(() => loadTokenizer(join(dir, "nope")), "NOT_FOUND", /nope: expected a folder, got nothing/, "missing");
  await rejects(() => loadTokenizer(`${golden}llama2/tokenizer.json`), "NOT_FOUND", /got a file/, "file");
  await rejects(() => loadTokenizer(5 as never), "INVALID_ARGUMENT", /dir/, "number");
});

test.run();
