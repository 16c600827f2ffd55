// Prompts: the Vicuna prompt and its label rules, chat templates, placeholders and media, all equal to the references.
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { answeredPrompt } from "../src/text/answer-span.js";
import { buildPrompt, type PlaceholderRules } from "../src/text/media-prompt.js";
import { wallClock } from "../src/text/template-date.js";
import { atOnce } from "../src/text/pausable.js";
import { compileTemplate } from "../src/text/chat-template.js";
import { loadTokenizer } from "../src/text/tokenizer.js";
import type { ModelTokenizer } from "../src/text/model-tokenizer.js";
import { encodeSegments, vicunaSystem } from "../src/text/vicuna-prompt.js";
import type { Message } from "../src/base/types.js";
import { endsWith, includes, ordered, rejects } from "./helpers/assert.js";
import { copyOf } from "./helpers/files.js";
import { intsOf, readSafetensors } from "./helpers/safetensors.js";
import { memoized } from "./helpers/memoized.js";

const test = suite("text-prompt");
const golden = fileURLToPath(new URL("golden/", import.meta.url));
const json = (path: string) => JSON.parse(readFileSync(golden + path, "utf8"));
const llama = await loadTokenizer(`${golden}tokenizers/llama2`);
const qwen = await loadTokenizer(`${golden}tokenizers/qwen2`);
const llama3 = await loadTokenizer(`${golden}tokenizers/llama3`);
const smol = await loadTokenizer(`${golden}tokenizers/smol`);
const slow = await loadTokenizer(`${golden}tokenizers/sentencepiece_bpe`);

const rules = (o: Partial<PlaceholderRules>): PlaceholderRules => ({
  style: "none",
  image: null,
  video: null,
  perVideo: 1,
  visualTokens: () => 1,
  ...o,
});
const hound = rules({ style: "original", image: -200, video: -201 });
const original = rules({ style: "original", image: -200, video: -200, perVideo: 8 });
const none = rules({});
const expandedLlama = rules({
  style: "expanded",
  image: 432,
  video: 433,
  visualTokens: (kind) => (kind === "video" ? 3 : 2),
});
const expandedQwen = rules({ style: "expanded", image: 426, video: 427, visualTokens: () => 4 });

type Part = Exclude<Message["content"], string>[number];
const video = (media = "v.mp4"): Part => ({ type: "video", media });
const image = (media = "i.png"): Part => ({ type: "image", media });
const say = (text: string): Part => ({ type: "text", text });
const user = (...content: Part[]): Message => ({ role: "user", content });
const ask = (content: string): Message => ({ role: "user", content });
const reply = (content: string): Message => ({ role: "assistant", content });
const system = (content: string): Message => ({ role: "system", content });
const marked = (ids: Int32Array, lossMask: Uint8Array) => [...ids].filter((_, i) => lossMask[i]);

// ---------- the original layouts
interface LabelCase {
  prompt: string;
  answer: string;
  has_video: boolean;
  text: string;
  input_ids: number[];
  labels: number[];
}
const labels = json("llava_hound/labels.json").cases as LabelCase[];

test("llava_hound: the table is whole", () => assert.is(labels.length, 24));

for (const [i, c] of labels.entries())
  test(`llava_hound: text, ids with -201 and label mask of case ${i}`, () => {
    const question = c.has_video ? user(video(), say(c.prompt)) : ask(c.prompt);
    const { text, ids, lossMask, media } = buildPrompt(llama, hound, [question, reply(c.answer)], { generate: false });
    assert.is(text, c.text);
    assert.equal([...ids], c.input_ids);
    assert.equal([...lossMask], [...c.labels.map((l) => (l === -100 ? 0 : 1))]);
    assert.equal(media, c.has_video ? ["v.mp4"] : []);
    const prompt = buildPrompt(llama, hound, [question], { generate: true });
    const answer = answerIds(llama, hound, [question], c.answer);
    assert.equal([...prompt.ids, ...answer], c.input_ids);
    endsWith(prompt.text, " ASSISTANT:");
    assert.is(prompt.lossMask.indexOf(1), -1);
  });

