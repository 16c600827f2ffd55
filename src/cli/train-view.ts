// What a run looks like: a live line on a terminal, plain lines in a file. These functions depend only on what has happened;
// when to write is decided elsewhere.
import { count, percent } from "../base/counts.js";
import type { IterationEvent, IterationResult, RunStepMetrics } from "../index.js";
import { bytes, duration } from "../report/page/shared.js";
import { printable } from "./terminal.js";

/** Up to four significant digits, small and large ones with an exponent: 5e-7, 0.25, 1234, 1.5e+6. */
export function real(x: number): string {
  if (!Number.isFinite(x)) return String(x);
  if (x !== 0 && Math.abs(x) < 1e-3) return String(Number(x.toExponential(2)).toExponential());
  return Math.abs(x) < 1e5 ? String(Number(x.toPrecision(4))) : Number(x.toPrecision(4)).toExponential();
}

/** What a step learned, and how fast it was; each the most telling first. */
export const learned = (kind: "sft" | "dpo", m: RunStepMetrics): string[] => [
  `loss ${m.loss.toFixed(4)}`,
  ...(kind === "dpo" ? [`margin ${m.margin.toFixed(3)}`, `accuracy ${Math.round(m.accuracy * 100)} %`] : []),
  `lr ${real(m.learningRate)}`,
  `grad ${real(m.gradNorm)}`,
];

export const speed = (m: RunStepMetrics): string[] => [
  `${count(Math.round(m.tokensPerSecond))} tok/s`,
  ...(m.shareOfPeak > 0 ? [`${Math.round(m.shareOfPeak * 100)} % of peak`] : []),
  bytes(m.memoryBytes),
  ...(m.ranks
    ? [`${m.ranks.length} ranks`, `${percent(m.ranks[0]!.communicationSeconds / m.seconds, 0)} waiting`]
    : []),
];

export interface ViewState {
  kind: "sft" | "dpo";
  iteration: number;
  /** What became of the samples of this iteration. */
  statuses: Readonly<Record<string, number>>;
  stage: string;
  done: number;
  total: number;
  secondsLeft: number;
  last: RunStepMetrics | undefined;
}

export const initialState = (kind: "sft" | "dpo"): ViewState => ({
  kind,
  iteration: 0,
  statuses: {},
  stage: "starting",
  done: 0,
  total: 0,
  secondsLeft: Number.NaN,
  last: undefined,
});

const stageNames: Readonly<Record<string, string>> = {
  generate: "responses, contexts, verdicts",
  score: "reference log-probs",
  train: "step",
  save: "saving the model",
};

export function nextState(s: ViewState, e: IterationEvent): ViewState {
  if (e.type === "stage" && e.state !== "end") {
    const statuses = e.iteration === s.iteration ? s.statuses : {};
    const begun = { stage: e.stage, done: 0, total: 0, secondsLeft: Number.NaN, last: undefined };
    return { ...s, iteration: e.iteration, statuses, ...begun };
  }
  if (e.type === "pair") return { ...s, statuses: { ...s.statuses, [e.status]: (s.statuses[e.status] ?? 0) + 1 } };
  if (e.type === "progress") {
    const secondsLeft = e.perSecond > 0 ? e.secondsLeft : Number.NaN;
    return { ...s, stage: e.stage, done: e.done, total: e.total, secondsLeft };
  }
  if (e.type === "step") return { ...s, last: e.metrics, done: Math.max(s.done, e.metrics.step + 1) };
  return s;
}

const bar = (share: number, width: number): string => {
  const full = Math.round(Math.min(1, share) * width);
  return "█".repeat(full) + "░".repeat(width - full);
};

/** "12 pair, 3 tie" */
export const statusText = (statuses: Readonly<Record<string, number>>): string =>
  Object.entries(statuses)
    .filter(([, n]) => n > 0)
    .map(([status, n]) => `${count(n)} ${status}`)
    .join(", ");

/** Parts beside each other in at most `width` columns: those that do not fit are left away, the last first. */
function fitted(parts: readonly string[], width: number): string {
  let line = [...(parts[0] ?? "")].slice(0, width).join("");
  for (const part of parts.slice(1).filter((p) => p !== "")) {
    const longer = `${line}  ${part}`;
    if ([...longer].length > width) break;
    line = longer;
  }
  return line;
}

