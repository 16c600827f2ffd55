// Options as data: the type, range, default and meaning of an option stand in one row. Functions check their options against
// the rows, and the configuration file's schema and reference, the flags of the command line and the public types with their
// docstrings are made from the same rows.
import {
  array,
  boolean,
  choice,
  idList,
  number,
  object,
  options,
  path,
  type Range,
  refuse,
  seed,
  text,
} from "./check.js";
import { type OldName, renamed } from "./renamed.js";

/** Values of an option, and how they are told from others. */
export type Shape =
  | { readonly kind: "number"; readonly range: Range }
  | { readonly kind: "choice"; readonly of: readonly string[] }
  | { readonly kind: "flag" }
  | { readonly kind: "path" }
  | {
      readonly kind: "text";
      readonly pattern?: RegExp;
      readonly expected?: string;
      readonly url?: true;
      readonly type?: string;
      readonly empty?: true;
    }
  | { readonly kind: "seed" }
  /** Token ids, each below a vocabulary that the row does not know. */
  | { readonly kind: "ids" }
  /** Any number of values of one shape. */
  | { readonly kind: "list"; readonly of: Shape }
  /** Values of one shape by names, which are no options. */
  | { readonly kind: "record"; readonly of: Shape }
  /** One value. */
  | { readonly kind: "constant"; readonly value: false | null }
  /** Two numbers; `ordered`: the first below the second. */
  | { readonly kind: "pair"; readonly of: readonly [Range, Range]; readonly ordered?: true }
  /** The first shape that takes the value. */
  | { readonly kind: "either"; readonly of: readonly Shape[]; readonly expected: string }
  | { readonly kind: "group"; readonly rows: Rows; readonly rules: readonly Rule[] };

/** What concerns several options of a group: the key at fault, and what was expected of it; undefined where all is well. */
// biome-ignore lint/suspicious/noExplicitAny: values have been checked by their rows, whose types a rule's list cannot know
export type Rule = (values: any) => { readonly key: string; readonly expected: string } | undefined;

/** What an option that is left out comes to: its default, undefined, or a refusal. */
export type Presence = "default" | "optional" | "required";

/** One option. `T` is the type of its values. */
export class Row<T = unknown, P extends Presence = Presence> {
  readonly shape: Shape;
  /** What the option means, in sentences. */
  readonly about: string;
  readonly presence: P;
  /** The default, for presence "default"; a group's is made of those of its rows. */
  readonly fallback: T | undefined;
  /** The deprecated name, which is taken as well. */
  readonly oldName: OldName | undefined;

  constructor(shape: Shape, about: string, presence: P, fallback?: T, oldName?: OldName) {
    this.shape = shape;
    this.about = about;
    this.presence = presence;
    this.fallback = fallback;
    this.oldName = oldName;
  }

  /** The option with this default. */
  or(fallback: T): Row<T, "default"> {
    return new Row(this.shape, this.about, "default", fallback, this.oldName);
  }

  /** The option without a default. */
  optional(): Row<T, "optional"> {
    return new Row<T, "optional">(this.shape, this.about, "optional", undefined, this.oldName);
  }

  /** The option, which has to be given. */
  required(): Row<T, "required"> {
    return new Row<T, "required">(this.shape, this.about, "required", undefined, this.oldName);
  }

  /** The option where it means this. */
  meaning(about: string): Row<T, P> {
    return new Row(this.shape, about, this.presence, this.fallback, this.oldName);
  }

  /** The option, which had this name before. */
  formerly(oldName: OldName): Row<T, P> {
    return new Row(this.shape, this.about, this.presence, this.fallback, oldName);
  }
}

/** Options by name. */
export type Rows = Readonly<Record<string, Row>>;

type Value<R> = R extends Row<infer T> ? T : never;
type OptionalKeys<R extends Rows> = { [K in keyof R]: R[K] extends Row<infer _, "optional"> ? K : never }[keyof R];

/** Checked options, with their defaults. */
export type Resolved<R extends Rows> = { readonly [K in Exclude<keyof R, OptionalKeys<R>>]: Value<R[K]> } & {
  readonly [K in OptionalKeys<R>]?: Value<R[K]> | undefined;
};

