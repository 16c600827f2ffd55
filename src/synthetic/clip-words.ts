// Sentences about clips: one sentence of five words per thing, questions, and reports with errors of known kinds.
import { colours, motions, shapes, someThings, type Thing } from "./clip.js";
import type { Random } from "./seeded-draws.js";

/** "red circle moves left ." */
export function sentence({ colour, shape, motion }: Thing): string {
  return `${colours[colour]} ${shapes[shape]} ${motion === 4 ? "stays" : "moves"} ${motions[motion]} .`;
}

export const textOf = (things: readonly Thing[]): string => things.map(sentence).join(" ");

/** The claims of a text, null for what is no sentence of the world. */
export function parse(text: string): (Thing | null)[] {
  const words = text.trim().split(/\s+/).filter(Boolean);
  const claims: (Thing | null)[] = [];
  let from = 0;
  words.forEach((word, i) => {
    if (word !== "." && i < words.length - 1) return;
    claims.push(word === "." ? claimOf(words.slice(from, i + 1)) : null);
    from = i + 1;
  });
  return claims;
}

function claimOf(words: readonly string[]): Thing | null {
  if (words.length !== 5) return null;
  const colour = colours.indexOf(words[0] as (typeof colours)[number]);
  const shape = shapes.indexOf(words[1] as (typeof shapes)[number]);
  const motion = motions.indexOf(words[3] as (typeof motions)[number]);
  const verb = motion === 4 ? "stays" : "moves";
  return colour < 0 || shape < 0 || motion < 0 || words[2] !== verb ? null : { colour, shape, motion };
}

/** Sentences that can be read, others left out: what a context may hold. */
export const readable = (text: string): Thing[] => parse(text).filter((t) => t !== null);

export interface Question {
  text: string;
  /** Index of the colour that is asked about; null: all things. */
  colour: number | null;
}

export const openQuestion: Question = { text: "what happens ?", colour: null };
export const questionAbout = (colour: number): Question => ({ text: `what does ${colours[colour]} do ?`, colour });

export function question(random: Random, seen: readonly Thing[]): Question {
  if (random.chance(0.6)) return openQuestion;
  return questionAbout(random.pick(seen).colour);
}

/** Probabilities of each kind of error in a report. */
export interface Noise {
  shape: number;
  motion: number;
  drop: number;
  /** Probabilities of 0, 1 and 2 invented things. */
  invent: readonly [number, number, number];
}

/** How the model's answers are taught: worse than what it can see, on purpose. */
export const answerNoise: Noise = { shape: 0.2, motion: 0.25, drop: 0.35, invent: [0.65, 0.25, 0.1] };
/** How a look is reported, in descriptions and improved ones alike. */
export const lookNoise: Noise = { shape: 0.06, motion: 0.08, drop: 0.06, invent: [0.92, 0.07, 0.01] };

const opposite = [1, 0, 3, 2, 1];
const confused = [1, 0, 3, 2];
const other = (random: Random, n: number, not: number): number => {
  const x = random.below(n - 1);
  return x < not ? x : x + 1;
};

function invented(random: Random, taken: readonly Thing[]): Thing | null {
  const free = colours.map((_, i) => i).filter((c) => !taken.some((t) => t.colour === c));
  if (free.length === 0) return null;
  return { colour: random.pick(free), shape: random.below(shapes.length), motion: random.below(motions.length) };
}

const byColour = (a: Thing, b: Thing): number => a.colour - b.colour;

function blurred(random: Random, thing: Thing, noise: Noise): Thing {
  let { shape, motion } = thing;
  if (random.chance(noise.shape)) shape = random.chance(0.6) ? confused[shape]! : other(random, shapes.length, shape);
  if (motion === 4) {
    if (random.chance(noise.motion * 1.6)) motion = 1;
  } else if (random.chance(noise.motion))
    motion = random.chance(0.6) ? opposite[motion]! : other(random, motions.length, motion);
  return { colour: thing.colour, shape, motion };
}

/** A report of things with errors; never empty. */
export function report(random: Random, things: readonly Thing[], noise: Noise): Thing[] {
  const out: Thing[] = [];
  for (const thing of things) if (!random.chance(noise.drop)) out.push(blurred(random, thing, noise));
  for (let k = random.weighted(noise.invent); k > 0; k--) {
    const thing = invented(random, [...things, ...out]);
    if (thing) out.push(thing);
  }
  if (out.length === 0) out.push(random.pick(things));
  return out.sort(byColour);
}

/** An answer as the model is taught to give it; `level` scales its errors. */
export function answer(random: Random, seen: readonly Thing[], asked: number | null, level = 1): Thing[] {
  const { shape, motion, drop, invent } = answerNoise;
  const noise: Noise = {
    shape: shape * level,
    motion: motion * level,
    drop: drop * level,
    invent: [1 - (1 - invent[0]) * level, invent[1] * level, invent[2] * level],
  };
  if (asked === null) return report(random, seen, noise);
  const own = report(
    random,
    seen.filter((t) => t.colour === asked),
    { ...noise, drop: 0, invent: [1, 0, 0] },
  );
  const rest = report(random, seen, noise).filter((t) => t.colour !== asked);
  const extra = random.sample(rest, rest.length).slice(0, random.weighted(noise.invent));
  return [...own, ...extra];
}

/** The new look over the old note: what was seen now wins, the rest is kept, right or wrong. */
export const merge = (before: readonly Thing[], now: readonly Thing[]): Thing[] =>
  [...before.filter((t) => !now.some((n) => n.colour === t.colour)), ...now].sort(byColour);

/** Another thing in place of one, for a false claim: invented, or with one wrong fact. */
export function falsified(random: Random, thing: Thing, all: readonly Thing[]): Thing {
  const kind = random.weighted([0.2, 0.4, 0.4]);
  const strange = kind === 0 ? invented(random, all) : null;
  if (strange) return strange;
  if (kind === 1) return { ...thing, shape: other(random, shapes.length, thing.shape) };
  return { ...thing, motion: other(random, motions.length, thing.motion) };
}

export { someThings };
