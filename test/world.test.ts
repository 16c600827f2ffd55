// The synthetic world: clips as seeded, sentences that are read back, truth against plain counting, examples that say the truth.
import { createHash } from "node:crypto";
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  type Clip,
  clipOf,
  frames,
  framesOfShot,
  renderClip,
  renderShot,
  shots,
  size,
  view,
} from "../src/world/clip.js";
import { alignExamples, gathered, judgeExample, lookExamples, textExamples } from "../src/world/examples.js";
import { Random } from "../src/world/rng.js";
import { scoreAnswer, summarise, truthValue } from "../src/world/score.js";
import { answer, lookNoise, merge, parse, question, report, sentence, textOf } from "../src/world/text.js";

const clips = (n: number, key: string): { clip: Clip; random: Random }[] =>
  Array.from({ length: n }, (_, i) => {
    const random = new Random("test", key, i);
    return { clip: clipOf(random), random };
  });

test("draws: equal keys, equal draws; even, and of the odds asked for", () => {
  const draws = (...key: (string | number)[]) => Array.from({ length: 5 }, () => new Random(...key).next());
  assert.equal(draws("a", 1), draws("a", 1));
  const [a, b] = [new Random("a", 1), new Random("a", 2)];
  assert.not.equal([a.next(), a.next()], [b.next(), b.next()]);
  const random = new Random("even");
  const n = 60_000;
  const counts = new Array<number>(6).fill(0);
  const weighted = [0, 0, 0];
  for (let i = 0; i < n; i++) {
    counts[random.below(6)]! += 1;
    weighted[random.weighted([0.65, 0.25, 0.1])]! += 1;
  }
  const far = (count: number, p: number) => Math.abs(count - n * p) / Math.sqrt(n * p * (1 - p));
  for (const count of counts) assert.ok(far(count, 1 / 6) < 4, `${count} of ${n}`);
  for (const [i, p] of [0.65, 0.25, 0.1].entries()) assert.ok(far(weighted[i]!, p) < 4, `${weighted[i]} for ${p}`);
});

test("the bytes of a clip are those of every machine", () => {
  const random = new Random("clip", 7);
  const hash = createHash("sha256")
    .update(renderClip(random, clipOf(random)))
    .digest("hex")
    .slice(0, 16);
  assert.is(hash, "f01fc004656f9c67");
});

test("clips: three or four things of different colours, two shots each, no shot empty", () => {
  for (const { clip } of clips(300, "clips")) {
    assert.ok([3, 4].includes(clip.things.length));
    assert.is(new Set(clip.things.map((t) => t.colour)).size, clip.things.length);
    for (const list of clip.shotsOf) assert.is(new Set(list).size, 2);
    for (let s = 0; s < shots; s++) assert.ok(view(clip, s).length > 0);
  }
});

test("a shot shows its things in their colours, and nothing else", () => {
  for (const { clip, random } of clips(40, "render")) {
    const seen = view(clip, 1);
    const { pixels, cover } = renderShot(random, seen);
    assert.is(pixels.length, framesOfShot * size * size * 3);
    seen.forEach((_, i) => {
      const covered = cover.filter((c) => c === i).length;
      assert.ok(covered > 60, `thing ${i} covers ${covered} pixels in four frames`);
    });
    cover.forEach((c, p) => {
      const bright = Math.max(pixels[3 * p]!, pixels[3 * p + 1]!, pixels[3 * p + 2]!) > 120;
      assert.is(bright, c !== 255);
    });
  }
  assert.is(frames, 16);
});

test("sentences are read back; what is no sentence is told apart", () => {
  for (const { clip } of clips(50, "sentences")) assert.equal(parse(textOf(clip.things)), [...clip.things]);
  const rows: readonly [text: string, readable: readonly boolean[]][] = [
    ["", []],
    ["red circle moves left .", [true]],
    ["red circle stays left .", [false]],
    ["red circle moves left", [false]],
    ["red red circle moves left .", [false]],
    [". red circle stays still .", [false, true]],
    ["red circle moves left . blue", [true, false]],
    ["  red   circle\nmoves left .  ", [true]],
  ];
  for (const [text, expected] of rows)
    assert.equal(
      parse(text).map((c) => c !== null),
      expected,
      text,
    );
});

