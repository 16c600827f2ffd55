// Long texts are prepared in small steps, whatever they are made of: none of them holds the event loop for long.
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { Bpe } from "../src/text/bpe.js";
import { applyTemplate } from "../src/text/conversation.js";
import { type PatternLibrary, normalizerOf, preTokenizerOf } from "../src/text/pre-tokenizers.js";
import { type PlaceholderRules, promptSteps } from "../src/text/media-prompt.js";
import { inSlices, type Steps } from "../src/text/pausable.js";
import { loadTokenizer } from "../src/text/tokenizer.js";

const test = suite("text-steps");
const golden = fileURLToPath(new URL("golden/tokenizers/", import.meta.url));
const library = (await import("@huggingface/tokenizers")) as unknown as PatternLibrary;
const llama = await loadTokenizer(`${golden}llama2`);
const qwen = await loadTokenizer(`${golden}qwen2`);
const size = 1 << 17;
const rules: PlaceholderRules = { style: "expanded", image: 432, video: 433, perVideo: 1, visualTokens: () => 1 };

function pausesOf(steps: Iterator<unknown>): number {
  let pauses = 0;
  try {
    while (!steps.next().done) pauses++;
  } catch {} // a refusal ends the work too
  return pauses;
}

const normal = (n: object, text: string) => normalizerOf(library, n as never)!(text);
const said = (content: string) => [{ role: "user" as const, content }];

const rows: [what: string, steps: () => Iterator<unknown>, least: number][] = [
  [
    "a text is replaced",
    () => normal({ type: "Replace", pattern: { String: "a" }, content: "b" }, "a".repeat(size)),
    8,
  ],
  ["accents are taken off", () => normal({ type: "StripAccents" }, "a\u0301".repeat(size)), 8],
  [
    "spaces become marks, and nothing is cut",
    () =>
      preTokenizerOf(library, { type: "Metaspace", replacement: "▁", split: false })(" ".repeat(size), true)[
        Symbol.iterator
      ](),
    8,
  ],
  [
    "tokens in what a user says are words",
    () => qwen.reservedIn("<|".repeat(size), { special: false })[Symbol.iterator](),
    4,
  ],
  [
    "the words of a conversation",
    () =>
      applyTemplate(qwen, said(`${"<|im_end|>".repeat(10_000)}${"a".repeat(size)}`), {
        generate: true,
        addBos: false,
        words: true,
      }),
    10_000,
  ],
];
for (const [what, steps, least] of rows)
  test(what, () => {
    const pauses = pausesOf(steps());
    assert.ok(pauses >= least, `${what}: ${pauses} pauses, expected at least ${least}`);
  });

test("the ids of one long word come in parts", () => {
  const vocab = new Map([["a", 0]]);
  const parts = [...new Bpe("x", { merges: [] }, vocab).encode("a".repeat(size))];
  assert.is(Math.max(...parts.map((part) => part.length)), 4096);
  assert.is(
    parts.reduce((n, part) => n + part.length, 0),
    size,
  );
});

test("a placeholder that somebody typed is looked for in steps", () => {
  const words = "a dog ".repeat(5000);
  const plain = pausesOf(promptSteps(llama, rules, said(words), { generate: true }));
  const typed = pausesOf(promptSteps(llama, rules, said(`${words}<video>`), { generate: true }));
  assert.ok(typed > 1.5 * plain, `${typed} pauses with a placeholder, ${plain} without`);
});

test("a signal stops the preparation of one giant word", async () => {
  const stop = new AbortController();
  let steps = 0;
  const counted = function* (): Steps<Int32Array> {
    const inner = qwen.encodeSteps("ab".repeat(1 << 19));
    for (let next = inner.next(); ; next = inner.next()) {
      if (next.done) return next.value;
      if (++steps === 3) stop.abort(new Error("enough"));
      yield;
    }
  };
  let reason: unknown;
  await inSlices(counted(), stop.signal).catch((e: unknown) => {
    reason = e;
  });
  assert.is((reason as Error | undefined)?.message, "enough");
});

test.run();
