// Groups of a pattern that match letters of either case, (?i:...), as the `tokenizers` library's engine matches them.
// @huggingface/tokenizers knows the two cases of ASCII letters alone; two signs of Unicode fold to one of them as well.

/** The Kelvin sign, the long s and the Angstrom sign: others whose cases fold to one letter are the cases of each other. */
const folded: Readonly<Record<string, string>> = { k: "\u212a", s: "\u017f", å: "\u212b" };

const token = new RegExp(
  [
    /\[:\^?[a-z]+:\]/,
    /\[(?:\^?\]?(?:\\[\s\S]|[^\]\\[])*)\]/, // a class without one inside
    /\\[pPx]\{[^}]*\}|\\x[\da-fA-F]{2}|\\u[\da-fA-F]{4}|\\[\s\S]/,
    /\(\?i:|\(\?<[A-Za-z_]\w*>|\(\?[^)]?|[\s\S]/,
  ]
    .map((part) => part.source)
    .join("|"),
  "gu",
);

function cases(c: string): string[] {
  if ([...c.toUpperCase()].length > 1)
    throw new Error(`(?i:${c}) stands for more than one letter, which is not supported`);
  const lower = c === "\u017f" ? "s" : c.toLowerCase();
  return [...new Set([c, lower, lower.toUpperCase(), folded[lower] ?? c])];
}

const inClass = (all: readonly string[]) => (all.length > 1 ? `[${all.join("")}]` : all[0]!);

/** The class with the signs that fold to one of its letters; one that JavaScript cannot read is left as it is. */
function foldedClass(text: string): string {
  let has: RegExp;
  try {
    has = new RegExp(text, "iu"); // folds as Unicode says
  } catch {
    return text;
  }
  const signs = Object.values(folded).filter((sign) => has.test(sign) !== text.startsWith("[^"));
  return `${text.slice(0, -1)}${signs.join("")}]`;
}

/** The pattern with a class of all its cases in place of each letter that stands in such a group. */
export function foldedPattern(pattern: string): string {
  const groups: boolean[] = [];
  let out = "";
  for (const [part] of pattern.matchAll(token)) {
    if (part.startsWith("(")) groups.push(part === "(?i:" || groups.at(-1) === true);
    else if (part === ")") groups.pop();
    const code = /^\\[xu]([\da-fA-F]+)$/.exec(part)?.[1];
    const c = code === undefined ? part : String.fromCharCode(Number.parseInt(code, 16));
    if (!groups.at(-1)) out += part;
    else if (/^\[[^:]/.test(part)) out += foldedClass(part);
    else out += /^\p{L}$/u.test(c) ? inClass(cases(c)) : part;
  }
  return out;
}
