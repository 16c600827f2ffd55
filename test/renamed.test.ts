// Names that were replaced: each old one still does what the new one does, is reported once, and is refused beside the new one.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import {
  type Completion,
  createTrainer,
  type ErrorCode,
  generateFile,
  type IsrDpoError,
  loadModel,
  loadTokenizer,
  type Sequence,
  type Tokenizer,
  type VideoLM,
  worldModel,
} from "../src/index.js";
import { type OldName, renamings } from "../src/base/renamed.js";
import { readConfig } from "../src/config/read-config.js";
import { dpoLoss } from "../src/native.js";
import { excludes, reasonOf, rejects } from "./helpers/assert.js";
import { cliCommand, node, root } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("renamed");
let model: VideoLM;
let tokenizer: Tokenizer;
const heard: (Error & { code?: string })[] = [];
const listen = (w: Error) => void heard.push(w);
process.on("warning", listen);
test.before(async () => {
  model = await loadModel(worldModel);
  tokenizer = await loadTokenizer(join(root, "test/golden/tokenizers/qwen2"));
});
test.after(async () => {
  process.off("warning", listen);
  await model.dispose();
});

/** The warnings about an old name so far. */
async function toldOf(old: OldName): Promise<(Error & { code?: string })[]> {
  await new Promise(setImmediate);
  return heard.filter(({ code }) => code === renamings[old].code);
}

const prompt = "what happens ?";
const draw = { prompt, maxTokens: 5, temperature: 1, seed: 3 };
const ids = [1, 5, 9, 12];
const mask = Uint8Array.of(0, 0, 1, 1);
const other = { ids: [1, 5, 8, 12], lossMask: mask };
const said = (all: readonly Completion[]) => all.map((c) => [c.copy, c.text, [...c.ids], [...c.logProbs]]);
const user = (content: string) => ({ role: "user" as const, content });
const talk = [user(prompt), { role: "assistant" as const, content: "a red circle" }];

/** generateFile() with a single row, and the lines of its answers. */
async function answers(row: object, o: object): Promise<string> {
  const dir = temporaryFolder();
  writeFileSync(join(dir, "in.jsonl"), `${JSON.stringify({ prompt, ...row })}\n`);
  await generateFile(model, join(dir, "in.jsonl"), join(dir, "out.jsonl"), { maxTokens: 5, temperature: 1, ...o });
  return readFileSync(join(dir, "out.jsonl"), "utf8");
}

async function supervised(item: Sequence): Promise<number> {
  await using trainer = await createTrainer(model, { loss: "sft" });
  return (await trainer.tryStep([item])).loss;
}

async function scores(chosen: Sequence): Promise<number[]> {
  await using trainer = await createTrainer(model);
  const [score] = await trainer.score([{ chosen, rejected: other }]);
  return [...score!.chosen, ...score!.rejected];
}

/** The loss of a step with these options of a trainer. */
async function stepLoss(o: object): Promise<number> {
  await using trainer = await createTrainer(model, o);
  return (await trainer.tryStep([{ prompt: { ids: [1, 5] }, chosen: [9, 12], rejected: [8] }])).loss;
}

const minus = (...values: number[]) => [Float32Array.from(values.map((x) => -x))];
const pairLoss = (o: object) => dpoLoss(minus(1, 2), minus(3), minus(1, 1), minus(2), o).loss;

/** The weight that a configuration file comes to. */
async function weightOf(train: object): Promise<number> {
  const path = join(temporaryFolder(), "c.yaml");
  writeFileSync(path, JSON.stringify({ model: "m", samples: "s.jsonl", runDir: "r", train }));
  return (await readConfig(path, "run")).config.train.sftWeight;
}

interface Alias {
  old: OldName;
  where: string;
  /** The same call by the old name, by the new one, and by both. */
  was(): unknown;
  now(): unknown;
  both?: [call: () => unknown, message: RegExp, code?: ErrorCode];
  /** The call without either: what is named has an effect. */
  without?(): unknown;
}

