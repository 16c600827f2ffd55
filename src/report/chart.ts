// Charts as SVG of a given width: scales, axes, lines with bands, bars. Colours are classes of the page's style sheet, so that
// light, dark and print have their own; there is no style attribute, which the page's policy forbids.
import { sum } from "../base/statistics.js";
import { escaped, isolated } from "./html.js";
import { linear, pathOf, tenths } from "./page/shared.js";

export interface Point {
  x: number;
  y: number;
  /** A band around y. */
  low?: number;
  high?: number;
}

export interface Series {
  name: string;
  /** Index of a colour and a marker. */
  colour: number;
  points: readonly (Point | null)[];
}

export interface Axis {
  label: string;
  format: (value: number) => string;
  /** Values that the axis holds in any case. */
  holds?: readonly number[];
  /** Whole numbers only. */
  whole?: boolean;
}

export interface LineChart {
  kind: "line";
  series: readonly Series[];
  x: Axis;
  y: Axis;
  reference?: { y: number; label: string };
  /** Vertical lines. */
  rules?: readonly { x: number; label: string }[];
  /** Markers and end labels: for few points. */
  marks: boolean;
  /** Intervals are drawn; else they stand in the table alone. Default true. */
  bands?: boolean;
  /** Horizontal from point to point. */
  steps?: boolean;
}

export interface StackChart {
  kind: "stack";
  rows: readonly { label: string; values: readonly number[] }[];
  parts: readonly { name: string; css: string }[];
  format: (value: number) => string;
}

export interface BarChart {
  kind: "bars";
  groups: readonly { label: string; values: readonly (number | null)[] }[];
  series: readonly { name: string; colour: number }[];
  y: Axis;
}

export type Chart = LineChart | StackChart | BarChart;

const glyph = 6.3; // mean width of a character of a label, in units of the drawing

/** Round values that span [low, high]. */
export function ticks(low: number, high: number, wanted: number, whole = false): number[] {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const nice = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999)!;
  const step = whole ? Math.max(1, Math.ceil(nice)) : nice;
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: Math.max(1, last - first) + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

interface Scale {
  (value: number): number;
  ticks: number[];
}

function scale(
  values: readonly number[],
  from: number,
  to: number,
  wanted: number,
  whole?: boolean,
  pad = true,
): Scale {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const marks = ticks(low, high, wanted, whole);
  const [a, b] = pad ? [marks[0]!, marks.at(-1)!] : low === high ? [low - 0.5, high + 0.5] : [low, high];
  return Object.assign(linear(a, b, from, to), { ticks: marks.filter((t) => t >= a - 1e-9 && t <= b + 1e-9) });
}

const text = (x: number, y: number, css: string, anchor: string, content: string) =>
  `<text x="${tenths(x)}" y="${tenths(y)}" class="${css}" text-anchor="${anchor}">${escaped(content)}</text>`;

const line = (x1: number, y1: number, x2: number, y2: number, css: string) =>
  `<line x1="${tenths(x1)}" y1="${tenths(y1)}" x2="${tenths(x2)}" y2="${tenths(y2)}" class="${css}"/>`;

/** Marker shapes: series differ without colour too. */
const markers: readonly ((x: number, y: number) => string)[] = [
  (x, y) => `<circle cx="${x}" cy="${y}" r="4"`,
  (x, y) => `<rect x="${x - 3.6}" y="${y - 3.6}" width="7.2" height="7.2"`,
  (x, y) => `<path d="M${x} ${y - 4.8}L${x + 4.6} ${y + 3.4}H${x - 4.6}Z"`,
  (x, y) => `<path d="M${x} ${y - 5}L${x + 5} ${y}L${x} ${y + 5}L${x - 5} ${y}Z"`,
  (x, y) => `<path d="M${x} ${y + 4.8}L${x + 4.6} ${y - 3.4}H${x - 4.6}Z"`,
];
export const marker = (colour: number, x: number, y: number): string =>
  `${markers[colour % markers.length]!(tenths(x), tenths(y))} class="mark c${colour % 6}"`;

const svg = (width: number, height: number, css: string, body: string) =>
  `<svg class="${css}" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" aria-hidden="true" focusable="false">${body}</svg>`;

const runsOf = (points: readonly (Point | null)[]): Point[][] => {
  const runs: Point[][] = [[]];
  for (const p of points) {
    if (p) runs.at(-1)!.push(p);
    else if (runs.at(-1)!.length > 0) runs.push([]);
  }
  return runs.filter((r) => r.length > 0);
};

