// The names that a scope sets and that do not exist outside of it. Until they are set they are undefined, also in enclosed
// scopes, and also when the conversation has something with that name. jinja2's compiler decides it in this way.
import type { Body, Call, Expr, Scoped, Signature, Statement, Target } from "./ast.js";

type Load = "param" | "outer" | "context" | "undefined";

export class Symbols {
  private refs = new Map<string, Load>();
  private stores = new Set<string>();

  constructor(private readonly parent: Symbols | null) {}

  private knows(name: string): boolean {
    return this.refs.has(name) || (this.parent?.knows(name) ?? false);
  }

  private copy(): Symbols {
    const copy = new Symbols(this.parent);
    copy.refs = new Map(this.refs);
    copy.stores = new Set(this.stores);
    return copy;
  }

  private store(name: string): void {
    this.stores.add(name);
    if (!this.refs.has(name)) this.refs.set(name, this.parent?.knows(name) ? "outer" : "undefined");
  }

  private load(name: string): void {
    if (!this.knows(name)) this.refs.set(name, "context");
  }

  param(name: string): void {
    this.stores.add(name);
    this.refs.set(name, "param");
  }

  params(target: Target): void {
    if ("name" in target) this.param(target.name);
    else if ("targets" in target) for (const inner of target.targets) this.params(inner);
  }

  /** Names that are undefined when the scope is entered. */
  get unset(): string[] {
    return [...this.refs].filter(([, load]) => load === "undefined").map(([name]) => name);
  }

  private target(target: Target): void {
    if ("name" in target) this.store(target.name);
    else if ("namespace" in target) this.load(target.namespace);
    else for (const inner of target.targets) this.target(inner);
  }

  body(body: Body): this {
    for (const statement of body) this.statement(statement);
    return this;
  }

  signature({ params, defaults }: Signature): this {
    for (const param of params) this.param(param);
    for (const value of defaults) this.expression(value);
    return this;
  }

  /** A statement seen from the scope that it stands in; scopes of its own are not entered. */
  private statement(s: Statement): void {
    switch (s.k) {
      case "print":
        this.expression(s.value);
        break;
      case "if":
        this.branches(s);
        break;
      case "for":
        this.expression(s.over);
        break;
      case "set":
        this.expression(s.value);
        this.target(s.target);
        break;
      case "setBlock":
        this.target(s.target);
        break;
      case "macro":
        this.store(s.name);
        break;
      case "callBlock":
        this.expression(s.call);
        break;
      case "filterBlock":
        this.expression(s.filter);
        break;
      case "with":
        for (const value of s.values) this.expression(value);
        break;
    }
  }

  private branches(s: Extract<Statement, { k: "if" }>): void {
    const [first, ...rest] = s.branches;
    this.expression(first![0]);
    const body = this.copy().body(first![1]);
    const elif = this.copy();
    for (const [test, inner] of rest) elif.branches({ ...s, branches: [[test, inner]], otherwise: [] });
    const all = [body, elif, this.copy().body(s.otherwise)];
    const counts = new Map<string, number>();
    for (const branch of all)
      for (const name of branch.stores) if (!this.stores.has(name)) counts.set(name, (counts.get(name) ?? 0) + 1);
    for (const branch of all) {
      for (const [name, load] of branch.refs) this.refs.set(name, load);
      for (const name of branch.stores) this.stores.add(name);
    }
    for (const [name, count] of counts)
      if (count < all.length) this.refs.set(name, this.parent?.knows(name) ? "outer" : "context");
  }

  private call({ args, kwargs, dynArgs, dynKwargs }: Call): void {
    for (const arg of [...args, ...kwargs.map(([, value]) => value), dynArgs, dynKwargs]) if (arg) this.expression(arg);
  }

  expression(e: Expr): void {
    for (const inner of children(e)) this.expression(inner);
    if (e.k === "name") this.load(e.name);
    if (e.k === "call" || e.k === "filter" || e.k === "test") this.call(e.call);
  }
}

function children(e: Expr): readonly Expr[] {
  switch (e.k) {
    case "list":
    case "tuple":
    case "concat":
      return e.items;
    case "dict":
      return e.items.flat();
    case "item":
      return [e.of, e.key];
    case "slice":
      return [e.of, e.start, e.stop, e.step].filter((x) => x !== null);
    case "binary":
    case "and":
    case "or":
      return [e.left, e.right];
    case "compare":
      return [e.first, ...e.rest.map(([, x]) => x)];
    case "condition":
      return [e.test, e.then, ...(e.otherwise ? [e.otherwise] : [])];
    case "attribute":
    case "call":
    case "filter":
    case "test":
    case "unary":
    case "not":
      return e.of ? [e.of] : [];
    default:
      return [];
  }
}

function enter(scoped: Scoped, symbols: Symbols): void {
  symbols.body(scoped.body);
  scoped.unset.push(...symbols.unset);
  inside(scoped.body, symbols);
}

/** The scopes that stand in a body. */
function inside(body: Body, outer: Symbols): void {
  for (const s of body) {
    const symbols = new Symbols(outer);
    switch (s.k) {
      case "if":
        for (const [, inner] of s.branches) inside(inner, outer);
        inside(s.otherwise, outer);
        break;
      case "for":
        symbols.params(s.target);
        enter(s.body, symbols);
        enter(s.otherwise, new Symbols(outer));
        break;
      case "macro":
      case "callBlock":
        enter(s.body, symbols.signature(s.signature));
        break;
      case "with":
        for (const target of s.targets) symbols.params(target);
        enter(s.body, symbols);
        break;
      case "filterBlock":
        symbols.expression(s.filter);
        enter(s.body, symbols);
        break;
      case "setBlock":
      case "generation":
        enter(s.body, symbols);
        break;
    }
  }
}

/** Finds the names that each scope of a template leaves unset. */
export function resolveScopes(template: Scoped): void {
  enter(template, new Symbols(null));
}
