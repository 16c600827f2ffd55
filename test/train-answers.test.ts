// What a run does with answers: those that are the same are left out, those without one end token are put right or refused,
// those that share a token with their prompt are trained on; what is scored of several turns; all of it counted.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { loadModel, type TrainItem, type TrainOptions, train } from "../src/index.js";
import { ordered, rejects } from "./helpers/assert.js";
import { rowsFile } from "./helpers/data.js";
import { copyOf } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";
import { eventsOf, exampleRows, idPairs, textRows, textRun } from "./helpers/training.js";

const test = suite("training answers");
const codes = (events: Awaited<ReturnType<typeof eventsOf>>["events"]) =>
  events.flatMap((e) => (e.type === "warning" ? [[e.code, (e.detail as { count?: number }).count]] : []));

function templated(template: string): string {
  const dir = copyOf(folder("text_llama"));
  writeFileSync(join(dir, "chat_template.jinja"), template);
  return dir;
}
const noEnd = templated(
  "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
);
const spaced = templated(
  "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'] }} {% else %}ASSISTANT: {{ m['content'] + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}",
);

const pair = (chosen: unknown, rejected: unknown, more: object = {}) => ({
  prompt: "What?",
  chosen,
  rejected,
  ...more,
});
const long = (end: string) => `${"word ".repeat(400)}${end}`;
const identical: readonly [name: string, row: object, more?: Partial<TrainOptions>][] = [
  ["the same text", pair("A dog.", "A dog.")],
  ["the same words between blanks", pair("A dog.", " A dog.\n")],
  ["the same ids", pair("a", "b", { chosen_ids: [5, 6, 2], rejected_ids: [5, 6, 2] })],
  ["the same words of other ids", pair("a", "b", { chosen_ids: [5, 6, 2], rejected_ids: [5, 6] })],
  ["the same once they are cut to the context", pair(long("left"), long("right")), { onLong: "truncate" }],
];
for (const [name, row, more] of identical) {
  test(`answers that are the same are left out: ${name}`, async () => {
    const { result, events } = await eventsOf(textRun({ data: rowsFile([...textRows(4), row]), ...more }));
    assert.equal([result.pairs, result.counts.identical], [4, 1]);
    assert.equal(codes(events), [["IDENTICAL", 1]]);
  });
  test(`no pair but such: ${name}`, () =>
    rejects(
      () => train(textRun({ data: rowsFile([row, row]), ...more })),
      "DATA_INVALID",
      /expected items to train on, got 2 pairs whose two answers are the same/,
      name,
    ));
}

test("sequences that are the same are left out; of other masks they are not", async () => {
  const [{ prompt, chosen }] = idPairs(1) as unknown as [{ prompt: { ids: number[] }; chosen: number[] }];
  const ids = [...prompt.ids, ...chosen];
  const masked = (from: number) => ({ ids, lossMask: Uint8Array.from(ids, (_, i) => (i >= from ? 1 : 0)) });
  const data = [
    { chosen: masked(3), rejected: masked(3) },
    { chosen: masked(3), rejected: masked(4) },
  ] as TrainItem[];
  const { result } = await eventsOf(textRun({ data }));
  assert.equal([result.pairs, result.counts.identical], [1, 1]);
});

const marked = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n";
const ends: readonly [name: string, model: string, row: object, count: string, code: string, refusal: RegExp][] = [
  [
    "no end in the template",
    noEnd,
    pair("A dog.", "A cat."),
    "endAdded",
    "END_ADDED",
    /a chat template that writes none/,
  ],
  [
    "an end in the row",
    folder("text_llama"),
    pair("A dog.</s>", "A cat."),
    "endDoubled",
    "END_DOUBLED",
    /one end token/,
  ],
  [
    "a rendered prompt",
    folder("text_qwen2"),
    pair("A", "B", { prompt: marked }),
    "rendered",
    "PROMPT_RENDERED",
    /rendered already/,
  ],
];
for (const [name, model, row, count, code, refusal] of ends) {
  test(`put right and counted: ${name}`, async () => {
    const { result, events } = await eventsOf(textRun({ model, data: rowsFile([row, row]) }));
    assert.equal([result.pairs, result.counts[count]], [2, 2]);
    assert.equal(codes(events), [[code, 2]]);
  });
  test(`a bad row where that is asked for: ${name}`, async () => {
    const data = rowsFile([row]);
    await rejects(() => train(textRun({ model, data, onEnd: "fail" })), "DATA_INVALID", refusal, name);
  });
}

test("onEnd: a row that is refused has file and line, and can be left out", async () => {
  const data = rowsFile([...textRows(2), pair("A dog.</s>", "A cat.")]);
  await rejects(() => train(textRun({ data, onEnd: "fail" })), "DATA_INVALID", /rows\.jsonl:3: answer: /, "fail");
  const { result } = await eventsOf(textRun({ data, onEnd: "fail", onBadRow: "skip" }));
  assert.equal([result.pairs, result.counts.skippedRows], [2, 1]);
});

