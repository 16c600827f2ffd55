// The figures of the page by section: accuracy, words, the judge. The figures of training are in curves.ts.
import type { Point, Series } from "./chart.js";
import { trainingFigures } from "./curves.js";
import type { Evaluation } from "./evaluations.js";
import { coloursOf, type Figure, lineFigure, type Section, seriesByRun, share, whole } from "./figure.js";
import { count, percent, plural } from "../base/counts.js";
import { sum, wilson } from "../base/statistics.js";
import { statuses } from "../judge/judge.js";
import { short } from "./page/shared.js";
import type { Alignment, Found, Iteration, RunReport } from "./read-run.js";
import { binCount } from "./statistics.js";

/** A value of each iteration, one series per run. */
function byIteration(found: Found, value: (i: Iteration) => Point | number | null | undefined): Series[] {
  return seriesByRun(found.runs, (run) =>
    run.iterations.map((i) => {
      const v = value(i);
      if (v == null) return null;
      return typeof v === "number" ? { x: i.t, y: v } : v;
    }),
  );
}

// ---------- accuracy

const slug = (name: string) =>
  name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .slice(0, 60);

function accuracyFigure(found: Found, name: string, at: number): Figure {
  const all = found.runs.flatMap((r) => r.evaluations.filter((e) => e.name === name));
  const chance = all.find((e) => e.chance !== null)?.chance ?? found.chance;
  const counts = [...new Set(all.map((e) => e.count).filter((c) => c !== null))];
  const series = seriesByRun(found.runs, (run) =>
    run.evaluations
      .filter((e) => e.name === name && e.accuracy !== null)
      .map(({ model, accuracy, interval }) => ({
        ...{ x: model, y: accuracy! },
        ...(interval ? { low: interval[0], high: interval[1] } : {}),
      })),
  );
  return lineFigure({
    id: `accuracy-${at}-${slug(name)}`,
    title: all[0]!.title,
    about: `Share of right answers by model${counts.length === 1 ? `, ${plural(counts[0]!, "question")}` : ""}; bands are 95 % intervals${chance == null ? "" : ", the dashed line is chance"}.`,
    empty: "",
    exact: percent,
    ...{ series, x: whole("model"), y: share("accuracy"), marks: true },
    ...(chance == null ? {} : { reference: { y: chance, label: `chance ${percent(chance, 0)}` } }),
  });
}

function accuracies(found: Found): Figure[] {
  const names = [
    ...new Set(found.runs.flatMap((r) => r.evaluations.filter((e) => e.accuracy !== null).map((e) => e.name))),
  ];
  if (names.length > 0) return names.map((name, i) => accuracyFigure(found, name, i));
  const missing = "No evaluation of a model in this folder (evaluation/NAME.MODEL.json) has an accuracy.";
  return [{ id: "accuracy", title: "Accuracy by iteration", about: "Share of right answers by model.", missing }];
}

function alignment(found: Found): Figure[] {
  if (!found.alignment) return [];
  const colours = coloursOf(found.runs);
  const entries: Alignment = found.alignment;
  return [
    lineFigure({
      id: "alignment",
      title: "Judge’s agreement with the truth",
      about: "Share of judged pairs with one better answer where the judge chose it; 95 % intervals (Wilson).",
      empty: "No pair could be compared with the truth.",
      exact: percent,
      series: Object.entries(entries).map(([design, list], i) => ({
        name: design,
        colour: colours.get(design) ?? (i + 4) % 6,
        points: list.map(({ iteration, agree, of }) => agreement(iteration, agree, of)),
      })),
      ...{ x: whole("iteration"), y: share("agreement"), marks: true },
      reference: { y: 0.5, label: "coin toss 50 %" },
    }),
  ];
}

function agreement(iteration: number, agree: number, of: number): Point {
  const [low, high] = wilson(agree / of, of);
  return { x: iteration, y: agree / of, low, high };
}

// ---------- words

const noPairs = "No iteration has pairs yet.";

