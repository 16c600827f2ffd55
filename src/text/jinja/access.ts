// obj.name and obj[key] as in jinja2's sandbox: the one looks for an attribute first, the other for an item.
import { JinjaFault } from "./fault.js";
import { subscript } from "./operators.js";
import { textMethod } from "./strings.js";
import {
  type Arguments,
  Computed,
  Dict,
  equal,
  Float,
  Func,
  isIterable,
  isList,
  iterate,
  itemsOf,
  Namespace,
  Range,
  Tuple,
  typeOf,
  Undefined,
  type Value,
  View,
} from "./values.js";

const changing = {
  dict: ["clear", "pop", "popitem", "setdefault", "update"],
  list: ["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"],
} as const;
const ofIntegers = [
  "as_integer_ratio",
  "bit_count",
  "bit_length",
  "conjugate",
  "denominator",
  "from_bytes",
  "imag",
  "is_integer",
  "numerator",
  "real",
  "to_bytes",
];
const unknown: Record<string, readonly string[]> = {
  int: ofIntegers,
  bool: ofIntegers, // a bool is an int in Python
  float: ["as_integer_ratio", "conjugate", "fromhex", "hex", "imag", "is_integer", "real"],
  range: ["count", "index", "start", "step", "stop"],
  dict: ["fromkeys"],
  generator: ["close", "gi_code", "gi_frame", "gi_running", "gi_yieldfrom", "send", "throw"],
};

const given = (v: Value | undefined): Value => (v === undefined ? null : v);

function positional(name: string, { args, kwargs }: Arguments, least: number, most: number): readonly Value[] {
  if (kwargs.size > 0) throw new JinjaFault(`${name}() takes no keyword arguments`);
  if (args.length < least || args.length > most)
    throw new JinjaFault(`${name}() takes ${least} to ${most} arguments (${args.length} given)`);
  return args;
}

function dictMethod(dict: Dict, name: string): ((a: Arguments) => Value) | undefined {
  switch (name) {
    case "get":
      return (a) => {
        const [key, otherwise] = positional("get", a, 1, 2);
        return dict.has(key!) ? dict.get(key!)! : given(otherwise);
      };
    case "keys":
    case "values":
    case "items":
      return (a) => {
        positional(name, a, 0, 0);
        return new View(name, dict);
      };
    case "copy":
      return () => dict;
  }
  return undefined;
}

function listMethod(items: readonly Value[], own: Value, name: string): ((a: Arguments) => Value) | undefined {
  if (name === "copy" && isList(own)) return () => own;
  if (name === "count") return (a) => items.filter((x) => equal(x, positional("count", a, 1, 1)[0]!)).length;
  if (name !== "index") return undefined;
  return (a) => {
    const [item, start] = positional("index", a, 1, 2);
    const from = start === undefined ? 0 : Number(start);
    const at = items.findIndex((x, i) => i >= (from < 0 ? from + items.length : from) && equal(x, item!));
    if (at < 0) throw new JinjaFault("index: the item is not in the list");
    return at;
  };
}

/** getattr(): undefined where Python raises an AttributeError. */
function attributeOf(v: Value, name: string): Value | undefined {
  if (v instanceof Undefined) v.fail();
  if (v instanceof Computed) return v.attribute(name);
  if (v instanceof Namespace) return v.attributes.get(name);
  if (v instanceof Func) return v.attributes.get(name);
  const method = (call: ((a: Arguments) => Value) | undefined) =>
    call && new Func(name, call, "builtin_function_or_method");
  const type = typeOf(v);
  if ((type === "dict" || type === "list") && (changing[type] as readonly string[]).includes(name))
    throw new JinjaFault(`${type}.${name}() changes its object, which templates may not`);
  if (unknown[type]?.includes(name)) throw new JinjaFault(`${type}.${name} is not supported`);
  if (typeof v === "string") return method(textMethod(v, name));
  if (v instanceof Dict) return method(dictMethod(v, name));
  if (isList(v)) return method(listMethod(v, v, name));
  if (v instanceof Tuple) {
    const named = v.names.indexOf(name);
    return named >= 0 ? v.items[named]! : method(listMethod(v.items, v, name));
  }
  if (v instanceof View && ["mapping", "isdisjoint"].includes(name))
    throw new JinjaFault(`${type}.${name} is not supported`);
  return undefined;
}

function internal(v: Value, name: string): void {
  if (/^__.*__$/.test(name) && !(v instanceof Namespace || v instanceof Undefined))
    throw new JinjaFault(`access to attribute '${name}' of '${typeOf(v)}' object is unsafe`);
}

function missing(v: Value, key: Value): Undefined {
  const what = v === null ? "'None'" : `'${typeOf(v)} object'`;
  const shown = typeof key === "string" ? `'${key}'` : typeof key === "number" ? String(key) : "that key";
  return new Undefined(
    typeof key === "string" ? `${what} has no attribute ${shown}` : `${what} has no element ${shown}`,
  );
}

export function getAttribute(v: Value, name: string): Value {
  const found = attributeOf(v, name) ?? subscript(v, name);
  if (found !== undefined && found !== null) return found;
  if (v instanceof Dict && v.has(name)) return null;
  if (v instanceof Namespace && v.attributes.has(name)) return null;
  if (v instanceof Tuple && v.names.includes(name)) return null;
  if (v instanceof Computed && v.attribute(name) === null) return null;
  internal(v, name);
  return missing(v, name);
}

export function getItem(v: Value, key: Value): Value {
  const found = subscript(v, key);
  if (found !== null) return found;
  if (present(v, key)) return null;
  if (typeof key !== "string") return missing(v, key);
  const attribute = attributeOf(v, key);
  if (attribute !== undefined) return attribute;
  internal(v, key);
  return missing(v, key);
}

/** The subscript exists, and its value is None. */
function present(v: Value, key: Value): boolean {
  if (v instanceof Dict) return v.has(key);
  if (typeof key !== "number" && typeof key !== "boolean") return false;
  const items = isList(v) ? v : v instanceof Tuple || v instanceof Range ? v.items : [];
  const at = Number(key);
  return at < 0 ? at + items.length >= 0 : at < items.length;
}

export function callValue(v: Value, a: Arguments): Value {
  if (v instanceof Undefined) v.fail();
  if (v instanceof Func) return v.call(a);
  if (v instanceof Computed) return v.call(a);
  throw new JinjaFault(`'${typeOf(v)}' object is not callable`);
}

/** dict(): of a mapping or of pairs, and of named values. */
export function makeDict({ args, kwargs }: Arguments): Dict {
  if (args.length > 1) throw new JinjaFault(`dict expected at most 1 argument, got ${args.length}`);
  const [given] = args;
  const dict = new Dict();
  if (given instanceof Dict) for (const { items } of given.items()) dict.put(items[0]!, items[1]!);
  else if (given !== undefined) {
    const iterator = iterate(given);
    for (let next = iterator.next(); !next.done; next = iterator.next()) {
      const pair = isIterable(next.value) ? itemsOf(next.value) : [];
      if (pair.length !== 2) throw new JinjaFault("dict: expected pairs of key and value");
      dict.put(pair[0]!, pair[1]!);
    }
  }
  for (const [key, value] of kwargs) dict.put(key, value);
  return dict;
}

export const isNumber = (v: Value): boolean => typeof v === "number" || v instanceof Float;
