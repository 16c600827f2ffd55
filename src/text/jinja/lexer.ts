// Tokens of a Jinja template, cut as jinja2 cuts them with trim_blocks and lstrip_blocks (what transformers renders chat
// templates with). Every step is linear in the text.
import { JinjaFault } from "./fault.js";

export type TokenKind = "data" | "variable_begin" | "variable_end" | "block_begin" | "block_end" | "eof" | Lexeme;
type Lexeme = "name" | "string" | "integer" | "float" | "operator";

export interface Token {
  kind: TokenKind;
  /** The spelling of an operator or name, the value of a string, the digits of a number. */
  text: string;
  line: number;
}

/** What Python calls white space. */
export const blank = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";

const open = /\{[%{#]/g;
const rawBegin = new RegExp(`\\{%([-+]?)[${blank}]*raw[${blank}]*(?:-%\\}[${blank}]*|%\\})`, "y");
const rawEnd = new RegExp(`[${blank}]*endraw[${blank}]*(?:\\+%\\}|-%\\}[${blank}]*|%\\}\\n?)`, "y");
const rawOpen = /\{%([-+]?)/g;
const commentEnd = new RegExp(`\\+#\\}|-#\\}[${blank}]*|#\\}\\n?`, "g");
const blockEnd = new RegExp(`\\+%\\}|-%\\}[${blank}]*|%\\}\\n?`, "y");
const variableEnd = new RegExp(`-\\}\\}[${blank}]*|\\}\\}`, "y");
const blanks = new RegExp(`[${blank}]+`, "y");
const float = /(?<!\.)(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?e[+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/iy;
const integer = /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*/iy;
const name = /[\p{L}\p{N}\p{M}_\u00b7\u203f\u2040]+/uy;
const identifier = /^[\p{ID_Start}_]\p{ID_Continue}*$/u;
const string = /'[^'\\]*(?:\\[\s\S][^'\\]*)*'|"[^"\\]*(?:\\[\s\S][^"\\]*)*"/y;
const operator = /\/\/|\*\*|==|!=|>=|<=|[-+/*%~[\](){}<>=.:|,;]/y;
const closing: Record<string, string> = { "{": "}", "(": ")", "[": "]" };
const onlyBlanks = new RegExp(`^[${blank}]+$`);
const isBlank = new RegExp(`[${blank}]`);

/** `s` without the blanks at its end; a regex for it would be quadratic. */
function stripEnd(s: string): string {
  let end = s.length;
  while (end > 0 && isBlank.test(s[end - 1]!)) end--;
  return s.slice(0, end);
}

const escapes: Record<string, string> = {
  "\\": "\\",
  "'": "'",
  '"': '"',
  a: "\x07",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
  v: "\v",
  "\n": "",
};

/** The value of a string literal's inside, as Python's unicode-escape has it: escapes that it does not know stay. */
export function unescaped(body: string, line: number): string {
  return body.replace(
    /\\(?:([0-7]{1,3})|x([\s\S]{0,2})|u([\s\S]{0,4})|U([\s\S]{0,8})|(N)|([\s\S]))/g,
    (whole, octal?: string, x?: string, u?: string, U?: string, named?: string, other?: string) => {
      if (octal !== undefined) return String.fromCodePoint(Number.parseInt(octal, 8));
      if (named !== undefined) throw new JinjaFault("a string with \\N{...} is not supported", line);
      if (other !== undefined) return Object.hasOwn(escapes, other) ? escapes[other]! : whole;
      const digits = x ?? u ?? U ?? "";
      const code = Number.parseInt(digits, 16);
      const wanted = x !== undefined ? 2 : u !== undefined ? 4 : 8;
      if (!new RegExp(`^[0-9a-fA-F]{${wanted}}$`).test(digits) || code > 0x10ffff)
        throw new JinjaFault(`a string with a broken escape: ${JSON.stringify(whole)}`, line);
      return String.fromCodePoint(code);
    },
  );
}

class Lexer {
  readonly tokens: Token[] = [];
  private at = 0;
  private line = 1;
  private counted = 0;
  private lineStarting = true;

  constructor(private readonly source: string) {}

  private lineOf(at: number): number {
    for (; this.counted < at; this.counted++) if (this.source[this.counted] === "\n") this.line++;
    return this.line;
  }

  private match(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.at;
    return pattern.exec(this.source);
  }

  private push(kind: TokenKind, text: string, at = this.at): void {
    this.tokens.push({ kind, text, line: this.lineOf(at) });
  }

  private moveTo(at: number): void {
    if (at > this.at) this.lineStarting = this.source[at - 1] === "\n";
    this.at = at;
  }

  /** Text before a tag, without what the tag's sign or lstrip_blocks takes off its end. */
  private data(text: string, sign: string, variable: boolean): void {
    let kept = text;
    if (sign === "-") kept = stripEnd(text);
    else if (sign !== "+" && !variable) {
      const begin = text.lastIndexOf("\n") + 1;
      if ((begin > 0 || this.lineStarting) && onlyBlanks.test(text.slice(begin))) kept = text.slice(0, begin);
    }
    if (kept !== "") this.push("data", kept);
  }

  run(): Token[] {
    while (this.at < this.source.length) {
      const found = this.match(open);
      if (!found) {
        this.push("data", this.source.slice(this.at));
        this.at = this.source.length;
        break;
      }
      const kind = found[0][1]!;
      const begin = found.index;
      const sign = /[-+]/.test(this.source[begin + 2] ?? "") ? this.source[begin + 2]! : "";
      this.data(this.source.slice(this.at, begin), sign, kind === "{");
      this.at = begin;
      const raw = kind === "%" ? this.match(rawBegin) : null;
      if (raw) this.raw(raw[0].length);
      else {
        this.lineStarting = false;
        const inside = begin + 2 + sign.length;
        if (kind === "#") this.comment(inside);
        else this.tag(kind === "%" ? "block" : "variable", inside);
      }
    }
    this.push("eof", "", this.source.length);
    return this.tokens;
  }

  private comment(from: number): void {
    const begin = this.at;
    this.at = from;
    const end = this.match(commentEnd);
    if (!end && from >= this.source.length) {
      this.at = from; // jinja2 accepts it
      return;
    }
    if (!end) throw new JinjaFault("a comment that does not end (#} is missing)", this.lineOf(begin));
    this.moveTo(end.index + end[0].length);
  }

  private raw(length: number): void {
    const begin = this.at;
    this.moveTo(begin + length);
    const from = this.at;
    for (rawOpen.lastIndex = from; ; ) {
      const found = rawOpen.exec(this.source);
      if (!found)
        throw new JinjaFault("a {% raw %} block that does not end ({% endraw %} is missing)", this.lineOf(begin));
      rawEnd.lastIndex = rawOpen.lastIndex;
      const end = rawEnd.exec(this.source);
      if (!end) continue;
      this.data(this.source.slice(from, found.index), found[1]!, false);
      this.moveTo(end.index + end[0].length);
      return;
    }
  }

  private tag(kind: "block" | "variable", from: number): void {
    this.push(`${kind}_begin`, "");
    const begin = this.at;
    this.at = from;
    const open: string[] = [];
    while (this.at < this.source.length) {
      const end = open.length === 0 ? this.match(kind === "block" ? blockEnd : variableEnd) : null;
      if (end) {
        this.push(`${kind}_end`, "");
        this.moveTo(this.at + end[0].length);
        return;
      }
      this.lexeme(open);
    }
    throw new JinjaFault(`a tag that does not end (${kind === "block" ? "%}" : "}}"} is missing)`, this.lineOf(begin));
  }

  private lexeme(open: string[]): void {
    const skipped = this.match(blanks);
    if (skipped) {
      this.at += skipped[0].length;
      return;
    }
    const kinds: [Lexeme, RegExp][] = [
      ["float", float],
      ["integer", integer],
      ["name", name],
      ["string", string],
      ["operator", operator],
    ];
    for (const [kind, pattern] of kinds) {
      const text = this.match(pattern)?.[0];
      if (text === undefined) continue;
      this.add(kind, text, open);
      this.at += text.length;
      return;
    }
    throw new JinjaFault(`unexpected ${JSON.stringify(this.source[this.at])}`, this.lineOf(this.at));
  }

  private add(kind: Lexeme, text: string, open: string[]): void {
    const line = this.lineOf(this.at);
    if (kind === "operator") {
      if (text in closing) open.push(closing[text]!);
      else if (text === "}" || text === ")" || text === "]") {
        const expected = open.pop();
        if (expected !== text)
          throw new JinjaFault(`unexpected '${text}'${expected ? `, expected '${expected}'` : ""}`, line);
      }
      if (open.length > 100) throw new JinjaFault("brackets more than 100 deep", line);
    }
    if (kind === "name" && !identifier.test(text)) throw new JinjaFault(`not a name: ${JSON.stringify(text)}`, line);
    this.push(kind, kind === "string" ? unescaped(text.slice(1, -1), line) : text);
  }
}

export function tokensOf(source: string): Token[] {
  const lines = source.replace(/\r\n?/g, "\n");
  return new Lexer(lines.endsWith("\n") ? lines.slice(0, -1) : lines).run();
}
