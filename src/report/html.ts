// Texts on their way into the page: they can never become markup, and characters that are invisible or move their neighbours
// are shown.

const named: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

// Controls except newline and tab, bidi and zero-width characters, lone surrogates, separators of lines.
const hidden = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** A hidden character by its number: fonts have no sign for most of them. */
const sign = (c: string): string => `[U+${c.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0")}]`;

export const visible = (text: string): string => text.replace(hidden, sign);

/** For content and quoted attributes. */
export const escaped = (text: string): string => visible(text).replace(/[&<>"']/g, (c) => named[c]!);

/** Text of others inside a sentence of ours: its direction stays its own. */
export const isolated = (text: string): string => `<bdi>${escaped(text)}</bdi>`;

/** JSON that can stand in a script element whatever its strings hold. */
export const scriptJson = (value: unknown): string =>
  JSON.stringify(value).replace(/[<>&\u2028\u2029]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** Three significant digits, without an exponent where one can do without. */
export function short(x: number): string {
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e6 || size < 1e-3) return x.toExponential(1).replace("e+", "e");
  return size >= 100 ? x.toFixed(0) : String(Number(x.toPrecision(3)));
}
