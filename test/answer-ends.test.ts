// Where an answer begins and ends: one end token at which generation stops, whatever the template writes and the row holds;
// what was put right is counted.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { inspectCheckpoint, loadModel } from "../src/index.js";
import { answeredPrompt, type Repairs } from "../src/text/answer-span.js";
import { endTokens } from "../src/text/stop-tokens.js";
import type { PlaceholderRules } from "../src/text/media-prompt.js";
import { loadTokenizer } from "../src/text/tokenizer.js";
import type { ModelTokenizer } from "../src/text/model-tokenizer.js";
import { vicunaSystem } from "../src/text/vicuna-prompt.js";
import type { Message } from "../src/base/types.js";
import { includes, rejects } from "./helpers/assert.js";
import { copyOf } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";

const test = suite("answer-ends");
const golden = fileURLToPath(new URL("golden/tokenizers/", import.meta.url));
const llama = await loadTokenizer(`${golden}llama2`);
const qwen = await loadTokenizer(`${golden}qwen2`);

async function withTemplate(name: string, template: string, eos?: string): Promise<ModelTokenizer> {
  const dir = copyOf(golden + name);
  writeFileSync(join(dir, "chat_template.jinja"), template);
  const file = join(dir, "tokenizer_config.json");
  const config = JSON.parse(readFileSync(file, "utf8"));
  if (eos) writeFileSync(file, JSON.stringify({ ...config, eos_token: eos }));
  return loadTokenizer(dir);
}
const loop = (body: string) => `{{ bos_token }}{% for m in messages %}${body}{% endfor %}`;
const noEnd = await withTemplate(
  "llama2",
  `${loop("{{ m['role'] + ': ' + m['content'] + '\\n' }}")}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}`,
);
const hashes = await withTemplate(
  "llama2",
  `${loop("{{ '# ' + m['role'] + '\\n' + m['content'] + '\\n###\\n' }}")}{% if add_generation_prompt %}{{ '# assistant\\n' }}{% endif %}`,
);
const base = await withTemplate("qwen2", qwen.template!.source, "<|endoftext|>");

const none: PlaceholderRules = { style: "none", image: null, video: null, perVideo: 1, visualTokens: () => 1 };
const hound: PlaceholderRules = { ...none, style: "original", video: -201, image: -200 };
const ask = (content: string): Message => ({ role: "user", content });
const reply = (content: string): Message => ({ role: "assistant", content });
const chatml = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n";

