// The rows of the configuration as a schema of zod, which checks nested documents from outside and gives the JSON Schema.
import { z } from "zod";
import { fromHome } from "../base/check.js";
import type { Range } from "../base/check.js";
import { brokenRule, type Row, type Rows, type Rule, type Shape } from "../base/option-rows.js";
import { type ConfigKind, configs } from "./config-rows.js";

const digits = /^\d{1,20}$/;
const seed = z
  .union([z.int().min(0), z.string().regex(digits)], {
    error: "a whole number from 0 to 2^53 - 1, or up to 2^64 - 1 as a string of digits",
  })
  .refine((s) => !digits.test(String(s)) || BigInt(s) < 1n << 64n, "a whole number from 0 to 2^64 - 1");

const path = z
  .string()
  .min(1)
  .refine((s) => !s.includes("\0"), "a path without zero bytes")
  .refine((s) => fromHome(s) !== null, "a path with ~/ for your home folder, or ./~name for a folder of that name");

function numberOf({ integer, min, max, above, below }: Range): z.ZodType {
  let schema: z.ZodNumber = integer ? z.int() : z.number();
  if (min !== undefined) schema = schema.min(min);
  if (above !== undefined) schema = schema.gt(above);
  const most = integer ? (max ?? 2 ** 31 - 1) : max;
  if (most !== undefined) schema = schema.max(most);
  return below === undefined ? schema : schema.lt(below);
}

function pairOf({ of, ordered }: Shape & { kind: "pair" }): z.ZodType {
  const pair = z.tuple([numberOf(of[0]), numberOf(of[1])]);
  return ordered ? pair.refine(([from, to]) => (from as number) < (to as number), "a begin before its end") : pair;
}

function textOf({ pattern, expected, url, empty }: Shape & { kind: "text" }): z.ZodType {
  if (url) return z.url();
  if (empty) return z.string();
  return pattern ? z.string().regex(pattern, expected) : z.string().min(1);
}

/** A group's keys, with its rules; `free`: keys that may be missing. */
function groupOf(rows: Rows, rules: readonly Rule[], free: readonly string[] = []): z.ZodType {
  const entries = Object.entries(rows).map(([key, row]) => [key, schemaOf(free.includes(key) ? row.optional() : row)]);
  const object = z.strictObject(Object.fromEntries(entries) as Record<string, z.ZodType>);
  if (rules.length === 0) return object;
  return object.superRefine((values, context) => {
    const broken = brokenRule(rules, values);
    if (broken) context.addIssue({ code: "custom", message: broken.expected, path: broken.key.split(".") });
  });
}

function shapeOf(shape: Shape): z.ZodType {
  switch (shape.kind) {
    case "number":
      return numberOf(shape.range);
    case "choice":
      return z.enum(shape.of as [string, ...string[]]);
    case "flag":
      return z.boolean();
    case "path":
      return path;
    case "text":
      return textOf(shape);
    case "seed":
      return seed;
    case "ids":
      return z.array(z.int().min(0));
    case "list":
      return z.array(shapeOf(shape.of));
    case "record":
      return z.record(z.string().min(1), shapeOf(shape.of));
    case "constant":
      return shape.value === null ? z.null() : z.literal(shape.value);
    case "pair":
      return pairOf(shape);
    case "either":
      return z.union(shape.of.map(shapeOf) as [z.ZodType, z.ZodType], { error: shape.expected });
    case "group":
      return groupOf(shape.rows, shape.rules);
  }
}

function schemaOf({ shape, about, presence, fallback }: Row): z.ZodType {
  const known = { ...(about === "" ? {} : { description: about }), ...(shape.kind === "path" ? { path: true } : {}) };
  const schema = shapeOf(shape).meta(known);
  if (presence === "required") return schema;
  if (presence === "optional") return schema.optional();
  const object = typeof fallback === "object" && fallback !== null && !Array.isArray(fallback);
  return shape.kind === "group" || object ? schema.prefault(fallback ?? {}) : schema.default(fallback);
}

const made = new Map<string, z.ZodType>(); // by kind and free keys: a process may resolve many configurations

/** The schema of a kind of configuration; `free`: keys at its top that a program gives elsewhere, and that may be missing. */
export function configSchema(kind: ConfigKind, free: readonly string[] = []): z.ZodType {
  const name = [kind, ...free].join();
  const known = made.get(name);
  if (known) return known;
  const { shape } = configs[kind];
  if (shape.kind !== "group") throw new TypeError(`a configuration of kind ${kind} is not a group of keys`);
  const schema = groupOf(shape.rows, shape.rules, free);
  made.set(name, schema);
  return schema;
}

/** JSON Schema of a kind, for editors. */
export const jsonSchema = (kind: ConfigKind): object => z.toJSONSchema(configSchema(kind), { io: "input" });