const options: Alias[] = [
  {
    ...{ old: "stream", where: "a request" },
    was: async () => said(await model.generate({ ...draw, stream: "s" })),
    now: async () => said(await model.generate({ ...draw, randomStream: "s" })),
    without: async () => said(await model.generate(draw)),
    both: [
      () => model.generate({ ...draw, stream: "s", randomStream: "s" }),
      /^requests\[0\]\.stream: expected nothing beside requests\[0\]\.randomStream/,
    ],
  },
  {
    ...{ old: "stream", where: "chat()" },
    was: async () => said([await model.chat([user(prompt)], { maxTokens: 5, temperature: 1, stream: "s" })]),
    now: async () => said([await model.chat([user(prompt)], { maxTokens: 5, temperature: 1, randomStream: "s" })]),
    both: [
      () => model.chat([user(prompt)], { stream: "s", randomStream: "t" }),
      /^options\.stream: .* options\.randomStream/,
    ],
  },
  {
    ...{ old: "stream", where: "generateFile()" },
    was: () => answers({}, { stream: "s" }),
    now: () => answers({}, { randomStream: "s" }),
    without: () => answers({}, {}),
    both: [() => answers({}, { stream: "s", randomStream: "s" }), /^options\.stream: .* options\.randomStream/],
  },
  {
    ...{ old: "copies", where: "a request" },
    was: async () => said(await model.generate({ ...draw, copies: 3 })),
    now: async () => said(await model.generate({ ...draw, n: 3 })),
    without: async () => said(await model.generate(draw)),
    both: [() => model.generate({ ...draw, copies: 2, n: 2 }), /^requests\[0\]\.copies: .* requests\[0\]\.n,/],
  },
  {
    ...{ old: "copies", where: "generateFile()" },
    was: () => answers({}, { copies: 2 }),
    now: () => answers({}, { n: 2 }),
    without: () => answers({}, {}),
    both: [() => answers({}, { copies: 2, n: 1 }), /^options\.copies: .* options\.n,/],
  },
  {
    ...{ old: "copies", where: "a row of a file" },
    was: () => answers({ copies: 2 }, {}),
    now: () => answers({ n: 2 }, {}),
    without: () => answers({}, {}),
    both: [() => answers({ copies: 2, n: 2 }, {}), /in\.jsonl:1: copies: expected nothing beside n,/, "DATA_INVALID"],
  },
  {
    ...{ old: "gamma", where: "options of a trainer" },
    was: () => stepLoss({ gamma: 0.5 }),
    now: () => stepLoss({ sftWeight: 0.5 }),
    without: () => stepLoss({}),
    both: [() => stepLoss({ gamma: 1, sftWeight: 1 }), /^options\.gamma: .* options\.sftWeight,/],
  },
  {
    ...{ old: "gamma", where: "dpoLoss()" },
    was: async () => pairLoss({ gamma: 0.5 }),
    now: async () => pairLoss({ sftWeight: 0.5 }),
    without: async () => pairLoss({}),
    both: [async () => pairLoss({ gamma: 1, sftWeight: 1 }), /^options\.gamma: .* options\.sftWeight,/],
  },
  {
    ...{ old: "gamma", where: "a configuration file" },
    was: () => weightOf({ gamma: 0.5 }),
    now: () => weightOf({ sftWeight: 0.5 }),
    without: () => weightOf({}),
    both: [
      () => weightOf({ gamma: 1, sftWeight: 1 }),
      /c\.yaml:1:\d+: train\.gamma: expected nothing beside sftWeight, its new name, got 1$/,
      "INVALID_CONFIG",
    ],
  },
  {
    ...{ old: "scored", where: "a sequence of logProbs()" },
    was: () => model.logProbs([{ ids, scored: mask }]),
    now: () => model.logProbs([{ ids, lossMask: mask }]),
    both: [
      () => model.logProbs([{ ids, scored: mask, lossMask: mask }]),
      /^sequences\[0\]\.scored: .* sequences\[0\]\.lossMask,/,
    ],
  },
  {
    ...{ old: "scored", where: "a pair of sequences" },
    was: () => scores({ ids, scored: mask }),
    now: () => scores({ ids, lossMask: mask }),
    both: [() => scores({ ids, scored: mask, lossMask: mask }), /chosen\.scored: .* pairs\[0\]\.chosen\.lossMask,/],
  },
  {
    ...{ old: "scored", where: "a sequence of supervised training" },
    was: () => supervised({ ids, scored: mask }),
    now: () => supervised({ ids, lossMask: mask }),
    both: [() => supervised({ ids, scored: mask, lossMask: mask }), /^items\[0\]\.scored: .* items\[0\]\.lossMask,/],
  },
];

const results: Alias[] = [
  {
    ...{ old: "end", where: "a completion" },
    was: async () => (await model.generate({ ...draw, n: 4 })).map((c) => c.end),
    now: async () => (await model.generate({ ...draw, n: 4 })).map((c) => c.finishReason),
  },
  {
    ...{ old: "end", where: "the completion of chat()" },
    was: async () => (await model.chat([user(prompt)])).end,
    now: async () => (await model.chat([user(prompt)])).finishReason,
  },
  {
    ...{ old: "scored", where: "the sequence of an answer" },
    was: async () => (await model.sequence(prompt, "a red circle")).scored,
    now: async () => (await model.sequence(prompt, "a red circle")).lossMask,
  },
  {
    ...{ old: "scored", where: "a conversation in the chat template" },
    was: () => tokenizer.applyChatTemplate(talk).scored,
    now: () => tokenizer.applyChatTemplate(talk).lossMask,
  },
  {
    ...{ old: "apply", where: "a tokenizer" },
    was: () => tokenizer.apply(talk, { generate: true }),
    now: () => tokenizer.applyChatTemplate(talk, { generate: true }),
  },
];

