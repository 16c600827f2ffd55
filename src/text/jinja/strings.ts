// Methods of Python's str: positions and lengths in code points, white space and cases as in Python.
import { bounds, built, JinjaFault, spend } from "./fault.js";
import { braceFormat } from "./format.js";
import { blank } from "./lexer.js";
import { padded } from "./operators.js";
import {
  type Arguments,
  characters,
  integerOf,
  isList,
  itemsOf,
  Tuple,
  typeOf,
  Undefined,
  type Value,
} from "./values.js";

const isBlank = new RegExp(`^[${blank}]$`);
const ends = "\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029";
const lineEnds = new RegExp(`\\r\\n|[${ends}]`, "g");

export function textOf(v: Value, what: string): string {
  if (v instanceof Undefined) v.fail();
  if (typeof v !== "string") throw new JinjaFault(`${what}: expected a str, got ${typeOf(v)}`);
  return v;
}

/** strip(): the characters of `chars` (null: blanks) off the front and the end. */
export function stripped(s: string, chars: Value, front: boolean, end: boolean): string {
  const all = characters(s);
  const set = chars === null ? null : new Set(characters(textOf(chars, "strip")));
  const gone = (c: string) => (set ? set.has(c) : isBlank.test(c));
  let [i, j] = [0, all.length];
  while (front && i < j && gone(all[i]!)) i++;
  while (end && j > i && gone(all[j - 1]!)) j--;
  return all.slice(i, j).join("");
}

export function splitLines(s: string, keep = false): string[] {
  const lines: string[] = [];
  let at = 0;
  for (const m of s.matchAll(lineEnds)) {
    lines.push(s.slice(at, m.index + (keep ? m[0].length : 0)));
    at = m.index + m[0].length;
  }
  if (at < s.length) lines.push(s.slice(at));
  spend(lines.length);
  return lines;
}

function splitBlanks(s: string, limit: number, right: boolean): string[] {
  const words = [...s.matchAll(new RegExp(`[^${blank}]+`, "g"))].map((m) => ({
    from: m.index,
    to: m.index + m[0].length,
  }));
  spend(words.length);
  const text = (w: { from: number; to: number }) => s.slice(w.from, w.to);
  if (limit < 0 || words.length <= limit) return words.map(text);
  if (!right) return [...words.slice(0, limit).map(text), stripped(s.slice(words[limit]!.from), null, false, true)];
  const cut = words.length - limit;
  return [stripped(s.slice(0, words[cut - 1]!.to), null, true, false), ...words.slice(cut).map(text)];
}

function split(s: string, separator: Value, limit: number, right: boolean): string[] {
  if (separator === null) return splitBlanks(s, limit, right);
  const by = textOf(separator, "split");
  if (by === "") throw new JinjaFault("empty separator");
  const parts = s.split(by);
  spend(parts.length);
  if (limit < 0 || parts.length <= limit + 1) return right ? splitFromRight(s, by, -1) : parts;
  if (right) return splitFromRight(s, by, limit);
  return [...parts.slice(0, limit), parts.slice(limit).join(by)];
}

/** Separators that overlap are found from the right. */
function splitFromRight(s: string, by: string, limit: number): string[] {
  const parts: string[] = [];
  let end = s.length;
  while (limit < 0 || parts.length < limit) {
    const at = end - by.length < 0 ? -1 : s.lastIndexOf(by, end - by.length);
    if (at < 0) break;
    parts.push(s.slice(at + by.length, end));
    end = at;
  }
  parts.push(s.slice(0, end));
  return parts.reverse();
}

/** str.replace(): an empty `from` stands between all characters. */
export function replaced(s: string, from: string, to: string, count: number): string {
  const parts = from === "" ? ["", ...characters(s), ""] : s.split(from);
  spend(parts.length);
  const gaps = parts.length - 1;
  const n = count < 0 ? gaps : Math.min(count, gaps);
  const size = s.length + n * to.length;
  if (size > bounds.text) throw new JinjaFault(`a text of more than ${bounds.text} characters`);
  if (n === gaps) return built(parts.join(to));
  return built([parts.slice(0, n + 1).join(to), ...parts.slice(n + 1)].join(from));
}

const cased = /\p{Lowercase}|\p{Uppercase}|\p{Lt}/u;
const letter = /\p{L}/u;

/** str.title(): a capital at the start of every run of letters. */
function titled(s: string): string {
  let inside = false;
  return characters(s)
    .map((c) => {
      const was = inside;
      inside = cased.test(c);
      return was ? c.toLowerCase() : capital(c);
    })
    .join("");
}

/** A title-case character; the few that are neither upper nor lower case are refused. */
function capital(c: string): string {
  if (/[\u01c4-\u01cc\u01f1-\u01f3\u00df\u0149\u01f0\u0390\u03b0\u0587\u1e96-\u1e9e\u1f50-\u1fff\ufb00-\ufb17]/.test(c))
    throw new JinjaFault(`the title case of ${JSON.stringify(c)} is not supported`);
  return c.toUpperCase();
}

