// The lessons of the tiny model: prompts with the words that should follow, and in judge prompts a yes or no for every fact of
// both answers. Words are separated by spaces; the model's tokenizer has one token per word.
import { type Clip, shots, type Thing, view } from "./clip.js";
import type { Random } from "./seeded-draws.js";
import { truthValue } from "./truth-score.js";
import {
  answer,
  falsified,
  lookNoise,
  merge,
  parse,
  question,
  questionAbout,
  report,
  sentence,
  someThings,
  textOf,
} from "./clip-words.js";

/** Words of the prompts that are no words of sentences. */
export const marks = {
  answer: ["<q>", "<ans>"],
  describe: "<describe>",
  refine: ["<ctx>", "<refine>"],
  judge: ["<judge>", "<ctx>", "<q>", "<1>", "<2>", "<choice>"],
  check: "<yn>",
} as const;
export const labels = ["A", "B"] as const;

export const answerPrompt = (asked: string): string => `<q> ${asked} <ans>`;
export const describePrompt = "<describe>";
export const refinePrompt = (previous: string): string => `<ctx> ${previous} <refine>`;
export const checkPrompt = (claim: string): string => `<yn> ${claim} <ans>`;
export const judgePrompt = (context: string | null, asked: string, first: string, second: string): string =>
  `<judge> ${context === null ? "" : `<ctx> ${context} `}<q> ${asked} <1> ${first} <2> ${second} <choice>`;

export type ExampleKind = "answer" | "describe" | "refine" | "check" | "judge" | "copy";

export interface WorldExample {
  kind: ExampleKind;
  prompt: string;
  target: string;
  /** Whether the answer's end is taught too. */
  ends: boolean;
  weight: number;
  /** Words at places of the prompt (counted in words) in place of what follows there. */
  notes: readonly { at: number; word: "yes" | "no" }[];
}

const example = (kind: ExampleKind, prompt: string, target: string, weight = 1, ends = true): WorldExample => ({
  kind,
  prompt,
  target,
  ends,
  weight,
  notes: [],
});

/** Which facts of an answer hold, at the words that state them; `from`: the answer's first word in the prompt. */
function facts(from: number, text: string, truth: readonly Thing[]): WorldExample["notes"] {
  const notes: { at: number; word: "yes" | "no" }[] = [];
  parse(text).forEach((claim, i) => {
    if (!claim) return;
    const real = truth.find((t) => t.colour === claim.colour);
    const say = (at: number, holds: boolean) => notes.push({ at: from + 5 * i + at, word: holds ? "yes" : "no" });
    say(0, real !== undefined);
    say(1, real?.shape === claim.shape);
    say(3, real?.motion === claim.motion);
  });
  return notes;
}

const tries = 20;

/** Two answers of different truth and the better one's label; null where none were found. */
export function judgeExample(
  random: Random,
  truth: readonly Thing[],
  seen: readonly Thing[],
  context: string | null,
): WorldExample | null {
  const asked = question(random, seen);
  const levels = [0.5, 1, 1];
  for (let k = 0; k < tries; k++) {
    const [a, b] = [0, 1].map(() => textOf(answer(random, seen, asked.colour, random.pick(levels)))) as [
      string,
      string,
    ];
    const [x, y] = [a, b].map((t) => truthValue(t, truth, asked.colour)) as [number, number];
    if (x === y) continue;
    const prompt = judgePrompt(context, asked.text, a, b);
    const words = prompt.split(" ");
    const notes = [...facts(words.indexOf("<1>") + 1, a, truth), ...facts(words.indexOf("<2>") + 1, b, truth)];
    return { ...example("judge", prompt, labels[x > y ? 0 : 1], 4, false), notes };
  }
  return null;
}

const looked = (random: Random, clip: Clip): Thing[] => report(random, view(clip, random.below(shots)), lookNoise);

/** Reports of k looks, each over the ones before. */
export function gathered(random: Random, clip: Clip, looks: number): Thing[] {
  let note = looked(random, clip);
  for (let k = 1; k < looks; k++) note = merge(note, looked(random, clip));
  return note;
}

/** Clean captions and checks of single claims: the first thing that the decoder learns. */
export function alignExamples(random: Random, things: readonly Thing[]): WorldExample[] {
  const checks = [0, 1].map(() => {
    const thing = random.pick(things);
    const holds = random.chance(0.5);
    const claim = sentence(holds ? thing : falsified(random, thing, things));
    return example("check", checkPrompt(claim), holds ? "yes" : "no", 1, false);
  });
  return [example("describe", describePrompt, textOf(things)), ...checks];
}

/** Judging by words alone: the context is the whole truth, and there is nothing to look at. */
export function textExamples(random: Random, count: number): WorldExample[] {
  const things = someThings(random, random.pick([1, 2, 2, 3, 4]));
  const out: WorldExample[] = [];
  for (let k = 0; k < count; k++) {
    const n = 1 + random.below(things.length);
    const seen = random.chance(0.5) ? things : random.sample(things, n).sort((a, b) => a.colour - b.colour);
    const judged = judgeExample(random, things, seen, textOf(things));
    if (judged) out.push(judged);
  }
  const thing = random.pick(things);
  const copy = `<ctx> ${textOf(things)} ${answerPrompt(questionAbout(thing.colour).text)}`;
  return [...out, example("copy", copy, sentence(thing), 1, false)];
}

/** Everything that is asked about one look: answer, description, improved description, verdicts. */
export function lookExamples(
  random: Random,
  clip: Clip,
  shot: number,
  odds: readonly number[],
  verdicts: number,
): WorldExample[] {
  const seen = view(clip, shot);
  const asked = question(random, seen);
  const before = gathered(random, clip, random.pick([1, 1, 2, 3]));
  const out = [
    example("answer", answerPrompt(asked.text), textOf(answer(random, seen, asked.colour))),
    example("describe", describePrompt, textOf(report(random, seen, lookNoise))),
    example("refine", refinePrompt(textOf(before)), textOf(merge(before, report(random, seen, lookNoise)))),
  ];
  for (let k = 0; k < verdicts; k++) {
    const looks = random.weighted(odds);
    const context = looks === 0 ? null : textOf(gathered(random, clip, looks));
    const judged = judgeExample(random, clip.things, view(clip, random.below(shots)), context);
    if (judged) out.push(judged);
  }
  return out;
}
