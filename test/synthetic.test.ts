// The synthetic world: draws and bytes that stay, truth against a second reading of it, reports and judges by rule.
import { createHash } from "node:crypto";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { stretchOf } from "../src/iterate/frame-policy.js";
import {
  clipOf,
  colours,
  frames,
  framesOfShot,
  motions,
  renderClip,
  renderShot,
  shapes,
  shots,
  size,
  someThings,
  type Thing,
  view,
} from "../src/synthetic/clip.js";
import { gathered, judgeExample, lookExamples, textExamples } from "../src/synthetic/teaching-examples.js";
import { randomJudge, shorterJudge, truthJudge } from "../scripts/world/rule-judges.js";
import { Random } from "../src/synthetic/seeded-draws.js";
import { clipFrames, trueCaption, type WorldSet, worldSamples, wrongCaptions } from "../src/synthetic/world-samples.js";
import { scoreAnswer, summarise, truthValue } from "../src/synthetic/truth-score.js";
import {
  answer,
  answerNoise,
  falsified,
  merge,
  openQuestion,
  parse,
  readable,
  report,
  sentence,
  textOf,
} from "../src/synthetic/clip-words.js";
import { every, includes, none, ordered, rejects, some } from "./helpers/assert.js";

const test = suite("world");
const sha = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex").slice(0, 16);
const seeds = Array.from({ length: 200 }, (_, i) => i);

// ---- draws and bytes: these constants hold on every machine

test("draws are those of the key", () => {
  const draws = (...key: (string | number | bigint)[]) => {
    const random = new Random(...key);
    return Array.from({ length: 4 }, () => random.next());
  };
  assert.equal(draws("world", 0), [855814433, 4008314568, 3421617816, 4090737600]);
  assert.equal(draws("world", 0), draws("world", 0n));
  for (const other of [["world", 1], ["worlds", 0], ["world"]] as const)
    assert.not.equal(draws(...other), draws("world", 0));
});

test("draws are even", () => {
  const random = new Random("even");
  const counts = new Array<number>(6).fill(0);
  for (let i = 0; i < 60_000; i++) counts[random.below(6)]! += 1;
  for (const n of counts) assert.ok(Math.abs(n - 10_000) < 400, String(counts)); // four deviations
  const weighted = [0, 0, 0];
  for (let i = 0; i < 30_000; i++) weighted[random.weighted([1, 0, 2])]! += 1;
  assert.is(weighted[1], 0);
  assert.ok(Math.abs(weighted[2]! - 20_000) < 400, String(weighted));
});

test("frames of a clip are the same bytes on every machine, and another seed's differ", () => {
  const set: WorldSet = { name: "train", seed: 5, clips: 2 };
  assert.is(sha(clipFrames(set, 0)), "c1ce3c5efa0dd79a");
  assert.is(sha(clipFrames({ ...set, clips: 9 }, 0)), sha(clipFrames(set, 0)));
  for (const other of [clipFrames(set, 1), clipFrames({ ...set, seed: 6 }, 0), clipFrames({ ...set, name: "x" }, 0)])
    assert.is.not(sha(other), sha(clipFrames(set, 0)));
});

// ---- clips

test("three or four things of different colours, each in two shots, no shot empty", () => {
  for (const seed of seeds) {
    const clip = clipOf(new Random(seed));
    includes([3, 4], clip.things.length);
    assert.is(new Set(clip.things.map((t) => t.colour)).size, clip.things.length);
    for (const s of clip.shotsOf) assert.is(new Set(s).size, 2);
    for (let s = 0; s < shots; s++) ordered(view(clip, s).length, ">", 0);
    const seen = [0, 1, 2, 3].flatMap((s) => view(clip, s));
    assert.is(seen.length, 2 * clip.things.length);
  }
});

