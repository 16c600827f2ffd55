// str(), repr() and json.dumps() of Python's values.
import { built, JinjaFault, spend } from "./fault.js";
import {
  characters,
  Dict,
  Float,
  isList,
  Namespace,
  Range,
  sorted,
  Tuple,
  typeOf,
  Undefined,
  type Value,
  View,
} from "./values.js";

/** repr() of a float: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on. */
export function floatText(x: number): string {
  if (Number.isNaN(x)) return "nan";
  if (!Number.isFinite(x)) return x > 0 ? "inf" : "-inf";
  if (x === 0) return Object.is(x, -0) ? "-0.0" : "0.0";
  const [mantissa, exponent] = x.toExponential().split("e") as [string, string];
  const e = Number(exponent);
  if (e < -4 || e >= 16) return `${mantissa}e${e < 0 ? "-" : "+"}${String(Math.abs(e)).padStart(2, "0")}`;
  const sign = mantissa.startsWith("-") ? "-" : "";
  const digits = mantissa.replace(/[-.]/g, "");
  if (e < 0) return `${sign}0.${"0".repeat(-e - 1)}${digits}`;
  const padded = digits.padEnd(e + 2, "0");
  return `${sign}${padded.slice(0, e + 1)}.${padded.slice(e + 1)}`;
}

const unprintable = /^[\p{C}\p{Z}]$/u;
const short: Record<string, string> = { "\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\" };

export function textRepr(s: string): string {
  const quote = s.includes("'") && !s.includes('"') ? '"' : "'";
  const body = characters(s).map((c) => {
    if (c === quote) return `\\${c}`;
    if (Object.hasOwn(short, c)) return short[c]!;
    if (c === " " || !unprintable.test(c)) return c;
    const code = c.codePointAt(0)!;
    const hex = code.toString(16);
    if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
    return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
  });
  return built(`${quote}${body.join("")}${quote}`);
}

export function repr(v: Value): string {
  spend(1);
  if (typeof v === "string") return textRepr(v);
  if (isList(v)) return built(`[${v.map(repr).join(", ")}]`);
  if (v instanceof Tuple) return built(`(${v.items.map(repr).join(", ")}${v.items.length === 1 ? "," : ""})`);
  if (v instanceof Dict)
    return built(
      `{${v
        .items()
        .map(({ items }) => items.map(repr).join(": "))
        .join(", ")}}`,
    );
  if (v instanceof View) return built(`${v.type}(${repr(v.items)})`);
  if (v instanceof Undefined) return "Undefined";
  if (v instanceof Namespace) return built(`<Namespace ${repr(Dict.of(v.attributes))}>`);
  if (v instanceof Range) {
    const { start, stop, step } = v;
    return `range(${start}, ${stop}${step === 1 ? "" : `, ${step}`})`;
  }
  return str(v);
}

/** What a template prints of a value. */
export function str(v: Value): string {
  if (typeof v === "string") return v;
  if (v === null) return "None";
  if (typeof v === "boolean") return v ? "True" : "False";
  if (typeof v === "number") return String(v);
  if (v instanceof Float) return floatText(v.value);
  if (v instanceof Undefined) return "";
  if (isList(v) || v instanceof Tuple || v instanceof Dict || v instanceof View) return repr(v);
  if (v instanceof Namespace || v instanceof Range) return repr(v);
  throw new JinjaFault(`printing a ${typeOf(v)} is not supported`);
}

export interface JsonOptions {
  ascii: boolean;
  indent: string | null;
  separators: readonly [item: string, key: string];
  sort: boolean;
}

const jsonText = (s: string, ascii: boolean) => {
  const text = JSON.stringify(s).replace(/\\u(d[89a-f][0-9a-f]{2})/g, (whole, hex: string) =>
    ascii ? whole : String.fromCharCode(Number.parseInt(hex, 16)),
  );
  if (!ascii) return text;
  return text.replace(/[\u007f-\uffff]/g, (c) =>
    c === "\x7f" ? c : `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
};

const jsonFloat = (x: number) =>
  Number.isNaN(x) ? "NaN" : Number.isFinite(x) ? floatText(x) : x > 0 ? "Infinity" : "-Infinity";

function jsonKey(key: Value): string {
  if (typeof key === "string") return key;
  if (key === null) return "null";
  if (typeof key === "boolean") return String(key);
  if (typeof key === "number") return String(key);
  if (key instanceof Float) return jsonFloat(key.value);
  throw new JinjaFault(`tojson: keys must be str, int, float, bool or None, not ${typeOf(key)}`);
}

export function json(v: Value, o: JsonOptions, level = 0): string {
  spend(1);
  if (v === null) return "null";
  if (typeof v === "boolean" || typeof v === "number") return String(v);
  if (typeof v === "string") return built(jsonText(v, o.ascii));
  if (v instanceof Float) return jsonFloat(v.value);
  const inside = (brackets: string, parts: string[]) => {
    if (parts.length === 0) return brackets;
    if (o.indent === null) return built(brackets[0] + parts.join(o.separators[0]) + brackets[1]);
    const line = (n: number) => `\n${o.indent!.repeat(n)}`;
    return built(
      brackets[0] + line(level + 1) + parts.join(o.separators[0] + line(level + 1)) + line(level) + brackets[1],
    );
  };
  if (isList(v) || v instanceof Tuple)
    return inside(
      "[]",
      (isList(v) ? v : v.items).map((x) => json(x, o, level + 1)),
    );
  if (!(v instanceof Dict)) throw new JinjaFault(`tojson: Object of type ${typeOf(v)} is not JSON serializable`);
  let keys = v.keys();
  if (o.sort) {
    keys = sorted(keys, (key) => key, false);
  }
  return inside(
    "{}",
    keys.map((key) => jsonText(jsonKey(key), o.ascii) + o.separators[1] + json(v.get(key)!, o, level + 1)),
  );
}
