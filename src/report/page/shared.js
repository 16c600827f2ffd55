// What the pages share with the code that makes them: numbers as text, what is hidden in a text, and how a line is drawn. As a
// module for the latter; page-parts.ts makes it part of a page's script, where these names stand before all that use them.

// Controls except newline and tab, bidi and zero-width characters, lone surrogates, separators of lines.
const hidden = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** A hidden character by its number: fonts have no sign for most of them. */
const sign = (c) => `[U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;

/** A text whose hidden characters are shown. */
export const visible = (text) => text.replace(hidden, sign);

/** Three significant digits, without an exponent where one can do without; "?" for no number. */
export function short(x) {
  if (!Number.isFinite(x)) return "?";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e6 || size < 1e-3) return x.toExponential(1).replace("e+", "e");
  return size >= 100 ? x.toFixed(0) : String(Number(x.toPrecision(3)));
}

export const bytes = (n) =>
  n >= 2 ** 30 ? `${(n / 2 ** 30).toFixed(1)} GiB` : `${Math.max(1, Math.round(n / 2 ** 20))} MiB`;

const units = [
  [3600, "h", 60, "min"],
  [60, "min", 1, "s"],
];

/** 75 -> "1 min 15 s" */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "?";
  if (seconds < 59.5) return `${seconds < 9.95 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  const [size, name, below, belowName] = units.find(([size]) => whole >= size);
  const rest = Math.floor((whole % size) / below);
  return `${Math.floor(whole / size)} ${name}${rest > 0 ? ` ${rest} ${belowName}` : ""}`;
}

/** Places from `from` to `to` for values from `low` to `high`. */
export const linear = (low, high, from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);

/** A coordinate in a drawing: tenths are finer than a pixel. */
export const tenths = (x) => Number(x.toFixed(1));

/** The path of a line through points (x, y); `steps`: horizontal from point to point. */
export const pathOf = (points, steps = false) =>
  points
    .map((point, i) => {
      const [x, y] = point.map(tenths);
      return i === 0 ? `M${x} ${y}` : steps ? `H${x}V${y}` : `L${x} ${y}`;
    })
    .join("");