test("a shot shows its things in their colours, moving as it is said", () => {
  const steps = [
    [-1, 0],
    [1, 0],
    [0, -1],
    [0, 1],
    [0, 0],
  ] as const;
  for (const seed of seeds.slice(0, 60)) {
    const random = new Random("shot", seed);
    const things = someThings(random, 1 + random.below(3));
    const { pixels, cover } = renderShot(random, things);
    things.forEach((thing, i) => {
      const middles = Array.from({ length: framesOfShot }, (_, f) => {
        let [x, y, n] = [0, 0, 0];
        for (let p = 0; p < size * size; p++)
          if (cover[f * size * size + p] === i) [x, y, n] = [x + (p % size), y + Math.floor(p / size), n + 1];
        return [x / n, y / n, n] as const;
      });
      every(middles, ([, , n]) => n > 3, "it is seen in every frame");
      const whole = middles.every(([x, y]) => x > 6 && x < 25 && y > 6 && y < 25); // else the border or another one cuts it
      if (!whole || things.length > 1) return;
      const [dx, dy] = [middles[3]![0] - middles[0]![0], middles[3]![1] - middles[0]![1]];
      const [sx, sy] = steps[thing.motion]!;
      const near = (moved: number, step: number) => (step === 0 ? Math.abs(moved) < 1 : Math.sign(moved) === step);
      assert.ok(near(dx, sx) && near(dy, sy), `${sentence(thing)}: moved by ${dx}, ${dy}`);
    });
    const ground = pixels.filter((_, k) => cover[Math.floor(k / 3)] === 255);
    ordered(Math.max(...ground), "<", 60, "the ground is dark");
  }
});

test("renderClip is its shots one after the other", () => {
  const clip = clipOf(new Random("c"));
  const all = renderClip(new Random("r"), clip);
  const random = new Random("r");
  const bytes = [0, 1, 2, 3].flatMap((s) => [...renderShot(random, view(clip, s)).pixels]);
  assert.is(all.length, frames * size * size * 3);
  assert.is(sha(all), sha(Uint8Array.from(bytes)));
});

// ---- sentences

test("every sentence is read back as the thing that it states", () => {
  const all: Thing[] = colours.flatMap((_, colour) =>
    shapes.flatMap((_s, shape) => motions.map((_m, motion) => ({ colour, shape, motion }))),
  );
  assert.is(all.length, 120);
  for (const thing of all) assert.equal(parse(sentence(thing)), [thing]);
  assert.equal(parse(textOf(all)), all);
});

const unread: [text: string, expected: number, readable: number][] = [
  ["", 0, 0],
  ["red circle moves left", 1, 0],
  ["red circle stays left .", 1, 0],
  ["red circle moves still .", 1, 0],
  ["red moves left .", 1, 0],
  [". red circle moves left .", 2, 1],
  ["red circle moves left . blue", 2, 1],
  ["red circle moves left . red circle moves left .", 2, 2],
];
for (const [text, claims, good] of unread)
  test(`"${text}" has ${claims} claims, ${good} of them readable`, () => {
    assert.is(parse(text).length, claims);
    assert.is(readable(text).length, good);
  });

test("reports err as often as their noise says", () => {
  const random = new Random("noise");
  const count = { all: 0, shape: 0, dropped: 0, invented: 0, stillRight: 0, still: 0 };
  for (let i = 0; i < 6000; i++) {
    const things = someThings(random, 4);
    const said = report(random, things, answerNoise);
    ordered(said.length, ">", 0);
    count.invented += said.filter((s) => !things.some((t) => t.colour === s.colour)).length;
    for (const thing of things) {
      const found = said.find((s) => s.colour === thing.colour);
      count.all += 1;
      if (!found) count.dropped += 1;
      else if (found.shape !== thing.shape) count.shape += 1;
      if (found && thing.motion === 4) {
        count.still += 1;
        if (found.motion === 1) count.stillRight += 1;
      }
    }
  }
  const near = (n: number, of: number, p: number) =>
    assert.ok(Math.abs(n / of - p) < 5 * Math.sqrt((p * (1 - p)) / of), `${n} of ${of}, expected ${p}`);
  near(count.dropped, count.all, answerNoise.drop - 0.01); // a report is never empty
  near(count.shape, count.all - count.dropped, answerNoise.shape);
  near(count.stillRight, count.still, 1.6 * answerNoise.motion);
  near(count.invented, 6000, 0.45); // 0.25 + 2 x 0.1
});

