// JSON as Python's json module writes it: NaN, Infinity and -Infinity may stand where a number may. Checkpoints hold such
// files; code that uses a value as a number checks that it is finite.

const words: readonly (readonly [string, string])[] = [
  ["-Infinity", "-1e999"], // JSON.parse rounds it to the infinity
  ["Infinity", "1e999"],
  ["NaN", ""],
];
const mark = "\u0000NaN"; // no file holds it unescaped: control characters are refused inside strings

/** The index behind the string that begins at `at`, or the end of the text. */
function behindString(text: string, at: number): number {
  for (let i = at + 1; i < text.length; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === '"') return i + 1;
  }
  return text.length;
}

/** The same text with Python's words spelled so that JSON.parse takes them. */
function respelled(text: string): string {
  let out = "";
  let from = 0;
  for (let at = 0; at < text.length; ) {
    if (text[at] === '"') {
      at = behindString(text, at);
      continue;
    }
    const word = words.find(([w]) => text.startsWith(w, at));
    if (!word) {
      at++;
      continue;
    }
    out += text.slice(from, at) + (word[1] || JSON.stringify(mark));
    at += word[0].length;
    from = at;
  }
  return out + text.slice(from);
}

/** Like JSON.parse, whose errors it throws for whatever neither it nor Python reads. */
export function parsePythonJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (e) {
    if (!/NaN|Infinity/.test(text)) throw e;
    try {
      return JSON.parse(respelled(text), (_, x) => (x === mark ? Number.NaN : x));
    } catch {
      throw e;
    }
  }
}