test("scores against plain counting", () => {
  const truth = parse("red circle moves left . blue square stays still . green cross moves up .").map((t) => t!);
  const look = truth.slice(0, 2);
  const rows: readonly [text: string, asked: number | null, expected: Partial<ReturnType<typeof scoreAnswer>>][] = [
    [textOf(look), null, { right: 4, asked: 4, claimed: 4, true: 4, wrong: 0, exact: true, words: 8, value: 4 }],
    [textOf(truth), null, { right: 4, asked: 4, claimed: 6, true: 6, beside: 1, exact: true, value: 6 }],
    ["red circle moves right .", null, { right: 1, claimed: 2, true: 1, wrong: 1, exact: false, value: 0.5 }],
    ["cyan circle moves left .", null, { right: 0, invented: 1, wrong: 2, sentences: 1, value: -1 }],
    [sentence(truth[0]!), 0, { right: 2, asked: 2, exact: true, value: 2 }],
    [textOf(look), 0, { right: 2, asked: 2, beside: 1, exact: false, value: 1.9 }],
    ["red circle moves left . red circle moves left .", null, { right: 2, beside: 1, true: 4, sentences: 2 }],
    ["nothing", null, { wrong: 2, sentences: 1, claimed: 2, true: 0, words: 1 }],
  ];
  for (const [text, asked, expected] of rows) {
    const score = scoreAnswer(text, truth, look, asked);
    for (const [key, value] of Object.entries(expected))
      assert.is(score[key as keyof typeof score], value, `${text}: ${key}`);
  }
  const sum = summarise([
    scoreAnswer(textOf(look), truth, look, null),
    scoreAnswer("cyan circle moves left .", truth, look, null),
  ]);
  assert.equal([sum.precision, sum.recall, sum.exact, sum.invented, sum.words], [4 / 6, 0.5, 0.5, 1 / 3, 6]);
});

test("reports err as often as their noise says", () => {
  let [things, dropped, shape] = [0, 0, 0];
  for (const { clip, random } of clips(4000, "noise")) {
    const told = report(random, clip.things, lookNoise);
    for (const t of clip.things) {
      const found = told.find((x) => x.colour === t.colour);
      things += 1;
      if (!found) dropped += 1;
      else if (found.shape !== t.shape) shape += 1;
    }
  }
  const near = (count: number, n: number, p: number) => Math.abs(count - n * p) < 5 * Math.sqrt(n * p);
  assert.ok(near(dropped, things, lookNoise.drop), `${dropped} of ${things} dropped`);
  assert.ok(near(shape, things - dropped, lookNoise.shape), `${shape} of ${things - dropped} shapes wrong`);
});

test("a new look wins over the old note, the rest is kept", () => {
  const [a, b] = [parse("red circle moves left . blue square stays still ."), parse("red cross moves up .")];
  assert.is(
    textOf(
      merge(
        a.map((t) => t!),
        b.map((t) => t!),
      ),
    ),
    "red cross moves up . blue square stays still .",
  );
});

test("examples: the better answer's label, and a yes or no that is true at every fact", () => {
  let judged = 0;
  for (const { clip, random } of clips(200, "judge")) {
    const example = judgeExample(random, clip.things, view(clip, 0), textOf(gathered(random, clip, 2)));
    if (!example) continue;
    judged += 1;
    const words = example.prompt.split(" ");
    const part = (from: string, to: string) => words.slice(words.indexOf(from) + 1, words.indexOf(to)).join(" ");
    const asked = /what does (\w+) do/.exec(example.prompt)?.[1];
    const colour = asked === undefined ? null : parse(`${asked} circle moves left .`)[0]!.colour;
    const [a, b] = [part("<1>", "<2>"), part("<2>", "<choice>")].map((t) => truthValue(t, clip.things, colour));
    assert.is(example.target, a! > b! ? "A" : "B");
    assert.is(example.notes.length, 3 * (parse(part("<1>", "<2>")).length + parse(part("<2>", "<choice>")).length));
    for (const { at, word } of example.notes) {
      const colourAt = at - ((at - words.indexOf(at < words.indexOf("<2>") ? "<1>" : "<2>") - 1) % 5);
      const real = clip.things.find((t) => sentence(t).startsWith(`${words[colourAt]} `));
      const holds = real !== undefined && sentence(real).split(" ").includes(words[at]!);
      assert.is(word, holds ? "yes" : "no", `${words[at]} at ${at} of ${example.prompt}`);
    }
  }
  assert.ok(judged > 150, `${judged} examples`);
});

test("examples of each stage: words of a small vocabulary alone", () => {
  const words = new Set<string>();
  const kinds = new Set<string>();
  for (const { clip, random } of clips(150, "stages"))
    for (const e of [
      ...alignExamples(random, clip.things),
      ...textExamples(random, 2),
      ...lookExamples(random, clip, random.below(shots), [0.1, 0.3, 0.3, 0.3], 2),
    ]) {
      kinds.add(e.kind);
      for (const word of `${e.prompt} ${e.target}`.split(" ")) words.add(word);
    }
  assert.equal([...kinds].sort(), ["answer", "check", "copy", "describe", "judge", "refine"]);
  assert.is(words.size, 37);
});

test("asked about one thing, an answer speaks of it first", () => {
  for (const { clip, random } of clips(200, "asked")) {
    const seen = view(clip, 2);
    const asked = question(random, seen);
    if (asked.colour === null) continue;
    assert.is(answer(random, seen, asked.colour)[0]!.colour, asked.colour);
  }
});

test.run();