test("original layouts: placeholders first, one a frame for Video-LLaVA, none out of the text", () => {
  const around = (ids: Int32Array, id: number) => [...ids].filter((x) => x === id).length;
  const built = buildPrompt(llama, original, [user(say("What <video> "), video("a"), say("now?"))], { generate: true });
  assert.is(
    built.text,
    `${vicunaSystem} USER: ${"<image>".repeat(8)}\nWhat now? ASSISTANT:`.replace("What now", "What  now"),
  );
  assert.is(around(built.ids, -200), 8);
  const first = built.ids.indexOf(-200);
  assert.equal([...built.ids.slice(first, first + 8)], Array(8).fill(-200));
  const both = buildPrompt(llama, hound, [user(image("i"), video("v"), say("Q"))], { generate: true });
  assert.equal(both.media, ["i", "v"]);
  includes(both.text, "USER: <image>\n<video>\nQ ASSISTANT:");
  ordered(both.ids.indexOf(-200), "<", both.ids.indexOf(-201));
  const typed = buildPrompt(llama, hound, [ask("<video>\nWhat?")], { generate: true });
  assert.is(around(typed.ids, -201) + around(typed.ids, 433), 0);
  endsWith(typed.text, "USER: What? ASSISTANT:");
  const plain = buildPrompt(llama, hound, [ask(" What? ")], { generate: false });
  endsWith(plain.text, "USER:  What?  ");
});

for (const [what, t] of [
  ["llama2", llama],
  ["sentencepiece_bpe", slow],
] as const)
  test(`the Vicuna prompt over several turns: every answer and its end token are scored: ${what}`, () => {
    const turns = [system("Be short."), user(video(), say("One?")), reply("a dog"), ask("Two?"), reply("the man")];
    const { text, ids, lossMask } = buildPrompt(t, hound, turns, { generate: false });
    assert.is(text, "Be short. USER: <video>\nOne? ASSISTANT: a dog</s>USER: Two? ASSISTANT: the man</s>");
    assert.is(t.decode(marked(ids, lossMask)).trim(), "a dog</s> the man</s>");
    assert.equal([...atOnce(encodeSegments(t, ["a dog"]))], [...t.encode("a dog")]);
  });

test("the Vicuna prompt with an empty system message has none", () => {
  const without = buildPrompt(llama, hound, [system(""), ask("Q")], { generate: true });
  assert.is(without.text, "USER: Q ASSISTANT:");
});

test("the dummy spaces around a placeholder, and the first bos alone", () => {
  const ids = atOnce(encodeSegments(slow, ["USER: ", -201, "\nQ"]));
  assert.equal(
    [...ids].map((id) => slow.piece(id) ?? id),
    [
      ...[...slow.encode("USER: ")].map((id) => slow.piece(id)!),
      -201,
      ...[...slow.encode("\nQ")].slice(1).map((id) => slow.piece(id)!),
    ],
  );
  assert.is(slow.piece(ids[ids.indexOf(-201) - 1]!), "▁");
  assert.is(slow.piece(ids[ids.indexOf(-201) + 1]!), "▁");
  assert.equal(
    [...atOnce(encodeSegments(slow, [-201, -201, "Q"]))],
    [1, -201, -201, ...[...slow.encode("Q")].slice(1)],
  );
});

// ---------- the layouts with expanded placeholders
interface PromptCase {
  case: number | string;
  prompt_text: string;
  response_text: string;
  prompt_len: number;
}

for (const [family, image_, video_, perImage, perVideo] of [
  ["video_llava", 432, 433, 4, 40],
  ["llava_next_video", 420, 421, 0, 32],
] as const)
  test(`${family}: prompts built from messages have the reference's ids`, async () => {
    const t = await loadTokenizer(`${golden}${family}/policy`);
    const own = rules({
      style: "expanded",
      image: image_,
      video: video_,
      visualTokens: (kind) => (kind === "video" ? perVideo : perImage),
    });
    const data = readSafetensors(`${golden}${family}/cases.safetensors`);
    let compared = 0;
    for (const c of json(`${family}/cases.json`).cases as PromptCase[]) {
      if (typeof c.case !== "number") continue;
      const ids = intsOf(data, `case${c.case}/input_ids`);
      const response = [...ids.slice(c.prompt_len)];
      if (response.at(-1) === t.endId) response.pop(); // one case has none
      assert.equal([...t.encode(c.response_text, { special: false })], response);
      const parts = /^USER: ((?:<video>|<image>)*)\n?(.*) ASSISTANT:$/s.exec(c.prompt_text)!;
      const media = parts[1]!.match(/<video>|<image>/g) ?? [];
      if (media.length > 1) continue; // written without the newline that the template puts after each
      const question = user(...media.map((m) => (m === "<video>" ? video() : image())), say(parts[2]!));
      const built = buildPrompt(t, own, [question], { generate: true });
      assert.is(built.text, `<s>${c.prompt_text}`);
      assert.equal([...built.ids], [...ids.slice(0, c.prompt_len)]);
      assert.is(built.media.length, media.length);
      compared++;
    }
    assert.is(compared, family === "video_llava" ? 4 : 3);
  });