test("a model trained under a template without an end learns to stop", async () => {
  const data = rowsFile([{ prompt: "What is it?", completion: "the small dog" }]);
  const trainer = { learningRate: 1e-2 };
  const { model } = await train(textRun({ kind: "sft", model: noEnd, data, epochs: 60, trainer }));
  await using trained = await loadModel(model, { threads: 1 });
  const [c] = await trained.generate({ prompt: "What is it?", maxTokens: 24 });
  assert.equal([c!.finishReason, c!.text.replace("</s>", "").trim()], ["stop", "the small dog"]);
});

test("a border over which letters merge costs no row; a fault of one row costs that row alone", async () => {
  const rows = [pair("1", "2"), pair("the red car", "2"), pair("5", "7")];
  const { result, events } = await eventsOf(textRun({ model: spaced, data: rowsFile(rows) }));
  assert.equal([result.pairs, result.counts.merged], [3, 1]);
  assert.equal(codes(events), [["BORDER_MERGED", 1]]);
});

test("a row that the chat template refuses is a bad row with file and line", async () => {
  const model = templated(
    "{% for m in messages %}{% if 'no' in m['content'] %}{{ raise_exception('not this') }}{% endif %}{{ m['role'] + m['content'] + eos_token }}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}",
  );
  const data = rowsFile([...textRows(2), pair("A", "B", { prompt: "no" })]);
  await rejects(() => train(textRun({ model, data })), "DATA_INVALID", /rows\.jsonl:3: .*not this/, "fail");
  const { result } = await eventsOf(textRun({ model, data, onBadRow: "skip" }));
  assert.equal([result.pairs, result.counts.skippedRows], [2, 1]);
});

test("several turns: all that the assistant says is scored, or the last answer alone", async () => {
  const message = (role: string, content: string) => ({ role, content });
  const talk = ["Who?", "A man.", "Where?", "Here."].map((t, i) => message(i % 2 ? "assistant" : "user", t));
  const scored = async (more: Partial<TrainOptions>) => {
    const { result } = await eventsOf(textRun({ kind: "sft", data: rowsFile([{ messages: talk }]), ...more }));
    const [step] = result.metrics;
    assert.is(step!.chosenTokens, result.counts.scoredTokens);
    return [
      result.counts.scoredTokens!,
      readFileSync(join(result.model, "../items.jsonl"), "utf8").includes('"turns"'),
    ];
  };
  await using model = await loadModel(folder("text_llama"), { threads: 1 });
  const count = async (turns: "all" | "last") => {
    const { lossMask } = await model.sequence(talk.slice(0, 3) as never, "Here.", { turns });
    return lossMask!.reduce((a, b) => a + b, 0);
  };
  const [all, last] = [await count("all"), await count("last")];
  ordered(all, ">", last);
  assert.equal(await scored({}), [all, false]);
  assert.equal(await scored({ turns: "all" }), [all, false]);
  assert.equal(await scored({ turns: "last" }), [last, true]);
  await rejects(() => train(textRun({ turns: "all" })), "INVALID_ARGUMENT", /'last' for pairs/, "dpo");
});

test("one turn is scored alike with either", async () => {
  const losses = [];
  for (const turns of ["all", "last"] as const) {
    const { metrics } = await train(textRun({ kind: "sft", data: rowsFile(exampleRows(4)), turns }));
    losses.push(metrics.map((m) => m.loss));
  }
  assert.equal(losses[0], losses[1]);
});

const extras: readonly [name: string, extra: object, refusal: RegExp | null][] = [
  ["a turn that is not to be learned", { weight: 0 }, /messages\[1\]\.weight: expected 1 /],
  ["a call of a tool", { tool_calls: [{ name: "look" }] }, /messages\[1\]\.tool_calls: expected nothing/],
  ["thoughts beside the words", { reasoning_content: "hm" }, /messages\[1\]\.reasoning_content: expected nothing/],
  ["such keys without a value", { weight: null, tool_calls: [], thinking: "" }, null],
  ["the usual weight", { weight: 1 }, null],
];
for (const [name, extra, refusal] of extras)
  test(`what a turn holds besides its words: ${name}`, async () => {
    const turns = [
      { role: "user", content: "Who?", weight: 0 },
      { role: "assistant", content: "A man.", ...extra },
    ];
    const run = () => train(textRun({ kind: "sft", data: rowsFile([{ messages: turns }]) }));
    if (refusal) await rejects(run, "DATA_INVALID", refusal, name);
    else assert.is((await run()).pairs, 1);
  });

test.run();
