// The grammar of jinja2's statements, as far as chat templates may use them: no inheritance, no imports. Unsupported
// constructs are refused here by name, before anything is rendered.
import type { Body, CallExpr, Expr, Scoped, Signature, Statement, Target } from "./ast.js";
import { ExpressionParser } from "./expressions.js";
import { tokensOf } from "./lexer.js";
import { resolveScopes } from "./symbols.js";

const refused: Record<string, string> = {
  block: "template inheritance",
  extends: "template inheritance",
  include: "other templates",
  import: "other templates",
  from: "other templates",
  autoescape: "HTML escaping",
  do: "an extension that transformers does not load",
  trans: "an extension that transformers does not load",
  debug: "an extension that transformers does not load",
};
const reserved = new Set(["true", "false", "none", "True", "False", "None"]);
const maxNesting = 100;

class Parser extends ExpressionParser {
  private loops = 0;
  private nesting = 0;

  template(): Body {
    const body = this.blockUntil([], 1);
    if (!this.is("eof")) this.fail(`expected the end of the template, got ${this.shown()}`);
    this.refuseMarked();
    return body;
  }

  /** Statements up to a tag of `ends`, whose name is the current token. */
  private blockUntil(ends: readonly string[], line: number): Body {
    if (++this.nesting > maxNesting) this.fail(`blocks more than ${maxNesting} deep`);
    const body: Statement[] = [];
    for (;;) {
      const token = this.next();
      if (token.kind === "eof") {
        if (ends.length > 0) this.fail(`a block that does not end ({% ${ends.at(-1)} %} is missing)`, line);
        break;
      }
      if (token.kind === "data") body.push({ k: "text", line: token.line, text: token.text });
      else if (token.kind === "variable_begin") {
        body.push({ k: "print", line: token.line, value: this.printed(this.tuple()) });
        this.expect("variable_end");
      } else {
        if (this.is("name") && ends.includes(this.now.text)) break;
        body.push(...this.statement());
        this.expect("block_end");
      }
    }
    this.nesting--;
    return body;
  }

  /** The body of a block, up to the name that ends it, which is taken. */
  private body(ends: readonly string[], line: number): { body: Body; scoped: Scoped; end: string } {
    this.skip("operator", ":");
    this.expect("block_end");
    const body = this.blockUntil(ends, line);
    return { body, scoped: { body, unset: [] }, end: this.next().text };
  }

  private statement(): Statement[] {
    const { line, text } = this.expect("name");
    switch (text) {
      case "for":
        return [this.for(line)];
      case "if":
        return [this.if(line)];
      case "set":
        return [this.set(line)];
      case "with":
        return [this.with(line)];
      case "macro":
        return [this.macro(line)];
      case "call":
        return [this.callBlock(line)];
      case "filter": {
        const filter = this.filter(null, true)!;
        return [{ k: "filterBlock", line, filter, body: this.body(["endfilter"], line).scoped }];
      }
      case "generation":
        return [{ k: "generation", line, body: this.function(() => this.body(["endgeneration"], line).scoped).body }];
      case "print": {
        const values: Statement[] = [];
        for (let comma = false; !this.is("block_end"); comma = true) {
          if (comma) this.expect("operator", ",");
          values.push({ k: "print", line, value: this.printed(this.expression()) });
        }
        return values;
      }
      case "break":
      case "continue":
        if (this.loops === 0) this.fail(`{% ${text} %} outside of a loop`, line);
        return [{ k: text, line }];
    }
    if (Object.hasOwn(refused, text)) this.fail(`{% ${text} %} is not supported (${refused[text]})`, line);
    return this.fail(`{% ${text} %} is not a tag that is known here`, line);
  }

  /** What is read by `f` becomes a function of its own: loops outside cannot be left from it. */
  private function(f: () => Scoped): { body: Scoped; uses: ReadonlySet<string> } {
    const [loops, outer] = [this.loops, this.loaded];
    this.loops = 0;
    this.loaded = new Set();
    const body = f();
    const uses = this.loaded;
    this.loops = loops;
    this.loaded = new Set([...outer, ...uses]);
    return { body, uses };
  }