export function capitalized(s: string): string {
  const [first, ...rest] = characters(s);
  return first === undefined ? "" : capital(first) + rest.join("").toLowerCase();
}

const every = (pattern: RegExp) => (s: string) => s !== "" && characters(s).every((c) => pattern.test(c));

function digits(s: string): boolean {
  if (/[\p{No}\p{Script=Han}]/u.test(s))
    throw new JinjaFault("isdigit and isnumeric of such characters are not supported");
  return every(/\p{Nd}/u)(s);
}

function isTitle(s: string): boolean {
  let [inside, any] = [false, false];
  for (const c of characters(s)) {
    const isCased = cased.test(c);
    const upper = isCased && c === c.toUpperCase();
    if (isCased && upper === inside) return false;
    any ||= isCased;
    inside = isCased;
  }
  return any;
}

const questions: Record<string, (s: string) => boolean> = {
  isalpha: every(letter),
  isalnum: every(/[\p{L}\p{N}]/u),
  isascii: (s) => /^\p{ASCII}*$/u.test(s),
  isdecimal: every(/\p{Nd}/u),
  isdigit: digits,
  isnumeric: digits,
  isspace: every(isBlank),
  islower: (s) => cased.test(s) && s === s.toLowerCase() && !/[\p{Lu}\p{Lt}]/u.test(s),
  isupper: (s) => cased.test(s) && !/[\p{Lowercase}\p{Lt}]/u.test(s),
  istitle: isTitle,
  isidentifier: (s) => /^[\p{ID_Start}_]\p{ID_Continue}*$/u.test(s),
};
export const isLower = questions.islower!;
export const isUpper = questions.isupper!;

const swapped = (s: string) =>
  characters(s)
    .map((c) => (/\p{Lowercase}/u.test(c) ? c.toUpperCase() : c.toLowerCase()))
    .join("");

/** The part of a text that the arguments start and end name, and where it begins. */
function part(s: string, args: readonly Value[]): { text: string; from: number } | null {
  if (args.length < 2) return { text: s, from: 0 };
  const all = characters(s);
  const place = (v: Value | undefined, otherwise: number) => {
    if (v === undefined || v === null) return otherwise;
    const n = integerOf(v, "index");
    return Math.max(0, n < 0 ? n + all.length : n);
  };
  const from = place(args[1], 0);
  const to = Math.min(place(args[2], all.length), all.length);
  return from > all.length || from > to ? null : { text: all.slice(from, to).join(""), from };
}

function find(s: string, args: readonly Value[], last: boolean): number {
  const sub = textOf(args[0]!, "find");
  const within = part(s, args);
  if (!within) return -1;
  const at = last ? within.text.lastIndexOf(sub) : within.text.indexOf(sub);
  return at < 0 ? -1 : within.from + characters(within.text.slice(0, at)).length;
}

function found(s: string, args: readonly Value[], last: boolean): number {
  const at = find(s, args, last);
  if (at < 0) throw new JinjaFault("substring not found");
  return at;
}

function affixed(s: string, args: readonly Value[], test: (text: string, affix: string) => boolean): boolean {
  const within = part(s, args);
  const given = args[0]!;
  const affixes = given instanceof Tuple ? given.items : [given];
  return affixes.some((x) => {
    const affix = textOf(x, "startswith/endswith");
    return within !== null && test(within.text, affix);
  });
}

function partition(s: string, by: Value, last: boolean): Tuple {
  const separator = textOf(by, "partition");
  if (separator === "") throw new JinjaFault("empty separator");
  const at = last ? s.lastIndexOf(separator) : s.indexOf(separator);
  if (at < 0) return new Tuple(last ? ["", "", s] : [s, "", ""]);
  return new Tuple([s.slice(0, at), separator, s.slice(at + separator.length)]);
}

function filled(s: string, width: number): string {
  const sign = /^[-+]/.test(s) ? s[0]! : "";
  return sign + padded(s.slice(sign.length), width - sign.length, "0", ">");
}

function joined(s: string, list: Value): string {
  const items = itemsOf(list);
  items.forEach((x, i) => {
    if (typeof x !== "string") throw new JinjaFault(`sequence item ${i}: expected str instance, ${typeOf(x)} found`);
  });
  return built((items as string[]).join(s));
}

function counted(s: string, args: readonly Value[]): number {
  const within = part(s, args);
  const sub = textOf(args[0]!, "count");
  if (!within) return 0;
  return sub === "" ? characters(within.text).length + 1 : within.text.split(sub).length - 1;
}

function expanded(s: string, size: number): string {
  if (size > 1000) throw new JinjaFault("expandtabs of more than 1000 is not supported");
  let column = 0;
  return built(
    characters(s)
      .map((c) => {
        if (c === "\n" || c === "\r") column = 0;
        else if (c !== "\t") column++;
        else {
          const n = size > 0 ? size - (column % size) : 0;
          column += n;
          return " ".repeat(n);
        }
        return c;
      })
      .join(""),
  );
}

