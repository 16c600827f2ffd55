// Streamed text: stop strings wherever tokens cut them, and what a caller sees of them.
import { test } from "uvu";
import * as assert from "uvu/assert";
import { loadModel } from "../src/index.js";
import { TextBranch } from "../src/stream.js";
import type { ModelTokenizer } from "../src/text/tokenizer.js";
import { folderOf } from "./helpers/golden_video.js";

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
  const request = { prompt: "What happens?", maxTokens: 24, temperature: 1, seed: 3, copies: 4 };
  const free = await model.generate(request);
  const stop = free[0]!.text.slice(3, 5);
  const stopped = await model.generate({ ...request, stop: [stop] });
  assert.ok(stopped[0]!.end === "stop" && stopped[0]!.ids.length < free[0]!.ids.length);
  stopped.forEach((c, i) => {
    const whole = free[i]!;
    const at = whole.text.indexOf(stop);
    assert.is(c.text, at < 0 ? whole.text : whole.text.slice(0, at), `copy ${i}`);
    assert.equal([...c.ids], [...whole.ids.slice(0, c.ids.length)]);
    assert.is(c.logProbs.length, c.ids.length);
    if (at >= 0) assert.ok(model.tokenizer.decode(c.ids, { skipSpecial: true }).includes(stop), "the token stays");
  });
});

test.run();
