// Jinja's filters. Filters that transformers replaces (tojson) behave as in transformers.
import { getItem } from "./access.js";
import { bounds, built, JinjaFault, spend } from "./fault.js";
import { fixed, percentFormat } from "./format.js";
import { binary } from "./operators.js";
import { json, str } from "./print.js";
import { capitalized, replaced, splitLines, stripped, textOf } from "./strings.js";
import { filterNames, runTest } from "./tests.js";
import {
  type Arguments,
  characterCount,
  characters,
  compare,
  Dict,
  equal,
  Float,
  hashOf,
  integerOf,
  isIterable,
  iterate,
  itemsOf,
  Iter,
  numberOf,
  sizeOf,
  sorted,
  truth,
  Tuple,
  typeOf,
  Undefined,
  type Value,
  whole,
} from "./values.js";

type Run = (v: Value, a: readonly Value[], all: Arguments) => Value;
interface Filter {
  /** Names of its arguments, in order. */
  takes: readonly string[];
  needs?: number;
  run: Run;
}

const filter = (takes: string, run: Run, needs = 0): Filter => ({
  takes: takes === "" ? [] : takes.split(" "),
  needs,
  run,
});
/** soft_str(): what a filter of texts makes of another value. */
const soft = (v: Value) => (typeof v === "string" ? v : str(v));
const given = (v: Value | undefined): Value => v ?? null;
const yes = (v: Value | undefined) => v !== undefined && truth(v);
const ignoreCase = (v: Value): Value => (typeof v === "string" ? v.toLowerCase() : v);

function path(attribute: Value): (string | number)[] {
  if (attribute === null) return [];
  if (typeof attribute === "string")
    return attribute.split(".").map((part) => (/^\p{Nd}+$/u.test(part) ? Number(part) : part));
  return [integerOf(attribute, "attribute")];
}

function getter(attribute: Value, otherwise: Value | undefined, post?: (v: Value) => Value): (v: Value) => Value {
  const parts = path(attribute);
  return (item) => {
    let v = item;
    for (const part of parts) {
      spend(1);
      v = getItem(v, part);
      if (otherwise !== undefined && otherwise !== null && v instanceof Undefined) v = otherwise;
    }
    return post ? post(v) : v;
  };
}

const lazily = (make: () => Iterator<Value>): Iter => new Iter(make());

function* walk(v: Value): Generator<Value> {
  const iterator = iterate(v);
  for (let next = iterator.next(); !next.done; next = iterator.next()) {
    spend(1);
    yield next.value;
  }
}

function mapped(v: Value, { args, kwargs }: Arguments): Iter {
  return lazily(function* () {
    if (!truth(v)) return;
    let f: (item: Value) => Value;
    if (args.length === 0 && kwargs.has("attribute")) {
      const other = [...kwargs.keys()].find((key) => key !== "attribute" && key !== "default");
      if (other !== undefined) throw new JinjaFault(`map: Unexpected keyword argument '${other}'`);
      f = getter(kwargs.get("attribute")!, kwargs.get("default"));
    } else {
      if (args.length === 0) throw new JinjaFault("map requires a filter argument");
      const name = textOf(args[0]!, "map");
      f = (item) => runFilter(name, item, { args: args.slice(1), kwargs });
    }
    for (const item of walk(v)) yield f(item);
  });
}

function selected(v: Value, { args, kwargs }: Arguments, keep: boolean, byAttribute: boolean): Iter {
  return lazily(function* () {
    if (!truth(v)) return;
    if (byAttribute && args.length === 0) throw new JinjaFault("Missing parameter for attribute name");
    const read = byAttribute ? getter(args[0]!, undefined) : (item: Value) => item;
    const [name, ...rest] = args.slice(byAttribute ? 1 : 0);
    const test = (item: Value) =>
      name === undefined ? truth(item) : runTest(textOf(name, "test"), item, { args: rest, kwargs });
    for (const item of walk(v)) if (test(read(item)) === keep) yield item;
  });
}

