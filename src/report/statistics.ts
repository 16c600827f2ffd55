// Numbers of an iteration from its records: pairs by status, words, choices of the judge.
import { wordCount } from "../base/counts.js";
import { statuses } from "../judge/judge.js";
import type { IterationRecords, SampleRecords } from "./read-journal.js";

export interface Quartiles {
  low: number;
  median: number;
  high: number;
}

export interface Histogram {
  /** Lower ends; all bins are `width` wide, the last one has all above too. */
  from: number[];
  width: number;
  counts: number[];
}

export interface IterationStatistics {
  samples: number;
  /** By status; what has none yet counts as `open`. They add up to the samples. */
  status: Record<string, number>;
  /** Mean words of the responses of pairs; null without pairs. */
  words: { chosen: number; rejected: number; ratio: number | null; longerChosen: number } | null;
  /** Samples left out because an answer was cut off, and mean words of an answer of theirs and of the others; null without any. */
  censored: { samples: number; share: number; words: number; keptWords: number | null } | null;
  judge: {
    verdicts: number;
    /** Verdicts with a preference, and those of them for the response that was shown first. */
    preferring: number;
    first: number;
    /** Verdicts without a preference: with a margin, without one. */
    ties: number;
    unread: number;
    /** Samples with a preference in both orders, and those of them whose preference turned with the order. */
    both: number;
    flips: number;
  };
  /** Margins of the pairs whose judge gives them. */
  margins: { quartiles: Quartiles; histogram: Histogram } | null;
}

/** Mean margin over the orders, above 0 in favour of response 0. */
export function meanMargin({ verdicts }: SampleRecords): number | null {
  const given = verdicts.filter((v) => v !== null);
  if (given.length === 0 || given.some((v) => v.margin === null)) return null;
  return given.reduce((sum, v) => sum + v.margin!, 0) / given.length;
}

/** The preference turned with the order; null where one of them is not known. */
export function flipOf({ verdicts: [a, b] }: SampleRecords): boolean | null {
  if (!a || !b || a.prefer === null || b.prefer === null) return null;
  return a.prefer !== b.prefer;
}

/** Linear interpolation between the sorted values. */
export function quantile(sorted: readonly number[], share: number): number {
  const at = (sorted.length - 1) * share;
  const [low, high] = [sorted[Math.floor(at)]!, sorted[Math.ceil(at)]!];
  return low + (high - low) * (at - Math.floor(at));
}

export const binCount = 12;

export function histogramOf(values: readonly number[], top: number): Histogram {
  const width = top > 0 ? top / binCount : 1;
  const counts = new Array<number>(binCount).fill(0);
  for (const v of values) counts[Math.min(binCount - 1, Math.max(0, Math.floor(v / width)))]! += 1;
  return { from: counts.map((_, i) => i * width), width, counts };
}

function marginsOf(values: readonly number[]): IterationStatistics["margins"] {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const quartiles = { low: quantile(sorted, 0.25), median: quantile(sorted, 0.5), high: quantile(sorted, 0.75) };
  return { quartiles, histogram: histogramOf(sorted, quantile(sorted, 0.99)) };
}

function wordsOfPairs(pairs: readonly SampleRecords[]): IterationStatistics["words"] {
  let [chosen, rejected, longer, counted] = [0, 0, 0, 0];
  for (const { responses, chosen: c } of pairs) {
    const [w, l] = [responses[c!], responses[c === 0 ? 1 : 0]];
    if (w == null || l == null) continue;
    const [a, b] = [wordCount(w), wordCount(l)];
    chosen += a;
    rejected += b;
    longer += a > b ? 1 : a === b ? 0.5 : 0;
    counted += 1;
  }
  if (counted === 0) return null;
  return {
    chosen: chosen / counted,
    rejected: rejected / counted,
    ratio: rejected === 0 ? null : chosen / rejected,
    longerChosen: longer / counted,
  };
}

/** Mean words of the answers of samples. */
function meanWords(samples: readonly SampleRecords[]): number | null {
  const answers = samples.flatMap(({ responses }) => responses.filter((text) => text !== null));
  return answers.length === 0 ? null : answers.reduce((sum, text) => sum + wordCount(text), 0) / answers.length;
}

function censoredOf(found: IterationRecords, ids: readonly string[]): IterationStatistics["censored"] {
  const samples = ids.flatMap((id) => found.samples.get(id) ?? []);
  const cut = samples.filter((s) => s.status === "truncated");
  const words = meanWords(cut);
  if (words === null) return null;
  const kept = samples.filter((s) => s.status !== "truncated" && s.status !== null);
  return { samples: cut.length, share: cut.length / ids.length, words, keptWords: meanWords(kept) };
}

export function statisticsOf(found: IterationRecords, ids: readonly string[]): IterationStatistics {
  const status: Record<string, number> = Object.fromEntries([...statuses, "open"].map((s) => [s, 0]));
  const judge = { verdicts: 0, preferring: 0, first: 0, ties: 0, unread: 0, both: 0, flips: 0 };
  const pairs: SampleRecords[] = [];
  const margins: number[] = [];
  for (const id of ids) {
    const sample = found.samples.get(id);
    const now = sample?.status ?? "open";
    status[now] = (status[now] ?? 0) + 1;
    if (!sample) continue;
    sample.verdicts.forEach((v, order) => {
      if (!v) return;
      judge.verdicts += 1;
      if (v.prefer !== null) {
        judge.preferring += 1;
        if (v.prefer === order) judge.first += 1;
      } else if (v.margin !== null) judge.ties += 1;
      else judge.unread += 1;
    });
    const flip = flipOf(sample);
    if (flip !== null) judge.both += 1;
    if (flip) judge.flips += 1;
    if (now !== "pair" || sample.chosen === null) continue;
    pairs.push(sample);
    const margin = meanMargin(sample);
    if (margin !== null) margins.push(sample.chosen === 0 ? margin : -margin);
  }
  return {
    samples: ids.length,
    status,
    words: wordsOfPairs(pairs),
    censored: censoredOf(found, ids),
    judge,
    margins: marginsOf(margins),
  };
}
