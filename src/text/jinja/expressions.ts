// The grammar of jinja2's expressions.
import type { Call, Expr } from "./ast.js";
import { JinjaFault } from "./fault.js";
import { refusedFilters } from "./filters.js";
import type { Token, TokenKind } from "./lexer.js";
import { filterNames, testNames } from "./tests.js";

const comparisons = ["==", "!=", "<", "<=", ">", ">="];
const constants: Record<string, null | boolean> = {
  true: true,
  True: true,
  false: false,
  False: false,
  none: null,
  None: null,
};
const maxDepth = 120;

export class ExpressionParser {
  protected at = 0;
  protected depth = 0;
  /** Names that the macro being read loads: it is given caller, varargs and kwargs only if it names them. */
  protected loaded = new Set<string>();

  private readonly marked = new Map<Expr, { line: number; name: string }>();

  constructor(protected readonly tokens: readonly Token[]) {}

  protected get now(): Token {
    return this.tokens[this.at]!;
  }
  protected next(): Token {
    const token = this.now;
    if (token.kind !== "eof") this.at++;
    return token;
  }
  protected is(kind: TokenKind, text?: string): boolean {
    return this.now.kind === kind && (text === undefined || this.now.text === text);
  }
  protected skip(kind: TokenKind, text?: string): boolean {
    if (!this.is(kind, text)) return false;
    this.at++;
    return true;
  }
  protected fail(message: string, line = this.now.line): never {
    throw new JinjaFault(message, line);
  }
  protected shown(token = this.now): string {
    if (token.kind === "eof") return "the end of the template";
    if (token.kind === "data") return "text";
    return token.text === "" ? token.kind : `'${token.text}'`;
  }
  protected expect(kind: TokenKind, text?: string): Token {
    if (!this.is(kind, text)) this.fail(`expected ${text === undefined ? kind : `'${text}'`}, got ${this.shown()}`);
    return this.next();
  }

  expression(condition = true): Expr {
    if (++this.depth > maxDepth) this.fail(`expressions more than ${maxDepth} deep`);
    try {
      return condition ? this.condition() : this.or();
    } finally {
      this.depth--;
    }
  }

  private condition(): Expr {
    let then = this.or();
    for (;;) {
      const { line } = this.now;
      if (!this.skip("name", "if")) return then;
      const test = this.or();
      const otherwise = this.skip("name", "else") ? this.expression() : null;
      then = { k: "condition", line, test, then, otherwise };
    }
  }

  private or(): Expr {
    let left = this.and();
    for (let { line } = this.now; this.skip("name", "or"); { line } = this.now)
      left = { k: "or", line, left, right: this.and() };
    return left;
  }

  private and(): Expr {
    let left = this.not();
    for (let { line } = this.now; this.skip("name", "and"); { line } = this.now)
      left = { k: "and", line, left, right: this.not() };
    return left;
  }

  private not(): Expr {
    const { line } = this.now;
    if (!this.skip("name", "not")) return this.compare();
    if (++this.depth > maxDepth) this.fail(`expressions more than ${maxDepth} deep`);
    const of = this.not();
    this.depth--;
    return { k: "not", line, of };
  }

  private compare(): Expr {
    const { line } = this.now;
    const first = this.sum();
    const rest: [string, Expr][] = [];
    for (;;) {
      if (this.is("operator") && comparisons.includes(this.now.text)) rest.push([this.next().text, this.sum()]);
      else if (this.skip("name", "in")) rest.push(["in", this.sum()]);
      else if (this.is("name", "not") && this.tokens[this.at + 1]?.text === "in") {
        this.at += 2;
        rest.push(["not in", this.sum()]);
      } else return rest.length === 0 ? first : { k: "compare", line, first, rest };
    }
  }

  private leftToRight(operators: readonly string[], inner: () => Expr): Expr {
    let left = inner();
    while (this.is("operator") && operators.includes(this.now.text)) {
      const { text: operator, line } = this.next();
      left = { k: "binary", line, operator, left, right: inner() };
    }
    return left;
  }

  private sum(): Expr {
    return this.leftToRight(["+", "-"], () => this.concat());
  }

  private concat(): Expr {
    const { line } = this.now;
    const items = [this.product()];
    while (this.skip("operator", "~")) items.push(this.product());
    return items.length === 1 ? items[0]! : { k: "concat", line, items };
  }

  private product(): Expr {
    return this.leftToRight(["*", "/", "//", "%"], () => this.leftToRight(["**"], () => this.unary(true)));
  }

