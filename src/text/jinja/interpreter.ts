// Renders a parsed template with jinja2's scopes.
import { callValue, getAttribute, getItem } from "./access.js";
import type { Body, Call, Expr, Scoped, Signature, Statement, Target } from "./ast.js";
import { bounds, built, deeper, JinjaFault, spend } from "./fault.js";
import { runFilter } from "./filters.js";
import { LoopContext } from "./loop.js";
import { binary, compared, concatenated, slice, unary } from "./operators.js";
import { str } from "./print.js";
import { textOf } from "./strings.js";
import { runTest } from "./tests.js";
import {
  type Arguments,
  Dict,
  Float,
  Func,
  itemsOf,
  iterate,
  Iter,
  Namespace,
  Tuple,
  truth,
  typeOf,
  Undefined,
  type Value,
} from "./values.js";

class Scope {
  private readonly names = new Map<string, Value>();
  constructor(private readonly outer: Scope | null) {}
  get(name: string): Value | undefined {
    for (let scope: Scope | null = this; scope; scope = scope.outer) {
      const found = scope.names.get(name);
      if (found !== undefined) return found;
    }
    return undefined;
  }
  set(name: string, value: Value): void {
    this.names.set(name, value);
  }
}

function named(scope: Scope, name: string): Value {
  const found = scope.get(name);
  return found === undefined ? new Undefined(`'${name}' is undefined`) : found;
}

type Signal = "break" | "continue" | null;
type Out = string[];

export class Interpreter {
  /** Where the rendering is, for its faults. */
  line = 0;
  private size = 0;

  render(template: Scoped, names: Iterable<readonly [string, Value]>): string {
    const scope = new Scope(null);
    for (const [name, value] of names) scope.set(name, value);
    const out: Out = [];
    this.enter(template, new Scope(scope), out);
    return built(out.join(""));
  }

  private emit(out: Out, text: string): void {
    this.size += text.length;
    if (this.size > bounds.text) throw new JinjaFault(`more than ${bounds.text} characters are rendered`);
    out.push(text);
  }

  /** `scope` is a new one. */
  private enter({ body, unset }: Scoped, scope: Scope, out: Out): Signal {
    for (const name of unset) scope.set(name, new Undefined(`'${name}' is undefined`));
    return this.run(body, scope, out);
  }

  private captured(body: Scoped, scope: Scope): { text: string; signal: Signal } {
    const out: Out = [];
    const signal = this.enter(body, scope, out);
    return { text: built(out.join("")), signal };
  }

  private run(body: Body, scope: Scope, out: Out): Signal {
    for (const statement of body) {
      this.line = statement.line;
      spend(1);
      const signal = this.statement(statement, scope, out);
      if (signal) return signal;
    }
    return null;
  }

  private statement(s: Statement, scope: Scope, out: Out): Signal {
    switch (s.k) {
      case "text":
        this.emit(out, s.text);
        return null;
      case "print":
        this.emit(out, str(this.value(s.value, scope)));
        return null;
      case "if": {
        for (const [test, body] of s.branches) if (truth(this.value(test, scope))) return this.run(body, scope, out);
        return this.run(s.otherwise, scope, out);
      }
      case "for":
        return this.for(s, this.value(s.over, scope), scope, out, 0);
      case "set":
        this.assign(s.target, this.value(s.value, scope), scope);
        return null;
      case "setBlock": {
        const { text, signal } = this.captured(s.body, new Scope(scope));
        if (!signal) this.assign(s.target, s.filter ? this.value(s.filter, scope, text) : text, scope);
        return signal;
      }
      case "with": {
        const inner = new Scope(scope);
        const values = s.values.map((value) => this.value(value, scope));
        s.targets.forEach((target, i) => {
          this.assign(target, values[i]!, inner);
        });
        return this.enter(s.body, inner, out);
      }
      case "macro":
        scope.set(s.name, this.macro(s.name, s.signature, s.body, s.uses, scope));
        return null;
      case "callBlock": {
        const caller = this.macro(null, s.signature, s.body, s.uses, scope);
        const of = this.value(s.call.of, scope);
        const { args, kwargs } = this.arguments(s.call.call, scope);
        this.emit(out, str(callValue(of, { args, kwargs: new Map([...kwargs, ["caller", caller]]) })));
        return null;
      }
      case "filterBlock": {
        const { text, signal } = this.captured(s.body, new Scope(scope));
        if (!signal) this.emit(out, textOf(this.value(s.filter, scope, text), "{% filter %}"));
        return signal;
      }
      case "generation":
        return this.enter(s.body, new Scope(scope), out);
      case "break":
      case "continue":
        return s.k;
    }
  }