for (const { old, where, was, now, both, without } of [...options, ...results])
  test(`${old} of ${where} is ${renamings[old].now}`, async () => {
    const before = (await toldOf(old)).length;
    const expected = await now();
    assert.is((await toldOf(old)).length, before, "the new name says nothing");
    for (let i = 0; i < 2; i++) assert.equal(await was(), expected);
    const [warning, ...more] = await toldOf(old);
    assert.equal(more, [], "once a process");
    assert.equal(
      [warning?.name, warning?.message],
      [
        "DeprecationWarning",
        `${old} of ${renamings[old].of} is deprecated: it is now ${renamings[old].now}, and the old name is removed in 0.3`,
      ],
    );
    if (without) assert.not.equal(await without(), expected);
    if (both) await rejects(both[0], both[2] ?? "INVALID_ARGUMENT", both[1], "both names");
  });

const flags: readonly [what: string, call: () => PromiseLike<unknown>, field: string][] = [
  ["generate()", () => model.generate({ ...draw, stream: true as never }), "requests[0].stream"],
  ["chat()", () => model.chat([user(prompt)], { stream: true as never }), "options.stream"],
  ["generateFile()", () => answers({}, { stream: false }), "options.stream"],
];
for (const [what, call, field] of flags)
  test(`a flag as \`stream\`, as other programs take it, is refused with what to do instead: ${what}`, async () => {
    const e = (await reasonOf(call())) as IsrDpoError;
    assert.equal([e.code, e.detail?.field], ["INVALID_ARGUMENT", field]);
    assert.match(e.message, /expected a string \(it is now randomStream\), got (true|false)/);
    assert.match(e.hint ?? "", /iterate the run .* names a stream of random draws/);
  });

test("an old name without a value is none", async () => {
  const expected = said(await model.generate({ ...draw, n: 2, randomStream: "s" }));
  const request = { ...draw, n: 2, copies: undefined, stream: undefined, randomStream: "s" };
  assert.equal(said(await model.generate(request as never)), expected);
});

const resultKeys: readonly [what: string, made: () => object | PromiseLike<object>, keys: readonly string[]][] = [
  [
    "a completion",
    async () => (await model.generate(draw))[0]!,
    ["request", "copy", "ids", "text", "logProbs", "finishReason"],
  ],
  ["a sequence", () => model.sequence(prompt, "a red circle"), ["ids", "lossMask"]],
  ["what a template gives", () => tokenizer.applyChatTemplate(talk), ["text", "ids", "lossMask", "merged"]],
];
for (const [what, made, keys] of resultKeys)
  test(`${what} has the new name alone in JSON, in copies and in comparisons`, async () => {
    const result = await made();
    assert.equal(Object.keys(result), keys);
    assert.equal(Object.keys(JSON.parse(JSON.stringify(result))), keys);
    assert.equal(Object.getOwnPropertyNames({ ...result }), keys);
    assert.equal(Object.getOwnPropertyNames(structuredClone(result)), keys);
  });

test("what is set under the old name is set", async () => {
  const sequence = await model.sequence(prompt, "a red circle");
  sequence.scored = mask;
  assert.is(sequence.lossMask, mask);
});

test("a result is given back as it is: its old name does not stand beside the new one", async () => {
  const sequence = await model.sequence(prompt, "a red circle");
  const [given] = await model.logProbs([sequence]);
  const [copied] = await model.logProbs([{ ...sequence }]);
  assert.equal(given, copied);
});

test("generate --copies is -n", () => {
  const dir = temporaryFolder();
  writeFileSync(join(dir, "in.jsonl"), `${JSON.stringify({ prompt })}\n`);
  const cli = (...flags: string[]) =>
    node([
      ...[...cliCommand, "generate", worldModel, "--in", join(dir, "in.jsonl"), "--out", "-"],
      ...["--max-tokens", "4", ...flags],
    ]);
  const [was, now, both] = [cli("--copies", "2"), cli("-n", "2"), cli("--copies", "2", "--n", "2")];
  assert.equal([was.code, now.code, both.code], [0, 0, 2], was.err + now.err);
  assert.is(was.out, now.out);
  assert.is(now.out.split("\n").length, 3);
  assert.is(
    was.err.split("[ISR_DPO_DEP_COPIES] DeprecationWarning: copies of a request for answers is deprecated").length,
    2,
    was.err,
  );
  excludes(now.err, "DeprecationWarning");
  assert.match(both.err, /^INVALID_ARGUMENT: --copies: expected nothing beside --n, which is its new name, got 2$/m);
});

test.run();
