// Reads native_bench's tables: a heading "## name", then lines "what ... value unit [share % of limit]".

const threads = 2;

/** The bars of docs/performance.md, by what a line says; a share of the limit that the same line names. */
const bars = [
  { line: /^gemm_(nt|nn|tn).* avx2 /, rows: 512, atLeast: 80 },
  { line: /^gemm_(nt|nn|tn).* avx512/, rows: 512, atLeast: 85 },
  { line: /^gemv +bf16 +avx512bf16/, atLeast: 80 },
  { line: /^attention_forward.* T 2048/, atLeast: 50 },
  { line: /^attention_backward.* T 2048/, atLeast: 40 },
  { line: /^adamw/, atLeast: 80 },
];

function barOf(line) {
  const rows = Number(/(\d+) x +\d+ x/.exec(line)?.[1] ?? 0);
  return bars.find((bar) => bar.line.test(line) && rows >= (bar.rows ?? 0))?.atLeast;
}

export function parseNative(output) {
  const rows = [];
  let bench = "";
  for (const line of output.split("\n")) {
    if (line.startsWith("## ")) bench = line.slice(3).trim();
    const figure = /^(.*?)\s+([\d.]+) (GFLOP\/s|GB\/s|ms|us|s)\b(.*)$/.exec(line);
    if (!figure || bench === "limits") continue;
    const [, name, value, unit, rest] = figure;
    const share = /([\d.]+) % of ([\d.]+)/.exec(rest);
    const row = { bench, name: name.replace(/\s+/g, " "), value: Number(value), unit };
    if (share) Object.assign(row, { percent: Number(share[1]), limit: Number(share[2]), atLeast: barOf(line) });
    rows.push(row);
  }
  return [...limits(output), ...rows];
}

function limits(output) {
  return [...output.matchAll(/^(\d+) threads: (.*)$/gm)].flatMap(([, n, list]) =>
    list.split(", ").map((item) => {
      const [, name, value, unit] = /^(\w+) ([\d.]+) (\S+)$/.exec(item);
      return { bench: "limits", name: `${name}, ${n} threads`, value: Number(value), unit };
    }),
  );
}

/** GFLOP/s of all cores, by dtype; empty when the run left them out. */
export function peaksOf(output) {
  const of = (name) => limits(output).find((row) => row.name === `${name}, ${threads} threads`)?.value;
  return { f32: of("f32"), bf16: of("bf16") || of("f32") };
}