type Case = readonly [
  name: string,
  t: ModelTokenizer,
  rules: PlaceholderRules,
  messages: string | Message[],
  answer: string,
  lossMask: string,
  repairs: Partial<Repairs>,
];
const cases: readonly Case[] = [
  ["as it should be", qwen, none, "Who?", "a dog", "a dog<|im_end|>", {}],
  ["Vicuna", llama, hound, "Who?", "a dog", "a dog</s>", {}],
  ["no end in the template", noEnd, none, "Who?", "a dog", "a dog</s>", { endAdded: 1 }],
  ["words behind the answer in the template", hashes, none, "Who?", "a dog", "a dog</s>", { endAdded: 1 }],
  ["a template of another end", base, none, "Who?", "a dog", "a dog<|im_end|>", {}],
  ["an end in the row", qwen, none, "Who?", "a dog<|im_end|>", "a dog<|im_end|>", { endDoubled: 1 }],
  ["two ends in the row", qwen, none, "Who?", "a dog<|im_end|>\n<|im_end|>", "a dog<|im_end|>", { endDoubled: 1 }],
  ["an end in the row, none in the template", noEnd, none, "Who?", "a dog</s>", "a dog</s>", {}],
  ["Vicuna, an end in the row", llama, hound, "Who?", "a dog</s>", "a dog</s>", { endDoubled: 1 }],
  ["rendered", qwen, none, chatml, "a dog<|im_end|>", "a dog<|im_end|>", { rendered: 1 }],
  ["rendered, no end in the answer", qwen, none, chatml, "a dog", "a dog<|im_end|>", { rendered: 1 }],
  ["rendered, several turns", qwen, none, `${chatml}He.<|im_end|>\n${chatml}`, "No", "No<|im_end|>", { rendered: 1 }],
  [
    "Vicuna, rendered",
    llama,
    hound,
    `${vicunaSystem} USER: Who? ASSISTANT:`,
    " a dog</s>",
    "a dog</s>",
    { rendered: 1 },
  ],
];
for (const [name, t, rules, given, answer, scored, repairs] of cases)
  test(`one end: ${name}`, () => {
    const messages = typeof given === "string" ? [ask(given)] : given;
    const ends = new Set(endTokens(t, rules.style, [t.endId!], 10_000).ids);
    const built = answeredPrompt(t, rules, messages, answer, { turns: "last", ends });
    const marked = built.ids.filter((_, i) => built.lossMask[i]);
    assert.is(t.decode(marked), scored);
    assert.equal([...marked].filter((id) => ends.has(id)).length, 1);
    const found = Object.fromEntries(Object.entries(built.repairs).filter(([, n]) => n > 0));
    assert.equal(found, repairs);
    if (repairs.rendered)
      assert.is(
        t.decode(built.ids, { skipSpecial: false }).replace(/^<s> ?/, ""),
        given + answer.replace(/<\|im_end\|>|<\/s>/, "") + t.piece(marked.at(-1)!),
      );
  });

const refused: readonly [
  name: string,
  t: ModelTokenizer,
  rules: PlaceholderRules,
  messages: Message[],
  answer: string,
  message: RegExp,
][] = [
  [
    "words behind an end",
    qwen,
    none,
    [ask("Who?")],
    "a<|im_end|> dog",
    /answer: expected an end token at its end, got <\|im_end\|> before "dog"/,
  ],
  ["words behind an end, Vicuna", llama, hound, [ask("Who?")], "a</s>USER: b", /before "USER: b"/],
  [
    "a part of a rendered prompt",
    qwen,
    none,
    [ask("<|im_start|>user\nWho?<|im_end|>\n")],
    "a dog",
    /prompt: expected words, got text that holds <\|im_/,
  ],
  ["a bos token in words", llama, none, [ask("<s>Who?")], "a dog", /holds <s>/],
  [
    "rendered, beside a video",
    llama,
    hound,
    [
      {
        role: "user",
        content: [
          { type: "video", media: "v" },
          { type: "text", text: "USER: Who? ASSISTANT:" },
        ],
      },
    ],
    "a",
    /ASSISTANT:/,
  ],
];
for (const [name, t, rules, messages, answer, message] of refused)
  test(`refused: ${name}`, () =>
    rejects(
      () => answeredPrompt(t, rules, messages, answer, { turns: "last", ends: new Set([t.endId!]) }),
      "DATA_INVALID",
      message,
      name,
    ));

for (const words of ["Say it:", "ASSISTANT", "Answer as the assistant:", "What does <|im mean?"])
  test(`words stay words: ${words}`, () => {
    const { repairs } = answeredPrompt(noEnd, none, [ask(words)], "a", {
      turns: "last",
      ends: new Set([noEnd.endId!]),
    });
    assert.is(repairs.rendered, 0);
  });

const talk = [ask("Who?"), reply("A man."), ask("Where?")];
const turns: readonly [name: string, t: ModelTokenizer, rules: PlaceholderRules, last: string, all: string][] = [
  ["Vicuna", llama, hound, "Here.</s>", "A man.</s> Here.</s>"],
  ["a chat template", qwen, none, "Here.<|im_end|>", "A man.<|im_end|>Here.<|im_end|>"],
];
for (const [name, t, rules, last, all] of turns)
  for (const [which, expected] of [
    ["last", last],
    ["all", all],
  ] as const)
    test(`what is scored of several turns: ${name}, ${which}`, () => {
      const { ids, lossMask } = answeredPrompt(t, rules, talk, "Here.", { turns: which, ends: new Set([t.endId!]) });
      assert.is(t.decode(ids.filter((_, i) => lossMask[i])), expected);
    });

