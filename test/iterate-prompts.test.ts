// Prompts as data: what a replacement may be, what is filled in, what all prompts of a clip share, and what is cut where a
// prompt does not fit.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { fill } from "../src/base/templates.js";
import { defaultPrompts, loadModel, type Message, type VideoLM } from "../src/index.js";
import { fitContextPrompt, fitJudgePrompt, promptTokens, proveBudgets } from "../src/iterate/prompt-budget.js";
import {
  contextPrompt,
  judgePrompt,
  plainPrompt,
  type Prompts,
  promptsHash,
  promptsOf,
  readPrompts,
  responsePrompt,
  paperPrompts,
} from "../src/iterate/method-prompts.js";
import { includes, ordered, rejects, startsWith } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";
import { folderOf } from "./helpers/golden-video.js";

const test = suite("isr-prompts");

// ---- replacement

const accepted: [value: unknown, expected: Partial<Prompts>][] = [
  [undefined, defaultPrompts],
  [{}, defaultPrompts],
  [{ system: "You see." }, { system: "You see." }],
  [{ system: null }, { system: null }],
  [{ response: "{question}" }, { response: "{question}" }],
  [{ response: "{ question } {question} {} {1}" }, { response: "{ question } {question} {} {1}" }],
  [{ context: { first: "Tell." } }, { context: { ...defaultPrompts.context, first: "Tell." } }],
  [{ judge: { labels: ["A", "B"] } }, { judge: { ...defaultPrompts.judge, labels: ["A", "B"] } }],
];
for (const [value, expected] of accepted)
  test(`takes ${JSON.stringify(value)}`, () => {
    const prompts = promptsOf(value);
    for (const [key, part] of Object.entries(expected)) assert.equal(prompts[key as keyof Prompts], part);
    const same = JSON.stringify(prompts) === JSON.stringify(defaultPrompts);
    assert.is(promptsHash(prompts) === promptsHash(defaultPrompts), same);
  });

const refused: [value: unknown, message: RegExp][] = [
  [5, /expected an object, got 5/],
  [[], /expected an object/],
  [{ respond: "x" }, /unknown key "respond"/],
  [{ judge: "x" }, /^prompts\.judge: expected an object/],
  [{ judge: { plan: "x" } }, /^prompts\.judge: unknown key "plan"/],
  [{ system: 5 }, /^prompts\.system: expected a text or null, got 5/],
  [{ response: "Answer." }, /^prompts\.response: expected \{question\} once, got it 0 times/],
  [{ response: "{question} {question}" }, /^prompts\.response: expected \{question\} once, got it 2 times/],
  [{ response: "{question} {context}" }, /^prompts\.response: expected no place but \{question\}, got \{context\}/],
  [{ response: " " }, /^prompts\.response: expected a text/],
  [{ context: { next: "{previos}" } }, /^prompts\.context\.next: expected \{previous\} once/],
  [{ context: { first: "{previous}" } }, /^prompts\.context\.first: expected no place but none, got \{previous\}/],
  [{ judge: { plain: "{question} {first}" } }, /^prompts\.judge\.plain: expected \{second\} once/],
  [{ judge: { labels: ["1"] } }, /^prompts\.judge\.labels: /],
  [{ judge: { labels: ["1", "1"] } }, /^prompts\.judge\.labels: /],
  [{ judge: { labels: ["1", "12"] } }, /^prompts\.judge\.labels: .*neither the beginning of the other/],
  [{ judge: { labels: ["1", ""] } }, /^prompts\.judge\.labels: /],
];
for (const [value, message] of refused)
  test(`refuses ${JSON.stringify(value)}`, () => rejects(() => promptsOf(value), "INVALID_CONFIG", message, "prompts"));

test("a place is filled once, whatever is filled in", () => {
  const text = fill("{question}|{first}|{second}", {
    question: "{first} $& $1",
    first: "{second}",
    second: "{question}",
  });
  assert.is(text, "{first} $& $1|{second}|{question}");
  assert.is(fill("{other} {question}", { question: "q" }), "{other} q");
});

test("preset paper: no prompt says a word about length, also below a file's own texts", () => {
  const words = (p: object) => JSON.stringify(p).match(/length|sentence|short|brief|concise/gi);
  assert.is(words(paperPrompts), null);
  assert.is.not(words(defaultPrompts), null);
  const some = promptsOf({ context: { first: "Describe." } }, paperPrompts);
  assert.equal([some.response, some.judge], [paperPrompts.response, paperPrompts.judge]);
  assert.match(some.response, /^Answer the question about the video\. State only what can be seen/);
});