const path = (points: readonly Point[], x: Scale, y: Scale, steps: boolean): string =>
  pathOf(
    points.map((p) => [x(p.x), y(p.y)] as const),
    steps,
  );

function band(points: readonly Point[], x: Scale, y: Scale): string {
  const held = points.filter((p) => p.low !== undefined && p.high !== undefined);
  if (held.length === 0) return "";
  const up = held.map((p) => [x(p.x), y(p.high!)] as const);
  const down = [...held].reverse().map((p) => [x(p.x), y(p.low!)] as const);
  return `${pathOf([...up, ...down])}Z`;
}

/** Labels that would overlap move apart, down to `floor`. */
function spread(labels: { y: number; text: string; css: string }[], floor: number): typeof labels {
  const sorted = [...labels].sort((a, b) => a.y - b.y);
  sorted.forEach((l, i) => {
    if (i > 0) l.y = Math.max(l.y, sorted[i - 1]!.y + 12);
  });
  for (let i = sorted.length - 1, low = floor; i >= 0; i--, low -= 12) sorted[i]!.y = Math.min(sorted[i]!.y, low);
  return sorted;
}

function frame(chart: LineChart, width: number, height: number) {
  const known = chart.series.flatMap((s) => s.points.filter((p) => p !== null));
  const ys = known.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]);
  const held = [...ys, ...(chart.reference ? [chart.reference.y] : []), ...(chart.y.holds ?? [])];
  const probe = ticks(Math.min(...held), Math.max(...held), 4, chart.y.whole);
  const left = 14 + glyph * Math.max(...probe.map((t) => chart.y.format(t).length));
  const ends = chart.marks ? 8 + glyph * Math.max(...known.map((p) => chart.y.format(p.y).length)) : 12;
  const bottom = height - 38;
  const top = (chart.rules ?? []).length > 0 ? 36 : 22;
  const inset = chart.marks ? 8 : 0;
  const xs = [...known.map((p) => p.x), ...(chart.x.holds ?? [])];
  const x = scale(xs, left + inset, width - ends - inset, Math.max(2, Math.floor(width / 85)), chart.x.whole, false);
  return { x, y: scale(held, bottom, top, 4, chart.y.whole), left, right: width - ends, bottom, top };
}

function drawLine(chart: LineChart, width: number, height: number): string {
  const { x, y, left, right, bottom, top } = frame(chart, width, height);
  const parts = [text(0, 10, "axis", "start", chart.y.label)];
  for (const t of y.ticks) {
    parts.push(line(left, y(t), right, y(t), t === 0 ? "grid zero" : "grid"));
    parts.push(text(left - 6, y(t) + 4, "tick", "end", chart.y.format(t)));
  }
  for (const t of x.ticks) parts.push(text(x(t), bottom + 16, "tick", "middle", chart.x.format(t)));
  parts.push(text((left + right) / 2, height - 4, "axis", "middle", chart.x.label));
  for (const r of chart.rules ?? []) {
    parts.push(line(x(r.x), top - 12, x(r.x), bottom, "rule"));
    parts.push(text(x(r.x) + 3, top - 4, "tick", "start", r.label));
  }
  for (const s of chart.bands === false ? [] : chart.series)
    for (const run of runsOf(s.points)) parts.push(`<path d="${band(run, x, y)}" class="band c${s.colour % 6}"/>`);
  if (chart.reference) {
    const { y: at, label } = chart.reference;
    parts.push(line(left, y(at), right, y(at), "reference"), text(right, y(at) - 5, "tick", "end", label));
  }
  for (const s of chart.series)
    for (const run of runsOf(s.points))
      parts.push(`<path d="${path(run, x, y, chart.steps === true)}" class="line c${s.colour % 6} d${s.colour % 6}"/>`);
  if (chart.marks) parts.push(...marks(chart, x, y, right, bottom));
  return svg(width, height, "line-chart", parts.join(""));
}

function marks(chart: LineChart, x: Scale, y: Scale, right: number, bottom: number): string[] {
  const parts: string[] = [];
  const ends: { y: number; text: string; css: string }[] = [];
  for (const s of chart.series) {
    const known = s.points.filter((p) => p !== null);
    for (const p of known) parts.push(`${marker(s.colour, x(p.x), y(p.y))} data-tip="${escaped(tip(chart, s, p))}"/>`);
    const last = known.at(-1);
    if (last) ends.push({ y: y(last.y) + 4, text: chart.y.format(last.y), css: `end t${s.colour % 6}` });
  }
  for (const e of spread(ends, bottom + 4)) parts.push(text(right + 4, e.y, e.css, "start", e.text));
  return parts;
}