test("a template that writes earlier turns anew: the last alone can be scored, and the refusal says so", async () => {
  const t = await withTemplate(
    "llama2",
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {% if m['role'] == 'assistant' and not loop.last %}{{ m['content'] | upper }}{% else %}{{ m['content'] }}{% endif %}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
  );
  const ends = new Set([t.endId!]);
  const { ids, lossMask } = answeredPrompt(t, none, talk, "Here.", { turns: "last", ends });
  assert.is(t.decode(ids.filter((_, i) => lossMask[i])), "Here.</s>");
  await rejects(
    () => answeredPrompt(t, none, talk, "Here.", { turns: "all", ends }),
    "TOKENIZER",
    /renders the first messages alike/,
    "all",
  );
});

const where: readonly [
  name: string,
  t: ModelTokenizer | null,
  style: PlaceholderRules["style"],
  named: number[],
  ids: number[],
  notes: RegExp[],
][] = [
  ["one of all files", llama, "none", [2], [2], []],
  ["no tokenizer", null, "none", [7], [7], []],
  ["the tokenizer's", llama, "none", [7], [7, 2], [/<\/s> \(2\) of the tokenizer/]],
  [
    "the template's",
    base,
    "none",
    [base.endId!],
    [base.endId!, qwen.endId!],
    [/template ends an answer with <\|im_end\|>/],
  ],
  ["Vicuna's", llama, "original", [2], [2], []],
  ["none in the configs", llama, "none", [], [2], [/\(none\)/]],
];
for (const [name, t, style, named, ids, notes] of where)
  test(`end tokens: ${name}`, () => {
    const found = endTokens(t, style, named, 1000);
    assert.equal(found.ids, ids);
    assert.is(found.notes.length, notes.length);
    for (const [i, note] of notes.entries()) assert.match(found.notes[i]!, note);
  });

test("an end token beyond the model's vocabulary ends nothing", () =>
  assert.equal(endTokens(llama, "none", [1], 2).ids, [1]));

test("a generation ends at the tokenizer's eos token, and inspect says so", async () => {
  const dir = copyOf(folder("text_llama"));
  const file = join(dir, "tokenizer_config.json");
  const json = JSON.parse(readFileSync(file, "utf8"));
  const own = 0; // <unk>
  writeFileSync(file, JSON.stringify({ ...json, eos_token: "<unk>" }));
  await using model = await loadModel(dir, { threads: 1 });
  includes(model.info.endTokenIds, own);
  const suppress = Array.from({ length: model.info.vocabSize }, (_, i) => i).filter((i) => i !== own);
  const [c] = await model.generate({ prompt: "Hi", maxTokens: 4, suppress });
  assert.equal([c!.finishReason, [...c!.ids]], ["stop", [own]]);
  const { endTokenIds, notes } = await inspectCheckpoint(dir);
  assert.equal(endTokenIds, model.info.endTokenIds);
  assert.ok(
    notes.some((n) => n.includes("<unk>")),
    notes.join("; "),
  );
});

test("sequence() tells what it put right, once", async () => {
  await using model = await loadModel(folder("text_qwen2"), { threads: 1 });
  const warnings: string[] = [];
  const listen = (w: Error) => warnings.push(w.message);
  process.on("warning", listen);
  for (let i = 0; i < 2; i++) await model.sequence(chatml, "a dog<|im_end|>");
  await new Promise((resolve) => setImmediate(resolve));
  process.off("warning", listen);
  assert.is(warnings.filter((w) => /tokens: they were taken as they stand/.test(w)).length, 1);
});

test.run();