  private name(): string {
    const { text, line } = this.expect("name");
    if (reserved.has(text)) this.fail(`'${text}' cannot be assigned to`, line);
    return text;
  }

  private target(o: { namespace?: boolean; end?: string } = {}): Target {
    const targets: Target[] = [];
    let comma = false;
    for (;;) {
      if (this.skip("operator", "(")) {
        targets.push(this.target({ ...o, end: ")" }));
        this.expect("operator", ")");
      } else {
        const name = this.name();
        if (o.namespace && this.skip("operator", "."))
          targets.push({ namespace: name, attribute: this.expect("name").text });
        else targets.push({ name });
      }
      if (!this.skip("operator", ",")) break;
      comma = true;
      if (this.is("block_end") || this.is("operator", ")") || this.is("operator", "=") || this.is("name", "in")) break;
    }
    return comma ? { targets } : targets[0]!;
  }

  private for(line: number): Statement {
    const target = this.target();
    if ("name" in target && target.name === "loop") this.fail("'loop' cannot be the variable of a loop", line);
    this.expect("name", "in");
    const over = this.tuple({ condition: false, end: "recursive" });
    const test = this.skip("name", "if") ? this.expression() : null;
    const recursive = this.skip("name", "recursive");
    this.loops++;
    const { scoped: body, end } = this.body(["else", "endfor"], line);
    this.loops--;
    const otherwise = end === "else" ? this.body(["endfor"], line).scoped : { body: [], unset: [] };
    return { k: "for", line, target, over, test, recursive, body, otherwise };
  }

  private if(line: number): Statement {
    const branches: [Expr, Body][] = [];
    let otherwise: Body = [];
    for (let end = "elif"; end === "elif"; ) {
      const test = this.tuple({ condition: false });
      const read = this.body(["elif", "else", "endif"], line);
      branches.push([test, read.body]);
      end = read.end;
      if (end === "else") otherwise = this.body(["endif"], line).body;
    }
    return { k: "if", line, branches, otherwise };
  }

  private set(line: number): Statement {
    const target = this.target({ namespace: true });
    if (this.skip("operator", "=")) return { k: "set", line, target, value: this.tuple() };
    const filter = this.filter(null);
    return { k: "setBlock", line, target, filter, body: this.body(["endset"], line).scoped };
  }

  private with(line: number): Statement {
    const targets: Target[] = [];
    const values: Expr[] = [];
    while (!this.is("block_end")) {
      if (targets.length > 0) this.expect("operator", ",");
      targets.push({ name: this.name() });
      this.expect("operator", "=");
      values.push(this.expression());
    }
    return { k: "with", line, targets, values, body: this.body(["endwith"], line).scoped };
  }

  private signature(): Signature {
    const params: string[] = [];
    const defaults: Expr[] = [];
    this.expect("operator", "(");
    while (!this.is("operator", ")")) {
      if (params.length > 0) this.expect("operator", ",");
      params.push(this.name());
      if (this.skip("operator", "=")) defaults.push(this.expression());
      else if (defaults.length > 0) this.fail("a parameter without default behind one that has it");
    }
    this.expect("operator", ")");
    if (params.includes("caller")) this.fail("a parameter named 'caller' is not supported");
    return { params, defaults };
  }

  private macro(line: number): Statement {
    const name = this.name();
    const signature = this.signature();
    return { k: "macro", line, name, signature, ...this.function(() => this.body(["endmacro"], line).scoped) };
  }

  private callBlock(line: number): Statement {
    const signature = this.is("operator", "(") ? this.signature() : { params: [], defaults: [] };
    const call = this.expression();
    if (call.k !== "call") this.fail("{% call %} takes a call", line);
    const read = this.function(() => this.body(["endcall"], line).scoped);
    return { k: "callBlock", line, signature, call: call as CallExpr, ...read };
  }
}

export function parse(source: string): Scoped {
  const template: Scoped = { body: new Parser(tokensOf(source)).template(), unset: [] };
  resolveScopes(template);
  return template;
}
