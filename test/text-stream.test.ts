// Streamed text: stop strings wherever tokens cut them, and what a caller sees of them.
import { test } from "uvu";
import * as assert from "uvu/assert";
import { includes, ordered } from "./helpers/assert.js";
import { loadModel } from "../src/index.js";
import { TextBranch } from "../src/model/text-stream.js";
import type { ModelTokenizer } from "../src/text/model-tokenizer.js";
import { folderOf } from "./helpers/golden-video.js";

/** A tokenizer whose ids are indices into `pieces`; "" at the end. */
const pieces = (list: readonly string[]) =>
  ({ stream: () => ({ push: (id: number) => list[id]!, end: () => "" }) }) as unknown as ModelTokenizer;

const rows: { tokens: string[]; stops: string[]; text: string; shown: string[]; after: number | undefined }[] = [
  { tokens: ["ab", "cd"], stops: [], text: "abcd", shown: ["ab", "cd"], after: undefined },
  { tokens: ["a", "\n", "b", "c"], stops: ["\nb"], text: "a", shown: ["a", "", "", ""], after: 3 },
  { tokens: ["a\n", "\n", "x"], stops: ["\n\n"], text: "a", shown: ["a", "", ""], after: 2 },
  { tokens: ["aa", "ab"], stops: ["aab"], text: "a", shown: ["", "a"], after: 2 },
  { tokens: ["x END", "y"], stops: ["ENDED", "END"], text: "x ", shown: ["x ", ""], after: 1 },
  { tokens: ["x EN", "d"], stops: ["END"], text: "x ENd", shown: ["x ", "ENd"], after: undefined },
  { tokens: ["b", "ab", "a"], stops: ["z", "ba"], text: "", shown: ["", "", ""], after: 2 },
  { tokens: ["one STOP two STOP"], stops: ["STOP"], text: "one ", shown: ["one "], after: 1 },
  { tokens: ["tail E"], stops: ["END"], text: "tail E", shown: ["tail "], after: undefined },
];

const early: {
  tokens: string[];
  stops: string[];
  min: number;
  text: string;
  shown: string[];
  after: number | undefined;
}[] = [
  { tokens: ["a.", "b", "c."], stops: ["."], min: 1, text: "a.bc", shown: ["a.", "b", "c"], after: 3 },
  { tokens: ["a.", "b", "c."], stops: ["."], min: 3, text: "a.bc.", shown: ["a.", "b", "c."], after: undefined },
  { tokens: ["a.", "b.", "c"], stops: ["."], min: 2, text: "a.b.c", shown: ["a.", "b.", "c"], after: undefined },
  { tokens: ["aE", "ND", "x"], stops: ["END"], min: 1, text: "a", shown: ["a", "", ""], after: 2 }, // completed behind
  { tokens: ["aE", "ND", "x", "END"], stops: ["END"], min: 2, text: "aENDx", shown: ["a", "END", "x", ""], after: 4 },
];
for (const { tokens, stops, min, text, shown, after } of early)
  test(`${JSON.stringify(tokens)} until ${JSON.stringify(stops)} behind ${min} tokens`, () => {
    const branch = new TextBranch(pieces(tokens), stops, min);
    const seen = tokens.map((_, id) => branch.push(id));
    assert.equal(seen, shown);
    assert.is(seen.join("") + branch.end(), text);
    assert.is(branch.text, text);
    assert.is(branch.stoppedAfter, after);
  });

for (const { tokens, stops, text, shown, after } of rows)
  test(`${JSON.stringify(tokens)} until ${JSON.stringify(stops)}`, () => {
    const branch = new TextBranch(pieces(tokens), stops);
    const seen = tokens.map((_, id) => branch.push(id));
    assert.equal(seen, shown);
    assert.is(seen.join("") + branch.end(), text);
    assert.is(branch.text, text);
    assert.is(branch.stoppedAfter, after);
  });

test("a stop string ends a completion after the token that completes it, in any copy", async () => {
  await using model = await loadModel(folderOf("video_llava"));
  const request = { prompt: "What happens?", maxTokens: 24, temperature: 1, seed: 3, n: 4 };
  const free = await model.generate(request);
  const stop = free[0]!.text.slice(3, 5);
  const stopped = await model.generate({ ...request, stop: [stop] });
  assert.is(stopped[0]!.finishReason, "stop");
  ordered(stopped[0]!.ids.length, "<", free[0]!.ids.length);
  stopped.forEach((c, i) => {
    const whole = free[i]!;
    const at = whole.text.indexOf(stop);
    assert.is(c.text, at < 0 ? whole.text : whole.text.slice(0, at), `copy ${i}`);
    assert.equal([...c.ids], [...whole.ids.slice(0, c.ids.length)]);
    assert.is(c.logProbs.length, c.ids.length);
    if (at >= 0) includes(model.tokenizer.decode(c.ids, { skipSpecial: true }), stop, "the token stays");
  });
});

test("minTokens holds back stop strings too", async () => {
  await using model = await loadModel(folderOf("video_llava"));
  const request = { prompt: "What happens?", maxTokens: 12, temperature: 1, seed: 3 };
  const [free] = await model.generate(request);
  const stop = [free!.text.slice(0, 2)];
  const [at] = await model.generate({ ...request, stop });
  const [held] = await model.generate({ ...request, stop, minTokens: 5 });
  assert.ok(at!.ids.length < 5, `${at!.ids.length} tokens`);
  assert.ok(held!.ids.length > 5 || held!.finishReason === "length", `${held!.ids.length} tokens`);
  assert.ok(held!.text.startsWith(free!.text.slice(0, 2)), JSON.stringify(held!.text));
});

test.run();