function extreme(v: Value, [caseSensitive, attribute]: readonly Value[], sign: number): Value {
  const items = itemsOf(v);
  if (items.length === 0) return new Undefined("No aggregated item, sequence was empty.");
  const key = getter(given(attribute), undefined, yes(caseSensitive) ? undefined : ignoreCase);
  let best: Value = items[0]!;
  let bestKey: Value = key(best);
  for (const item of items.slice(1)) {
    const itsKey = key(item);
    if (sign * compare(itsKey, bestKey, sign > 0 ? ">" : "<") > 0) [best, bestKey] = [item, itsKey];
  }
  return best;
}

function sortedBy(v: Value, [reverse, caseSensitive, attribute]: readonly Value[]): Value[] {
  const attributes = typeof attribute === "string" ? attribute.split(",") : [given(attribute)];
  const keys = attributes.map((a) => getter(a, undefined, yes(caseSensitive) ? undefined : ignoreCase));
  return sorted(itemsOf(v), (item) => keys.map((key) => key(item)), yes(reverse));
}

function unique(v: Value, [caseSensitive, attribute]: readonly Value[]): Iter {
  return lazily(function* () {
    const key = getter(given(attribute), undefined, yes(caseSensitive) ? undefined : ignoreCase);
    const seen = new Set<string>();
    for (const item of walk(v)) {
      const hash = hashOf(key(item));
      if (seen.has(hash)) continue;
      seen.add(hash);
      yield item;
    }
  });
}

function grouped(v: Value, [attribute, otherwise, caseSensitive]: readonly Value[]): Value {
  const folded = yes(caseSensitive) ? undefined : ignoreCase;
  const key = getter(given(attribute), otherwise, folded);
  const groups: Value[][] = [];
  let last: Value | undefined;
  for (const item of sorted(itemsOf(v), key, false)) {
    const its: Value = key(item);
    if (last === undefined || !equal(last, its)) groups.push([]);
    groups.at(-1)!.push(item);
    last = its;
  }
  const shown = getter(given(attribute), otherwise);
  return groups.map((items) => new Tuple([shown(items[0]!), items], ["grouper", "list"]));
}

function dictsorted(v: Value, [caseSensitive, by, reverse]: readonly Value[]): Value {
  if (!(v instanceof Dict)) throw new JinjaFault(`dictsort: expected a mapping, got ${typeOf(v)}`);
  if (by !== undefined && by !== "key" && by !== "value") throw new JinjaFault('dictsort: by is "key" or "value"');
  const at = by === "value" ? 1 : 0;
  const key = (pair: Value): Value =>
    yes(caseSensitive) ? (pair as Tuple).items[at]! : ignoreCase((pair as Tuple).items[at]!);
  return sorted(v.items(), key, yes(reverse));
}

const wholeText = /^[+-]?\d+(?:_\d+)*$/;
const floatText = /^[+-]?(?:(?:\d+(?:_\d+)*)(?:\.(?:\d+(?:_\d+)*)?)?|\.\d+(?:_\d+)*)(?:e[+-]?\d+(?:_\d+)*)?$/i;
const wordFloat = /^[+-]?(?:inf(?:inity)?|nan)$/i;

function parsedFloat(text: string): number | null {
  const bare = stripped(text, null, true, true);
  if (!/^\p{ASCII}*$/u.test(bare) && /\p{Nd}/u.test(bare))
    throw new JinjaFault("digits beyond ASCII are not supported");
  if (floatText.test(bare)) return Number(bare.replaceAll("_", ""));
  if (!wordFloat.test(bare)) return null;
  if (/nan/i.test(bare)) return Number.NaN;
  return bare.startsWith("-") ? -Infinity : Infinity;
}

function toInteger(v: Value, [otherwise = 0, base = 10]: readonly Value[]): Value {
  if (v instanceof Undefined) v.fail();
  if (typeof v === "string") {
    if (base !== 10) throw new JinjaFault("int with another base than 10 is not supported");
    const bare = stripped(v, null, true, true);
    if (wholeText.test(bare)) return whole(Number(bare.replaceAll("_", "")));
    const float = parsedFloat(v);
    return float === null || !Number.isFinite(float) ? otherwise : whole(Math.trunc(float));
  }
  const n = numberOf(v);
  if (n === null) return otherwise;
  if (Number.isFinite(n)) return whole(Math.trunc(n));
  if (Number.isNaN(n)) return otherwise;
  throw new JinjaFault("cannot convert float infinity to integer");
}