test("answers about one thing state it, and a false claim is false", () => {
  for (const seed of seeds) {
    const random = new Random("about", seed);
    const things = someThings(random, 3);
    const asked = random.pick(things);
    assert.is(answer(random, things, asked.colour)[0]!.colour, asked.colour);
    const wrong = falsified(random, asked, things);
    none(things, (t) => sentence(t) === sentence(wrong), sentence(wrong));
  }
});

test("a note keeps what a new look does not show, and takes what it does", () => {
  const [a, b, c] = [0, 1, 2].map((colour) => ({ colour, shape: 0, motion: 0 })) as [Thing, Thing, Thing];
  assert.equal(merge([a, b], [{ ...b, shape: 2 }, c]), [a, { ...b, shape: 2 }, c]);
  const recall = (looks: number) => {
    let [right, all] = [0, 0];
    for (const seed of seeds) {
      const clip = clipOf(new Random("g", seed));
      const note = gathered(new Random("note", seed), clip, looks);
      all += clip.things.length;
      right += clip.things.filter((t) => note.some((n) => n.colour === t.colour)).length;
    }
    return right / all;
  };
  assert.ok(recall(1) < 0.55 && recall(3) > 0.75, `${recall(1)}, ${recall(3)}`);
});

// ---- truth, against a slower reading of it

function bruteForce(text: string, clip: readonly Thing[], look: readonly Thing[], colour: number | null) {
  const claims = text
    .split(".")
    .slice(0, -1)
    .map((s) => s.trim().split(" "));
  const real = (word: string, among: readonly Thing[]) => among.find((t) => colours[t.colour] === word);
  const facts = claims.map(([c, s, , m]) => {
    const thing = real(c!, clip);
    return thing ? [shapes[thing.shape] === s, motions[thing.motion] === m] : [false, false];
  });
  const asked = look.filter((t) => colour === null || t.colour === colour);
  const first = (i: number) => claims.findIndex(([c]) => c === claims[i]![0]) === i;
  let right = 0;
  claims.forEach(([c], i) => {
    if (real(c!, asked) && first(i)) right += facts[i]!.filter(Boolean).length;
  });
  return {
    right,
    asked: 2 * asked.length,
    claimed: 2 * claims.length,
    true: facts.flat().filter(Boolean).length,
    invented: claims.filter(([c]) => !real(c!, clip)).length,
    words: claims.flat().length,
  };
}

test("scores agree with a slower reading, and exact means without fault", () => {
  let exact = 0;
  for (const seed of Array.from({ length: 600 }, (_, i) => i)) {
    const random = new Random("score", seed);
    const clip = clipOf(random);
    const look = view(clip, random.below(shots));
    const colour = random.chance(0.5) ? null : random.pick(look).colour;
    const said = answer(random, look, colour, random.pick([0, 0.3, 1]));
    const twice = random.chance(0.2) ? [...said, said[0]!] : said;
    const score = scoreAnswer(textOf(twice), clip.things, look, colour);
    const expected = bruteForce(textOf(twice), clip.things, look, colour);
    for (const [key, value] of Object.entries(expected))
      assert.is(score[key as keyof typeof expected], value, `${key} of "${textOf(twice)}", seed ${seed}`);
    const faultless = new Set(look.filter((t) => colour === null || t.colour === colour).map(sentence));
    const sentences = new Set(twice.map(sentence));
    const allTrue = twice.every((t) => clip.things.some((o) => sentence(o) === sentence(t)));
    const whole = [...faultless].every((s) => sentences.has(s)) && allTrue && (colour === null || twice.length === 1);
    if (twice === said) assert.is(score.exact, whole, textOf(twice));
    exact += Number(score.exact);
  }
  assert.ok(exact > 100 && exact < 500, String(exact));
});