  private for(s: Extract<Statement, { k: "for" }>, over: Value, scope: Scope, out: Out, depth: number): Signal {
    const { test } = s;
    const chosen = test ? new Iter(this.filtered(s.target, test, over, scope)) : over;
    const loop = new LoopContext(chosen, depth, !s.recursive ? null : (inner) => this.recursed(s, inner, scope, depth));
    let any = false;
    while (loop.advance()) {
      any = true;
      spend(1);
      const inner = new Scope(scope);
      inner.set("loop", loop);
      this.assign(s.target, loop.current, inner);
      if (this.enter(s.body, inner, out) === "break") break;
    }
    return any ? null : this.enter(s.otherwise, new Scope(scope), out);
  }

  private *filtered(target: Target, test: Expr, over: Value, scope: Scope): Generator<Value> {
    const iterator = iterate(over);
    for (let next = iterator.next(); !next.done; next = iterator.next()) {
      spend(1);
      const inner = new Scope(scope);
      this.assign(target, next.value, inner);
      if (truth(this.value(test, inner))) yield next.value;
    }
  }

  private recursed(s: Extract<Statement, { k: "for" }>, over: Value, scope: Scope, depth: number): string {
    return deeper(() => {
      const out: Out = [];
      this.for(s, over, scope, out, depth + 1);
      return built(out.join(""));
    });
  }

  private assign(target: Target, value: Value, scope: Scope): void {
    if ("name" in target) {
      scope.set(target.name, value);
      return;
    }
    if ("namespace" in target) {
      const namespace = scope.get(target.namespace);
      if (!(namespace instanceof Namespace))
        throw new JinjaFault(
          `'${target.namespace}.${target.attribute}' cannot be set: ${target.namespace} is no namespace`,
        );
      if (target.attribute.startsWith("_"))
        throw new JinjaFault(`namespaces hold no names that begin with '_': '${target.attribute}'`);
      namespace.attributes.set(target.attribute, value);
      return;
    }
    const items = itemsOf(value);
    if (items.length !== target.targets.length)
      throw new JinjaFault(`${target.targets.length} names for ${items.length} values`);
    target.targets.forEach((inner, i) => {
      this.assign(inner, items[i]!, scope);
    });
  }

  private macro(
    name: string | null,
    { params, defaults }: Signature,
    body: Scoped,
    uses: ReadonlySet<string>,
    scope: Scope,
  ): Func {
    const called = name === null ? "caller" : `macro '${name}'`;
    const call = ({ args, kwargs }: Arguments): Value =>
      deeper(() => {
        const inner = new Scope(scope);
        const named = new Map(kwargs);
        const firstDefault = params.length - defaults.length;
        params.forEach((param, i) => {
          let value: Value | undefined = args[i];
          if (value === undefined && named.has(param)) {
            value = named.get(param)!;
            named.delete(param);
          }
          if (value === undefined && i >= firstDefault) value = this.value(defaults[i - firstDefault]!, inner);
          inner.set(param, value === undefined ? new Undefined(`parameter '${param}' was not provided`) : value);
        });
        if (uses.has("caller")) {
          inner.set("caller", named.get("caller") ?? new Undefined("No caller defined"));
          named.delete("caller");
        }
        if (uses.has("kwargs")) inner.set("kwargs", Dict.of(named));
        else if (named.size > 0) throw new JinjaFault(`${called} takes no keyword argument '${[...named.keys()][0]}'`);
        if (uses.has("varargs")) inner.set("varargs", new Tuple(args.slice(params.length)));
        else if (args.length > params.length)
          throw new JinjaFault(`${called} takes not more than ${params.length} argument(s)`);
        return this.captured(body, inner).text;
      });
    const attributes = new Map<string, Value>([
      ["name", name],
      ["arguments", new Tuple(params)],
    ]);
    return new Func(name ?? "caller", call, "Macro", attributes);
  }

