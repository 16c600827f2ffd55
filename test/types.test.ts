// What the compiler says of a program's code: checked by `npm run typecheck`, which fails where an expected error is none.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import {
  type Completion,
  type GenerateFileOptions,
  type GenerateRequest,
  type IterationConfig,
  type IterationEvent,
  type Run,
  type Sampling,
  type Sequence,
  type Tokenizer,
  trainIteration,
} from "../src/index.js";
import { rejects } from "./helpers/assert.js";
import { root } from "./helpers/child.js";

const test = suite("types");
const options = { runDir: "r", model: "m", samples: [], iteration: 1 };

const good: IterationConfig[] = [
  {},
  { response: { maxTokens: 50, temperature: 0.7 }, context: { design: "renew" } },
  { judge: { method: "logprob", orders: "both", disagree: "average" }, seed: "18446744073709551615" },
  { train: { betas: [0.9, 0.95], clipNorm: null, schedule: "cosine" } },
  { video: { window: [0, 10], looks: "varied" } as const, features: false, keep: "last" },
];

const wrong: [what: string, config: IterationConfig, message: RegExp][] = [
  // @ts-expect-error: a misspelt key
  ["a key", { respons: { maxTokens: 5 } }, /respons/],
  // @ts-expect-error: a misspelt key below
  ["a key below", { response: { maxTokenz: 5 } }, /response\.maxTokenz/],
  // @ts-expect-error: a text for a number
  ["a text for a number", { response: { maxTokens: "5" } }, /response\.maxTokens/],
  // @ts-expect-error: a value of no choice
  ["a choice", { judge: { method: "logprobs" } }, /judge\.method/],
  // @ts-expect-error: one number for two
  ["one number for two", { train: { betas: [0.9] } }, /train\.betas/],
  // @ts-expect-error: true where only false is a word
  ["true for features", { features: true }, /features/],
];

test("configurations that compile are those that are taken", async () => {
  const { settingsOf } = await import("../src/iterate/iteration-settings.js");
  for (const config of good) {
    const { runDir, model } = options;
    await settingsOf({ ...config, runDir, model, samples: "s", from: 1, to: 2 });
  }
});

for (const [what, config, message] of wrong)
  test(`a configuration that does not compile is refused: ${what}`, () =>
    rejects(() => trainIteration({ ...options, config }), "INVALID_CONFIG", message, what));

test("a Run is a Promise to the compiler too", () => {
  const of = (run: Run<IterationEvent, number>): Promise<number> => run;
  const ends = async (run: Run<IterationEvent, number>) =>
    (await Promise.all([run, run.finally(() => {})])) satisfies number[];
  for (const way of [of, ends]) assert.type(way, "function");
});

/** What a program of the version before has: it compiles for one minor version more. */
const before = {
  request: { prompt: "Q", copies: 2, stream: "s" } satisfies GenerateRequest,
  sampling: { stream: "s" } satisfies Sampling,
  file: { copies: 2, stream: "s" } satisfies GenerateFileOptions,
  sequence: { ids: [1, 2], scored: Uint8Array.of(0, 1) } satisfies Sequence,
  ended: ({ end }: Completion): "stop" | "length" => end,
  mask: ({ scored }: Sequence): Uint8Array | undefined => scored,
  said: (t: Tokenizer): Uint8Array => t.apply([], { generate: true }).scored,
};

/** Members of a source file that are marked as deprecated, with what is said of them. */
function deprecated(name: string): string[] {
  const file = ts.createSourceFile(name, readFileSync(join(root, name), "utf8"), ts.ScriptTarget.Latest, true);
  const found: string[] = [];
  const visit = (node: ts.Node, inside: string): void => {
    const own = ts.isInterfaceDeclaration(node) || ts.isTypeElement(node) ? node.name?.getText() : undefined;
    const path = own === undefined ? inside : inside === "" ? own : `${inside}.${own}`;
    const tag = own === undefined ? undefined : ts.getJSDocDeprecatedTag(node);
    if (tag) found.push(`${path}: ${ts.getTextOfJSDocComment(tag.comment)}`);
    ts.forEachChild(node, (child) => visit(child, path));
  };
  visit(file, "");
  return found;
}

test("old names compile, and are marked as deprecated with the new name and the version that removes them", () => {
  assert.equal(Object.keys(before).length, 7);
  assert.equal(deprecated("src/base/types.ts"), [
    "Sequence.scored: Use `lossMask`; removed in 0.3. In results it is not enumerable.",
    "Tokenizer.applyChatTemplate.scored: Use `lossMask`; removed in 0.3. It is not enumerable.",
    "Tokenizer.apply: Use {@link Tokenizer.applyChatTemplate}; removed in 0.3.",
    "GenerateRequest.copies: Use `n`; removed in 0.3.",
    "Completion.end: Use `finishReason`; removed in 0.3. It is not enumerable.",
  ]);
  assert.equal(deprecated("src/base/option-types.ts"), [
    "LossOptions.gamma: Use `sftWeight`; removed in 0.3.",
    "Sampling.stream: Use `randomStream`; removed in 0.3.",
  ]);
  assert.equal(deprecated("src/model/generate-file.ts"), ["GenerateFileOptions.copies: Use `n`; removed in 0.3."]);
});

test.run();