/** What is rewritten in place: how far, and below it what the newest step says. Each line at most `width` columns. */
export function liveLines(s: ViewState, width: number): string[] {
  const name = `${s.iteration > 0 ? `${s.iteration}: ` : ""}${stageNames[s.stage] ?? s.stage}`;
  const parts = [s.total > 0 ? `${bar(s.done / s.total, 12)} ${name} ${s.done}/${s.total}` : name];
  if (Number.isFinite(s.secondsLeft) && s.done < s.total) parts.push(`${duration(s.secondsLeft)} left`);
  if (s.stage === "generate") parts.push(statusText(s.statuses));
  if (s.stage !== "train" || !s.last) return [fitted(parts, width)];
  return [fitted([...parts, ...speed(s.last)], width), fitted(learned(s.kind, s.last), width)];
}

/** A plain line for a step in a log. */
export function stepLine(s: ViewState): string {
  const left = Number.isFinite(s.secondsLeft) && s.done < s.total ? [`${duration(s.secondsLeft)} left`] : [];
  return [`step ${s.done}/${s.total}`, ...(s.last ? [...learned(s.kind, s.last), ...speed(s.last)] : []), ...left].join(
    "  ",
  );
}

const longestLine = 400;

function oneLine(text: string): string {
  const line = text.replace(/\s+/g, " ");
  return line.length > longestLine ? `${line.slice(0, longestLine)} [...]` : line;
}

/** What stays to be read of an event; undefined: nothing. */
export function lastingLine(e: IterationEvent, kind: "sft" | "dpo"): string | undefined {
  if (e.type === "warning") return printable(`warning (${e.code}): ${e.message}`);
  if (e.type === "answer") return printable(oneLine(`model ${e.model}, ${e.sample}: ${e.question} -> ${e.text}`));
  if (e.type === "evaluation") {
    const pairs = kind === "dpo" ? `  accuracy ${(e.accuracy * 100).toFixed(1)} %  margin ${e.margin.toFixed(3)}` : "";
    return `evaluation before step ${e.step}: loss ${e.loss.toFixed(4)}${pairs}`;
  }
  if (e.type !== "stage" || e.state === "end") return undefined;
  const of = e.iteration > 0 ? `iteration ${e.iteration}: ` : "";
  if (e.state === "resumed") return `${of}going on with what an earlier process left: ${e.stage}`;
  if (e.stage === "generate") return `${of}model ${e.iteration} answers, describes and judges`;
  if (e.stage === "score") return `${of}scoring the reference: the model as it is now`;
  if (e.stage === "train" && e.iteration > 0) return `${of}training model ${e.iteration + 1}`;
  return undefined;
}

/** What is said at the end. */
export function summary(r: IterationResult, runDir: string, seconds: number): string[] {
  const { counts, metrics } = r;
  const [first, last] = [metrics[0], metrics.at(-1)];
  const out = [];
  if (first && last) {
    const scored = (counts.scoredTokens ?? 0) > 0 ? ` (${count(counts.scoredTokens!)} scored tokens)` : "";
    const tokens = metrics.reduce((sum, m) => sum + m.tokensComputed, 0);
    out.push(
      `${metrics.length} steps over ${count(r.pairs)} items${scored}, ${count(tokens)} tokens computed, ${duration(seconds)}`,
      `loss ${first.loss.toFixed(4)} -> ${last.loss.toFixed(4)}`,
    );
  }
  for (const [key, words] of [
    ["skippedRows", "rows left out (bad)"],
    ["truncated", "items shortened to fit the context"],
    ["identical", "pairs left out (the same answer twice)"],
  ] as const)
    if ((counts[key] ?? 0) > 0) out.push(`${count(counts[key]!)} ${words}`);
  return [
    ...out,
    `model: ${r.model}`,
    `metrics: ${runDir}/train/metrics.jsonl; tensorboard --logdir ${runDir}/tensorboard`,
  ];
}
