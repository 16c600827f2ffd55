// The figures of training: curves over the steps of all iterations, one after the other.
import type { Point } from "./chart.js";
import { type Figure, lineFigure, seriesByRun, share, whole } from "./figure.js";
import { count } from "../base/counts.js";
import { short } from "./page/shared.js";
import type { Found, RunReport } from "./read-run.js";
import { type CurveKey, curveKeys, type Training } from "./training-metrics.js";

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
  chosenReward: [
    "Chosen reward",
    "Mean reward of chosen responses: beta times the log-ratio to the reference.",
    "reward",
  ],
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

export function trainingFigures(found: Found): Figure[] {
  const segments = found.runs.map(segmentsOf);
  const one = found.runs.length === 1;
  const stride = Math.max(1, ...segments.flat().map((s) => s.training.stride));
  const thinned = stride > 1 ? ` Points are means of ${stride} steps.` : "";
  const [longest = []] = [...segments].sort((a, b) => b.length - a.length);
  const rules =
    longest.length < 2 ? [] : longest.map((s, i) => ({ x: s.before, label: i === 0 ? `it. ${s.t}` : String(s.t) }));
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
      series: seriesByRun(found.runs, (_, k) => curve(segments[k]!, key)),
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
  return [
    ...(one && !supervised ? [rewards] : []),
    ...shown.map(figure),
    ...heldOut(segments, found, supervised ? ["loss"] : ["loss", "accuracy"]),
  ];
}

/** Loss and accuracy on the set that training does not see. */
function heldOut(segments: readonly Segment[][], found: Found, keys: readonly ("loss" | "accuracy")[]): Figure[] {
  if (segments.flat().every((s) => s.training.evaluations.length === 0)) return [];
  return keys.map((key) =>
    lineFigure({
      id: `evaluation-${key}`,
      title: key === "loss" ? "Loss on the evaluation set" : "Reward accuracy on the evaluation set",
      about: "Measured during training on rows that are not trained on.",
      series: seriesByRun(found.runs, (_, k) =>
        segments[k]!.flatMap(({ training: t, before }) => [
          ...t.evaluations.map((e) => (e[key] === null ? null : { x: before + e.step, y: e[key] })),
          null,
        ]),
      ),
      ...{
        x: { ...whole("step"), format: count },
        y: key === "loss" ? { label: "loss", format: short } : share("share"),
      },
      ...{
        marks: segments.flat().every((s) => s.training.evaluations.length < 20),
        exact: short,
        empty: "None was measured.",
      },
    }),
  );
}
