// Formatted numbers and texts: "%s" % x and str.format, except for what templates do not need, which is refused by name.
import { bounds, built, JinjaFault } from "./fault.js";
import { floatText, repr, str } from "./print.js";
import {
  type Arguments,
  characters,
  Dict,
  Float,
  isList,
  numberOf,
  Range,
  Tuple,
  typeOf,
  Undefined,
  type Value,
} from "./values.js";

/** toFixed with Python's rounding: to even where two are equally near. */
export function fixed(x: number, digits: number): string {
  if (!Number.isFinite(x)) return floatText(x);
  if (Math.abs(x) >= 1e21) throw new JinjaFault("a fixed number of digits of numbers beyond 1e21 is not supported");
  const exact = Math.abs(x).toFixed(Math.min(100, digits + 60));
  const point = exact.indexOf(".");
  const kept = exact.slice(0, point + 1 + digits);
  const rest = exact.slice(point + 1 + digits);
  const tie = /^50*$/.test(rest);
  const even = "02468".includes(kept.replace(".", "").at(-1)!);
  const negative = x < 0 || Object.is(x, -0) ? "-" : "";
  if (tie && even) return negative + (digits === 0 ? kept.replace(".", "") : kept);
  return negative + Math.abs(x).toFixed(digits);
}

function exponential(x: number, digits: number): string {
  if (!Number.isFinite(x)) return floatText(x);
  const [mantissa, e] = x.toExponential(digits).split("e") as [string, string];
  return `${mantissa}e${e[0]}${e.slice(1).padStart(2, "0")}`;
}

function general(x: number, digits: number): string {
  if (!Number.isFinite(x)) return floatText(x);
  const p = Math.max(1, digits);
  const e = x === 0 ? 0 : Number(x.toExponential(p - 1).split("e")[1]);
  const text = e < -4 || e >= p ? exponential(x, p - 1) : fixed(x, p - 1 - e);
  if (!text.includes(".")) return text;
  return text.replace(/\.?0+(e|$)/, "$1");
}

interface Spec {
  fill: string;
  align: string;
  sign: string;
  width: number;
  comma: string;
  precision: number | null;
  type: string;
}

const grouped = (digits: string, by: string) => (by === "" ? digits : digits.replace(/\B(?=(\d{3})+(?!\d))/g, by));

function magnitude(v: Value, x: number, spec: Spec): string {
  const { type, precision } = spec;
  const float = v instanceof Float;
  if ("dxXob".includes(type) && type !== "" && float)
    throw new JinjaFault(`Unknown format code '${type}' for object of type 'float'`);
  const a = Math.abs(x);
  switch (type) {
    case "f":
    case "F":
      return fixed(a, precision ?? 6);
    case "e":
      return exponential(a, precision ?? 6);
    case "g":
      return general(a, precision ?? 6);
    case "%":
      return `${fixed(a * 100, precision ?? 6)}%`;
    case "x":
      return a.toString(16);
    case "X":
      return a.toString(16).toUpperCase();
    case "o":
      return a.toString(8);
    case "b":
      return a.toString(2);
    case "":
    case "d":
      if (float && precision !== null) throw new JinjaFault("a precision without a letter is not supported");
      return float ? floatText(a) : String(a);
  }
  throw new JinjaFault(`a format of ${JSON.stringify(type)} is not supported`);
}

function placed(text: string, spec: Spec, align: string): string {
  const missing = spec.width - characters(text).length;
  if (missing <= 0) return text;
  if (missing > bounds.text) throw new JinjaFault(`a text of more than ${bounds.text} characters`);
  const before = align === "<" ? 0 : align === "^" ? Math.floor(missing / 2) : missing;
  return built(spec.fill.repeat(before) + text + spec.fill.repeat(missing - before));
}

function formatted(v: Value, spec: Spec): string {
  const x = typeof v === "string" ? null : numberOf(v);
  if (x === null || (typeof v === "boolean" && spec.type === "")) {
    if (typeof v !== "string" && typeof v !== "boolean")
      throw new JinjaFault(`a format of a ${typeOf(v)} with a specification is not supported`);
    if (!["", "s"].includes(spec.type) || spec.sign !== "" || spec.comma !== "")
      throw new JinjaFault(`Unknown format code '${spec.type}' for object of type '${typeOf(v)}'`);
    const text = str(v);
    return placed(
      spec.precision === null ? text : characters(text).slice(0, spec.precision).join(""),
      spec,
      spec.align || "<",
    );
  }
  const body = magnitude(v, x, spec);
  const [digits, ...rest] = body.split(/(?=[.e%])/) as [string, ...string[]];
  const sign = x < 0 || Object.is(x, -0) ? "-" : spec.sign === "-" ? "" : spec.sign;
  const number = grouped(digits, spec.comma) + rest.join("");
  if (spec.align !== "=") return placed(sign + number, spec, spec.align || ">");
  if (spec.comma !== "") throw new JinjaFault("zeros in front of grouped digits are not supported");
  return sign + placed(number, { ...spec, width: spec.width - sign.length }, ">");
}