function words(found: Found): Figure[] {
  const one = found.runs.length === 1;
  const colours = coloursOf(found.runs);
  const meanWords = {
    x: whole("iteration"),
    y: { label: "words", format: short },
    marks: true,
    empty: noPairs,
    exact: short,
  };
  const sides = one
    ? [
        { name: "chosen", colour: 0, points: byIteration(found, (i) => i.statistics.words?.chosen)[0]!.points },
        { name: "rejected", colour: 2, points: byIteration(found, (i) => i.statistics.words?.rejected)[0]!.points },
      ]
    : byIteration(found, (i) => i.statistics.words?.chosen);
  return [
    lineFigure({
      id: "words",
      title: one ? "Words of chosen and rejected responses" : "Words of chosen responses",
      about: "Mean number of words in the pairs of each iteration.",
      ...meanWords,
      series: sides,
    }),
    lineFigure({
      id: "length-ratio",
      title: "Length, chosen to rejected",
      about: "Mean words of chosen responses by mean words of rejected ones; above 1 the choice favours length.",
      series: byIteration(found, (i) => i.statistics.words?.ratio),
      ...{ x: whole("iteration"), y: { label: "ratio", format: (v) => v.toFixed(2) }, marks: true },
      reference: { y: 1, label: "same length" },
      ...{ empty: noPairs, exact: (v) => v.toFixed(3) },
    }),
    lineFigure({
      id: "longer-chosen",
      title: "Longer response chosen",
      about: "Share of pairs whose chosen response has more words; equal lengths count half.",
      series: byIteration(found, (i) => i.statistics.words?.longerChosen),
      ...{ x: whole("iteration"), y: share("share"), marks: true, empty: noPairs, exact: percent },
      reference: { y: 0.5, label: "no preference" },
    }),
    censored(found),
    benchmarkWords(found, colours),
    winRates(found),
  ];
}

/** Long answers are those that are cut: what leaving them out does to the lengths that are trained on. */
function censored(found: Found): Figure {
  const head = { id: "censored", title: "Answers left out for being cut" };
  const rows = found.runs.flatMap((run) =>
    run.iterations.flatMap(({ t, statistics: { censored: c } }) =>
      c ? [{ label: found.runs.length === 1 ? `iteration ${t}` : `${run.name} ${t}`, ...c }] : [],
    ),
  );
  if (rows.length === 0)
    return {
      ...head,
      about: "Words of answers that were left out.",
      missing: "No sample was left out because an answer of it was cut off.",
    };
  const series = [
    { name: "of samples left out", colour: 2 },
    { name: "of the others", colour: 0 },
  ];
  const groups = rows.map(({ label, words, keptWords }) => ({ label, values: [words, keptWords] }));
  return {
    ...head,
    about:
      "Mean words of an answer, of samples that were left out because one of their answers reached response.maxTokens (judge.truncated) and of the others: nothing is learned from the former.",
    chart: { kind: "bars", groups, series, y: { label: "words", format: short } },
    table: {
      head: ["iteration", "samples left out", "share", "their words", "words of the others"],
      rows: rows.map(({ label, samples, share: part, words, keptWords }) => [
        label,
        count(samples),
        percent(part),
        short(words),
        keptWords === null ? "–" : short(keptWords),
      ]),
    },
  };
}

const lastOf = (run: RunReport, name: string, has: (e: Evaluation) => boolean): Evaluation | undefined =>
  run.evaluations.filter((e) => e.name === name && has(e)).at(-1);

const namesWith = (found: Found, has: (e: Evaluation) => boolean): string[] => [
  ...new Set(found.runs.flatMap((r) => r.evaluations.filter(has).map((e) => e.name))),
];

const titleOf = (found: Found, name: string): string =>
  found.runs.flatMap((r) => r.evaluations).find((e) => e.name === name)?.title ?? name;

