// Python's values as templates see them. Strings, booleans and None (null) are JavaScript's own, a whole number is a number,
// a float is a Float; lists are arrays, and never change.
import { bounds, JinjaFault, spend } from "./fault.js";

export type Value = null | boolean | number | string | readonly Value[] | PyObject;

/** What is none of JavaScript's own values. */
export abstract class PyObject {
  abstract readonly type: string;
}

export class Float extends PyObject {
  readonly type = "float";
  constructor(readonly value: number) {
    super();
  }
}

export class Undefined extends PyObject {
  readonly type = "Undefined";
  constructor(readonly why: string) {
    super();
  }
  fail(): never {
    throw new JinjaFault(this.why);
  }
}

export class Tuple extends PyObject {
  readonly type = "tuple";
  constructor(
    readonly items: readonly Value[],
    /** The names of the fields of a named tuple. */
    readonly names: readonly string[] = [],
  ) {
    super();
  }
}

export class Dict extends PyObject {
  readonly type: string = "dict";
  private readonly entries = new Map<string, [Value, Value]>();

  static of(entries: Iterable<readonly [Value, Value]>): Dict {
    const dict = new Dict();
    for (const [key, value] of entries) dict.put(key, value);
    return dict;
  }
  /** While it is built; a first key stays with a later value, as in Python. */
  put(key: Value, value: Value): void {
    spend(1);
    const hash = hashOf(key);
    this.entries.set(hash, [this.entries.get(hash)?.[0] ?? key, value]);
  }
  get(key: Value): Value | undefined {
    return this.entries.get(hashOf(key))?.[1];
  }
  has(key: Value): boolean {
    return this.entries.has(hashOf(key));
  }
  get size(): number {
    return this.entries.size;
  }
  keys(): Value[] {
    return [...this.entries.values()].map(([key]) => key);
  }
  values(): Value[] {
    return [...this.entries.values()].map(([, value]) => value);
  }
  items(): Tuple[] {
    return [...this.entries.values()].map((entry) => new Tuple(entry));
  }
}

export class Namespace extends PyObject {
  readonly type = "Namespace";
  readonly attributes = new Map<string, Value>();
}

export class View extends PyObject {
  readonly type: string;
  constructor(
    readonly kind: "keys" | "values" | "items",
    readonly dict: Dict,
  ) {
    super();
    this.type = `dict_${kind}`;
  }
  get items(): readonly Value[] {
    return this.dict[this.kind]();
  }
}

export class Range extends PyObject {
  readonly type = "range";
  readonly length: number;
  constructor(
    readonly start: number,
    readonly stop: number,
    readonly step: number,
  ) {
    super();
    if (step === 0) throw new JinjaFault("range() arg 3 must not be zero");
    this.length = Math.max(0, Math.ceil((stop - start) / step));
    if (this.length > 100_000) throw new JinjaFault("range: more than 100000 numbers");
  }
  get items(): number[] {
    spend(this.length);
    return Array.from({ length: this.length }, (_, i) => this.start + i * this.step);
  }
}

/** What yields its items once. */
export class Iter extends PyObject {
  readonly type = "generator";
  constructor(readonly iterator: Iterator<Value>) {
    super();
  }
}

export type Arguments = { args: readonly Value[]; kwargs: ReadonlyMap<string, Value> };

export class Func extends PyObject {
  constructor(
    readonly name: string,
    readonly call: (a: Arguments) => Value,
    readonly type: string = "function",
    readonly attributes: ReadonlyMap<string, Value> = new Map(),
  ) {
    super();
  }
}

/** An object whose attributes are computed: loop, cycler, joiner. */
export abstract class Computed extends PyObject {
  abstract attribute(name: string): Value | undefined;
  call(_: Arguments): Value {
    throw new JinjaFault(`'${this.type}' object is not callable`);
  }
}

export const isList = (v: Value): v is readonly Value[] => Array.isArray(v);

export function typeOf(v: Value): string {
  if (v === null) return "NoneType";
  if (typeof v === "boolean") return "bool";
  if (typeof v === "number") return "int";
  if (typeof v === "string") return "str";
  return isList(v) ? "list" : (v as PyObject).type;
}

/** The number in a value: booleans count as whole ones. */
export function numberOf(v: Value): number | null {
  if (typeof v === "number") return v;
  if (typeof v === "boolean") return v ? 1 : 0;
  return v instanceof Float ? v.value : null;
}

export function whole(n: number): number {
  if (!Number.isSafeInteger(n)) throw new JinjaFault("a whole number beyond 2**53, which is not supported");
  return n === 0 ? 0 : n;
}

/** The whole number in an argument. */
export function integerOf(v: Value, what: string): number {
  if (v instanceof Undefined) v.fail();
  if (typeof v === "boolean") return v ? 1 : 0;
  if (typeof v === "number") return v;
  throw new JinjaFault(`${what}: expected a whole number, got ${typeOf(v)}`);
}

const surrogates = /[\ud800-\udfff]/;

/** The characters (code points) of a text. */
export function characters(s: string): string[] {
  spend(s.length / 100);
  return surrogates.test(s) ? Array.from(s) : s.split("");
}

export const characterCount = (s: string): number => (surrogates.test(s) ? characters(s).length : s.length);

