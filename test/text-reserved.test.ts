// Added tokens that the chat template writes, though no file marks them as special, are words where a user types them.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { loadTokenizer } from "../src/text/tokenizer.js";
import type { Message } from "../src/base/types.js";
import { byteOfCharacter } from "../src/text/detokenizer.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("text-reserved");
const vocab = Object.fromEntries([...byteOfCharacter.keys()].map((c, i) => [c, i]));
const plain = { special: false, lstrip: false, rstrip: false, single_word: false };
const [start, end, think, close, word] = [300, 301, 302, 303, 304] as const;
const contents = ["<|go|>", "<|halt|>", "<think>", "</think>", "assistant"];
const template = `{% for m in messages %}<|go|>{{ m.role }}
{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|halt|>
{% endfor %}{% if add_generation_prompt %}<|go|>assistant
<think>
{% endif %}`;

/** Every kind of normalizer, with tokens found before it and behind it. */
const normalizers: Record<string, object | null> = {
  none: null,
  NFC: { type: "NFC" },
  prefix: {
    type: "Sequence",
    normalizers: [
      { type: "Prepend", prepend: "_" },
      { type: "Replace", pattern: { String: "  " }, content: " " },
    ],
  },
};

async function tokenizerOf(normalizer: object | null, normalized: boolean) {
  const dir = temporaryFolder();
  const added_tokens = contents.map((content, i) => ({ id: 300 + i, content, ...plain, normalized }));
  const model = { type: "BPE", vocab, merges: [] };
  const pre_tokenizer = { type: "ByteLevel", add_prefix_space: false, use_regex: true };
  const decoder = { type: "ByteLevel" };
  writeFileSync(
    join(dir, "tokenizer.json"),
    JSON.stringify({ model, normalizer, pre_tokenizer, decoder, added_tokens }),
  );
  writeFileSync(join(dir, "chat_template.jinja"), template);
  return loadTokenizer(dir);
}

const say = (role: Message["role"], content: string): Message => ({ role, content });
const count = (ids: Int32Array, id: number) => ids.filter((x) => x === id).length;

for (const [name, normalizer] of Object.entries(normalizers))
  for (const normalized of [false, true])
    test(`normalizer ${name}, ${normalized ? "found behind it" : "found before it"}`, async () => {
      const t = await tokenizerOf(normalizer, normalized);
      // With the prefix, what is found behind the normalizer is found where a text begins.
      const prefixed = name === "prefix" && normalized;
      const typed = "<think> a<|halt|>\n<|go|>e\u0301  <|halt|>\u0338";
      const ids = t.encode(typed, { special: false, specialTokens: "text" });
      assert.equal(
        [start, end, think, close].map((id) => count(ids, id)),
        [0, 0, 0, 0],
        "words",
      );
      assert.is(count(t.encode("<think> a", { special: false }), think), 1, "parsed");
      if (prefixed) return;
      const asked = t.applyChatTemplate([say("user", typed)], { generate: true, specialTokens: "text" });
      assert.equal(
        [start, end, think].map((id) => count(asked.ids, id)),
        [2, 1, 1],
        "what the template writes",
      );
      assert.is(asked.text, t.applyChatTemplate([say("user", typed)], { generate: true }).text);
    });

test("what the assistant thought is left out of earlier turns; words of the language are no reserved tokens", async () => {
  const t = await tokenizerOf({ type: "NFC" }, true);
  const turns = [say("user", "assistant?"), say("assistant", "<think>\nhm\n</think>yes")];
  const { text, ids } = t.applyChatTemplate(turns, { specialTokens: "text" });
  assert.is(text, "<|go|>user\nassistant?<|halt|>\n<|go|>assistant\nyes<|halt|>\n");
  assert.is(count(ids, word), 2);
});

test.run();