test("expanded layouts: media in the order of their placeholders, masks over the expanded ids", () => {
  const messages = [user(image("i"), video("v1"), video("v2"), say("Q")), reply("a dog")];
  const built = buildPrompt(llama, expandedLlama, messages, { generate: false });
  assert.equal(built.media, ["v1", "v2", "i"]); // this template puts videos first
  const count = (id: number) => [...built.ids].filter((x) => x === id).length;
  assert.equal([count(433), count(432)], [6, 2]);
  assert.is(built.ids.length, built.lossMask.length);
  assert.is(llama.decode(marked(built.ids, built.lossMask)), "a dog</s>");
  const q = buildPrompt(qwen, expandedQwen, [user(image("i"), video("v"), say("Q"))], { generate: true });
  assert.equal(q.media, ["i", "v"]);
  includes(q.text, "<|vision_start|><|image_pad|><|vision_end|><|vision_start|><|video_pad|><|vision_end|>Q<|im_end|>");
  assert.is(q.ids.filter((x) => x === 427).length, 4);
});

test("bos as processors add it: not twice, and not left out", async () => {
  const dir = copyOf(`${golden}tokenizers/llama2`);
  const file = join(dir, "chat_template.jinja");
  writeFileSync(file, readFileSync(file, "utf8").replace("{{ bos_token }}", ""));
  const t = await loadTokenizer(dir);
  const messages = [user(video(), say("Q"))];
  const [with_, without] = [llama, t].map((x) => buildPrompt(x, expandedLlama, messages, { generate: true }));
  assert.equal(with_!.ids, without!.ids);
  assert.is(without!.text, with_!.text.slice(3));
  assert.is(buildPrompt(t, none, [ask("Q")], { generate: true }).ids[0], 364); // text models: the template as it is
});

const answerIds = (
  t: ModelTokenizer,
  r: PlaceholderRules,
  messages: readonly Message[],
  answer: string,
): Int32Array => {
  const { ids, lossMask, repairs } = answeredPrompt(t, r, messages, answer, {
    turns: "last",
    ends: new Set([t.endId!]),
  });
  assert.is(repairs.endAdded + repairs.endDoubled + repairs.rendered, 0);
  return ids.slice(lossMask.indexOf(1));
};

test("answers as the template holds them, up to the end token", () => {
  const asText = (t: ModelTokenizer, r: PlaceholderRules) => t.decode(answerIds(t, r, [ask("Q?")], "a dog"));
  assert.is(asText(llama, expandedLlama), "a dog</s>");
  assert.is(asText(llama3, none), "a dog<|eot_id|>");
  assert.is(asText(qwen, expandedQwen), "a dog<|im_end|>");
  assert.is(asText(smol, none), " a dog<end_of_utterance>");
});

for (const [what, t, r] of [
  ["the Vicuna prompt", llama, hound],
  ["llama2", llama, none],
  ["llama3", llama3, none],
  ["qwen2", qwen, none],
  ["smol", smol, none],
] as const)
  for (const text of ["a dog", "", "  two  spaces", "日本 😀", "line\nline", "No.\n\n- one"])
    test(`an answer behind its prompt is the whole: ${what}, ${JSON.stringify(text)}`, () => {
      const prompt = buildPrompt(t, r, [ask("Q?")], { generate: true });
      const whole = buildPrompt(t, r, [ask("Q?"), reply(text)], { generate: false });
      const ids = answerIds(t, r, [ask("Q?")], text);
      assert.equal([...whole.ids.slice(0, prompt.ids.length + ids.length)], [...prompt.ids, ...ids]);
      assert.equal(marked(whole.ids, whole.lossMask), [...ids]);
      assert.is(ids.at(-1), t.endId);
    });

