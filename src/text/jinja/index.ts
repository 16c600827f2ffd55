// Jinja as transformers renders chat templates: jinja2's immutable sandbox with trim_blocks, lstrip_blocks, loop controls and
// the `generation` tag. Why it is our own: docs/decisions/jinja.md.
import { makeDict } from "./access.js";
import { JinjaFault, withBudget } from "./fault.js";
import { Interpreter } from "./interpreter.js";
import { Cycler, Joiner } from "./loop.js";
import { parse } from "./parser.js";
import { str } from "./print.js";
import { type Arguments, Dict, Float, Func, integerOf, Namespace, Range, type Value } from "./values.js";

export { JinjaFault } from "./fault.js";

/** A JSON value as a template sees it; numbers that are not whole are floats. */
export function asValue(x: unknown): Value {
  if (x === null || typeof x === "boolean" || typeof x === "string") return x;
  if (typeof x === "number") return Number.isInteger(x) ? x : new Float(x);
  if (Array.isArray(x)) return x.map(asValue);
  if (typeof x === "object") return Dict.of(Object.entries(x as object).map(([k, v]) => [k, asValue(v)] as const));
  throw new JinjaFault(`a value of type ${typeof x} cannot be given to a template`);
}

function range({ args, kwargs }: Arguments): Range {
  if (kwargs.size > 0 || args.length < 1 || args.length > 3) throw new JinjaFault("range() takes 1 to 3 whole numbers");
  const [a, b, c] = args.map((x) => integerOf(x, "range"));
  return b === undefined ? new Range(0, a!, 1) : new Range(a!, b, c ?? 1);
}

function namespace(given: Arguments): Namespace {
  const made = new Namespace();
  for (const { items } of makeDict(given).items()) {
    const [key, value] = items as [Value, Value];
    if (typeof key !== "string" || key.startsWith("_"))
      throw new JinjaFault(`namespaces hold no names that begin with '_': ${str(key)}`);
    made.attributes.set(key, value);
  }
  return made;
}

const one = (what: string, { args, kwargs }: Arguments): Value => {
  const [value] = [...args, ...kwargs.values()];
  if (args.length + kwargs.size !== 1) throw new JinjaFault(`${what} takes one argument`);
  return value!;
};

function globals(strftime: (format: string) => string): Map<string, Value> {
  const functions: [string, (a: Arguments) => Value][] = [
    ["range", range],
    ["dict", makeDict],
    ["namespace", namespace],
    ["cycler", ({ args }) => new Cycler(args)],
    ["joiner", ({ args }) => new Joiner(args[0] ?? ", ")],
    ["strftime_now", (a) => strftime(str(one("strftime_now", a)))],
    [
      "raise_exception",
      (a) => {
        throw new JinjaFault(str(one("raise_exception", a)), 0, true);
      },
    ],
    [
      "lipsum",
      () => {
        throw new JinjaFault("lipsum() is not supported: a template must render alike every time");
      },
    ],
  ];
  return new Map(functions.map(([name, call]) => [name, new Func(name, call)]));
}

export interface Template {
  /** Throws JinjaFault with the line that it happened on. */
  render(context: Readonly<Record<string, unknown>>): string;
}

/** Throws JinjaFault for what jinja2 would not compile and for constructs that are not supported, each by its name. */
export function compile(source: string, strftime: (format: string) => string): Template {
  const body = withBudget(() => parse(source));
  return {
    render: (context) => {
      const interpreter = new Interpreter();
      try {
        return withBudget(() => {
          const names = Object.entries(context).map(([name, x]) => [name, asValue(x)] as const);
          return interpreter.render(body, [...globals(strftime), ...names]);
        });
      } catch (e) {
        if (e instanceof JinjaFault && e.line === 0) e.line = interpreter.line;
        throw e;
      }
    },
  };
}