test("a file of prompts", async () => {
  const path = join(temporaryFolder(), "prompts.yaml");
  const write = (text: string) => writeFileSync(path, text);
  write("system: You see.\ncontext:\n  next: |\n    Before: {previous}\n    Now?\n");
  const prompts = await readPrompts(path);
  assert.is(prompts.system, "You see.");
  assert.is(prompts.context.next, "Before: {previous}\nNow?\n");
  assert.is(prompts.response, defaultPrompts.response);
  write(JSON.stringify({ response: "Q: {question}" }));
  assert.is((await readPrompts(path)).response, "Q: {question}");
  await rejects(() => readPrompts(`${path}.not`), "NOT_FOUND", /prompts\.yaml\.not/, "missing");
});

const refusedFiles: [what: string, text: string, message: RegExp][] = [
  ["a text without its place", "response: x", /prompts\.yaml: prompts\.response: expected \{question\} once/],
  ["no YAML", "a: b: c", /prompts\.yaml:1:\d+: expected YAML/],
  ["a key twice", "a: 1\na: 2", /prompts\.yaml:2:1: a: expected a key once/],
  ["more than a megabyte", `${"a: [".padEnd(1 << 20)}]`, /prompts\.yaml: expected at most 1048576 bytes/],
  [
    "too many aliases",
    `a: &a [x,x,x]\nb: &b [${"*a,".repeat(60)}]\nc: [*b,*b]`,
    /prompts\.yaml: .*at most 100 aliases/,
  ],
  ["a list", "- 1", /prompts\.yaml: .*expected keys and values/],
  ["nothing", "# nothing yet", /prompts\.yaml: prompts: expected a text in place of a built-in one, got none/],
];
for (const [what, text, message] of refusedFiles)
  test(`a file of prompts is refused: ${what}`, async () => {
    const path = join(temporaryFolder(), "prompts.yaml");
    writeFileSync(path, text);
    await rejects(() => readPrompts(path), "INVALID_CONFIG", message, what);
  });

// ---- one prefix a clip

const withModel = (name: string, work: (model: VideoLM) => Promise<void>, family = "llava_hound" as const) =>
  test(name, async () => {
    await using model = await loadModel(folderOf(family));
    await work(model);
  });

const parts = { context: "A cat sits.", question: "What is it?", first: "A cat.", second: "A dog." };
const media = "never opened.mp4";
const all = (p: Prompts, question = parts.question): Message[][] => [
  responsePrompt(p, media, question),
  plainPrompt(p, media, question),
  contextPrompt(p, media, null),
  contextPrompt(p, media, "A cat."),
  judgePrompt(p, media, { ...parts, question }),
  judgePrompt(p, media, { ...parts, question, context: null }),
];

for (const family of ["llava_hound", "video_llava", "llava_next_video"] as const)
  withModel(
    `${family}: all prompts of a clip have the same ids up to the end of the video`,
    async (model) => {
      for (const system of [null, "You see a video."]) {
        const prompts = promptsOf({ system });
        const ids = await Promise.all(all(prompts).map(async (m) => Array.from((await model.sequence(m)).ids)));
        const common = ids[0]!.findIndex((id, i) => ids.some((other) => other[i] !== id));
        const words = model.tokenizer.decode(ids[0]!.slice(0, common).filter((id) => id >= 0));
        assert.ok(common > 3, `${common} common ids: ${words}`);
        if (system !== null) assert.match(words, /You see a video/);
        const video = ids[0]!.findIndex((id) => id < 0 || model.tokenizer.decode([id]) === "<video>");
        assert.ok(video >= 0 && video < common, `the video at ${video} is among ${common} common ids`);
      }
    },
    family as "llava_hound",
  );

// ---- fitting

const many = (word: string, n: number) => Array.from({ length: n }, (_, i) => `${word} ${i}.`).join(" ");
const textOf = (m: Message[]) => (m.at(-1)!.content[1] as { text: string }).text;

withModel("a judge's prompt that fits is not touched", async (model) => {
  const whole = judgePrompt(defaultPrompts, media, parts);
  const tokens = await promptTokens(model, whole);
  assert.equal(await fitJudgePrompt(model, defaultPrompts, media, parts, tokens), { messages: whole, cut: false });
});

withModel("first the context loses sentences from its end, never a part of one", async (model) => {
  const long = { ...parts, context: many("The cat sits", 60) };
  const bare = await promptTokens(model, judgePrompt(defaultPrompts, media, { ...parts, context: null }));
  let last = Number.POSITIVE_INFINITY;
  for (const limit of [model.info.contextLength, bare + 120, bare + 60, bare]) {
    const { messages, cut } = await fitJudgePrompt(model, defaultPrompts, media, long, limit);
    const text = textOf(messages);
    assert.equal({ cut }, { cut: true });
    ordered(await promptTokens(model, messages), "<=", limit);
    for (const part of [parts.question, parts.first, parts.second]) includes(text, part);
    const sentences = text.match(/The cat sits \d+\./g) ?? [];
    assert.ok(sentences.length < last, `${sentences.length} sentences in ${limit}`);
    last = sentences.length;
    if (last === 0) continue;
    includes(text, `\n${many("The cat sits", last)}\n`, "whole sentences, the first ones");
    const one = judgePrompt(defaultPrompts, media, { ...parts, context: many("The cat sits", last + 1) });
    ordered(await promptTokens(model, one), ">", limit, "one more would not fit");
  }
  assert.is(last, 0);
});

