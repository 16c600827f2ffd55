// A figure of the page: its title, what it shows, and a chart with its numbers as a table, or a sentence that says why there
// is none.
import type { Axis, Chart, LineChart, Series } from "./chart.js";
import { count, percent } from "../base/counts.js";
import type { RunReport } from "./read-run.js";

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
    colours.set(name, runs.length === 1 ? 0 : known >= 0 ? known : next);
  }
  return colours;
}

/** A series for each run; a run alone needs no name. */
export function seriesByRun(
  runs: readonly RunReport[],
  points: (run: RunReport, index: number) => Series["points"],
): Series[] {
  const colours = coloursOf(runs);
  return runs.map((run, i) => ({
    name: runs.length === 1 ? "" : run.name,
    colour: colours.get(run.name)!,
    points: points(run, i),
  }));
}

export const whole = (label: string): Axis => ({ label, format: (v) => String(v), whole: true });
export const share = (label: string): Axis => ({ label, format: (v) => percent(v, 0), holds: [] });

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

type LineSpec = Pick<Figure, "id" | "title" | "about"> &
  Omit<LineChart, "kind"> & { empty: string; exact: (v: number) => string };

export function lineFigure({ id, title, about, empty, exact, ...chart }: LineSpec): Figure {
  const series = chart.series.filter((s) => s.points.some((p) => p !== null));
  if (series.length === 0) return { id, title, about, missing: empty };
  const table = seriesTable(series, chart.x, chart.y, exact);
  return { id, title, about, chart: { kind: "line", ...chart, series }, table };
}
