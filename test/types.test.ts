// What the compiler says of a program's code: checked by `npm run typecheck`, which fails where an expected error is none.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { type IterationConfig, type IterationEvent, type Run, trainIteration } from "../src/index.js";
import { rejects } from "./helpers/assert.js";

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

test.run();