type Optional<T> = Row<T, "optional">;
const row = <T>(shape: Shape, about: string): Optional<T> => new Row<T, "optional">(shape, about, "optional");

/** A finite number in a range. */
export const real = (about: string, range: Range = {}): Optional<number> => row({ kind: "number", range }, about);

/** A whole number of at least `min`. */
export const whole = (about: string, min: number, max?: number): Optional<number> =>
  row({ kind: "number", range: { integer: true, min, ...(max === undefined ? {} : { max }) } }, about);

/** A share, from 0 to 1. */
export const share = (about: string): Optional<number> => real(about, { min: 0, max: 1 });

/** One of some words. */
export const oneOf = <const T extends readonly string[]>(about: string, ...of: T): Optional<T[number]> =>
  row({ kind: "choice", of }, about);

/** true or false. */
export const flag = (about: string): Optional<boolean> => row({ kind: "flag" }, about);

/** The path of a file or folder. */
export const filePath = (about: string): Optional<string> => row({ kind: "path" }, about);

/** A text that is not empty. */
export const words = (about: string): Optional<string> => row({ kind: "text" }, about);

/** A text, which may be empty. */
export const wordsOrEmpty = (about: string): Optional<string> => row({ kind: "text", empty: true }, about);

/** Any number of values, each of which the row `of` takes. */
export const listOf = <T>(about: string, of: Row<T>): Optional<readonly T[]> =>
  row({ kind: "list", of: of.shape }, about);

/** Values by names of the caller's; the row `of` takes each. */
export const recordOf = <T>(about: string, of: Row<T>): Optional<Readonly<Record<string, T>>> =>
  row({ kind: "record", of: of.shape }, about);

/** Token ids; the model that they are of checks that it has them. */
export const tokenIds = (about: string): Optional<Int32Array | readonly number[]> => row({ kind: "ids" }, about);

/** A text of a pattern; `expected` says of which, and `type` its type in TypeScript where that is narrower than string. */
export const textLike = <T extends string = string>(
  about: string,
  pattern: RegExp,
  expected: string,
  type?: string,
): Optional<T> => row({ kind: "text", pattern, expected, ...(type === undefined ? {} : { type }) }, about);

/** An address, http or https. */
export const address = (about: string): Optional<string> => row({ kind: "text", url: true }, about);

/** A seed of a call. */
export const randomSeed = (about: string): Row<bigint, "default"> => new Row({ kind: "seed" }, about, "default", 0n);

/** A seed of a configuration file, which writes those above 2^53 - 1 as strings of digits. */
export const fileSeed = (about: string): Row<number | string, "default"> =>
  new Row<number | string, "default">({ kind: "seed" }, about, "default", 0);

/** Two numbers, each in its range. */
export const pairOf = (about: string, first: Range, second: Range): Optional<readonly [number, number]> =>
  row({ kind: "pair", of: [first, second] }, about);

/** Two numbers, the first of which is below the second. */
export const interval = (about: string, first: Range, second: Range): Optional<readonly [number, number]> =>
  row({ kind: "pair", of: [first, second], ordered: true }, about);

/** Options in an object of their own, which is filled up with their defaults. */
export const group = <R extends Rows>(about: string, rows: R, ...rules: Rule[]): Row<Resolved<R>, "default"> =>
  new Row<Resolved<R>, "default">({ kind: "group", rows, rules }, about, "default");

/** One value. */
export const only = <T extends false | null>(value: T): Optional<T> => row({ kind: "constant", value }, "");

/** A value of one row or of the other; `expected` names both. */
export const either = <A, B>(about: string, expected: string, a: Row<A>, b: Row<B>): Optional<A | B> =>
  row({ kind: "either", of: [a.shape, b.shape], expected }, about);

/** Deprecated names of these options. */
export const oldNames = (rows: Rows): OldName[] => Object.values(rows).flatMap(({ oldName }) => oldName ?? []);

/** The rule of a group that is broken first. */
export function brokenRule(rules: readonly Rule[], values: Readonly<Record<string, unknown>>) {
  for (const rule of rules) {
    const broken = rule(values);
    if (broken) return broken;
  }
  return undefined;
}