function toFloat(v: Value, [otherwise = new Float(0)]: readonly Value[]): Value {
  if (v instanceof Undefined) v.fail();
  const n = typeof v === "string" ? parsedFloat(v) : numberOf(v);
  return n === null ? otherwise : new Float(n);
}

function rounded(v: Value, [precision = 0, method = "common"]: readonly Value[]): Value {
  const digits = integerOf(precision, "round");
  if (!["common", "ceil", "floor"].includes(method as string))
    throw new JinjaFault("method must be common, ceil or floor");
  if (v instanceof Undefined) v.fail();
  const x = numberOf(v);
  if (x === null || typeof v === "string") throw new JinjaFault(`round: expected a number, got ${typeOf(v)}`);
  if (digits < 0 || digits > 40) throw new JinjaFault(`round to ${digits} digits is not supported`);
  if (method === "common") return v instanceof Float ? new Float(Number(fixed(x, digits))) : x;
  const scale = 10 ** digits;
  const scaled = method === "ceil" ? Math.ceil(x * scale) : Math.floor(x * scale);
  return new Float((scaled === 0 ? 0 : scaled) / scale);
}

function indented(v: Value, [width = 4, first, blank]: readonly Value[]): string {
  const indention =
    typeof width === "string" ? width : " ".repeat(Math.min(Math.max(0, integerOf(width, "indent")), 10_000));
  const lines = splitLines(`${textOf(v, "indent")}\n`);
  const rest = lines.slice(1).map((line) => (line !== "" || yes(blank) ? indention + line : line));
  return built((yes(first) ? indention : "") + [lines[0]!, ...rest].join("\n"));
}

function truncated(v: Value, [size = 255, kill, end = "...", leeway]: readonly Value[]): Value {
  const [n, tail, slack] = [integerOf(size, "length"), textOf(end, "end"), integerOf(leeway ?? 5, "leeway")];
  if (n < characterCount(tail) || slack < 0)
    throw new JinjaFault(`truncate: expected length >= ${characterCount(tail)}`);
  if (length(v) <= n + slack) return v;
  const all = characters(textOf(v, "truncate"));
  const cut = all.slice(0, n - characterCount(tail)).join("");
  if (yes(kill)) return cut + tail;
  const at = cut.lastIndexOf(" ");
  return (at < 0 ? cut : cut.slice(0, at)) + tail;
}

function toJson(v: Value, [ascii, indent, separators, sort]: readonly Value[]): string {
  let space: string | null = null;
  if (typeof indent === "number" || typeof indent === "boolean")
    space = " ".repeat(Math.min(Math.max(0, Number(indent)), 1000));
  else if (typeof indent === "string") space = indent;
  else if (indent !== undefined && indent !== null) throw new JinjaFault("tojson: indent is a whole number or a text");
  const pair = separators === undefined || separators === null ? null : itemsOf(separators);
  if (pair && pair.length !== 2) throw new JinjaFault("tojson: separators are two texts");
  const [item, key] = pair ? pair.map((x) => textOf(x, "separators")) : [space === null ? ", " : ",", ": "];
  return json(v, { ascii: yes(ascii), indent: space, separators: [item!, key!], sort: yes(sort) });
}

function batched(v: Value, [count, fill]: readonly Value[]): Iter {
  const size = integerOf(count!, "batch");
  return lazily(function* () {
    let batch: Value[] = [];
    for (const item of walk(v)) {
      if (batch.length === size) {
        yield batch;
        batch = [];
      }
      batch.push(item);
    }
    if (batch.length === 0) return;
    while (fill !== undefined && fill !== null && batch.length < size) {
      spend(1);
      batch.push(fill);
    }
    yield batch;
  });
}

function slices(v: Value, [count, fill]: readonly Value[]): Iter {
  const n = integerOf(count!, "slice");
  return lazily(function* () {
    const items = itemsOf(v);
    if (n === 0) throw new JinjaFault("integer division or modulo by zero");
    const each = Math.floor(items.length / n);
    const extra = items.length - each * n;
    for (let i = 0, at = 0; i < n; i++) {
      spend(1);
      const end = at + each + (i < extra ? 1 : 0);
      const part = items.slice(at, end);
      if (fill !== undefined && fill !== null && i >= extra) part.push(fill);
      yield part;
      at = end;
    }
  });
}