function benchmarkWords(found: Found, colours: ReadonlyMap<string, number>): Figure {
  const has = (e: Evaluation) => e.words !== null;
  const names = namesWith(found, has);
  const head = { id: "benchmark-words", title: "Words by benchmark" };
  const about = "Mean words of an answer.";
  if (names.length === 0)
    return {
      ...head,
      about,
      missing: "No evaluation in this folder counts the words of answers, so there is nothing to compare.",
    };
  const [only] = found.runs;
  const first = (name: string) => only!.evaluations.find((e) => e.name === name && has(e));
  const single = found.runs.length === 1;
  const series = single
    ? [
        { name: "first model evaluated", colour: 1 },
        { name: "last model evaluated", colour: 0 },
      ]
    : found.runs.map((r) => ({ name: r.name, colour: colours.get(r.name)! }));
  const groups = names.map((name) => ({
    label: titleOf(found, name),
    values: single
      ? [first(name)?.words ?? null, lastOf(only!, name, has)?.words ?? null]
      : found.runs.map((r) => lastOf(r, name, has)?.words ?? null),
  }));
  return {
    ...head,
    about: `${about.slice(0, -1)}, ${single ? "of the first and the last model" : "of each run’s last model"} that was evaluated.`,
    chart: { kind: "bars", groups, series, y: { label: "words", format: short } },
    table: {
      head: ["benchmark", ...series.map((s) => s.name)],
      rows: groups.map((g) => [g.label, ...g.values.map((v) => (v === null ? "–" : short(v)))]),
    },
  };
}

function winRates(found: Found): Figure {
  const has = (e: Evaluation) => e.versus !== null;
  const head = {
    id: "win-rates",
    title: "Win rates",
    about: "Head-to-head comparisons of answers, last model that was compared.",
  };
  const rows = namesWith(found, has).flatMap((name) =>
    found.runs.flatMap((run) => {
      const e = lastOf(run, name, has);
      if (!e) return [];
      const { other, wins, ties, losses } = e.versus!;
      const of = found.runs.length === 1 ? "" : `${run.name}, `;
      return [{ label: `${of}${e.title} vs ${other}`, values: [wins, ties, losses] }];
    }),
  );
  if (rows.length === 0) return { ...head, missing: "No evaluation in this folder compares two models head to head." };
  const parts = [
    { name: "wins", css: "s-pair" },
    { name: "ties", css: "s-tie" },
    { name: "losses", css: "s-disagree" },
  ];
  return {
    ...head,
    chart: { kind: "stack", rows, parts, format: count },
    table: {
      head: ["comparison", "wins", "ties", "losses", "win rate, ties half"],
      rows: rows.map(({ label, values: [w, t, l] }) => [
        label,
        ...[w!, t!, l!].map(count),
        percent((w! + t! / 2) / (w! + t! + l! || 1)),
      ]),
    },
  };
}

// ---------- judge

const of = (part: number, all: number): number | null => (all === 0 ? null : part / all);

function statusFigure(found: Found): Figure {
  const head = {
    id: "status",
    title: "What became of the samples",
    about: "Samples by status; only pairs are trained on.",
  };
  const names = [...statuses, "open"].filter((s) =>
    found.runs.some((r) => r.iterations.some((i) => (i.statistics.status[s] ?? 0) > 0)),
  );
  const rows = found.runs.flatMap((run) =>
    run.iterations.map((i) => ({
      label: found.runs.length === 1 ? `iteration ${i.t}` : `${run.name} ${i.t}`,
      values: names.map((s) => i.statistics.status[s] ?? 0),
    })),
  );
  if (rows.length === 0) return { ...head, missing: "No iteration has begun." };
  return {
    ...head,
    chart: { kind: "stack", rows, parts: names.map((name) => ({ name, css: `s-${name}` })), format: count },
    table: { head: ["iteration", ...names], rows: rows.map((r) => [r.label, ...r.values.map(count)]) },
  };
}