function tip(chart: LineChart, s: Series, p: Point): string {
  const interval = p.low === undefined ? "" : ` (${chart.y.format(p.low)} to ${chart.y.format(p.high!)})`;
  const name = s.name === "" ? "" : `${s.name}, `;
  return `${name}${chart.x.label} ${chart.x.format(p.x)}: ${chart.y.format(p.y)}${interval}`;
}

function drawStack(chart: StackChart, width: number): string {
  const longest = Math.max(...chart.rows.map((r) => r.label.length));
  const left = Math.min(width * 0.42, 10 + glyph * longest);
  const fits = Math.floor((left - 8) / glyph);
  const [bar, gap] = [18, 8];
  const parts = chart.rows.flatMap(({ label, values }, i) => {
    const total = sum(values) || 1;
    const y = i * (bar + gap) + 2;
    let at = left;
    const shown = label.length > fits ? `${label.slice(0, fits - 1)}…` : label;
    const cells = values.map((v, k) => {
      const { name, css } = chart.parts[k]!;
      const w = (v / total) * (width - left);
      const body =
        v === 0
          ? ""
          : `<rect x="${tenths(at)}" y="${y}" width="${tenths(Math.max(0.5, w - 1))}" height="${bar}" class="part ${css}" data-tip="${escaped(`${label}: ${name} ${chart.format(v)}`)}"/>` +
            (w > glyph * (chart.format(v).length + 1)
              ? text(at + w / 2, y + 13, `in ${css}`, "middle", chart.format(v))
              : "");
      at += w;
      return body;
    });
    return [text(left - 8, y + 13, "tick", "end", shown), ...cells];
  });
  return svg(width, chart.rows.length * (bar + gap), "stack-chart", parts.join(""));
}

function drawBars(chart: BarChart, width: number): string {
  const known = chart.groups.flatMap((g) => g.values.filter((v) => v !== null));
  const left = Math.min(width * 0.4, 10 + glyph * Math.max(...chart.groups.map((g) => g.label.length)));
  const ends = 10 + glyph * Math.max(...known.map((v) => chart.y.format(v).length));
  const x = scale([0, ...known], left, width - ends, 4);
  const [bar, gap] = [13, 12];
  const group = chart.series.length * bar + gap;
  const parts = chart.groups.flatMap((g, i) => {
    const top = i * group + 4;
    const label = text(left - 8, top + (group - gap) / 2 + 4, "tick", "end", g.label);
    const bars = g.values.map((v, k) => {
      if (v === null) return "";
      const { name, colour } = chart.series[k]!;
      const y = top + k * bar;
      const w = Math.max(0.5, x(v) - left);
      return `<rect x="${left}" y="${y}" width="${tenths(w)}" height="${bar - 2}" class="bar c${colour % 6}" data-tip="${escaped(`${g.label}, ${name}: ${chart.y.format(v)}`)}"/>${text(left + w + 5, y + 9.5, "tick", "start", chart.y.format(v))}`;
    });
    return [label, ...bars];
  });
  return svg(width, chart.groups.length * group, "bar-chart", parts.join(""));
}

function draw(chart: Chart, width: number): string {
  if (chart.kind === "stack") return drawStack(chart, width);
  return chart.kind === "bars" ? drawBars(chart, width) : drawLine(chart, width, width < 400 ? 230 : 260);
}

function legend(chart: Chart): string {
  const items =
    chart.kind === "stack"
      ? chart.parts.map(({ name, css }) => [name, `<rect width="12" height="12" y="2" class="part ${css}"/>`] as const)
      : chart.series.map(({ name, colour }) => {
          const dash = `<path d="M0 8H22" class="line c${colour % 6} d${colour % 6}"/>`;
          const shape = chart.kind === "line" && chart.marks ? `${marker(colour, 11, 8)}/>` : "";
          const block = `<rect width="12" height="12" y="2" class="bar c${colour % 6}"/>`;
          return [name, chart.kind === "line" ? dash + shape : block] as const;
        });
  if (items.length < 2) return "";
  const wide = chart.kind === "line" ? 24 : 14;
  const list = items.map(
    ([name, key]) =>
      `<li><svg width="${wide}" height="16" viewBox="0 0 ${wide} 16" aria-hidden="true">${key}</svg>${isolated(name)}</li>`,
  );
  return `<ul class="legend">${list.join("")}</ul>`;
}

/** Legend and drawing, the latter once for phones and once for wider screens; one of them is shown. */
export const drawn = (chart: Chart): string =>
  `${legend(chart)}<div class="narrow">${draw(chart, 320)}</div><div class="wide">${draw(chart, 520)}</div>`;