  private unary(filters: boolean): Expr {
    const { line } = this.now;
    let node: Expr;
    if (this.is("operator", "-") || this.is("operator", "+")) {
      const operator = this.next().text as "-" | "+";
      if (++this.depth > maxDepth) this.fail(`expressions more than ${maxDepth} deep`);
      node = { k: "unary", line, operator, of: this.unary(false) };
      this.depth--;
    } else node = this.primary();
    node = this.postfix(node);
    return filters ? this.filters(node) : node;
  }

  protected primary(): Expr {
    const token = this.now;
    const { line, text } = token;
    switch (token.kind) {
      case "name":
        this.at++;
        if (Object.hasOwn(constants, text)) return { k: "const", line, value: constants[text]! };
        this.loaded.add(text);
        return { k: "name", line, name: text };
      case "string": {
        let value = "";
        while (this.is("string")) value += this.next().text;
        return { k: "const", line, value };
      }
      case "integer": {
        this.at++;
        const value = Number(text.replaceAll("_", ""));
        if (!Number.isSafeInteger(value)) this.fail(`the number ${text} is too large to be supported`, line);
        return { k: "const", line, value };
      }
      case "float":
        this.at++;
        return { k: "float", line, value: Number(text.replaceAll("_", "")) };
    }
    if (this.skip("operator", "(")) {
      const inner = this.tuple({ parentheses: true });
      this.expect("operator", ")");
      return inner;
    }
    if (this.skip("operator", "[")) return { k: "list", line, items: this.until("]", () => this.expression()) };
    if (this.skip("operator", "{")) return { k: "dict", line, items: this.until("}", () => this.entry()) };
    return this.fail(`expected an expression, got ${this.shown()}`);
  }

  private entry(): readonly [Expr, Expr] {
    const key = this.expression();
    this.expect("operator", ":");
    return [key, this.expression()];
  }

  private until<T>(end: string, item: () => T): T[] {
    const items: T[] = [];
    while (!this.is("operator", end)) {
      if (items.length > 0) this.expect("operator", ",");
      if (this.is("operator", end)) break;
      items.push(item());
    }
    this.expect("operator", end);
    return items;
  }

  /** One expression, or a tuple of those that commas divide. */
  protected tuple(o: { parentheses?: boolean; condition?: boolean; end?: string } = {}): Expr {
    const { line } = this.now;
    const items: Expr[] = [];
    let comma = false;
    const ended = () =>
      this.is("variable_end") ||
      this.is("block_end") ||
      this.is("operator", ")") ||
      (o.end !== undefined && this.is("name", o.end));
    for (;;) {
      if (items.length > 0) this.expect("operator", ",");
      if (ended()) break;
      items.push(this.expression(o.condition ?? true));
      if (!this.is("operator", ",")) break;
      comma = true;
    }
    if (!comma && items.length > 0) return items[0]!;
    if (!comma && !o.parentheses) this.fail(`expected an expression, got ${this.shown()}`);
    return { k: "tuple", line, items };
  }

  private postfix(given: Expr): Expr {
    return this.chain(given, (node, line) => {
      if (this.skip("operator", ".")) return this.attribute(node, line);
      return this.skip("operator", "[") ? this.subscript(node, line) : null;
    });
  }

  /** What follows an expression: a call, or what `part` finds; null where there is nothing of it. */
  private chain(given: Expr, part: (node: Expr, line: number) => Expr | null): Expr {
    let node = given;
    for (;;) {
      const { line } = this.now;
      const next: Expr | null =
        part(node, line) ?? (this.is("operator", "(") ? { k: "call", line, of: node, call: this.call() } : null);
      if (!next) return node;
      node = next;
    }
  }

  private attribute(of: Expr, line: number): Expr {
    const token = this.next();
    if (token.kind === "name") return { k: "attribute", line, of, name: token.text };
    if (token.kind === "integer")
      return { k: "item", line, of, key: { k: "const", line, value: Number(token.text.replaceAll("_", "")) } };
    return this.fail(`expected a name or number behind '.', got ${this.shown(token)}`, token.line);
  }

  private subscript(of: Expr, line: number): Expr {
    const items: (Expr | readonly [Expr | null, Expr | null, Expr | null])[] = [];
    while (!this.is("operator", "]")) {
      if (items.length > 0) this.expect("operator", ",");
      items.push(this.subscripted());
    }
    this.expect("operator", "]");
    if (items.length !== 1 || Array.isArray(items[0])) {
      const [bounds] = items;
      if (items.length !== 1) {
        if (items.some((x) => Array.isArray(x))) this.fail("a subscript of several slices is not supported", line);
        return { k: "item", line, of, key: { k: "tuple", line, items: items as Expr[] } };
      }
      const [start, stop, step] = bounds as readonly [Expr | null, Expr | null, Expr | null];
      return { k: "slice", line, of, start, stop, step };
    }
    return { k: "item", line, of, key: items[0] as Expr };
  }

