// Reads native_bench's tables: a heading "## name", then lines "what ... value unit ... share % of a limit".

// The bars of docs/performance.md, by what a line says; each is a share of the limit that the line itself names.
const bars = [
  { line: /^gemm_(nt|nn|tn) .* avx2 /, rows: 512, atLeast: 80 },
  { line: /^gemm_(nt|nn|tn) .* avx512/, rows: 512, atLeast: 85 },
  { line: /^gemv +bf16 +avx512bf16/, atLeast: 80 },
  { line: /^forward .* avx512.* 2048 .* D +(64|128) /, atLeast: 50 },
  { line: /^backward .* avx512.* 2048 .* D +(64|128) /, atLeast: 40 },
  { line: /^\d threads: adamw/, atLeast: 80 },
  { line: /^step /, atLeast: 65 },
  { line: /^share /, atLeast: 93 },
];

function barOf(line) {
  const rows = Number(/(\d+) x +\d+ x/.exec(line)?.[1] ?? 0);
  return bars.find((bar) => bar.line.test(line) && rows >= (bar.rows ?? 0))?.atLeast;
}

/** One row per line that holds a figure: the line's name, its first rate (or time), its share of a limit and that share's bar. */
export function parseNative(output) {
  const rows = [];
  let bench = "";
  for (const line of output.split("\n").map((text) => text.trim())) {
    if (line.startsWith("## ")) bench = line.slice(3).trim();
    const figures = [...line.matchAll(/([\d.]+) (GFLOP\/s|GB\/s|ns|us|ms|s)(?![\w/])/g)];
    if (!figures.length) continue;
    if (bench === "limits") {
      const [threads, list] = line.split(": ");
      for (const [, name, value, unit] of list.matchAll(/(\w+) ([\d.]+) (\S+?)(?:,|$)/g))
        rows.push({ bench, name: `${name}, ${threads}`, value: Number(value), unit, line });
      continue;
    }
    const [, value, unit] = figures.find(([, , u]) => u.endsWith("/s")) ?? figures[0];
    const name = line.slice(0, figures[0].index).replace(/\s+/g, " ").trim();
    const percent = /([\d.]+) %/.exec(line)?.[1];
    const row = { bench, name, value: Number(value), unit, line };
    if (percent !== undefined) Object.assign(row, { percent: Number(percent), atLeast: barOf(line) });
    rows.push(row);
  }
  return rows;
}
