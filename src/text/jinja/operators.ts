// Python's operators on values: arithmetic, membership, subscripts and slices.
import { bounds, built, JinjaFault, spend } from "./fault.js";
import { percentFormat } from "./format.js";
import { str } from "./print.js";
import {
  characterCount,
  characters,
  compare,
  Dict,
  equal,
  Float,
  isIterable,
  isList,
  itemsOf,
  numberOf,
  Range,
  Tuple,
  typeOf,
  Undefined,
  type Value,
  View,
  whole,
} from "./values.js";

function list(items: readonly Value[]): readonly Value[] {
  if (items.length > bounds.items) throw new JinjaFault(`a list of more than ${bounds.items} items`);
  spend(items.length / 10);
  return items;
}

function unsupported(operator: string, a: Value, b: Value): never {
  if (a instanceof Undefined) a.fail();
  if (b instanceof Undefined) b.fail();
  throw new JinjaFault(`unsupported operand type(s) for ${operator}: '${typeOf(a)}' and '${typeOf(b)}'`);
}

function repeated(v: Value, times: Value): Value | null {
  if (typeof times !== "number" && typeof times !== "boolean") return null;
  const n = Math.max(0, Number(times));
  if (typeof v === "string") {
    if (v.length * n > bounds.text) throw new JinjaFault(`a text of more than ${bounds.text} characters`);
    return built(v.repeat(n));
  }
  const items = isList(v) ? v : v instanceof Tuple ? v.items : null;
  if (!items) return null;
  if (items.length * n > bounds.items) throw new JinjaFault(`a list of more than ${bounds.items} items`);
  const all: Value[] = [];
  for (let i = 0; i < n && items.length > 0; i++) all.push(...items);
  return isList(v) ? list(all) : new Tuple(list(all));
}

function divisor(y: number, what: string): number {
  if (y === 0) throw new JinjaFault(what);
  return y;
}

/** Python's modulo has the sign of the divisor. */
function modulo(x: number, y: number): number {
  const r = x % y;
  return r !== 0 && r < 0 !== y < 0 ? r + y : r;
}

const arithmetic: Record<string, (x: number, y: number) => number> = {
  "+": (x, y) => x + y,
  "-": (x, y) => x - y,
  "*": (x, y) => x * y,
  "//": (x, y) => Math.floor(x / divisor(y, "integer division or modulo by zero")),
  "%": (x, y) => modulo(x, divisor(y, "integer modulo by zero")),
  "**": (x, y) => x ** y,
};

function numbers(operator: string, a: Value, b: Value): Value | null {
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x === null || y === null) return null;
  if (operator === "/") return new Float(x / divisor(y, "division by zero"));
  const exact = !(a instanceof Float || b instanceof Float);
  if (operator === "**" && exact && y < 0)
    return new Float(divisor(x, "0.0 cannot be raised to a negative power") ** y);
  const result = arithmetic[operator]!(x, y);
  if (exact) return whole(result);
  if (operator === "//" && Number.isFinite(result)) return new Float((x - modulo(x, y)) / y);
  return new Float(result);
}

export function binary(operator: string, a: Value, b: Value): Value {
  const number = numbers(operator, a, b);
  if (number !== null) return number;
  if (operator === "+") {
    if (typeof a === "string" && typeof b === "string") return built(a + b);
    if (isList(a) && isList(b)) return list([...a, ...b]);
    if (a instanceof Tuple && b instanceof Tuple) return new Tuple(list([...a.items, ...b.items]));
  }
  if (operator === "*") {
    const result = repeated(a, b) ?? repeated(b, a);
    if (result !== null) return result;
  }
  if (operator === "%" && typeof a === "string") return percentFormat(a, b);
  return unsupported(operator, a, b);
}

export function unary(operator: "-" | "+", v: Value): Value {
  if (v instanceof Undefined) v.fail();
  const n = numberOf(v);
  if (n === null) throw new JinjaFault(`bad operand type for unary ${operator}: '${typeOf(v)}'`);
  const signed = operator === "-" ? -n : n;
  return v instanceof Float ? new Float(signed) : whole(signed);
}

