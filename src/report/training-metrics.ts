// Metrics of training, thinned for drawing: means of neighbouring steps, at most `maxPoints` of them.
import { join } from "node:path";
import { mean, sum } from "../base/statistics.js";
import type { Json } from "../base/check.js";
import { isThere, linesOf, numberOr, type Tell } from "./run-files.js";

export const maxPoints = 240;

export const curveKeys = [
  "loss",
  "accuracy",
  "chosenReward",
  "rejectedReward",
  "margin",
  "learningRate",
  "lengthMarginCorrelation",
  "gradNorm",
] as const;
export type CurveKey = (typeof curveKeys)[number];

export interface Training {
  steps: number;
  /** Steps that a point is the mean of. */
  stride: number;
  /** Last step of a point. */
  at: number[];
  /** null: the run does not have it there. */
  curves: Record<CurveKey, (number | null)[]>;
  evaluations: { step: number; loss: number; accuracy: number | null; margin: number | null }[];
  /** Of steps among ranks; null where one process trained alone. */
  waiting: Waiting | null;
}

export interface Waiting {
  steps: number;
  /** Share of the steps' time that rank 0 spent with the others, waiting for them included. */
  share: number;
  /** The rank that most often computed the longest, and in what share of the steps. */
  slowest: { rank: number; share: number };
}

/** From timings.jsonl, where a step that was computed again has two lines: the last one counts. */
async function waitingOf(path: string, name: string, tell: Tell): Promise<Waiting | null> {
  const byStep = new Map<number, { seconds: number; waited: number; slowest: number }>();
  for await (const row of linesOf(path, name, tell)) {
    const waited = numberOr(row.communicationSeconds, null);
    if (waited === null) continue;
    byStep.set(numberOr(row.step, 0), {
      seconds: numberOr(row.seconds, 0),
      waited,
      slowest: numberOr(row.slowestRank, 0),
    });
  }
  if (byStep.size === 0) return null;
  const all = [...byStep.values()];
  const times = new Map<number, number>();
  for (const { slowest } of all) times.set(slowest, (times.get(slowest) ?? 0) + 1);
  const [rank, most] = [...times].sort((a, b) => b[1] - a[1] || a[0] - b[0])[0]!;
  const seconds = sum(all.map((s) => s.seconds));
  const share = seconds > 0 ? sum(all.map((s) => s.waited)) / seconds : 0;
  return { steps: all.length, share, slowest: { rank, share: most / all.length } };
}

function thinned(
  rows: readonly (readonly (number | null)[])[],
  steps: readonly number[],
): Omit<Training, "evaluations" | "waiting"> {
  const stride = Math.max(1, Math.ceil(rows.length / maxPoints));
  const at: number[] = [];
  const curves = Object.fromEntries(curveKeys.map((k) => [k, []])) as unknown as Training["curves"];
  for (let from = 0; from < rows.length; from += stride) {
    const part = rows.slice(from, from + stride);
    at.push(steps[from + part.length - 1]!);
    curveKeys.forEach((key, k) => {
      const values = part.map((row) => row[k]).filter((v) => v != null);
      curves[key].push(values.length === 0 ? null : mean(values));
    });
  }
  return { steps: rows.length, stride, at, curves };
}

const evaluationOf = (row: Json) => ({
  step: numberOr(row.step, 0),
  loss: numberOr(row.loss, 0),
  accuracy: numberOr(row.accuracy, null),
  margin: numberOr(row.margin, null),
});

/** What a train/ folder tells; null where it has no metrics yet. */
export async function readTraining(dir: string, name: string, tell: Tell): Promise<Training | null> {
  const path = join(dir, "metrics.jsonl");
  if (!(await isThere(path))) return null;
  const rows: (number | null)[][] = [];
  const steps: number[] = [];
  for await (const row of linesOf(path, `${name}/metrics.jsonl`, tell)) {
    steps.push(numberOr(row.step, steps.length));
    rows.push(curveKeys.map((key) => numberOr(row[key], null)));
  }
  if (rows.length === 0) return null;
  const evaluations: Training["evaluations"] = [];
  for await (const row of linesOf(join(dir, "evaluation.jsonl"), `${name}/evaluation.jsonl`, tell))
    evaluations.push(evaluationOf(row));
  const waiting = await waitingOf(join(dir, "timings.jsonl"), `${name}/timings.jsonl`, tell);
  return { ...thinned(rows, steps), evaluations, waiting };
}
