// A summary of runs: one row per run, and sentences that say where a design gained or lost.
import { mean } from "../base/statistics.js";
import type { Evaluation } from "./evaluations.js";
import type { Table } from "./figure.js";
import { percent, plural } from "../base/counts.js";
import { short } from "./page/shared.js";
import type { Found, Iteration, RunReport } from "./read-run.js";

/** The evaluation that most models of the runs have. */
function mainName(found: Found): string | undefined {
  const counts = new Map<string, number>();
  for (const e of found.runs.flatMap((r) => r.evaluations))
    if (e.accuracy !== null) counts.set(e.name, (counts.get(e.name) ?? 0) + 1);
  return [...counts].sort(([, a], [, b]) => b - a)[0]?.[0];
}

interface Ends {
  run: RunReport;
  first: Evaluation;
  last: Evaluation;
}

function endsOf(found: Found, name: string | undefined): Ends[] {
  return found.runs.flatMap((run) => {
    const list = run.evaluations.filter((e) => e.name === name && e.accuracy !== null);
    return list.length < 2 ? [] : [{ run, first: list[0]!, last: list.at(-1)! }];
  });
}

const points = (x: number): string => `${Math.abs(100 * x).toFixed(1)} points`;

/** Standard error of an accuracy, by its 95 % interval. */
const errorOf = (e: Evaluation): number | null => (e.interval ? (e.interval[1] - e.interval[0]) / (2 * 1.96) : null);

/** `what`, how far above or below `than` it is, and whether that is more than chance. */
function compared(what: string, than: string, a: Evaluation, b: Evaluation): string {
  const gain = a.accuracy! - b.accuracy!;
  const side = gain === 0 ? "level with" : `${points(gain)} ${gain > 0 ? "above" : "below"}`;
  const start = `${what} ${side} ${than}`;
  const [x, y] = [errorOf(a), errorOf(b)];
  if (x === null || y === null) return `${start}.`;
  const two = 2 * Math.hypot(x, y);
  const clear = Math.abs(gain) > two;
  return `${start}: ${clear ? "more" : "not more"} than two standard errors (${points(two)})${clear ? "" : ", so no clear difference"}.`;
}

/** Each run against its start, then the retrospective one against the others. */
export function sentencesOf(found: Found): string[] {
  const ends = endsOf(found, mainName(found));
  const own = ends.find((e) => e.run.name === "retrospective");
  return [
    ...ends.map(({ run, first, last }) =>
      compared(
        `${run.name} ends at ${percent(last.accuracy!)},`,
        `its start of ${percent(first.accuracy!)}`,
        last,
        first,
      ),
    ),
    ...ends
      .filter((e) => own && e !== own)
      .map((e) => compared("The retrospective design ends", e.run.name, own!.last, e.last)),
    ...found.runs.flatMap(waitingSentences),
  ];
}

/** What the ranks of each training waited for one another. */
function waitingSentences(run: RunReport): string[] {
  const all = [
    { where: run.name, training: run.training },
    ...run.iterations.map(({ t, training }) => ({ where: `${run.name}, iteration ${t}`, training })),
  ];
  return all.flatMap(({ where, training }) => {
    const w = training?.waiting;
    if (!w) return [];
    const { rank, share } = w.slowest;
    return [
      `${where}: rank 0 spent ${percent(w.share)} of the time of ${plural(w.steps, "step")} with the other ranks, waiting for them included; rank ${rank} was the slowest in ${percent(share)} of the steps.`,
    ];
  });
}

const interval = (e: Evaluation | undefined): string => {
  if (!e) return "–";
  const range = e.interval ? ` (${e.interval.map((v) => (100 * v).toFixed(1)).join(" to ")})` : "";
  return percent(e.accuracy!) + range;
};

const across = (i: Iteration[], value: (i: Iteration) => number | null | undefined, text: (v: number) => string) => {
  const known = i.map(value).filter((v) => v != null);
  if (known.length === 0) return "–";
  const [a, b] = [known[0]!, known.at(-1)!];
  return known.length === 1 ? text(a) : `${text(a)} → ${text(b)}`;
};

export function summaryTable(found: Found): Table {
  const ends = endsOf(found, mainName(found));
  const alignment = found.alignment ?? {};
  const rows = found.runs.map((run) => {
    const e = ends.find((x) => x.run === run);
    const truth = (alignment[run.name] ?? []).map(({ agree, of }) => agree / of);
    const agreement = truth.length === 0 ? "–" : percent(mean(truth), 0);
    const cells = [
      run.name,
      interval(e?.first),
      interval(e?.last),
      across(run.iterations, (i) => i.statistics.words?.chosen, short),
      across(
        run.iterations,
        (i) => i.statistics.words?.ratio,
        (v) => v.toFixed(2),
      ),
      across(
        run.iterations,
        (i) => i.statistics.status.pair! / (i.statistics.samples || 1),
        (v) => percent(v, 0),
      ),
    ];
    return found.alignment ? [...cells, agreement] : cells;
  });
  const head = [
    "run",
    "accuracy at the start",
    "accuracy at the end",
    "words, chosen",
    "chosen / rejected",
    "usable pairs",
  ];
  return { head: found.alignment ? [...head, "judge agrees with the truth"] : head, rows };
}
