// Added tokens beside each other and behind a normalizer: ids and texts of the `tokenizers` library (0.23).
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { byteOfCharacter } from "../src/text/detokenizer.js";
import { loadTokenizer } from "../src/text/tokenizer.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("text-added");
const vocab = Object.fromEntries([...byteOfCharacter.keys()].sort().map((c, i) => [c, i]));

interface Row {
  what: string;
  normalizer: object | null;
  /** Contents with the flags that are set. */
  tokens: [content: string, ...flags: string[]][];
  /** Texts with their ids and with what the ids are decoded to. */
  texts: [text: string, ids: number[], decoded: string][];
}

const rows: Row[] = [
  {
    what: "among the blanks that one takes along",
    normalizer: null,
    tokens: [["<t>", "rstrip"], ["\n"], [" a"]],
    texts: [
      ["<t> \n a", [256, 257, 258], "<t>\n a"],
      ["<t>\n\nb", [256, 257, 257, 65], "<t>\n\nb"],
      ["a<t>  b", [64, 256, 65], "a<t>b"],
    ],
  },
  {
    what: "blanks that take blanks along",
    normalizer: null,
    tokens: [["  ", "rstrip"]],
    texts: [["b    c", [65, 256, 256, 66], "b    c"]],
  },
  {
    what: "blanks on both sides, taken along already",
    normalizer: null,
    tokens: [
      ["<t>", "rstrip"],
      ["  ", "lstrip", "rstrip"],
      [" a", "lstrip"],
    ],
    texts: [
      ["<t>    b", [256, 65], "<t>b"],
      ["b    c", [65, 257, 66], "b  c"],
      ["<t>   a", [256, 258], "<t> a"],
    ],
  },
  {
    what: "decoded as the normalizer writes it",
    normalizer: { type: "Lowercase" },
    tokens: [["Ab", "normalized", "special"], ["Cd", "normalized"], ["Ef"]],
    texts: [["Ab cD ef Ef", [256, 220, 257, 220, 68, 69, 220, 258], "ab cd ef Ef"]],
  },
  {
    what: "decomposed",
    normalizer: { type: "NFD" },
    tokens: [["<|\u00e9|>", "normalized"]],
    texts: [["a<|\u00e9|>", [64, 256], "a<|e\u0301|>"]],
  },
  {
    what: "found in what others leave",
    normalizer: null,
    tokens: [["Ab"], ["<|x|>", "single_word", "normalized"], ["<|y|>", "single_word"]],
    texts: [
      ["Ab<|x|>", [256, 257], "Ab<|x|>"],
      ["Ab<|y|>", [256, 27, 91, 88, 91, 29], "Ab<|y|>"],
      ["ab<|x|>", [64, 65, 27, 91, 87, 91, 29], "ab<|x|>"],
    ],
  },
  {
    what: "two that are written alike",
    normalizer: { type: "Lowercase" },
    tokens: [
      ["AB", "normalized"],
      ["ab", "normalized", "special"],
    ],
    texts: [["Ab", [256], "ab"]],
  },
  {
    what: "words behind accents that are left out",
    normalizer: { type: "StripAccents" },
    tokens: [["\u00e9", "normalized"]],
    texts: [["e\u0301", [68], "e"]],
  },
];

for (const { what, normalizer, tokens, texts } of rows)
  test(what, async () => {
    const dir = temporaryFolder();
    const added_tokens = tokens.map(([content, ...flags], i) => ({
      id: vocab[content] ?? 256 + i,
      content,
      ...Object.fromEntries(
        ["single_word", "lstrip", "rstrip", "normalized", "special"].map((f) => [f, flags.includes(f)]),
      ),
    }));
    const pre_tokenizer = { type: "ByteLevel", add_prefix_space: false, use_regex: true };
    const model = { type: "BPE", vocab, merges: [] };
    writeFileSync(
      join(dir, "tokenizer.json"),
      JSON.stringify({ model, normalizer, pre_tokenizer, decoder: { type: "ByteLevel" }, added_tokens }),
    );
    const t = await loadTokenizer(dir);
    assert.equal(
      texts.map(([text, ids]) => [text, [...t.encode(text)], t.decode(ids)]),
      texts,
    );
  });

test.run();