const red: Thing = { colour: 0, shape: 0, motion: 0 };
const blue: Thing = { colour: 2, shape: 1, motion: 4 };
const values: [text: string, colour: number | null, value: number][] = [
  ["red circle moves left . blue square stays still .", null, 4],
  ["red circle moves left .", null, 2],
  ["red circle moves right .", null, 1 - 0.5],
  ["green circle moves left .", null, -1],
  ["nothing .", null, -1],
  ["red circle moves left . red circle moves left .", null, 2 - 0.1],
  ["red circle moves left . blue square stays still .", 0, 2 - 0.1],
  ["blue square stays still .", 0, -0.1],
  ["blue cross stays still .", 0, -0.5 - 0.1],
  ["", null, 0],
];
for (const [text, colour, value] of values)
  test(`"${text}" is worth ${value}${colour === null ? "" : " when red is asked about"}`, () =>
    ordered(Math.abs(truthValue(text, [red, blue], colour) - value), "<", 1e-12));

test("a summary weighs facts, not answers", () => {
  const s = ["red circle moves left . blue square stays still .", "green circle moves left ."].map((t) =>
    scoreAnswer(t, [red, blue], [red, blue], null),
  );
  const sum = summarise(s);
  assert.equal([sum.count, sum.precision, sum.recall, sum.invented, sum.exact], [2, 4 / 6, 4 / 8, 1 / 3, 0.5]);
  assert.is(sum.words, 6);
  assert.is(sum.value, (4 - 1) / 2);
});

// ---- examples

test("judge examples: the truer answer's label, and a true yes or no at each fact", () => {
  const labels = { A: 0, B: 0 };
  for (const seed of seeds) {
    const random = new Random("judge", seed);
    const clip = clipOf(random);
    const e = judgeExample(random, clip.things, view(clip, random.below(shots)), null);
    if (!e) continue;
    labels[e.target as "A" | "B"] += 1;
    const words = e.prompt.split(" ");
    const [one, two, end] = ["<1>", "<2>", "<choice>"].map((w) => words.indexOf(w)) as [number, number, number];
    const [a, b] = [words.slice(one + 1, two).join(" "), words.slice(two + 1, end).join(" ")];
    const asked = words.slice(words.indexOf("<q>") + 1, one);
    const colour = asked[1] === "does" ? colours.indexOf(asked[2] as (typeof colours)[number]) : null;
    const better = truthValue(a, clip.things, colour) - truthValue(b, clip.things, colour);
    assert.is(e.target, better > 0 ? "A" : "B");
    assert.is(e.notes.length, 3 * (parse(a).length + parse(b).length));
    for (const { at, word } of e.notes) {
      const start = at - ((at - (at < two ? one : two) - 1) % 5);
      const real = clip.things.find((t) => colours[t.colour] === words[start]);
      const facts: string[] = real ? [colours[real.colour]!, shapes[real.shape]!, motions[real.motion]!] : [];
      assert.is(word, facts.includes(words[at]!) ? "yes" : "no", `${words[at]} of ${e.prompt}`);
    }
  }
  assert.ok(labels.A > 60 && labels.B > 60, JSON.stringify(labels)); // no label wins by itself
});