  private arguments(call: Call, scope: Scope): { args: Value[]; kwargs: Map<string, Value> } {
    const args = call.args.map((arg) => this.value(arg, scope));
    const kwargs = new Map(call.kwargs.map(([key, value]) => [key, this.value(value, scope)] as const));
    if (call.dynArgs) args.push(...itemsOf(this.value(call.dynArgs, scope)));
    if (call.dynKwargs) {
      const given = this.value(call.dynKwargs, scope);
      if (!(given instanceof Dict)) throw new JinjaFault(`argument after ** must be a mapping, not ${typeOf(given)}`);
      for (const { items } of given.items()) {
        const [key, value] = items as [Value, Value];
        if (typeof key !== "string") throw new JinjaFault("keywords must be strings");
        if (kwargs.has(key)) throw new JinjaFault(`got multiple values for keyword argument '${key}'`);
        kwargs.set(key, value);
      }
    }
    return { args, kwargs };
  }

  /** `piped`: what goes into the innermost filter of a filter or set block. */
  private value(e: Expr, scope: Scope, piped?: string): Value {
    spend(1);
    switch (e.k) {
      case "const":
        return e.value;
      case "float":
        return new Float(e.value);
      case "name":
        return named(scope, e.name);
      case "list":
        return e.items.map((item) => this.value(item, scope));
      case "tuple":
        return new Tuple(e.items.map((item) => this.value(item, scope)));
      case "concat":
        return concatenated(e.items.map((item) => this.value(item, scope)));
      case "dict":
        return Dict.of(e.items.map(([key, value]) => [this.value(key, scope), this.value(value, scope)] as const));
      case "attribute": {
        const of = this.value(e.of, scope);
        this.line = e.line;
        return getAttribute(of, e.name);
      }
      case "item": {
        const of = this.value(e.of, scope);
        return getItem(of, this.value(e.key, scope));
      }
      case "slice": {
        const [of, ...range] = [e.of, e.start, e.stop, e.step].map((x) => (x ? this.value(x, scope) : null));
        return slice(of!, range[0]!, range[1]!, range[2]!);
      }
      case "call": {
        const of = this.value(e.of, scope);
        const given = this.arguments(e.call, scope);
        this.line = e.line;
        return callValue(of, given);
      }
      case "filter":
        return this.filter(e, scope, piped);
      case "test": {
        const of = this.value(e.of, scope);
        return runTest(e.name, of, this.arguments(e.call, scope));
      }
      default:
        return this.operation(e, scope);
    }
  }

  private filter(e: Extract<Expr, { k: "filter" }>, scope: Scope, piped?: string): Value {
    const of = e.of ? this.value(e.of, scope, piped) : piped!;
    const given = this.arguments(e.call, scope);
    this.line = e.line;
    return runFilter(e.name, of, given);
  }

  private operation(
    e: Extract<Expr, { k: "unary" | "not" | "binary" | "and" | "or" | "compare" | "condition" }>,
    scope: Scope,
  ): Value {
    switch (e.k) {
      case "unary":
        return unary(e.operator, this.value(e.of, scope));
      case "not":
        return !truth(this.value(e.of, scope));
      case "binary": {
        const left = this.value(e.left, scope);
        return binary(e.operator, left, this.value(e.right, scope));
      }
      case "and":
      case "or": {
        const left = this.value(e.left, scope);
        return truth(left) === (e.k === "or") ? left : this.value(e.right, scope);
      }
      case "compare": {
        let left = this.value(e.first, scope);
        for (const [operator, right] of e.rest) {
          const next = this.value(right, scope);
          if (!compared(operator, left, next)) return false;
          left = next;
        }
        return true;
      }
      case "condition":
        if (truth(this.value(e.test, scope))) return this.value(e.then, scope);
        if (e.otherwise) return this.value(e.otherwise, scope);
        return new Undefined("the inline if-expression evaluated to false and no else section was defined.");
    }
  }
}
