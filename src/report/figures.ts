// The figures of the page: each a row with its title, what it shows, a chart with its numbers as a table, or in words why there
// is none.
import type { Axis, Chart, LineChart, Point, Series } from "./chart.js";
import type { Evaluation } from "./evaluations.js";
import { count, percent, plural, short } from "./html.js";
import type { Alignment, Found, Iteration, RunReport } from "./read.js";
import { statuses } from "./statistics.js";
import { type CurveKey, curveKeys, type Training } from "./training.js";

export interface Table {
  head: readonly string[];
  rows: readonly (readonly string[])[];
  note?: string;
}

export interface Figure {
  id: string;
  title: string;
  about: string;
  chart?: Chart;
  table?: Table;
  /** In place of a chart. */
  missing?: string;
}

export interface Section {
  id: string;
  title: string;
  figures: Figure[];
}

const designs = ["retrospective", "none", "fixed", "renew"];

/** A colour of its own for each run; designs keep theirs from report to report. */
export function coloursOf(runs: readonly RunReport[]): Map<string, number> {
  const colours = new Map<string, number>();
  const free = [4, 5, 0, 1, 2, 3];
  for (const { name } of runs) {
    const known = designs.indexOf(name);
    const next = free.find((c) => ![...colours.values()].includes(c)) ?? colours.size % 6;
    colours.set(name, known >= 0 ? known : runs.length === 1 ? 0 : next);
  }
  return colours;
}

const whole = (label: string): Axis => ({ label, format: (v) => String(v), whole: true });
const share = (label: string): Axis => ({ label, format: (v) => percent(v, 0), holds: [] });

function seriesTable(series: readonly Series[], x: Axis, y: Axis, digits: (v: number) => string): Table {
  const most = 60;
  const xs = [...new Set(series.flatMap((s) => s.points.flatMap((p) => (p ? [p.x] : []))))].sort((a, b) => a - b);
  const stride = Math.ceil(xs.length / most);
  const rows = xs
    .filter((_, i) => i % stride === 0 || i === xs.length - 1)
    .map((at) => [
      x.format(at),
      ...series.map((s) => {
        const p = s.points.find((q) => q?.x === at);
        if (!p) return "–";
        return p.low === undefined ? digits(p.y) : `${digits(p.y)} (${digits(p.low)} to ${digits(p.high!)})`;
      }),
    ]);
  const head = [x.label, ...series.map((s) => s.name || y.label)];
  return stride > 1 ? { head, rows, note: `every ${stride}th of ${count(xs.length)} points` } : { head, rows };
}

type LineSpec = Pick<Figure, "id" | "title" | "about"> & Omit<LineChart, "kind"> & { empty: string; exact: (v: number) => string };

function lineFigure({ id, title, about, empty, exact, ...chart }: LineSpec): Figure {
  const series = chart.series.filter((s) => s.points.some((p) => p !== null));
  if (series.length === 0) return { id, title, about, missing: empty };
  const table = seriesTable(series, chart.x, chart.y, exact);
  return { id, title, about, chart: { kind: "line", ...chart, series }, table };
}

/** A value of each iteration, one series a run. */
function byIteration(found: Found, value: (i: Iteration) => Point | number | null | undefined): Series[] {
  const colours = coloursOf(found.runs);
  return found.runs.map((run) => ({
    name: found.runs.length === 1 ? "" : run.name,
    colour: colours.get(run.name)!,
    points: run.iterations.map((i) => {
      const v = value(i);
      if (v == null) return null;
      return typeof v === "number" ? { x: i.t, y: v } : v;
    }),
  }));
}

// ---------- accuracy

const slug = (name: string) => name.toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, 60);

function accuracyFigure(found: Found, name: string, at: number): Figure {
  const colours = coloursOf(found.runs);
  const all = found.runs.flatMap((r) => r.evaluations.filter((e) => e.name === name));
  const chance = all.find((e) => e.chance !== null)?.chance ?? found.chance;
  const counts = [...new Set(all.map((e) => e.count).filter((c) => c !== null))];
  const series = found.runs.map((run) => ({
    name: found.runs.length === 1 ? "" : run.name,
    colour: colours.get(run.name)!,
    points: run.evaluations
      .filter((e) => e.name === name && e.accuracy !== null)
      .map(({ model, accuracy, interval }) => ({
        ...{ x: model, y: accuracy! },
        ...(interval ? { low: interval[0], high: interval[1] } : {}),
      })),
  }));
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
  const names = [...new Set(found.runs.flatMap((r) => r.evaluations.filter((e) => e.accuracy !== null).map((e) => e.name)))];
  if (names.length > 0) return names.map((name, i) => accuracyFigure(found, name, i));
  const missing = "There is no evaluation of a model in this folder (evaluation/NAME.MODEL.json), so accuracy is not known.";
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
        points: list.map(({ iteration, agree, of }) => ({ x: iteration, y: agree / of, ...wilson(agree, of) })),
      })),
      ...{ x: whole("iteration"), y: share("agreement"), marks: true },
      reference: { y: 0.5, label: "coin toss 50 %" },
    }),
  ];
}

