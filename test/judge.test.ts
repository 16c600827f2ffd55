// Judges: what a text chooses, what two orders come to, what a judge of the caller's may give, and the model as its own judge.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { loadModel, type Message } from "../src/index.js";
import {
  compareBoth,
  compareOnce,
  type Decision,
  decide,
  enforce,
  type Judge,
  type JudgeItem,
  type PairStatus,
  type Policies,
  swapped,
  unswapped,
  type Verdict,
} from "../src/judge/judge.js";
import { parseChoice, selfJudge } from "../src/judge/self-judge.js";
import { rejects } from "./helpers/assert.js";
import { folderOf } from "./helpers/golden-video.js";

const test = suite("judge");

const drop: Policies = { tie: "drop", disagree: "drop", identical: "drop", unparsed: "drop", truncated: "drop" };

// ---- reading a choice

const choices: [text: string, expected: 0 | 1 | null, labels?: readonly [string, string]][] = [
  ["1", 0],
  [" 2\n", 1],
  ["**2**", 1],
  ["(1)", 0],
  ["Answer 2", 1],
  ["I prefer answer 2 because it is short", 1],
  ["2. Answer 1 invents a dog", 1],
  ["1: it is right; 2 is wrong", 0],
  ["Answer 2 is better than answer 1", 1],
  ["The answer 1 is right, 2 is not", 0],
  ["Response 1.\nNot 2", 0],
  ["1 or 2", null],
  ["1 and 2 are equal", null],
  ["Between 1 and 2, the second", null],
  ["12", null],
  ["x1", null],
  ["", null],
  ["neither", null],
  ["A", 0, ["A", "B"]],
  ["A better answer is B", null, ["A", "B"]],
  ["B is better", 1, ["A", "B"]],
  ["Both A and B", null, ["A", "B"]],
  ["a", null, ["A", "B"]],
  ["first (good)", 0, ["(good)", "(bad)"]],
  ["C++ is better", 0, ["C++", "C#"]],
  ["é", 0, ["é", "è"]],
];
for (const [text, expected, labels = ["1", "2"] as const] of choices)
  test(`reads ${JSON.stringify(text)} with ${labels.join(", ")}`, () => assert.is(parseChoice(text, labels), expected));

// ---- one status from one or two verdicts

type Short = [prefer: 0 | 1 | null, margin?: number];
const verdict = ([prefer, margin]: Short): Verdict => ({ prefer, ...(margin === undefined ? {} : { margin }) });

const decisions: [verdicts: Short[], expected: Decision, change?: Partial<Policies>][] = [
  [[[0]], { status: "pair", chosen: 0 }],
  [[[1]], { status: "pair", chosen: 1 }],
  [[[null]], { status: "unparsed" }],
  [[[0, 0.5]], { status: "pair", chosen: 0, margin: 0.5 }],
  [[[1, -0.5]], { status: "pair", chosen: 1, margin: 0.5 }],
  [[[null, 0]], { status: "tie" }],
  [[[0], [0]], { status: "pair", chosen: 0 }],
  [[[0], [1]], { status: "disagree" }],
  [[[0], [null]], { status: "unparsed" }],
  [[[null], [1]], { status: "unparsed" }],
  [
    [
      [0, 1],
      [0, 0.5],
    ],
    { status: "pair", chosen: 0, margin: 0.75 },
  ],
  [
    [
      [1, -1],
      [1, -0.5],
    ],
    { status: "pair", chosen: 1, margin: 0.75 },
  ],
  [
    [
      [0, 1],
      [1, -0.5],
    ],
    { status: "disagree" },
  ],
  [
    [
      [0, 1],
      [1, -0.5],
    ],
    { status: "pair", chosen: 0, margin: 0.25 },
    { disagree: "average" },
  ],
  [
    [
      [0, 1],
      [1, -1],
    ],
    { status: "tie" },
    { disagree: "average" },
  ],
  [[[0], [1]], { status: "disagree" }, { disagree: "average" }],
  [
    [
      [null, 0],
      [1, -0.5],
    ],
    { status: "pair", chosen: 1, margin: 0.25 },
  ],
  [
    [
      [null, 0],
      [null, 0],
    ],
    { status: "tie" },
  ],
  [[[0], [null, 0]], { status: "disagree" }],
  [[[null, 0], [1]], { status: "disagree" }],
];
for (const [verdicts, expected, change] of decisions)
  test(`decides ${JSON.stringify(verdicts)} ${change ? JSON.stringify(change) : ""}`, () => {
    assert.equal(decide(verdicts.map(verdict), { ...drop, ...change }), expected);
    const flipped = { 0: 1, 1: 0 } as const;
    const mirrored = verdicts.map(([prefer, margin]): Short => {
      const choice = prefer === null ? null : flipped[prefer];
      return margin === undefined ? [choice] : [choice, 0 - margin];
    });
    const other = expected.chosen === undefined ? {} : { chosen: expected.chosen === 0 ? 1 : 0 };
    assert.equal(
      decide(mirrored.map(verdict), { ...drop, ...change }),
      { ...expected, ...other },
      "responses exchanged",
    );
    if (verdicts.length === 2)
      assert.equal(decide(verdicts.map(verdict).reverse(), { ...drop, ...change }), expected, "orders exchanged");
  });