// ---------- what is refused
const wrong: [string, () => unknown, Parameters<typeof rejects>[1], RegExp][] = [
  [
    "a video for a text model",
    () => buildPrompt(llama3, none, [user(video(), say("Q"))], { generate: true }),
    "INVALID_ARGUMENT",
    /content\[0\].*it has no videos/,
  ],
  [
    "an image for a video model",
    () => buildPrompt(llama, { ...expandedLlama, image: null }, [user(image(), say("Q"))], { generate: true }),
    "INVALID_ARGUMENT",
    /no images/,
  ],
  [
    "media of the assistant",
    () => buildPrompt(llama, hound, [ask("Q"), { role: "assistant", content: [video()] }], { generate: false }),
    "INVALID_ARGUMENT",
    /user turns only/,
  ],
  [
    "a typed placeholder",
    () => buildPrompt(llama, expandedLlama, [ask("<video>\nQ")], { generate: true }),
    "PLACEHOLDER_MISMATCH",
    /expected 0 video placeholders for 0 videos, got 1, 1 of them/,
  ],
  [
    "a typed placeholder beside a video",
    () => buildPrompt(llama, expandedLlama, [user(video(), say("<video>Q"))], { generate: true }),
    "PLACEHOLDER_MISMATCH",
    /expected 1 video placeholder for 1 video, got 2/,
  ],
  [
    "a placeholder put together of two parts",
    () => buildPrompt(llama, expandedLlama, [user(say("<vid"), say("eo>"))], { generate: true }),
    "PLACEHOLDER_MISMATCH",
    /got 1/,
  ],
  [
    "a template that knows no video",
    () => buildPrompt(llama3, rules({ style: "expanded", video: 425 }), [user(video(), say("Q"))], { generate: true }),
    "PLACEHOLDER_MISMATCH",
    /for 1 video, got 0 from the chat template/,
  ],
  [
    "no template",
    () => buildPrompt(slow, none, [ask("Q")], { generate: true }),
    "TOKENIZER",
    /chat template, got one without/,
  ],
  ["no template, messages", () => slow.applyChatTemplate([ask("Q")]), "TOKENIZER", /chat template/],
  [
    "the Vicuna prompt without </s>",
    () => buildPrompt(qwen, hound, [ask("Q")], { generate: true }),
    "TOKENIZER",
    /<\/s>/,
  ],
  [
    "two users in a row",
    () => buildPrompt(llama, hound, [ask("Q"), ask("Q")], { generate: true }),
    "INVALID_ARGUMENT",
    /messages\[1\]\.role: expected assistant/,
  ],
  [
    "an answer at the end of a prompt",
    () => buildPrompt(llama, hound, [ask("Q"), reply("A")], { generate: true }),
    "INVALID_ARGUMENT",
    /user turn at the end/,
  ],
  [
    "a system message alone",
    () => buildPrompt(llama, hound, [system("S")], { generate: true }),
    "INVALID_ARGUMENT",
    /"system"/,
  ],
  ["no messages", () => llama.applyChatTemplate([]), "INVALID_ARGUMENT", /at least one message/],
  [
    "another role",
    () => llama.applyChatTemplate([{ role: "tool" as never, content: "x" }]),
    "INVALID_ARGUMENT",
    /role.*tool/,
  ],
  [
    "a content that is none",
    () => llama.applyChatTemplate([{ role: "user", content: 5 as never }]),
    "INVALID_ARGUMENT",
    /content.*5/,
  ],
  [
    "another part",
    () => llama.applyChatTemplate([{ role: "user", content: [{ type: "audio" } as never] }]),
    "INVALID_ARGUMENT",
    /type.*audio/,
  ],
  [
    "a video without media",
    () => llama.applyChatTemplate([{ role: "user", content: [{ type: "video" } as never] }]),
    "INVALID_ARGUMENT",
    /media/,
  ],
];
for (const [what, call, code, message] of wrong) test(`refused: ${what}`, () => rejects(call, code, message, what));

// ---------- templates
const render = async (source: string, messages: Message[] = [ask("hi")], generate = false) =>
  (
    await compileTemplate("t.jinja", source, { bos_token: "<s>", eos_token: "</s>" }, wallClock("date", undefined))
  ).render(messages, { generate });