/** The 95 % interval of a share. */
export function wilson(hits: number, of: number): { low: number; high: number } {
  const z = 1.959964;
  const p = hits / of;
  const middle = (p + z ** 2 / (2 * of)) / (1 + z ** 2 / of);
  const half = (z / (1 + z ** 2 / of)) * Math.sqrt((p * (1 - p)) / of + z ** 2 / (4 * of ** 2));
  return { low: Math.max(0, middle - half), high: Math.min(1, middle + half) };
}

// ---------- words

const noPairs = "No iteration has pairs yet.";

function words(found: Found): Figure[] {
  const one = found.runs.length === 1;
  const colours = coloursOf(found.runs);
  const meanWords = { x: whole("iteration"), y: { label: "words", format: short }, marks: true, empty: noPairs, exact: short };
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
    benchmarkWords(found, colours),
    winRates(found),
  ];
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
    return { ...head, about, missing: "No evaluation in this folder counts the words of answers, so there is nothing to compare." };
  const [only] = found.runs;
  const first = (name: string) => only!.evaluations.find((e) => e.name === name && has(e));
  const single = found.runs.length === 1;
  const series = single
    ? [{ name: "first model evaluated", colour: 1 }, { name: "last model evaluated", colour: 0 }]
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
  const head = { id: "win-rates", title: "Win rates", about: "Head-to-head comparisons of answers, last model that was compared." };
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
  const head = { id: "status", title: "What became of the samples", about: "Samples by status; only pairs are trained on." };
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
    ? [...new Set([withMargins[0]![0], withMargins[0]!.at(-1)])].flatMap((i) => (i ? [{ i, name: `iteration ${i.t}` }] : []))
    : withMargins.flatMap((list, k) => (list.length > 0 ? [{ i: list.at(-1)!, name: found.runs[k]!.name }] : []));
  const series = picked.map(({ i, name }, k): Series => {
    const { from, width, counts } = i.statistics.margins!.histogram;
    const all = counts.reduce((a, b) => a + b, 0);
    const points = from.map((x, b) => ({ x, y: counts[b]! / all }));
    const colour = one ? (k === picked.length - 1 ? 0 : 1) : colours.get(name)!;
    return { name, colour, points: [...points, { x: from.at(-1)! + width, y: counts.at(-1)! / all }] };
  });
  return lineFigure({
    id: "margin-histogram",
    title: "Margins of pairs",
    about: `Distribution of the judge’s margin in favour of the chosen response, ${one ? "first and last iteration" : "last iteration of each run"}; 20 bins up to the 99th percentile, the last holds all above.`,
    empty: "The judge of this run gave no margins, or there are no pairs yet.",
    series,
    ...{ x: { label: "margin in nats", format: short }, y: { ...share("share of pairs"), holds: [0] } },
    ...{ marks: false, steps: true, exact: percent },
  });
}