test("examples of a look: what is asked, what a note adds", () => {
  const random = new Random("look");
  const clip = clipOf(random);
  const kinds = lookExamples(random, clip, 0, [1, 0, 0, 0], 3).map((e) => e.kind);
  assert.equal(kinds.slice(0, 3), ["answer", "describe", "refine"]);
  every(lookExamples(random, clip, 0, [1, 0, 0, 0], 3), (e) => e.kind !== "judge" || !e.prompt.includes("<ctx>"));
  every(lookExamples(random, clip, 0, [0, 1, 0, 0], 3), (e) => e.kind !== "judge" || e.prompt.includes("<ctx>"));
  every(textExamples(random, 4), (e) => e.prompt.includes("<ctx>"));
});

// ---- samples and judges

test("samples: the question is about the look that the method will take", () => {
  const set: WorldSet = { name: "train", seed: 3, clips: 40 };
  const samples = worldSamples(set);
  assert.equal(worldSamples({ ...set, clips: 10 }), samples.slice(0, 10));
  const rule = { looks: "varied" as const, stretches: shots, seed: 3n, sample: undefined };
  for (const s of samples) {
    assert.is(s.shot, stretchOf(rule, s.id, "response", 7));
    assert.equal(s.look, view(s.clip, s.shot));
    if (s.asked.colour !== null) some(s.look, (t) => t.colour === s.asked.colour);
  }
  const both = worldSamples({ ...set, questions: "both" });
  assert.is(both.length, 80);
  assert.is(new Set(both.map((s) => s.id)).size, 80);
  every(both, (s, i) => (s.question === openQuestion.text) === (i % 2 === 0));
});

test("wrong captions are another clip's", () => {
  const samples = worldSamples({ name: "w", seed: 1, clips: 30, questions: "both" });
  wrongCaptions(samples).forEach((caption, i) => {
    assert.is.not(caption, trueCaption(samples[i]!));
    some(samples, (s) => trueCaption(s) === caption);
  });
  const alone = worldSamples({ name: "w", seed: 1, clips: 1, questions: "both" });
  assert.throws(() => wrongCaptions(alone), /expected clips that show different things/);
});

test("rule judges", async () => {
  const samples = worldSamples({ name: "j", seed: 2, clips: 200 });
  const item = (i: number, responses: [string, string]) => ({ sample: samples[i]!, context: null, responses });
  const truth = truthJudge(samples);
  const [good, bad] = [trueCaption(samples[0]!), "red circle moves left ."].map(String) as [string, string];
  const value = (t: string) => truthValue(t, samples[0]!.clip.things, samples[0]!.asked.colour);
  const [v, w, tie] = await truth.compare([item(0, [good, bad]), item(0, [bad, good]), item(0, [bad, bad])]);
  assert.equal([v!.prefer, w!.prefer, tie!.prefer], [0, 1, null]);
  assert.is(v!.margin, value(good) - value(bad));
  const unknown = { ...samples[0]!, id: "elsewhere" };
  await rejects(
    () => truth.compare([{ sample: unknown, context: null, responses: [good, bad] }]),
    "INVALID_ARGUMENT",
    /elsewhere/,
    "a sample without truth",
  );
  const short = await shorterJudge.compare([
    item(0, ["a b .", "a b c ."]),
    item(0, ["a b c", "a"]),
    item(0, ["a .", "b"]),
  ]);
  assert.equal(
    short.map((x) => x.prefer),
    [0, 1, null],
  );
  const items = samples.map((_, i) => item(i, ["a", "b"]));
  const drawn = (await randomJudge(1).compare(items)).map((x) => x.prefer);
  const swapped = await randomJudge(1).compare(items.map((x) => ({ ...x, responses: ["b", "a"] as [string, string] })));
  assert.equal(
    swapped.map((x) => 1 - x.prefer!),
    drawn,
  );
  const ones = drawn.filter((x) => x === 1).length;
  assert.ok(ones > 70 && ones < 130, String(ones));
  assert.not.equal(
    (await randomJudge(2).compare(items)).map((x) => x.prefer),
    drawn,
  );
  assert.is((await randomJudge(1).compare([item(0, ["a", "a"])]))[0]!.prefer, null);
});

test.run();