export function truth(v: Value): boolean {
  if (v === null || v === false || v === "" || v === 0) return false;
  if (isList(v)) return v.length > 0;
  if (v instanceof Float) return v.value !== 0;
  if (v instanceof Undefined) return false;
  const n = sizeOf(v);
  return n === null || n > 0;
}

/** len(), or null for what has none. */
export function sizeOf(v: Value): number | null {
  if (typeof v === "string") return characterCount(v);
  if (isList(v)) return v.length;
  if (v instanceof Tuple) return v.items.length;
  if (v instanceof Dict) return v.size;
  if (v instanceof View) return v.dict.size;
  if (v instanceof Range) return v.length;
  if (v instanceof Undefined) return 0;
  if (v instanceof Computed && v.type === "LoopContext") return v.attribute("length") as number;
  return null;
}

export const isIterable = (v: Value): boolean => v instanceof Iter || sizeOf(v) !== null;

/** The items of whatever can be walked through. */
export function iterate(v: Value): Iterator<Value> {
  if (v instanceof Iter) return v.iterator;
  return itemsOf(v)[Symbol.iterator]();
}

export function itemsOf(v: Value): readonly Value[] {
  if (isList(v)) return v;
  if (typeof v === "string") return characters(v);
  if (v instanceof Tuple || v instanceof View || v instanceof Range) return v.items;
  if (v instanceof Dict) return v.keys();
  if (v instanceof Undefined) return [];
  if (!(v instanceof Iter)) throw new JinjaFault(`'${typeOf(v)}' object is not iterable`);
  const items: Value[] = [];
  for (let next = v.iterator.next(); !next.done; next = v.iterator.next()) {
    spend(1);
    if (items.push(next.value) > bounds.items) throw new JinjaFault(`a list of more than ${bounds.items} items`);
  }
  return items;
}

/** Equal keys of a dict have equal texts: 1, 1.0 and True are one key. */
export function hashOf(v: Value): string {
  spend(1);
  if (typeof v === "string") return `s${v}`;
  if (v === null) return "none";
  const n = numberOf(v);
  if (n !== null) return `n${n === 0 ? 0 : n}`;
  if (v instanceof Tuple) return `t(${v.items.map((x) => `${hashOf(x).length}:${hashOf(x)}`).join(",")})`;
  if (v instanceof Undefined) return "undefined";
  throw new JinjaFault(`unhashable type: '${typeOf(v)}'`);
}

export function equal(a: Value, b: Value): boolean {
  spend(1);
  if (a === b) return !(a instanceof Float && Number.isNaN(a.value));
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x !== null && y !== null) return x === y;
  if (a instanceof Undefined) return b instanceof Undefined;
  const all = (p: readonly Value[], q: readonly Value[]) => p.length === q.length && p.every((v, i) => equal(v, q[i]!));
  if (isList(a)) return isList(b) && all(a, b);
  if (a instanceof Tuple) return b instanceof Tuple && all(a.items, b.items);
  if (a instanceof Range) return b instanceof Range && all(a.items, b.items);
  if (a instanceof Dict)
    return b instanceof Dict && a.size === b.size && a.keys().every((k) => b.has(k) && equal(a.get(k)!, b.get(k)!));
  if (a instanceof View && b instanceof View)
    throw new JinjaFault("a comparison of keys(), values() or items() is not supported");
  return false;
}

/** By code points, as Python orders texts; JavaScript's own order differs beyond U+FFFF. */
export function compareText(a: string, b: string): number {
  if (!surrogates.test(a) && !surrogates.test(b)) return a < b ? -1 : a > b ? 1 : 0;
  const [p, q] = [characters(a), characters(b)];
  for (let i = 0; i < p.length && i < q.length; i++) {
    const d = p[i]!.codePointAt(0)! - q[i]!.codePointAt(0)!;
    if (d !== 0) return d;
  }
  return p.length - q.length;
}

/** Less than 0, 0, more than 0, or NaN; throws for what has no order. */
export function compare(a: Value, b: Value, operator: string): number {
  spend(1);
  if (a instanceof Undefined) a.fail();
  if (b instanceof Undefined) b.fail();
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x !== null && y !== null) return x === y ? 0 : x - y;
  if (typeof a === "string" && typeof b === "string") return compareText(a, b);
  const lists = isList(a) && isList(b) ? [a, b] : a instanceof Tuple && b instanceof Tuple ? [a.items, b.items] : null;
  if (!lists) throw new JinjaFault(`'${operator}' not supported between '${typeOf(a)}' and '${typeOf(b)}'`);
  const [p, q] = lists as [readonly Value[], readonly Value[]];
  for (let i = 0; i < p.length && i < q.length; i++) if (!equal(p[i]!, q[i]!)) return compare(p[i]!, q[i]!, operator);
  return p.length - q.length;
}

/** sorted(): stable; `key` is called once per item. */
export function sorted(items: readonly Value[], key: (v: Value) => Value, reverse: boolean): Value[] {
  const keyed = items.map((item) => ({ item, key: key(item) }));
  keyed.sort((a, b) => (reverse ? compare(b.key, a.key, "<") : compare(a.key, b.key, "<")));
  return keyed.map(({ item }) => item);
}