for (const status of ["tie", "disagree", "identical", "unparsed"] as PairStatus[])
  test(`${status}: drop and fail`, async () => {
    enforce("s", status, drop);
    enforce("s", "pair", { ...drop, [status]: "fail" });
    await rejects(() => enforce("s", status, { ...drop, [status]: "fail" }), "DEGENERATE", /^sample s: /, status);
  });

// ---- both orders

const item = (responses: readonly [string, string]): JudgeItem => ({
  sample: { id: "s", video: "v.mp4", question: "What?" },
  context: "c",
  responses,
});
/** Likes a letter's place in the alphabet, and the first place by `bias`. */
const letters = (bias: number): Judge & { calls: number } => ({
  id: "letters",
  calls: 0,
  async compare(items) {
    this.calls += 1;
    return items.map(({ responses: [a, b] }) => {
      const margin = a.charCodeAt(0) - b.charCodeAt(0) + bias;
      return { prefer: margin > 0 ? 0 : margin < 0 ? 1 : null, margin };
    });
  },
});

test("both orders in one call; a bias for a place cancels in the mean margin", async () => {
  const judge = letters(1.5);
  const found = await compareBoth(judge, [item(["c", "a"]), item(["a", "b"]), item(["b", "b"])]);
  assert.is(judge.calls, 1);
  assert.equal(
    found.map(([a, b]) => [a.prefer, a.margin, b.prefer, b.margin]),
    [
      [0, 3.5, 0, 0.5],
      [0, 0.5, 1, -2.5],
      [0, 1.5, 1, -1.5],
    ],
  );
  const average = { ...drop, disagree: "average" as const };
  assert.equal(
    found.map((v) => decide(v, average)),
    [{ status: "pair", chosen: 0, margin: 2 }, { status: "pair", chosen: 1, margin: 1 }, { status: "tie" }],
  );
  assert.equal(
    found.map((v) => decide(v, drop).status),
    ["pair", "disagree", "disagree"],
  );
  assert.equal(swapped(swapped(item(["a", "b"]))), item(["a", "b"]));
  assert.equal(unswapped(unswapped({ prefer: 1, margin: -2, raw: "x" })), { prefer: 1, margin: -2, raw: "x" });
});