const specification = /^(?:([\s\S])?([<>=^]))?([-+ ]?)(0?)(\d{0,4})([,_]?)(?:\.(\d{1,3}))?([a-zA-Z%]?)$/u;

/** format(value, spec). */
export function formatValue(v: Value, given: string): string {
  if (given === "") return str(v);
  const m = specification.exec(given);
  if (!m) throw new JinjaFault(`a format of ${JSON.stringify(given)} is not supported`);
  const [, fill, align, sign, zero, width, comma, precision, type] = m;
  return formatted(v, {
    fill: fill ?? (zero ? "0" : " "),
    align: align ?? (zero && typeof v !== "string" ? "=" : zero ? "<" : ""),
    sign: sign ?? "",
    width: Number(width || 0),
    comma: comma ?? "",
    precision: precision === undefined ? null : Number(precision),
    type: type ?? "",
  });
}

/** str.format: {}, {0}, {name}, each with ":spec"; attributes, subscripts and conversions are refused. */
export function braceFormat(format: string, { args, kwargs }: Arguments): string {
  let next = 0;
  const text = format.replace(/\{\{|\}\}|\{([^{}]*)\}|[{}]/g, (whole, field?: string) => {
    if (whole === "{{" || whole === "}}") return whole[0]!;
    if (field === undefined) throw new JinjaFault(`str.format: a lone '${whole}'`);
    const colon = field.indexOf(":");
    const name = colon < 0 ? field : field.slice(0, colon);
    if (!/^\w*$/.test(name)) throw new JinjaFault(`str.format: {${field}} is not supported`);
    const value = /^\d*$/.test(name) ? args[name === "" ? next++ : Number(name)] : kwargs.get(name);
    if (value === undefined) throw new JinjaFault(`str.format: no value for {${field}}`);
    return formatValue(value, colon < 0 ? "" : field.slice(colon + 1));
  });
  return built(text);
}

function percentValue(v: Value, letter: string, flags: string, width: number, precision: number | null): string {
  const spec: Spec = {
    fill: flags.includes("0") && !flags.includes("-") && !"src".includes(letter) ? "0" : " ",
    align: flags.includes("-") ? "<" : flags.includes("0") && !"src".includes(letter) ? "=" : ">",
    sign: flags.includes("+") ? "+" : flags.includes(" ") ? " " : "",
    width,
    comma: "",
    precision,
    type: letter,
  };
  if (flags.includes("#")) throw new JinjaFault("% with the flag # is not supported");
  if (letter === "s" || letter === "r")
    return formatted(letter === "s" ? str(v) : repr(v), { ...spec, type: "s", sign: "" });
  if (letter === "c") throw new JinjaFault("%c is not supported");
  const x = numberOf(v);
  if (v instanceof Undefined) v.fail();
  if (x === null) throw new JinjaFault(`%${letter} format: a real number is required, not ${typeOf(v)}`);
  if ("diu".includes(letter)) {
    const n = Math.trunc(x);
    if (precision !== null) throw new JinjaFault(`%.${precision}${letter} is not supported`);
    return formatted(n === 0 ? 0 : n, { ...spec, type: "d" });
  }
  if ("feEgG".includes(letter)) {
    const text = formatted(new Float(x), { ...spec, type: letter.toLowerCase() });
    return letter === letter.toLowerCase() ? text : text.toUpperCase();
  }
  if (v instanceof Float) throw new JinjaFault(`%${letter} format: an integer is required, not float`);
  return formatted(v, spec);
}

/** format % values. */
export function percentFormat(format: string, values: Value): string {
  const list = values instanceof Tuple ? values.items : [values];
  let next = 0;
  const pattern = /%(?:\(([^)]*)\))?([-+ #0]*)(\d*|\*)(?:\.(\d*|\*))?([a-zA-Z%]?)/g;
  const text = format.replace(pattern, (whole, key, flags: string, width: string, precision, letter: string) => {
    if (letter === "%") return "%";
    if (letter === "" || !"sdiufeEgGxXorc".includes(letter) || width === "*" || precision === "*")
      throw new JinjaFault(`a format of ${JSON.stringify(whole)} is not supported`);
    let value: Value | undefined;
    if (key !== undefined) {
      if (!(values instanceof Dict)) throw new JinjaFault("format requires a mapping");
      value = values.get(key as string);
      next = list.length;
    } else value = list[next++];
    if (value === undefined) throw new JinjaFault("not enough arguments for format string");
    return percentValue(value, letter, flags, Number(width), precision === undefined ? null : Number(precision));
  });
  const mapping = values instanceof Dict || isList(values) || values instanceof Range || values instanceof Undefined;
  if (next < list.length && !mapping) throw new JinjaFault("not all arguments converted during string formatting");
  return built(text);
}
