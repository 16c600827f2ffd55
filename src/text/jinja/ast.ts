// The nodes of a template. Every node knows its line.

export interface Call {
  args: readonly Expr[];
  kwargs: readonly (readonly [string, Expr])[];
  dynArgs: Expr | null;
  dynKwargs: Expr | null;
}

export type Expr = { line: number } & (
  | { k: "const"; value: null | boolean | number | string }
  | { k: "float"; value: number }
  | { k: "name"; name: string }
  | { k: "list" | "tuple" | "concat"; items: readonly Expr[] }
  | { k: "dict"; items: readonly (readonly [Expr, Expr])[] }
  | { k: "attribute"; of: Expr; name: string }
  | { k: "item"; of: Expr; key: Expr }
  | { k: "slice"; of: Expr; start: Expr | null; stop: Expr | null; step: Expr | null }
  | { k: "call"; of: Expr; call: Call }
  | { k: "filter"; of: Expr | null; name: string; call: Call }
  | { k: "test"; of: Expr; name: string; call: Call }
  | { k: "unary"; operator: "-" | "+"; of: Expr }
  | { k: "not"; of: Expr }
  | { k: "binary"; operator: string; left: Expr; right: Expr }
  | { k: "and" | "or"; left: Expr; right: Expr }
  | { k: "compare"; first: Expr; rest: readonly (readonly [string, Expr])[] }
  | { k: "condition"; test: Expr; then: Expr; otherwise: Expr | null }
);
export type CallExpr = Extract<Expr, { k: "call" }>;

export type Target = { name: string } | { namespace: string; attribute: string } | { targets: readonly Target[] };

export interface Signature {
  params: readonly string[];
  defaults: readonly Expr[];
}

export type Statement = { line: number } & (
  | { k: "text"; text: string }
  | { k: "print"; value: Expr }
  | { k: "for"; target: Target; over: Expr; test: Expr | null; recursive: boolean; body: Scoped; otherwise: Scoped }
  | { k: "if"; branches: readonly (readonly [Expr, Body])[]; otherwise: Body }
  | { k: "set"; target: Target; value: Expr }
  | { k: "setBlock"; target: Target; filter: Expr | null; body: Scoped }
  | { k: "with"; targets: readonly Target[]; values: readonly Expr[]; body: Scoped }
  | { k: "macro"; name: string; signature: Signature; body: Scoped; uses: ReadonlySet<string> }
  | { k: "callBlock"; signature: Signature; call: CallExpr; body: Scoped; uses: ReadonlySet<string> }
  | { k: "filterBlock"; filter: Expr; body: Scoped }
  | { k: "generation"; body: Scoped }
  | { k: "break" | "continue" }
);
export type Body = readonly Statement[];

/** A body with a scope of its own. */
export interface Scoped {
  body: Body;
  /** Names that are undefined when it is entered (see symbols.ts); known once the whole template is read. */
  unset: string[];
}