const bad: [name: string, verdicts: unknown, code: "JUDGE_FAILED" | "DEGENERATE", message: RegExp][] = [
  ["no list", null, "JUDGE_FAILED", /^judge bad: expected 1 verdicts, got object$/],
  ["too few", [], "JUDGE_FAILED", /expected 1 verdicts, got 0$/],
  ["too many", [{ prefer: 0 }, { prefer: 0 }], "JUDGE_FAILED", /expected 1 verdicts, got 2$/],
  ["no object", [1], "JUDGE_FAILED", /verdict 0: expected prefer 0, 1 or null, got 1$/],
  ["prefer 2", [{ prefer: 2 }], "JUDGE_FAILED", /verdict 0: expected prefer/],
  ["no prefer", [{}], "JUDGE_FAILED", /verdict 0: expected prefer/],
  ["NaN", [{ prefer: null, margin: Number.NaN }], "DEGENERATE", /verdict 0: expected a finite margin, got NaN$/],
  ["infinite", [{ prefer: 0, margin: Infinity }], "DEGENERATE", /finite margin, got Infinity$/],
  ["against itself", [{ prefer: 0, margin: -1 }], "JUDGE_FAILED", /margin that agrees with prefer 0, got -1$/],
  ["a tie with a margin", [{ prefer: null, margin: 1 }], "JUDGE_FAILED", /agrees with prefer null, got 1$/],
];
for (const [name, verdicts, code, message] of bad)
  test(`a judge that gives ${name}`, () => {
    const judge = { id: "bad", compare: async () => verdicts as Verdict[] };
    return rejects(() => compareOnce(judge, [item(["a", "b"])]), code, message, name);
  });

// ---- the model as judge

const frames = () => {
  const [n, width, height] = [8, 32, 32];
  const data = Uint8Array.from({ length: n * width * height * 3 }, (_, i) => (i * 31) % 251);
  return { kind: "video" as const, frames: data, width, height };
};
const prompting = async ({ responses: [a, b], sample, context }: JudgeItem): Promise<Message[]> => [
  {
    role: "user",
    content: [
      { type: "video", media: frames() },
      { type: "text", text: `${context} ${sample.question} 1: ${a} 2: ${b} Which?` },
    ],
  },
];
const items = [item(["a red dog", "a cat"]), item(["no", "yes it is"]), item(["x", "y"])];

for (const family of ["llava_hound", "video_llava"] as const)
  for (const labels of [
    ["1", "2"],
    ["first", "fifth one"],
  ] as const)
    test(`${family}, ${labels.join(" or ")}: margins are differences of whole label log-probs, alike alone, together, and in a session`, async () => {
      await using model = await loadModel(folderOf(family));
      const o = { model, labels, method: "logprob" as const, prompt: prompting };
      const together = await selfJudge({ ...o, generator: model }).compare(items);
      for (const [i, each] of items.entries()) {
        assert.equal(await selfJudge({ ...o, generator: model }).compare([each]), [together[i]]);
        const sums = await Promise.all(
          labels.map(async (label) => {
            const s = await model.sequence(await prompting(each), label);
            const [logProbs] = await model.logProbs([s]);
            return logProbs!.slice(0, -1).reduce((a, b) => a + b, 0); // without the end token
          }),
        );
        const { margin, prefer } = together[i]!;
        assert.ok(Math.abs(margin! - (sums[0]! - sums[1]!)) < 1e-5, `${margin} and ${sums}`);
        assert.is(prefer, margin! > 0 ? 0 : 1);
      }
      await using session = model.session();
      assert.equal(await selfJudge({ ...o, generator: session }).compare(items), together);
    });

test("method text: greedy, kept as it was said, read or not", async () => {
  await using model = await loadModel(folderOf("llava_hound"));
  const labels = ["1", "2"] as const;
  const judge = selfJudge({ model, generator: model, labels, method: "text", prompt: prompting, maxTokens: 4 });
  const verdicts = await judge.compare(items);
  assert.equal(await judge.compare(items), verdicts);
  for (const v of verdicts) {
    assert.is(v.margin, undefined);
    assert.is(v.prefer, parseChoice(v.raw!, labels));
  }
  assert.equal(await judge.compare([]), []);
});

test("a label that begins the other one cannot be told apart", async () => {
  await using model = await loadModel(folderOf("llava_hound"));
  const labels = ["yes", "yes it is"] as const;
  const judge = selfJudge({ model, generator: model, labels, method: "logprob", prompt: prompting });
  await rejects(
    () => judge.compare(items),
    "TOKENIZER",
    /^the label "yes" has no token that the other has not$/,
    "label",
  );
});

test.run();