function marginHistogram(found: Found): Figure {
  const colours = coloursOf(found.runs);
  const one = found.runs.length === 1;
  const withMargins = found.runs.map((run) => run.iterations.filter((i) => i.statistics.margins));
  const picked = one
    ? [...new Set([withMargins[0]![0], withMargins[0]!.at(-1)])].flatMap((i) =>
        i ? [{ i, name: `iteration ${i.t}` }] : [],
      )
    : withMargins.flatMap((list, k) => (list.length > 0 ? [{ i: list.at(-1)!, name: found.runs[k]!.name }] : []));
  const series = picked.map(({ i, name }, k): Series => {
    const { from, width, counts } = i.statistics.margins!.histogram;
    const all = sum(counts);
    const points = from.map((x, b) => ({ x, y: counts[b]! / all }));
    const colour = one ? (k === picked.length - 1 ? 0 : 1) : colours.get(name)!;
    return { name, colour, points: [...points, { x: from.at(-1)! + width, y: counts.at(-1)! / all }] };
  });
  return lineFigure({
    id: "margin-histogram",
    title: "Margins of pairs",
    about: `Distribution of the judge’s margin in favour of the chosen response, ${one ? "first and last iteration" : "last iteration of each run"}; ${binCount} bins up to the 99th percentile, the last holds all above.`,
    empty: "The judge of this run gave no margins, or there are no pairs yet.",
    series,
    ...{ x: { label: "margin in nats", format: short }, y: { ...share("share of pairs"), holds: [0] } },
    ...{ marks: false, steps: true, exact: percent },
  });
}

function judge(found: Found): Figure[] {
  const one = found.runs.length === 1;
  const iteration = { x: whole("iteration"), marks: true, exact: percent, empty: "There is no verdict yet." };
  return [
    ...alignment(found),
    statusFigure(found),
    lineFigure({
      id: "margins",
      title: "Typical margin",
      about: `Median margin of pairs in favour of the chosen response; the ${one ? "band holds" : "numbers hold"} the middle half too.`,
      bands: one,
      series: byIteration(found, (i) => {
        const q = i.statistics.margins?.quartiles;
        return q && { x: i.t, y: q.median, low: q.low, high: q.high };
      }),
      ...iteration,
      ...{ y: { label: "nats", format: short, holds: [0] }, exact: short },
      empty: "The judge of this run gave no margins, or there are no pairs yet.",
    }),
    marginHistogram(found),
    lineFigure({
      id: "flips",
      title: "Choices that turned with the order",
      about:
        "Of samples with a choice in both orders, the share where the other response was chosen once the order was swapped.",
      series: byIteration(found, ({ statistics: { judge: j } }) => of(j.flips, j.both)),
      ...iteration,
      y: { ...share("share"), holds: [0] },
      empty: "No sample was judged in both orders.",
    }),
    lineFigure({
      id: "position",
      title: "Position share",
      about: "Share of choices for the response that was shown first; without a bias it is a half.",
      series: byIteration(found, ({ statistics: { judge: j } }) => of(j.first, j.preferring)),
      ...iteration,
      y: share("share"),
      reference: { y: 0.5, label: "no bias" },
    }),
    lineFigure({
      id: "ties",
      title: "Verdicts without a choice",
      about: "Share of verdicts that were ties or could not be read.",
      series: byIteration(found, ({ statistics: { judge: j } }) => of(j.ties + j.unread, j.verdicts)),
      ...iteration,
      y: { ...share("share"), holds: [0] },
    }),
  ];
}

export function sectionsOf(found: Found): Section[] {
  const all: (Section | null)[] = [
    {
      id: "accuracy-section",
      title: "Accuracy",
      figures: found.kind === "training" && !found.runs[0]!.evaluations.length ? [] : accuracies(found),
    },
    { id: "words-section", title: "Words", figures: found.kind === "training" ? [] : words(found) },
    { id: "judge-section", title: "The judge", figures: found.kind === "training" ? [] : judge(found) },
    { id: "training-section", title: "Training", figures: trainingFigures(found) },
  ];
  return all.filter((s): s is Section => s !== null && s.figures.length > 0);
}