function judge(found: Found): Figure[] {
  const iteration = { x: whole("iteration"), marks: true, exact: percent, empty: "There is no verdict yet." };
  return [
    ...alignment(found),
    statusFigure(found),
    lineFigure({
      id: "margins",
      title: "Typical margin",
      about: "Median margin of pairs in favour of the chosen response; bands hold the middle half.",
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
      about: "Of samples with a choice in both orders, the share where the other response was chosen once the order was swapped.",
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

// ---------- training

interface Segment {
  t: number;
  training: Training;
  /** Steps of the run before it. */
  before: number;
}

/** Trainings of a run one after the other. */
function segmentsOf(run: RunReport): Segment[] {
  const list = run.iterations.flatMap((i) => (i.training ? [{ t: i.t, training: i.training }] : []));
  if (run.training) list.unshift({ t: 0, training: run.training });
  let before = 0;
  return list.map(({ t, training }) => {
    const segment = { t, training, before };
    before += training.steps;
    return segment;
  });
}

const curve = (segments: readonly Segment[], key: CurveKey): (Point | null)[] =>
  segments.flatMap(({ training, before }) => [
    ...training.at.map((step, i): Point | null => {
      const y = training.curves[key][i];
      return y == null ? null : { x: before + step, y };
    }),
    null,
  ]);

const curveTitles: Record<CurveKey, [title: string, about: string, label: string]> = {
  loss: ["Loss", "Training loss by step.", "loss"],
  accuracy: ["Reward accuracy", "Share of pairs whose chosen response has the higher reward.", "share"],
  chosenReward: ["Chosen reward", "Mean reward of chosen responses: beta times the log-ratio to the reference.", "reward"],
  rejectedReward: ["Rejected reward", "Mean reward of rejected responses.", "reward"],
  margin: ["Reward margin", "Chosen minus rejected reward.", "reward"],
  learningRate: ["Learning rate", "As the schedule set it.", "rate"],
  lengthMarginCorrelation: [
    "Correlation of length and margin",
    "Between the difference of lengths and the reward margin of the pairs of a step; near 0 length does not explain the reward.",
    "correlation",
  ],
  gradNorm: ["Gradient norm", "Before clipping.", "norm"],
};

function training(found: Found): Figure[] {
  const colours = coloursOf(found.runs);
  const segments = found.runs.map(segmentsOf);
  const one = found.runs.length === 1;
  const stride = Math.max(1, ...segments.flat().map((s) => s.training.stride));
  const thinned = stride > 1 ? ` Points are means of ${stride} steps.` : "";
  const [longest = []] = [...segments].sort((a, b) => b.length - a.length);
  const rules = longest.length < 2 ? [] : longest.map((s) => ({ x: s.before, label: `it. ${s.t}` }));
  const common = {
    ...{ x: { ...whole("step"), format: count }, marks: false, exact: short },
    ...{ rules: one || new Set(segments.map((s) => s.map((x) => x.before).join())).size === 1 ? rules : [] },
    empty: "There are no metrics of training in this folder yet.",
  };
  const figure = (key: CurveKey): Figure => {
    const [title, about, label] = curveTitles[key];
    const y = key === "accuracy" ? share(label) : { label, format: short };
    return lineFigure({
      ...{ id: `train-${key}`, title, about: about + thinned, ...common, y },
      series: found.runs.map((run, k) => ({
        name: one ? "" : run.name,
        colour: colours.get(run.name)!,
        points: curve(segments[k]!, key),
      })),
    });
  };
  const rewards = lineFigure({
    id: "train-rewards",
    title: "Rewards",
    about: `Beta times the log-ratio to the reference, of chosen and rejected responses, and their difference.${thinned}`,
    ...common,
    y: { label: "reward", format: short },
    series: (["chosenReward", "rejectedReward", "margin"] as const).map((key, i) => ({
      name: ["chosen", "rejected", "margin"][i]!,
      colour: [0, 2, 3][i]!,
      points: segments.length === 1 ? curve(segments[0]!, key) : [],
    })),
  });
  const supervised = segments.flat().every((s) => s.training.curves.margin.every((v) => v === null || v === 0));
  if (segments.flat().length === 0) return [{ ...figure("loss"), title: "Curves of training" }];
  const keys = curveKeys.filter((key) => !(one && ["chosenReward", "rejectedReward", "margin"].includes(key)));
  const shown = supervised ? (["loss", "learningRate", "gradNorm"] as const) : keys;
  return [...(one && !supervised ? [rewards] : []), ...shown.map(figure), ...heldOut(segments, found, colours)];
}

/** Loss and accuracy on the set that training does not see. */
function heldOut(segments: readonly Segment[][], found: Found, colours: ReadonlyMap<string, number>): Figure[] {
  const one = found.runs.length === 1;
  if (segments.flat().every((s) => s.training.evaluations.length === 0)) return [];
  return (["loss", "accuracy"] as const).map((key) =>
    lineFigure({
      id: `evaluation-${key}`,
      title: key === "loss" ? "Loss on the evaluation set" : "Reward accuracy on the evaluation set",
      about: "Measured during training on rows that are not trained on.",
      series: found.runs.map((run, k) => ({
        name: one ? "" : run.name,
        colour: colours.get(run.name)!,
        points: segments[k]!.flatMap(({ training: t, before }) => [
          ...t.evaluations.map((e) => (e[key] === null ? null : { x: before + e.step, y: e[key] })),
          null,
        ]),
      })),
      ...{ x: { ...whole("step"), format: count }, y: key === "loss" ? { label: "loss", format: short } : share("share") },
      ...{ marks: segments.flat().every((s) => s.training.evaluations.length < 20), exact: short, empty: "None was measured." },
    }),
  );
}

export function sectionsOf(found: Found): Section[] {
  const all: (Section | null)[] = [
    { id: "accuracy-section", title: "Accuracy", figures: found.kind === "training" && !found.runs[0]!.evaluations.length ? [] : accuracies(found) },
    { id: "words-section", title: "Words", figures: found.kind === "training" ? [] : words(found) },
    { id: "judge-section", title: "The judge", figures: found.kind === "training" ? [] : judge(found) },
    { id: "training-section", title: "Training", figures: training(found) },
  ];
  return all.filter((s): s is Section => s !== null && s.figures.length > 0);
}