export function contains(container: Value, item: Value): boolean {
  if (typeof container === "string") {
    if (typeof item !== "string")
      throw new JinjaFault(`'in <string>' requires string as left operand, not ${typeOf(item)}`);
    return container.includes(item);
  }
  if (container instanceof Dict) return container.has(item);
  if (container instanceof View && container.kind === "keys") return container.dict.has(item);
  if (!isIterable(container)) throw new JinjaFault(`argument of type '${typeOf(container)}' is not iterable`);
  return itemsOf(container).some((x) => equal(x, item));
}

export function compared(operator: string, a: Value, b: Value): boolean {
  switch (operator) {
    case "==":
      return equal(a, b);
    case "!=":
      return !equal(a, b);
    case "in":
      return contains(b, a);
    case "not in":
      return !contains(b, a);
  }
  const order = compare(a, b, operator);
  if (operator === "<") return order < 0;
  if (operator === "<=") return order <= 0;
  return operator === ">" ? order > 0 : order >= 0;
}

export const concatenated = (parts: readonly Value[]): string => built(parts.map(str).join(""));

/** obj[key], or null where Python raises a TypeError or LookupError. */
export function subscript(v: Value, key: Value): Value | null {
  if (v instanceof Undefined) v.fail();
  if (v instanceof Dict) return v.get(key) ?? null;
  if (typeof key !== "number" && typeof key !== "boolean") return null;
  const at = Number(key);
  const pick = <T>(items: readonly T[]): T | null => items[at < 0 ? at + items.length : at] ?? null;
  if (typeof v === "string") return pick(characters(v));
  const items = isList(v) ? v : v instanceof Tuple || v instanceof Range ? v.items : null;
  if (!items) return null;
  const index = at < 0 ? at + items.length : at;
  return index >= 0 && index < items.length ? items[index]! : null;
}

function bound(v: Value, otherwise: number, length: number, low: number, high: number): number {
  if (v === null) return otherwise;
  const n = Number(v);
  return Math.min(Math.max(n < 0 ? n + length : n, low), high);
}

function sliced<T>(items: readonly T[], start: Value, stop: Value, step: Value): T[] {
  const by = step === null ? 1 : Number(bound(step, 1, 0, -(2 ** 53), 2 ** 53));
  if (by === 0) throw new JinjaFault("slice step cannot be zero");
  const n = items.length;
  const [low, high] = by > 0 ? [0, n] : [-1, n - 1];
  const from = bound(start, by > 0 ? 0 : n - 1, n, low, high);
  const to = bound(stop, by > 0 ? n : -1, n, low, high);
  spend(n / 100);
  if (by === 1) return items.slice(from, Math.max(to, from));
  const out: T[] = [];
  for (let i = from; by > 0 ? i < to : i > to; i += by) out.push(items[i]!);
  return out;
}

function noSlice(v: Value): never {
  throw new JinjaFault(`'${typeOf(v)}' object is not subscriptable by that slice`);
}

function sliceOfRange(v: Range, start: Value, stop: Value, step: Value): Range {
  const items = sliced(v.items, start, stop, step);
  const by = v.step * (step === null ? 1 : Number(step));
  if (items.length === 0) throw new JinjaFault("an empty slice of range() is not supported");
  const last = items.at(-1)!;
  return new Range(items[0]!, last + by, by);
}

export function slice(v: Value, start: Value, stop: Value, step: Value): Value {
  if (v instanceof Undefined) v.fail();
  const index = (x: Value) => x === null || typeof x === "number" || typeof x === "boolean";
  if (![start, stop, step].every(index)) return noSlice(v);
  if (typeof v === "string") return built(sliced(characters(v), start, stop, step).join(""));
  if (isList(v)) return sliced(v, start, stop, step);
  if (v instanceof Tuple) return new Tuple(sliced(v.items, start, stop, step));
  if (v instanceof Range) return sliceOfRange(v, start, stop, step);
  return noSlice(v);
}

/** Text padded by a character to a width, in code points. */
export function padded(s: string, width: number, by: string, align: "<" | ">" | "^" | "center"): string {
  const missing = width - characterCount(s);
  if (missing <= 0) return s;
  if (missing > bounds.text) throw new JinjaFault(`a text of more than ${bounds.text} characters`);
  const odd = align === "center" ? missing & width & 1 : 0; // str.center() gives an odd blank to the left of odd widths
  const before = align === "<" ? 0 : align === ">" ? missing : Math.floor(missing / 2) + odd;
  return built(by.repeat(before) + s + by.repeat(missing - before));
}