withModel("then both responses are cut to one length; the question stays", async (model) => {
  const long = { ...parts, first: many("red", 80), second: many("blue", 20), context: many("The cat sits", 9) };
  const limit = (await promptTokens(model, judgePrompt(defaultPrompts, media, { ...parts, context: null }))) + 60;
  const { messages, cut } = await fitJudgePrompt(model, defaultPrompts, media, long, limit);
  const text = textOf(messages);
  assert.equal({ cut }, { cut: true });
  ordered(await promptTokens(model, messages), "<=", limit);
  includes(text, parts.question);
  assert.not.match(text, /The cat sits/);
  const [, first, second] = /Answer 1: ([\s\S]*?)\n\nAnswer 2: ([\s\S]*?)\n\n/.exec(text)!;
  startsWith(long.first, first!);
  startsWith(long.second, second!);
  const length = (t: string) => model.tokenizer.encode(t, { special: false }).length;
  assert.ok(Math.abs(length(first!) - length(second!)) <= 1, `${length(first!)} and ${length(second!)} tokens`);
  ordered(length(first!), ">", 10);
});

withModel("a question without room is refused, not cut", async (model) => {
  const long = { ...parts, question: many("Why", 200) };
  await rejects(
    () => fitJudgePrompt(model, defaultPrompts, media, long, model.info.contextLength),
    "CONTEXT_OVERFLOW",
    /^the judge's prompt of "Why 0\. .* does not fit into 512 tokens, even without answers$/,
    "question",
  );
});

withModel("a previous context loses sentences; without room there is none", async (model) => {
  const previous = many("The cat sits", 60);
  const first = await promptTokens(model, contextPrompt(defaultPrompts, media, null));
  const { messages, cut } = await fitContextPrompt(model, defaultPrompts, media, previous, 400);
  assert.equal({ cut }, { cut: true });
  ordered(await promptTokens(model, messages), "<=", 400);
  assert.match(textOf(messages), /sits 3\./);
  assert.not.match(textOf(messages), /sits 59\./);
  const none = await fitContextPrompt(model, defaultPrompts, media, previous, first);
  assert.equal(none, { messages: contextPrompt(defaultPrompts, media, null), cut: true });
  const whole = await fitContextPrompt(model, defaultPrompts, media, "A cat.", 400);
  assert.equal(whole, { messages: contextPrompt(defaultPrompts, media, "A cat."), cut: false });
});

// ---- budgets

withModel("budgets are proven to the token", async (model) => {
  const fixed = await promptTokens(
    model,
    judgePrompt(defaultPrompts, media, { ...parts, context: "", question: "", first: "", second: "" }),
  );
  const room = model.info.contextLength - fixed - 8 - 10;
  const response = Math.floor(room / 4);
  const context = room - 2 * response;
  const budgets = { context, response, verdict: 8, question: 10 };
  await proveBudgets(model, defaultPrompts, { ...budgets, context: 10 }, true);
  await rejects(
    () => proveBudgets(model, defaultPrompts, { ...budgets, context: context + 1 }, true),
    "INVALID_CONFIG",
    new RegExp(
      `^the judge prompt needs ${fixed} \\+ 10 \\+ ${context + 1} \\+ ${response} \\+ ${response} \\+ 8 = 513 tokens, and the context window has 512$`,
    ),
    "judge",
  );
  await rejects(
    () => proveBudgets(model, defaultPrompts, { ...budgets, response: 500, context: 1 }, false),
    "INVALID_CONFIG",
    /^the response prompt needs \d+ \+ 10 \+ 500 = \d+ tokens/,
    "response",
  );
  const curt = promptsOf({ judge: { withContext: "{context} {question} {first} {second}" } });
  await rejects(
    () => proveBudgets(model, curt, { context: 240, response: 1, verdict: 8, question: 10 }, true),
    "INVALID_CONFIG",
    /^the context prompt needs \d+ \+ 240 \+ 240 = \d+ tokens/,
    "context",
  );
  const endless = promptsOf({ response: `${many("Look", 300)} {question}` });
  await rejects(
    () => proveBudgets(model, endless, { context: 1, response: 1, verdict: 8, question: 10 }, true),
    "INVALID_CONFIG",
    /^the response prompt needs \d{3,} \+ 10 \+ 1 = \d{3,} tokens, and the context window has 512$/,
    "an instruction longer than the window",
  );
});

test.run();