type Method = { takes: readonly string[]; needs?: number; run(s: string, args: readonly Value[]): Value };
const pad = (align: "<" | ">" | "center"): Method => ({
  takes: ["width", "fillchar"],
  needs: 1,
  run: (s, [width, by]) =>
    padded(s, integerOf(width!, "width"), by === undefined ? " " : textOf(by, "fillchar"), align),
});
const strip = (front: boolean, end: boolean): Method => ({
  takes: ["chars"],
  run: (s, [chars]) => stripped(s, chars ?? null, front, end),
});
const splitter = (right: boolean): Method => ({
  takes: ["sep", "maxsplit"],
  run: (s, [by, limit]) => split(s, by ?? null, limit === undefined ? -1 : integerOf(limit, "maxsplit"), right),
});
const search = (run: Method["run"]): Method => ({ takes: ["sub", "start", "end"], needs: 1, run });

const methods: Record<string, Method> = {
  capitalize: { takes: [], run: capitalized },
  casefold: {
    takes: [],
    run: (s) => {
      if (!/^\p{ASCII}*$/u.test(s)) throw new JinjaFault("casefold beyond ASCII is not supported");
      return s.toLowerCase();
    },
  },
  center: pad("center"),
  count: search(counted),
  endswith: search((s, args) => affixed(s, args, (text, affix) => text.endsWith(affix))),
  expandtabs: {
    takes: ["tabsize"],
    run: (s, [size]) => expanded(s, size === undefined ? 8 : integerOf(size, "tabsize")),
  },
  find: search((s, args) => find(s, args, false)),
  index: search((s, args) => found(s, args, false)),
  join: { takes: ["iterable"], needs: 1, run: (s, [list]) => joined(s, list!) },
  ljust: pad("<"),
  lower: { takes: [], run: (s) => s.toLowerCase() },
  lstrip: strip(true, false),
  partition: { takes: ["sep"], needs: 1, run: (s, [by]) => partition(s, by!, false) },
  removeprefix: {
    takes: ["prefix"],
    needs: 1,
    run: (s, [x]) => (s.startsWith(textOf(x!, "prefix")) ? s.slice((x as string).length) : s),
  },
  removesuffix: {
    takes: ["suffix"],
    needs: 1,
    run: (s, [x]) => (s.endsWith(textOf(x!, "suffix")) ? s.slice(0, s.length - (x as string).length) : s),
  },
  replace: {
    takes: ["old", "new", "count"],
    needs: 2,
    run: (s, [from, to, n]) =>
      replaced(s, textOf(from!, "replace"), textOf(to!, "replace"), n === undefined ? -1 : integerOf(n, "count")),
  },
  rfind: search((s, args) => find(s, args, true)),
  rindex: search((s, args) => found(s, args, true)),
  rjust: pad(">"),
  rpartition: { takes: ["sep"], needs: 1, run: (s, [by]) => partition(s, by!, true) },
  rsplit: splitter(true),
  rstrip: strip(false, true),
  split: splitter(false),
  splitlines: { takes: ["keepends"], run: (s, [keep]) => splitLines(s, keep === true || keep === 1) },
  startswith: search((s, args) => affixed(s, args, (text, affix) => text.startsWith(affix))),
  strip: strip(true, true),
  swapcase: { takes: [], run: swapped },
  title: { takes: [], run: titled },
  upper: { takes: [], run: (s) => s.toUpperCase() },
  zfill: { takes: ["width"], needs: 1, run: (s, [width]) => filled(s, integerOf(width!, "width")) },
};

const known = ["encode", "format_map", "isprintable", "maketrans", "translate"];
/** What may be given by its name; Python takes the rest by position only. */
const named = new Set(["split", "rsplit", "splitlines", "expandtabs", "replace.count"]);

/** The method of a text, or undefined where Python's str has none of that name. */
export function textMethod(s: string, name: string): ((a: Arguments) => Value) | undefined {
  if (name === "format") return (a) => braceFormat(s, a);
  if (Object.hasOwn(questions, name)) return (a) => questions[name]!(s, ...(check(name, a, [], 0) as []));
  if (Object.hasOwn(methods, name)) {
    const { takes, needs = 0, run } = methods[name]!;
    return (a) => {
      const result = run(s, check(name, a, takes, needs));
      if (isList(result)) spend(result.length);
      return typeof result === "string" ? built(result) : result;
    };
  }
  if (known.includes(name)) throw new JinjaFault(`str.${name} is not supported`);
  return undefined;
}

function check(name: string, { args, kwargs }: Arguments, takes: readonly string[], needs: number): readonly Value[] {
  const all = [...args];
  for (const [key, value] of kwargs) {
    const at = takes.indexOf(key);
    if (at < args.length || !(named.has(name) || named.has(`${name}.${key}`)))
      throw new JinjaFault(`str.${name}() takes no keyword argument '${key}'`);
    all[at] = value;
  }
  for (let i = 0; i < all.length; i++) if (all[i] === undefined) all[i] = i === 0 ? null : -1;
  if (all.length < needs || all.length > takes.length)
    throw new JinjaFault(`str.${name}() takes ${needs} to ${takes.length} arguments (${all.length} given)`);
  return all;
}