  private subscripted(): Expr | readonly [Expr | null, Expr | null, Expr | null] {
    const bound = () =>
      this.is("operator", ":") || this.is("operator", "]") || this.is("operator", ",") ? null : this.expression();
    const start = bound();
    if (!this.skip("operator", ":")) return start ?? this.fail(`expected an expression, got ${this.shown()}`);
    const stop = bound();
    return [start, stop, this.skip("operator", ":") ? bound() : null];
  }

  private filters(given: Expr): Expr {
    return this.chain(given, (node) => {
      if (this.is("operator", "|")) return this.filter(node);
      return this.is("name", "is") ? this.test(node) : null;
    });
  }

  private dotted(): string {
    let name = this.expect("name").text;
    while (this.skip("operator", ".")) name += `.${this.expect("name").text}`;
    return name;
  }

  /** `inline`: a first filter comes without its bar. */
  protected filter(of: Expr | null, inline = false): Expr | null {
    let node = of;
    let first = inline;
    while (first || this.is("operator", "|")) {
      if (!first) this.at++;
      first = false;
      const { line } = this.now;
      const name = this.dotted();
      const why = refusedFilters[name];
      if (!filterNames.has(name))
        this.fail(
          why === undefined ? `no filter named '${name}'` : `the filter '${name}' is not supported${why}`,
          line,
        );
      const call = this.is("operator", "(") ? this.call() : nothing;
      node = { k: "filter", line, of: node, name, call };
      if (["safe", "e", "escape", "forceescape"].includes(name)) this.marked.set(node, { line, name });
    }
    return node;
  }

  /**
   * What a template prints. Filters that mark a text as HTML may stand there, where the mark means nothing; elsewhere it
   * would change what other operations make of the text, and they are refused.
   */
  protected printed(e: Expr): Expr {
    if (e.k === "filter") this.marked.delete(e);
    const parts =
      e.k === "condition" ? [e.then, ...(e.otherwise ? [e.otherwise] : [])] : e.k === "concat" ? e.items : [];
    for (const part of parts) this.printed(part);
    return e;
  }

  /** Behind the whole template. */
  protected refuseMarked(): void {
    for (const { line, name } of this.marked.values())
      this.fail(`the filter '${name}' is not supported inside of other operations`, line);
  }

  private test(of: Expr): Expr {
    const { line } = this.next();
    const negated = this.skip("name", "not");
    const name = this.dotted();
    if (!testNames.has(name)) this.fail(`no test named '${name}'`, line);
    let call: Call = nothing;
    const begins = ["name", "string", "integer", "float"].includes(this.now.kind) || ["[", "{"].includes(this.now.text);
    if (this.is("operator", "(")) call = this.call();
    else if (begins && !(this.is("name") && ["else", "or", "and"].includes(this.now.text))) {
      if (this.is("name", "is")) this.fail("tests cannot be chained with 'is'");
      call = { ...nothing, args: [this.postfix(this.primary())] };
    }
    const node: Expr = { k: "test", line, of, name, call };
    return negated ? { k: "not", line, of: node } : node;
  }

  protected call(): Call {
    const { line } = this.expect("operator", "(");
    const args: Expr[] = [];
    const kwargs: [string, Expr][] = [];
    let dynArgs: Expr | null = null;
    let dynKwargs: Expr | null = null;
    const ensure = (ok: boolean) => ok || this.fail("arguments of a call in an order that is not valid", line);
    for (let comma = false; !this.is("operator", ")"); comma = true) {
      if (comma) this.expect("operator", ",");
      if (comma && this.is("operator", ")")) break;
      if (this.skip("operator", "*")) {
        ensure(!dynArgs && !dynKwargs);
        dynArgs = this.expression();
      } else if (this.skip("operator", "**")) {
        ensure(!dynKwargs);
        dynKwargs = this.expression();
      } else if (
        this.is("name") &&
        this.tokens[this.at + 1]?.kind === "operator" &&
        this.tokens[this.at + 1]!.text === "="
      ) {
        ensure(!dynKwargs);
        const { text } = this.next();
        this.at++;
        if (kwargs.some(([key]) => key === text)) this.fail(`the argument '${text}' is given twice`, line);
        kwargs.push([text, this.expression()]);
      } else {
        ensure(!dynArgs && !dynKwargs && kwargs.length === 0);
        args.push(this.expression());
      }
    }
    this.expect("operator", ")");
    return { args, kwargs, dynArgs, dynKwargs };
  }
}

const nothing: Call = { args: [], kwargs: [], dynArgs: null, dynKwargs: null };
