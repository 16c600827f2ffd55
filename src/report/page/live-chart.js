// A curve of the live page: points in the order of steps, a rule where an iteration begins.
import { linear, pathOf, short } from "./shared.js";

globalThis.liveChart = (() => {
  const space = "http://www.w3.org/2000/svg";
  const [width, height, left, right, top, bottom] = [420, 170, 46, 10, 10, 24];

  function svg(tag, properties, ...children) {
    const node = document.createElementNS(space, tag);
    for (const [key, value] of Object.entries(properties)) node.setAttribute(key, String(value));
    node.append(...children);
    return node;
  }

  /** `points`: [number of the step, iteration, value]; `bounds`: ends of the axis where they are known. */
  function chart(points, bounds) {
    const known = points.filter(([, , y]) => Number.isFinite(y));
    const ys = known.map(([, , y]) => y);
    let [low, high] = bounds ?? [ys.reduce((a, b) => Math.min(a, b)), ys.reduce((a, b) => Math.max(a, b))];
    if (low === high) [low, high] = [low - 0.5, high + 0.5];
    const [first, last] = [known[0][0], known.at(-1)[0]];
    const x = linear(first, last, left, width - right);
    const y = linear(low, high, height - bottom, top);
    const across = (v, kind) => svg("line", { x1: left, x2: width - right, y1: y(v), y2: y(v), class: kind });
    const label = (v) => svg("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, short(v));
    const marks = [low, (low + high) / 2, high];
    const begins = known.filter(([, t], i) => i > 0 && known[i - 1][1] !== t);
    const path = pathOf(known.map(([n, , v]) => [x(n), y(v)]));
    const [endX, endY] = [x(last), y(known.at(-1)[2])];
    return svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, class: "line-chart", "aria-hidden": "true" },
      ...marks.map((v) => across(v, "grid")),
      ...(low < 0 && high > 0 ? [across(0, "zero")] : []),
      ...begins.map(([n]) => svg("line", { x1: x(n), x2: x(n), y1: top, y2: height - bottom, class: "rule" })),
      ...marks.map(label),
      svg("text", { x: left, y: height - 6 }, `step ${first + 1}`),
      svg("text", { x: width - right, y: height - 6, "text-anchor": "end" }, `step ${last + 1}`),
      svg("path", { d: path, class: "line c0" }),
      svg("circle", { cx: endX, cy: endY, r: 4, class: "mark c0" }),
    );
  }

  return { chart };
})();
