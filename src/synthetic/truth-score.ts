// The truth value of an answer, from what is on screen.
import type { Thing } from "./clip.js";
import { parse } from "./clip-words.js";

export interface Score {
  /** Right facts (shape, motion) that were asked for, and how many there were. */
  right: number;
  asked: number;
  /** Facts claimed, and those that hold; a sentence has two. */
  claimed: number;
  true: number;
  sentences: number;
  /** Sentences about colours that are not there. */
  invented: number;
  /** Facts that do not hold. */
  wrong: number;
  /** Sentences about what was not asked, or said again. */
  beside: number;
  /** All asked facts right, none wrong; asked about one thing, nothing beside. */
  exact: boolean;
  /** right - 0.5 wrong - 0.1 beside: what a judge of the truth prefers. */
  value: number;
  /** Words, full stops left out. */
  words: number;
}

interface Tally {
  right: number;
  wrong: number;
  beside: number;
  invented: number;
  true: number;
}

/** `truth`: what claims are held against; `asked`: the things that were asked for. */
function tally(text: string, truth: readonly Thing[], asked: readonly Thing[]): Tally & { sentences: number } {
  const found: Tally = { right: 0, wrong: 0, beside: 0, invented: 0, true: 0 };
  const seen = new Set<number>();
  const claims = parse(text);
  for (const claim of claims) {
    const real = claim && truth.find((t) => t.colour === claim.colour);
    if (!claim || !real) {
      found.wrong += 2;
      if (claim) found.invented += 1;
      continue;
    }
    const holds = Number(claim.shape === real.shape) + Number(claim.motion === real.motion);
    found.true += holds;
    if (seen.has(claim.colour)) {
      found.beside += 1;
      continue;
    }
    seen.add(claim.colour);
    found.wrong += 2 - holds;
    if (asked.some((t) => t.colour === claim.colour)) found.right += holds;
    else found.beside += 1;
  }
  return { ...found, sentences: claims.length };
}

/** An answer about the clip: claims are held against all of it, and what is asked for is what the answer's look shows. */
export function scoreAnswer(
  text: string,
  clip: readonly Thing[],
  look: readonly Thing[],
  colour: number | null,
): Score {
  const asked = colour === null ? look : look.filter((t) => t.colour === colour);
  const t = tally(text, clip, asked);
  const total = 2 * asked.length;
  return {
    right: t.right,
    asked: total,
    claimed: 2 * t.sentences,
    true: t.true,
    sentences: t.sentences,
    invented: t.invented,
    wrong: t.wrong,
    beside: t.beside,
    exact: t.right === total && t.wrong === 0 && (colour === null || t.sentences === 1),
    value: truthValue(text, clip, colour),
    words: text.split(/\s+/).filter((w) => w !== "" && w !== ".").length,
  };
}

/** What the truth prefers: the whole clip counts, whatever the answer's look shows. */
export function truthValue(text: string, clip: readonly Thing[], colour: number | null): number {
  const { right, wrong, beside } = tally(text, clip, colour === null ? clip : clip.filter((t) => t.colour === colour));
  return right - 0.5 * wrong - 0.1 * beside;
}

export interface Summary {
  count: number;
  /** Shares: precision and recall of facts, sentences about what is not there, answers without fault. */
  precision: number;
  recall: number;
  invented: number;
  exact: number;
  value: number;
  words: number;
}

export function summarise(scores: readonly Score[]): Summary {
  const sum = (pick: (s: Score) => number) => scores.reduce((a, s) => a + pick(s), 0);
  const count = scores.length;
  return {
    count,
    precision:
      sum((s) => s.true) /
      Math.max(
        1,
        sum((s) => s.claimed),
      ),
    recall:
      sum((s) => s.right) /
      Math.max(
        1,
        sum((s) => s.asked),
      ),
    invented:
      sum((s) => s.invented) /
      Math.max(
        1,
        sum((s) => s.sentences),
      ),
    exact: sum((s) => Number(s.exact)) / count,
    value: sum((s) => s.value) / count,
    words: sum((s) => s.words) / count,
  };
}
