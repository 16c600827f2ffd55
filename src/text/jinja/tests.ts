// Jinja's tests (`is ...`).
import { JinjaFault } from "./fault.js";
import { binary, compared, contains } from "./operators.js";
import { str } from "./print.js";
import { isLower, isUpper } from "./strings.js";
import {
  type Arguments,
  Computed,
  Dict,
  equal,
  Float,
  Func,
  isIterable,
  isList,
  numberOf,
  Range,
  Tuple,
  Undefined,
  type Value,
} from "./values.js";

/** Names of all filters, for `is filter`. filters.ts, which uses the tests, fills it. */
export const filterNames = new Set<string>();

type Test = (v: Value, ...args: Value[]) => boolean;

const remainder = (v: Value, by: Value) => equal(binary("%", v, by), 0);
const order =
  (operator: string): Test =>
  (v, other) =>
    compared(operator, v, other!);

/** Identity: of None, booleans, numbers and texts their value, else the same object. */
function same(a: Value, b: Value): boolean {
  if (a instanceof Float && b instanceof Float) throw new JinjaFault("'is sameas' of two floats is not supported");
  return a === b;
}

const isCallable = (v: Value) =>
  v instanceof Func || v instanceof Undefined || (v instanceof Computed && v.type !== "Cycler");

const none: Record<string, Test> = {
  odd: (v) => equal(binary("%", v, 2), 1),
  even: (v) => remainder(v, 2),
  defined: (v) => !(v instanceof Undefined),
  undefined: (v) => v instanceof Undefined,
  none: (v) => v === null,
  boolean: (v) => typeof v === "boolean",
  false: (v) => v === false,
  true: (v) => v === true,
  integer: (v) => typeof v === "number",
  float: (v) => v instanceof Float,
  lower: (v) => isLower(str(v)),
  upper: (v) => isUpper(str(v)),
  string: (v) => typeof v === "string",
  mapping: (v) => v instanceof Dict,
  number: (v) => typeof v !== "string" && numberOf(v) !== null,
  sequence: (v) =>
    typeof v === "string" ||
    isList(v) ||
    v instanceof Tuple ||
    v instanceof Range ||
    v instanceof Dict ||
    v instanceof Undefined,
  iterable: (v) => isIterable(v),
  callable: isCallable,
  escaped: () => false,
  filter: (v) => typeof v === "string" && filterNames.has(v),
  test: (v) => typeof v === "string" && testNames.has(v),
};
const one: Record<string, Test> = {
  divisibleby: (v, by) => remainder(v, by!),
  sameas: (v, other) => same(v, other!),
  in: (v, seq) => contains(seq!, v),
};
for (const [operator, names] of Object.entries({
  "==": ["==", "eq", "equalto"],
  "!=": ["!=", "ne"],
  ">": [">", "gt", "greaterthan"],
  ">=": [">=", "ge"],
  "<": ["<", "lt", "lessthan"],
  "<=": ["<=", "le"],
}))
  for (const name of names) one[name] = order(operator);

export const testNames: ReadonlySet<string> = new Set([...Object.keys(none), ...Object.keys(one)]);

export function runTest(name: string, v: Value, { args, kwargs }: Arguments): boolean {
  const wanted = Object.hasOwn(none, name) ? 0 : Object.hasOwn(one, name) ? 1 : null;
  if (wanted === null) throw new JinjaFault(`no test named '${name}'`);
  if (args.length !== wanted || kwargs.size > 0)
    throw new JinjaFault(`the test '${name}' takes ${wanted} arguments by position`);
  return (wanted === 0 ? none : one)[name]!(v, ...args);
}