function pairValue(field: string, value: unknown, shape: Shape & { kind: "pair" }): readonly [number, number] {
  const given = array(field, value);
  if (given.length !== 2) refuse(field, "two numbers", value);
  const from = number(`${field}[0]`, given[0], shape.of[0]);
  const second = shape.of[1];
  const range = shape.ordered ? { ...second, above: Math.max(from, second.above ?? from) } : second;
  return [from, number(`${field}[1]`, given[1], range)];
}

function textValue(field: string, value: unknown, { pattern, expected, url, empty }: Shape & { kind: "text" }): string {
  const given = text(field, value);
  if (given === "" && !empty) refuse(field, "a text that is not empty", value);
  if (pattern && !pattern.test(given)) refuse(field, expected!, value);
  if (url && !URL.canParse(given)) refuse(field, "an address (https://...)", value);
  return given;
}

/** The value of an option as a function takes it; INVALID_ARGUMENT that names the field. */
export const checked = <T>(field: string, value: unknown, { shape }: Row<T>): T =>
  checkedValue(field, value, shape) as T;

function checkedValue(field: string, value: unknown, shape: Shape): unknown {
  switch (shape.kind) {
    case "number":
      return number(field, value, shape.range);
    case "choice":
      return choice(field, value, shape.of);
    case "flag":
      return boolean(field, value);
    case "path":
      return path(field, value);
    case "text":
      return textValue(field, value, shape);
    case "seed":
      return seed(field, value);
    case "ids":
      return idList(field, value);
    case "list":
      return array(field, value).map((item, i) => checkedValue(`${field}[${i}]`, item, shape.of));
    case "record":
      return Object.fromEntries(
        Object.entries(object(field, value)).map(([name, item]) => [
          name,
          checkedValue(`${field}.${name}`, item, shape.of),
        ]),
      );
    case "constant":
      return value === shape.value ? value : refuse(field, String(shape.value), value);
    case "pair":
      return pairValue(field, value, shape);
    case "either":
      return eitherValue(field, value, shape);
    case "group":
      return resolved(field, value, shape.rows, shape.rules);
  }
}

/** Of several shapes the one that a value of this type belongs to says what is wrong with it. */
function eitherValue(field: string, value: unknown, { of, expected }: Shape & { kind: "either" }): unknown {
  const types: Readonly<Record<Shape["kind"], string>> = {
    ...{ number: "number", choice: "string", flag: "boolean", path: "string", text: "string", seed: "number" },
    ...{
      constant: "none",
      pair: "object",
      either: "none",
      group: "object",
      ids: "object",
      list: "object",
      record: "object",
    },
  };
  const constant = of.some((shape) => shape.kind === "constant" && shape.value === value);
  if (constant) return value;
  const meant = of.find((shape) => types[shape.kind] === typeof value && value !== null);
  return meant ? checkedValue(field, value, meant) : refuse(field, expected, value);
}

/**
 * Options of a function, checked by their rows and filled up with their defaults. `field` is what messages call them; "": only the keys.
 * @throws IsrDpoError INVALID_ARGUMENT: a key that no row has, with a suggestion; a value that its row does not take; a broken rule
 */
export function resolved<R extends Rows>(
  field: string,
  value: unknown,
  rows: R,
  rules: readonly Rule[] = [],
): Resolved<R> {
  const given = options(field || "options", renamed(field, value, ...oldNames(rows)), Object.keys(rows));
  const at = (key: string) => (field === "" ? key : `${field}.${key}`);
  const values: Record<string, unknown> = {};
  for (const [key, { shape, presence, fallback }] of Object.entries(rows)) {
    const filled = presence === "default" && shape.kind === "group"; // by its own rows
    const value = given[key] === undefined && filled ? {} : given[key];
    if (value !== undefined || presence === "required") values[key] = checkedValue(at(key), value, shape);
    else if (fallback !== undefined) values[key] = fallback;
  }
  const broken = brokenRule(rules, values);
  if (broken) refuse(at(broken.key), broken.expected, values[broken.key]);
  return values as Resolved<R>;
}