const good: [string, string, Message[], string][] = [
  ["special tokens", "{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}", [ask("hi")], "<s>hi</s>"],
  [
    "generation tags",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    [ask("a"), reply("b")],
    "ab",
  ],
  [
    "selectattr",
    "{{ (messages | selectattr('role', 'equalto', 'user') | list)[0].content }}",
    [system("s"), ask("u")],
    "u",
  ],
  [
    "namespace, slices, range",
    "{% set ns = namespace(n=0) %}{% for m in messages[1:] %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}{% for i in range(2, 6, 2) %}{{ i }}{% endfor %}",
    [ask("a"), reply("b")],
    "124",
  ],
  ["tools are none", "{% if tools is none and documents is none %}{{ messages|length }}{% endif %}", [ask("a")], "1"],
  ["the year", "{{ strftime_now('%Y') }}", [ask("a")], String(new Date().getFullYear())],
];
for (const [what, source, messages, expected] of good)
  test(`template: ${what}`, async () => assert.is(await render(source, messages), expected));

const bad: [string, string, RegExp][] = [
  [
    "what it raises",
    "{{ raise_exception('roles must alternate') }}",
    /t\.jinja:1: the chat template says: roles must alternate/,
  ],
  ["a syntax fault", "a\n{% for %}", /t\.jinja:2: the chat template cannot be used: expected name, got block_end/],
  ["a tag that is not known", "\n\n{% include 'x' %}", /t\.jinja:3: .*\{% include %\} is not supported/],
  ["a filter that is not known", "{{ 'x' | shout }}", /t\.jinja:1: .*no filter named 'shout'/],
  ["a filter that is not supported", "{{ [1] | random }}", /the filter 'random' is not supported/],
  ["a test that is not known", "{{ 1 is big }}", /no test named 'big'/],
  [
    "HTML marks where they would change the text",
    "{{ 'a' + ('<' | safe) }}",
    /the filter 'safe' is not supported inside/,
  ],
  ["what is undefined", "a\n{{ messages[0].nothing.more }}", /t\.jinja:2: .*'dict object' has no attribute 'nothing'/],
  ["changes of lists", "{{ messages.append(1) }}", /list\.append\(\) changes its object/],
  ["what Python does not print alike twice", "{{ messages | map(attribute='role') }}", /printing a generator/],
  ["the insides of objects", "{{ ''.__class__ }}", /'__class__' of 'str' object is unsafe/],
  [
    "an endless loop",
    "{% for a in range(9000) %}{% for b in range(9000) %}{% set c = b %}{% endfor %}{% endfor %}",
    /more than 4000000 steps/,
  ],
  ["a long range", "{% for a in range(1000000000) %}x{% endfor %}", /more than 100000 numbers/],
  [
    "a text that doubles",
    `{% set ns = namespace(s='xx') %}{% for a in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}`,
    /text of more than/,
  ],
  [
    "a list that doubles",
    `{% set ns = namespace(s=[1,2]) %}{% for a in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}`,
    /list of more than/,
  ],
  ["too long", "a".repeat((1 << 20) + 1), /1048576 characters/],
  ["expressions nested deep", `{{ ${"(".repeat(5000)}1${")".repeat(5000)} }}`, /100 deep/],
  ["not nested deep", `{{ ${"not ".repeat(5000)}1 }}`, /120 deep/],
  ["minus nested deep", `{{ ${"- ".repeat(5000)}1 }}`, /120 deep/],
  ["blocks nested deep", `${"{% if 1 %}".repeat(5000)}${"{% endif %}".repeat(5000)}`, /100 deep/],
  ["endless recursion", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", /200 deep/],
  [
    "values nested deep",
    "{% set ns = namespace(v=[]) %}{% for i in range(90000) %}{% set ns.v = [ns.v] %}{% endfor %}{{ ns.v }}",
    /too deep|steps/,
  ],
  ["a text repeated", "{{ 'abc' * 999999999 }}", /text of more than/],
  ["a list repeated", "{{ [1] * 999999999 }}", /list of more than/],
  ["a wide field", "{{ '%999999999d' % 1 }}", /text of more than|not supported/],
  ["padding", "{{ 'a'.ljust(999999999) }}", /text of more than/],
  [
    "what is printed again and again",
    "{% set s = 'x' * 9999999 %}{% for i in range(99) %}{{ s }}{% endfor %}",
    /characters are rendered/,
  ],
];
for (const [what, source, message] of bad)
  test(`template refused: ${what}`, () => rejects(() => render(source), "TOKENIZER", message, what));

test("a template that takes strings only refuses parts", async () => {
  const source = "{% for m in messages %}{{ m['content'] }}{% endfor %}";
  assert.is(await render(source, [ask("hi")]), "hi");
  await rejects(() => render(source, [user(say("hi"))]), "TOKENIZER", /contents given as parts/, "parts");
});

test("a template that renders the beginning of a conversation differently later cannot say what is scored", async () => {
  const dir = copyOf(`${golden}tokenizers/llama2`);
  writeFileSync(
    join(dir, "chat_template.jinja"),
    "{{ messages|length }}{% for m in messages %}{{ m.content }}{% endfor %}",
  );
  const t = await loadTokenizer(dir);
  assert.is(t.applyChatTemplate([ask("a")]).text, "1a");
  assert.is(t.applyChatTemplate([ask("a"), reply("b"), ask("c")], { generate: true }).text, "3abc");
  await rejects(
    () => t.applyChatTemplate([ask("a"), reply("b")]).lossMask,
    "TOKENIZER",
    /assistant's tokens cannot be told/,
    "lossMask",
  );
});

/** Prompt and answer stand side by side: their letters merge over the border. */
const sideBySide = memoized(() => {
  const dir = copyOf(`${golden}tokenizers/llama2`);
  writeFileSync(join(dir, "chat_template.jinja"), "{% for m in messages %}{{ m.content }}{% endfor %}");
  return loadTokenizer(dir);
});
for (const [prompt, answer, from, merged] of [
  ["I see th", "e man", 5, 1],
  ["I see ", "1", 6, 0],
  ["th", "e man", 1, 1], // nothing predicts the first token
] as const)
  test(`an answer begins where the ids of prompt and of prompt and answer part: ${prompt}|${answer}`, async () => {
    const joined = await sideBySide();
    const { ids, lossMask } = joined.applyChatTemplate([ask(prompt), reply(answer)]);
    const built = buildPrompt(joined, none, [ask(prompt), reply(answer)], { generate: false, turns: "last" });
    assert.equal([lossMask.indexOf(1), built.merged], [from, merged], prompt);
    assert.is(joined.decode(ids), prompt + answer);
  });

const named = [
  { name: "tool_use", template: "tools" },
  { name: "default", template: "named" },
];

test("where a template is found", async () => {
  const dir = copyOf(`${golden}tokenizers/qwen2`);
  const config = JSON.parse(readFileSync(join(dir, "tokenizer_config.json"), "utf8"));
  const rendered = async () => (await loadTokenizer(dir)).applyChatTemplate([ask("a")]).text;
  writeFileSync(join(dir, "chat_template.jinja"), "file");
  writeFileSync(join(dir, "chat_template.json"), '{"chat_template":"processor"}');
  writeFileSync(join(dir, "tokenizer_config.json"), JSON.stringify({ ...config, chat_template: "config" }));
  assert.is(await rendered(), "file");
  rmSync(join(dir, "chat_template.jinja"));
  assert.is(await rendered(), "processor");
  rmSync(join(dir, "chat_template.json"));
  assert.is(await rendered(), "config");
  writeFileSync(join(dir, "tokenizer_config.json"), JSON.stringify({ ...config, chat_template: named }));
  assert.is(await rendered(), "named");
});

for (const [what, value, message] of [
  ["a number", 5, /expected a string or one named "default", got 5/],
  [
    "none by default",
    named.slice(0, 1),
    /tokenizer_config\.json: the chat template cannot be used: .*templates named "tool_use"/,
  ],
  ["an open tag", "{% raw %}a", /tokenizer_config\.json:1: .*raw/],
] as const)
  test(`a template that cannot be used: ${what}`, async () => {
    const dir = copyOf(`${golden}tokenizers/qwen2`);
    rmSync(join(dir, "chat_template.jinja"), { force: true });
    const config = JSON.parse(readFileSync(join(dir, "tokenizer_config.json"), "utf8"));
    writeFileSync(join(dir, "tokenizer_config.json"), JSON.stringify({ ...config, chat_template: value }));
    const t = await loadTokenizer(dir);
    assert.is(t.decode(t.encode("a dog")), "a dog", "what needs no template works");
    await rejects(() => t.applyChatTemplate([ask("a")]), "TOKENIZER", message, String(value));
  });

test.run();
