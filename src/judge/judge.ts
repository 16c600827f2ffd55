// A judge prefers one of two responses to a question about a video. This file has the interface, verdicts in both orders, and
// the status that they give a sample.
import { mean } from "../base/statistics.js";
import type { Sample } from "../data/read-samples.js";
import { IsrDpoError } from "../base/errors.js";
import type { Cancel } from "../base/types.js";

/** A judge's verdict on one item. */
export interface Verdict {
  /** Index of the preferred response; null: a tie, or a choice that could not be read. */
  prefer: 0 | 1 | null;
  /** Margin in nats, above 0 in favour of responses[0]; absent if the judge only chooses. */
  margin?: number;
  /** Text of the judge's reply, if there is one. */
  raw?: string;
}

/** An item to judge. */
export interface JudgeItem {
  /** The question and its video. */
  sample: Sample;
  /** Description of the video, or null. */
  context: string | null;
  /** The two answers. */
  responses: readonly [string, string];
}

/** A judge of two answers. Equal items must get equal verdicts; otherwise a resumed run ends with NONDETERMINISM. */
export interface Judge {
  /** Identifies the judge in the records of a run; another id is another judge. */
  readonly id: string;
  /** Returns one verdict per item, in order. It rejects with JUDGE_FAILED if it cannot. */
  compare(items: readonly JudgeItem[], o?: Cancel): Promise<Verdict[]>;
}

/** The item as the second order shows it. */
export const swapped = ({ sample, context, responses: [a, b] }: JudgeItem): JudgeItem => ({
  sample,
  context,
  responses: [b, a],
});

const flip = (prefer: Verdict["prefer"]): Verdict["prefer"] => (prefer === null ? null : prefer === 0 ? 1 : 0);

/** A verdict of the second order in terms of the first. */
export const unswapped = ({ prefer, margin, ...rest }: Verdict): Verdict => ({
  prefer: flip(prefer),
  ...(margin === undefined ? {} : { margin: -margin }),
  ...rest,
});

/** Both orders of each item, asked in one call, in terms of the first order. */
export async function compareBoth(
  judge: Judge,
  items: readonly JudgeItem[],
  o?: Cancel,
): Promise<[Verdict, Verdict][]> {
  const all = checkedVerdicts(judge, await judge.compare([...items, ...items.map(swapped)], o), 2 * items.length);
  return items.map((_, i) => [all[i]!, unswapped(all[items.length + i]!)]);
}

export async function compareOnce(judge: Judge, items: readonly JudgeItem[], o?: Cancel): Promise<Verdict[]> {
  return checkedVerdicts(judge, await judge.compare(items, o), items.length);
}

/** What a judge of the caller's gave, checked. */
function checkedVerdicts(judge: Judge, verdicts: readonly Verdict[], expected: number): Verdict[] {
  const wrong = (message: string) =>
    new IsrDpoError("JUDGE_FAILED", `judge ${judge.id}: ${message}`, {
      hint: "compare() resolves to one Verdict per item",
    });
  if (!Array.isArray(verdicts) || verdicts.length !== expected)
    throw wrong(`expected ${expected} verdicts, got ${Array.isArray(verdicts) ? verdicts.length : typeof verdicts}`);
  return verdicts.map((v, i) => {
    if (typeof v !== "object" || v === null || ![0, 1, null].includes(v.prefer))
      throw wrong(`verdict ${i}: expected prefer 0, 1 or null, got ${JSON.stringify(v)?.slice(0, 80)}`);
    if (v.margin !== undefined && !Number.isFinite(v.margin))
      throw new IsrDpoError(
        "DEGENERATE",
        `judge ${judge.id}: verdict ${i}: expected a finite margin, got ${v.margin}`,
        {
          hint: "the judging model gives no finite probabilities: look at its weights",
        },
      );
    if (v.margin !== undefined && preferenceOf(v.margin) !== v.prefer && v.margin !== 0)
      throw wrong(`verdict ${i}: expected a margin that agrees with prefer ${v.prefer}, got ${v.margin}`);
    return v;
  });
}

const preferenceOf = (margin: number): Verdict["prefer"] => (margin > 0 ? 0 : margin < 0 ? 1 : null);

/** Status of a sample; docs/judging.md explains each. */
export type PairStatus = "pair" | "tie" | "identical" | "disagree" | "unparsed" | "truncated" | "skipped";
export const statuses: readonly PairStatus[] = [
  "pair",
  "tie",
  "identical",
  "disagree",
  "unparsed",
  "truncated",
  "skipped",
];

export interface Policies {
  tie: "drop" | "fail";
  /** average: the sign of the mean margin decides. */
  disagree: "drop" | "fail" | "average";
  identical: "drop" | "fail";
  unparsed: "drop" | "fail";
  truncated: "drop" | "keep" | "resample";
}

export interface Decision {
  status: PairStatus;
  /** Index of the chosen response, of a pair. */
  chosen?: 0 | 1;
  /** Margin of the chosen response, at least 0; absent if the judge gives none. */
  margin?: number;
}

/**
 * What two orders (or one) come to. A verdict without preference is a tie where it has a margin, else it was not read. With
 * margins their mean decides; without, a tie in one order alone is another choice, as an opposite preference is.
 */
export function decide(verdicts: readonly Verdict[], policies: Policies): Decision {
  if (verdicts.some((v) => v.prefer === null && v.margin === undefined)) return { status: "unparsed" };
  const margins = verdicts.flatMap((v) => (v.margin === undefined ? [] : [v.margin]));
  const known = margins.length === verdicts.length;
  const [prefer, ...others] = new Set(verdicts.map((v) => v.prefer));
  if (!known) return prefer == null || others.length > 0 ? { status: "disagree" } : { status: "pair", chosen: prefer };
  const opposite = verdicts.some((v) => v.prefer === 0) && verdicts.some((v) => v.prefer === 1);
  if (opposite && policies.disagree !== "average") return { status: "disagree" };
  const margin = mean(margins);
  const chosen = preferenceOf(margin);
  return chosen === null ? { status: "tie" } : { status: "pair", chosen, margin: Math.abs(margin) };
}

/** Throws where the policy of a status is to fail. */
export function enforce(sample: string, status: PairStatus, policies: Policies): void {
  const policy = (policies as unknown as Record<string, string | undefined>)[status];
  if (policy !== "fail") return;
  throw new IsrDpoError("DEGENERATE", `sample ${sample}: ${status}, and judge.${status} is "fail"`, {
    hint: `set judge.${status} to "drop" to leave such samples out and count them`,
    detail: { sample, status },
  });
}