function joined(v: Value, [d = "", attribute]: readonly Value[]): string {
  const read = getter(given(attribute), undefined);
  const parts: string[] = [];
  for (const item of walk(v)) parts.push(str(attribute === undefined ? item : read(item)));
  return built(parts.join(str(d)));
}

function last(v: Value): Value {
  if (v instanceof Iter) throw new JinjaFault("'generator' object is not reversible");
  const items = v instanceof Undefined || isIterable(v) ? itemsOf(v) : textOf(v, "last").split("");
  return items.length === 0 ? new Undefined("No last item, sequence was empty.") : items.at(-1)!;
}

function first(v: Value): Value {
  const next = iterate(v).next();
  return next.done ? new Undefined("No first item, sequence was empty.") : next.value;
}

function length(v: Value): number {
  const n = sizeOf(v);
  if (n === null) throw new JinjaFault(`object of type '${typeOf(v)}' has no len()`);
  return n;
}

function reversed(v: Value): Value {
  if (typeof v === "string") return characters(v).reverse().join("");
  const items = itemsOf(v);
  return v instanceof Iter ? [...items].reverse() : new Iter([...items].reverse()[Symbol.iterator]());
}

function quoted(s: string, safe: string): string {
  return built(
    characters(s)
      .map((c) => (/[A-Za-z0-9_.~-]/.test(c) || safe.includes(c) ? c : encodeURIComponent(c).replace(/[!'()*]/g, hex)))
      .join(""),
  );
}
const hex = (c: string) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`;

function urlencoded(v: Value): string {
  if (typeof v === "string" || !isIterable(v)) return quoted(str(v), "/");
  const pairs = v instanceof Dict ? v.items() : itemsOf(v);
  const part = (x: Value) => quoted(str(x), "").replaceAll("%20", "+");
  return pairs.map((p) => itemsOf(p).map(part).join("=")).join("&");
}

function summed(v: Value, [attribute, start = 0]: readonly Value[]): Value {
  if (typeof start === "string") throw new JinjaFault("sum() can't sum strings");
  const read = getter(given(attribute), undefined);
  let total: Value = start;
  let [float, lost] = [false, 0]; // Python's sum() makes up for what rounding has lost
  for (const item of walk(v)) {
    const x = read(item);
    float ||= x instanceof Float;
    if (float) lost++;
    total = binary("+", total, x);
  }
  if (float && lost > 1) throw new JinjaFault("sum of several floats is not supported");
  return total;
}

function titled(v: Value): string {
  const parts = soft(v).split(/([-\s({[<]+)/u);
  return parts.map((part) => (part === "" ? "" : capitalized(part))).join("");
}

function absolute(v: Value): Value {
  if (v instanceof Undefined) v.fail();
  const n = numberOf(v);
  if (n === null || typeof v === "string") throw new JinjaFault(`bad operand type for abs(): '${typeOf(v)}'`);
  return v instanceof Float ? new Float(Math.abs(n)) : Math.abs(n);
}

function formatted(v: Value, _: readonly Value[], { args, kwargs }: Arguments): string {
  if (args.length > 0 && kwargs.size > 0) throw new JinjaFault("format: either arguments or named arguments");
  return percentFormat(soft(v), kwargs.size > 0 ? Dict.of(kwargs) : new Tuple(args));
}

const escapes: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&#39;", '"': "&#34;" };
const escaped = (v: Value) => built(str(v).replace(/[&<>'"]/g, (c) => escapes[c]!));

const defaulted = filter("default_value boolean", (v, [otherwise = "", boolean]) =>
  v instanceof Undefined || (yes(boolean) && !truth(v)) ? (otherwise as Value) : v,
);
const center: Run = (v, [width = 80]) => {
  const s = soft(v);
  const missing = integerOf(width, "center") - characterCount(s);
  if (missing > bounds.text) throw new JinjaFault(`a text of more than ${bounds.text} characters`);
  if (missing <= 0) return s;
  const left = Math.floor(missing / 2) + (missing & (width as number) & 1);
  return built(" ".repeat(left) + s + " ".repeat(missing - left));
};

const filters: Record<string, Filter> = {
  abs: filter("", absolute),
  attr: filter(
    "name",
    (v, [name]) => {
      if (v instanceof Dict || v instanceof Undefined)
        throw new JinjaFault(`the filter 'attr' of a ${typeOf(v)} is not supported`);
      return getItem(v, textOf(name!, "attr"));
    },
    1,
  ),
  batch: filter("linecount fill_with", batched, 1),
  capitalize: filter("", (v) => capitalized(soft(v))),
  center: filter("width", center),
  count: filter("", length),
  d: defaulted,
  default: defaulted,
  dictsort: filter("case_sensitive by reverse", dictsorted),
  e: filter("", escaped),
  escape: filter("", escaped),
  first: filter("", first),
  float: filter("default", toFloat),
  forceescape: filter("", escaped),
  format: { takes: ["*"], run: formatted },
  groupby: filter("attribute default case_sensitive", grouped, 1),
  indent: filter("width first blank", indented),
  int: filter("default base", toInteger),
  items: filter("", (v) => {
    return lazily(function* () {
      if (v instanceof Undefined) return;
      if (!(v instanceof Dict)) throw new JinjaFault("Can only get item pairs from a mapping.");
      yield* v.items();
    });
  }),
  join: filter("d attribute", joined),
  last: filter("", last),
  length: filter("", length),
  list: filter("", (v) => [...itemsOf(v)]),
  lower: filter("", (v) => soft(v).toLowerCase()),
  map: { takes: ["*"], run: (v, _, all) => mapped(v, all) },
  max: filter("case_sensitive attribute", (v, a) => extreme(v, a, 1)),
  min: filter("case_sensitive attribute", (v, a) => extreme(v, a, -1)),
  reject: { takes: ["*"], run: (v, _, all) => selected(v, all, false, false) },
  rejectattr: { takes: ["*"], run: (v, _, all) => selected(v, all, false, true) },
  replace: filter(
    "old new count",
    (v, [from, to, n]) =>
      replaced(str(v), str(from!), str(to!), n === undefined || n === null ? -1 : integerOf(n, "count")),
    2,
  ),
  reverse: filter("", reversed),
  round: filter("precision method", rounded),
  safe: filter("", str),
  select: { takes: ["*"], run: (v, _, all) => selected(v, all, true, false) },
  selectattr: { takes: ["*"], run: (v, _, all) => selected(v, all, true, true) },
  slice: filter("slices fill_with", slices, 1),
  sort: filter("reverse case_sensitive attribute", sortedBy),
  string: filter("", soft),
  sum: filter("attribute start", summed),
  title: filter("", titled),
  tojson: filter("ensure_ascii indent separators sort_keys", toJson),
  trim: filter("chars", (v, [chars]) => stripped(soft(v), given(chars), true, true)),
  truncate: filter("length killwords end leeway", truncated),
  unique: filter("case_sensitive attribute", unique),
  upper: filter("", (v) => built(soft(v).toUpperCase())),
  urlencode: filter("", urlencoded),
  wordcount: filter("", (v) => (soft(v).match(/[\p{L}\p{N}_]+/gu) ?? []).length),
};

for (const name of Object.keys(filters)) filterNames.add(name);

/** Filters of jinja2 that are not here, and why. */
export const refusedFilters: Record<string, string> = {
  filesizeformat: "",
  pprint: "",
  random: ": a template must render alike every time",
  striptags: "",
  urlize: "",
  wordwrap: "",
  xmlattr: "",
};

export function runFilter(name: string, v: Value, all: Arguments): Value {
  spend(1);
  if (!Object.hasOwn(filters, name)) throw new JinjaFault(`no filter named '${name}'`);
  const { takes, needs = 0, run } = filters[name]!;
  if (takes[0] === "*") return run(v, [], all);
  const args: Value[] = [...all.args];
  for (const [key, value] of all.kwargs) {
    const at = takes.indexOf(key);
    if (at < 0) throw new JinjaFault(`the filter '${name}' takes no argument '${key}'`);
    if (at < all.args.length) throw new JinjaFault(`the filter '${name}' is given '${key}' twice`);
    args[at] = value;
  }
  if (args.length > takes.length) throw new JinjaFault(`the filter '${name}' takes at most ${takes.length} arguments`);
  for (let i = 0; i < needs; i++)
    if (args[i] === undefined) throw new JinjaFault(`the filter '${name}' needs the argument '${takes[i]}'`);
  return run(v, args, all);
}
