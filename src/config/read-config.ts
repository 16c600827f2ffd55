// Reads a configuration file (YAML) and resolves it: the file overrides the preset, the preset overrides the defaults, and
// paths are relative to the file. An error has file, line, column and key.
import { open } from "node:fs/promises";
import { dirname, isAbsolute, resolve } from "node:path";
import { isDeepStrictEqual } from "node:util";
import {
  type Document,
  isMap,
  isNode,
  isPair,
  isScalar,
  LineCounter,
  type Node,
  parseDocument,
  visit,
  type YAMLMap,
} from "yaml";
import type { z } from "zod";
import { fromHome, nearest, show } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";
import type { Row, Rows } from "../base/option-rows.js";
import { type OldName, tellRenamed } from "../base/renamed.js";
import { type ConfigKind, configs, type RunValues, rowsBelow, type TrainValues } from "./config-rows.js";
import { presets } from "./presets.js";
import { configSchema } from "./schema.js";

type Plain = Record<string, unknown>;
type Keys = readonly (string | number)[];

/** Where a value came from. */
export type Source = "set" | "file" | "preset" | "default";

export interface ResolvedConfig<T> {
  config: T;
  /** By dotted key, of every value of the configuration. */
  sources: ReadonlyMap<string, Source>;
}

const maxBytes = 1 << 20;
const maxAliases = 100;

const isPlain = (x: unknown): x is Plain => typeof x === "object" && x !== null && !Array.isArray(x);

/** Where keys stand in the text that they came from. */
interface Origin {
  name: string;
  place(keys: Keys, key: boolean): string | undefined;
}

const unplaced = (name: string): Origin => ({ name, place: () => undefined });

function invalid(origin: Origin, keys: Keys, message: string, hint?: string, ofKey = false): IsrDpoError {
  const place = origin.place(keys, ofKey);
  const dotted = keys.join(".");
  const said = [place ?? origin.name, ...(dotted === "" ? [] : [dotted]), message].join(": ");
  return new IsrDpoError("INVALID_CONFIG", said, {
    ...(hint === undefined ? {} : { hint }),
    ...(place === undefined ? {} : { path: origin.name }),
    detail: { field: dotted },
  });
}

async function readBytes(path: string): Promise<Buffer> {
  const failed = (e: unknown) => {
    const code = (e as { code?: string }).code;
    const missing = code === "ENOENT" || code === "ENOTDIR";
    return new IsrDpoError(
      missing ? "NOT_FOUND" : "IO",
      `${path}: expected a configuration file, got ${missing ? "nothing there" : (e as Error).message}`,
      { path, cause: e },
    );
  };
  const file = await open(path).catch((e) => Promise.reject(failed(e)));
  try {
    const facts = await file.stat();
    if (!facts.isFile()) throw failed(new Error("no regular file"));
    if (facts.size > maxBytes)
      throw new IsrDpoError("INVALID_CONFIG", `${path}: expected at most ${maxBytes} bytes, got ${facts.size}`, {
        path,
      });
    return await file.readFile();
  } finally {
    await file.close();
  }
}

function textOf(path: string, bytes: Buffer): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new IsrDpoError("INVALID_CONFIG", `${path}: expected UTF-8, got other bytes`, { path });
  }
}

const maxDepth = 32;

function tooDeep(document: Document): boolean {
  let deep = false;
  visit(document, (_, __, ancestors) => {
    deep ||= ancestors.length > 2 * maxDepth; // a level is a collection and a pair
    return deep ? visit.BREAK : undefined;
  });
  return deep;
}

/** The parser's words without the excerpt and without advice for programmers. */
const faultText = ({ message }: Error): string =>
  /call stack/.test(message)
    ? "more levels than can be read"
    : message.split("\n")[0]!.replace(/ at line.*$|; please use .*$/, "");

interface Strange {
  offset: number;
  message: string;
}

/** The dotted keys above a node of the document. */
const dottedOf = (ancestors: readonly unknown[]): string[] =>
  ancestors.flatMap((a) => (isPair(a) && isScalar(a.key) ? [String(a.key.value)] : []));

/** Keys of a map that are there twice, or are merge keys. */
function strangeKey(map: YAMLMap, above: readonly string[]): Strange | undefined {
  const seen = new Set<string>();
  for (const { key } of map.items) {
    if (!isScalar(key)) continue;
    const name = String(key.value);
    const fault =
      name === "<<"
        ? "expected a key, got a merge key (<<), which is not read: write its keys out"
        : seen.has(name)
          ? "expected a key once, got it again"
          : undefined;
    if (fault) return { offset: key.range?.[0] ?? 0, message: `${[...above, name].join(".")}: ${fault}` };
    seen.add(name);
  }
  return undefined;
}

/** What the parser would take otherwise than its writer means it: a key twice, merge keys, an alias of nothing. */
function firstStrange(document: Document): Strange | undefined {
  let found: Strange | undefined;
  const anchors = new Set<string>();
  visit(document, {
    Value(_, node) {
      if (node.anchor) anchors.add(node.anchor);
    },
    Map(_, map, ancestors) {
      if (map.anchor) anchors.add(map.anchor);
      found ??= strangeKey(map as YAMLMap, dottedOf(ancestors));
      return found ? visit.BREAK : undefined;
    },
    Alias(_, { source, range }, ancestors) {
      if (anchors.has(source)) return undefined;
      const keys = dottedOf(ancestors).join(".");
      const message = `${keys === "" ? "" : `${keys}: `}expected an anchor &${source} before the alias *${source}, got none`;
      found ??= { offset: range?.[0] ?? 0, message };
      return visit.BREAK;
    },
  });
  return found;
}

/** Whether a value holds itself, by an alias. */
function endless(value: unknown, above: readonly unknown[] = []): boolean {
  if (typeof value !== "object" || value === null) return false;
  if (above.includes(value)) return true;
  return Object.values(value).some((below) => endless(below, [...above, value]));
}

function parse(path: string, text: string): { value: Plain; origin: Origin } {
  const lines = new LineCounter();
  const at = (offset: number) => {
    const { line, col } = lines.linePos(offset);
    return `${path}:${line}:${col}`;
  };
  const fault = (place: string, message: string) => new IsrDpoError("INVALID_CONFIG", `${place}: ${message}`, { path });
  let document: Document;
  try {
    // Keys are compared by us: the parser compares each with each, minutes for a file of the largest size.
    document = parseDocument(text, {
      lineCounter: lines,
      uniqueKeys: false,
      strict: true,
      logLevel: "error",
      version: "1.2",
    });
  } catch (e) {
    throw fault(path, `expected YAML, got a fault: ${faultText(e as Error)}`);
  }
  const [problem] = [...document.errors, ...document.warnings];
  if (problem) throw fault(at(problem.pos[0]), `expected YAML, got a fault: ${faultText(problem)}`);
  if (tooDeep(document)) throw fault(path, `expected at most ${maxDepth} levels, got more`);
  const strange = firstStrange(document);
  if (strange) throw fault(at(strange.offset), strange.message);
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: maxAliases }) ?? {};
  } catch (e) {
    throw fault(path, `expected YAML with at most ${maxAliases} aliases, got a fault: ${(e as Error).message}`);
  }
  if (endless(value)) throw fault(path, "expected values, got an alias inside of what it stands for");
  if (!isPlain(value)) throw fault(path, `expected keys and values, got ${show(value)}`);
  return { value, origin: { name: path, place: (keys, ofKey) => placeOf(document, keys, ofKey, at) } };
}

function placeOf(document: Document, keys: Keys, ofKey: boolean, at: (offset: number) => string): string | undefined {
  for (let n = keys.length; n >= 0; n--) {
    const parent = n === 0 ? document.contents : document.getIn(keys.slice(0, n - 1), true);
    if (n > 0 && ofKey && n === keys.length && isMap(parent)) {
      const pair = parent.items.find(
        (p) => String((p.key as Node & { value?: unknown })?.value) === String(keys[n - 1]),
      );
      const range = isNode(pair?.key) ? pair.key.range : undefined;
      if (range) return at(range[0]);
    }
    const node = n === 0 ? document.contents : document.getIn(keys.slice(0, n), true);
    if (isNode(node) && node.range) return at(node.range[0]);
  }
  return undefined;
}

/** The values of the first object over those of the second. */
export const layered = (first: Plain, second: Plain): Plain => merged([first, second]);

/** Layers of plain objects, the first one wins; lists and scalars are values. */
function merged(layers: readonly Plain[]): Plain {
  const out: Plain = {};
  for (const layer of layers)
    for (const [key, value] of Object.entries(layer)) {
      if (value === undefined) continue;
      const before = Object.hasOwn(out, key) ? out[key] : undefined;
      const whole = isPlain(value) ? merged([value]) : value;
      const kept = before === undefined ? whole : isPlain(before) && isPlain(value) ? merged([before, value]) : before;
      Object.defineProperty(out, key, { value: kept, enumerable: true, writable: true, configurable: true });
    }
  return out;
}

function valueAt(value: unknown, keys: Keys): unknown {
  let found = value;
  for (const key of keys) {
    if (typeof found !== "object" || found === null || !Object.hasOwn(found, key)) return undefined;
    found = (found as Record<string | number, unknown>)[key];
  }
  return found;
}

/** Values by dotted key; lists and empty objects are values. */
export function* leavesOf(value: unknown, keys: readonly string[] = []): Generator<[string, unknown]> {
  const entries = isPlain(value) ? Object.entries(value).filter(([, v]) => v !== undefined) : [];
  if (entries.length === 0 && keys.length > 0) yield [keys.join("."), value];
  for (const [key, below] of entries) yield* leavesOf(below, [...keys, key]);
}

const typeNames: Readonly<Record<string, string>> = {
  int: "a whole number",
  number: "a finite number",
  string: "a text",
  boolean: "true or false",
  record: "an object",
  tuple: "a list",
};

/** What an issue of zod expected. */
function expectedOf(issue: z.core.$ZodIssue): string {
  const bound = (low: boolean, x: number | bigint, inclusive: boolean | undefined) =>
    `${low ? (inclusive ? "at least" : "greater than") : inclusive ? "at most" : "less than"} ${x}`;
  switch (issue.code) {
    case "invalid_type":
      return typeNames[issue.expected as string] ?? `${/^[aeiou]/.test(issue.expected) ? "an" : "a"} ${issue.expected}`;
    case "too_small":
    case "too_big": {
      const low = issue.code === "too_small";
      const x = low ? issue.minimum : issue.maximum;
      if (issue.origin === "string") return "a text that is not empty";
      if (issue.origin === "array") return `a list of ${x}`;
      return `a number ${bound(low, x, issue.inclusive)}`;
    }
    case "invalid_value":
      return issue.values.length === 1 ? String(issue.values[0]) : `one of ${issue.values.map(String).join(", ")}`;
    case "invalid_format":
      return issue.format === "url" ? "an address (https://...)" : issue.message;
    default:
      return issue.message;
  }
}

/** The issue that says most: unknown keys before the missing ones that they stand for; of a union, its object. */
function tellingIssue(issues: readonly z.core.$ZodIssue[], given: Plain): z.core.$ZodIssue {
  const issue = issues.find(({ code }) => code === "unrecognized_keys") ?? issues[0]!;
  if (issue.code !== "invalid_union" || !isPlain(valueAt(given, issue.path as Keys))) return issue;
  const below = issue.errors.find(([first]) => first && (first.path.length > 0 || first.code === "unrecognized_keys"));
  if (!below) return issue;
  return tellingIssue(
    below.map((b) => ({ ...b, path: [...issue.path, ...b.path] }) as z.core.$ZodIssue),
    given,
  );
}

function issueError(
  originOf: (keys: Keys) => Origin,
  given: Plain,
  issue: z.core.$ZodIssue,
  known: (keys: Keys) => string[],
): IsrDpoError {
  const keys = issue.path as (string | number)[];
  if (issue.code === "unrecognized_keys") {
    const names = known(keys);
    const key = issue.keys[0]!;
    const meant = nearest(key, names);
    const message = `unknown key${meant ? `; did you mean '${meant}'?` : ""}`;
    return invalid(originOf([...keys, key]), [...keys, key], message, `known keys: ${names.join(", ")}`, true);
  }
  const got = valueAt(given, keys);
  const origin = originOf(keys);
  const message = `expected ${expectedOf(issue)}, got ${got === undefined ? "nothing" : show(got)}`;
  const meant =
    issue.code === "invalid_value" && typeof got === "string" ? nearest(got, issue.values.map(String)) : undefined;
  return invalid(origin, keys, message, meant ? `did you mean '${meant}'?` : undefined);
}

function knownKeys(kind: ConfigKind, keys: Keys): string[] {
  let rows = rowsBelow(configs[kind]);
  for (const key of keys) {
    const next: Row | undefined = rows?.[key];
    rows = next && rowsBelow(next);
  }
  return Object.keys(rows ?? {});
}

/** Keys whose values are paths: they stand beside the file that names them, and `~/` is the home folder. */
function* pathKeys(rows: Rows, keys: readonly string[] = []): Generator<readonly string[]> {
  for (const [key, row] of Object.entries(rows)) {
    const below = rowsBelow(row);
    if (below) yield* pathKeys(below, [...keys, key]);
    else if (row.shape.kind === "path") yield [...keys, key];
  }
}

function placePaths(config: Plain, kind: ConfigKind, base: string, fromFile: (dotted: string) => boolean): void {
  for (const keys of pathKeys(rowsBelow(configs[kind])!)) {
    const holder = valueAt(config, keys.slice(0, -1)) as Plain | undefined;
    const key = keys.at(-1)!;
    const value = holder?.[key];
    if (typeof value !== "string") continue;
    const path = fromHome(value) ?? value; // the schema has refused others
    holder![key] = !isAbsolute(path) && fromFile(keys.join(".")) ? resolve(base, path) : path;
  }
}

type Configs = { train: TrainValues; run: RunValues };

/** A resolved configuration of which a program gives these keys elsewhere, or not at all. */
export type Without<T, K extends PropertyKey> = Omit<T, K> & Partial<Pick<T, K & keyof T>>;

/** Warm-up in steps takes the place of a ratio that nobody gave. */
function withImplied(kind: ConfigKind, given: Plain): Plain {
  const holder = kind === "run" ? "train" : "trainer";
  if (valueAt(given, [holder, "warmupSteps"]) === undefined) return given;
  return merged([given, { [holder]: { warmupRatio: 0 } }]);
}

/** The same keys by the names of today; INVALID_CONFIG where a key is given by both of its names. */
function byTodaysNames(rows: Rows, given: Plain, origin: Origin, above: Keys = []): Plain {
  const now = new Map(Object.entries(rows).map(([key, { oldName }]) => [oldName as string | undefined, key]));
  const entries = Object.entries(given).map(([key, value]): [string, unknown] => {
    const name = now.get(key);
    if (name !== undefined && value !== undefined) {
      if (given[name] !== undefined)
        throw invalid(origin, [...above, key], `expected nothing beside ${name}, its new name, got ${show(value)}`);
      tellRenamed(key as OldName);
      return [name, value];
    }
    const below = Object.hasOwn(rows, key) ? rowsBelow(rows[key]!) : undefined;
    return [key, below && isPlain(value) ? byTodaysNames(below, value, origin, [...above, key]) : value];
  });
  return Object.fromEntries(entries);
}

function resolveLayers<K extends ConfigKind>(
  kind: K,
  asked: { set: Plain; file: Plain },
  origins: { set: Origin; file: Origin },
  base: string,
  free: readonly string[] = [],
): ResolvedConfig<Configs[K]> {
  const rows = rowsBelow(configs[kind])!;
  const given = {
    set: byTodaysNames(rows, asked.set, origins.set),
    file: byTodaysNames(rows, asked.file, origins.file),
  };
  const within = (layer: Plain, keys: Keys) => valueAt(layer, keys) !== undefined;
  const name = valueAt(given.set, ["preset"]) ?? valueAt(given.file, ["preset"]);
  const preset: Plain =
    typeof name === "string" && Object.hasOwn(presets, name) ? presets[name as keyof typeof presets][kind] : {};
  const whole = merged([withImplied(kind, merged([given.set, given.file])), preset]);
  const parsed = configSchema(kind, free).safeParse(whole);
  if (!parsed.success) {
    const originOf = (keys: Keys) => (within(given.set, keys) ? origins.set : origins.file);
    throw issueError(originOf, whole, tellingIssue(parsed.error.issues, whole), (keys) => knownKeys(kind, keys));
  }
  const config = parsed.data as Plain;
  const sources = new Map<string, Source>();
  for (const [dotted, value] of leavesOf(config)) {
    const keys = dotted.split(".");
    const from = (layer: Plain) => isDeepStrictEqual(valueAt(layer, keys), value);
    sources.set(
      dotted,
      within(given.set, keys) ? "set" : within(given.file, keys) ? "file" : from(preset) ? "preset" : "default",
    );
  }
  placePaths(config, kind, base, (dotted) => sources.get(dotted) === "file");
  return { config: config as unknown as Configs[K], sources };
}

/** `key.below=value` with the value as YAML. */
export function settingsOf(list: readonly string[]): Plain {
  let all: Plain = {};
  for (const setting of list) {
    const at = setting.indexOf("=");
    const keys = setting.slice(0, at).split(".");
    if (at < 1 || keys.some((k) => !/^[A-Za-z][A-Za-z0-9]*$/.test(k)))
      throw new IsrDpoError("INVALID_CONFIG", `--set: expected key=value, got ${show(setting)}`);
    const { value } = parse(`--set ${setting.slice(0, at)}`, `value: ${setting.slice(at + 1)}`);
    const nested = keys.reduceRight<unknown>((below, key) => ({ [key]: below }), value.value ?? null) as Plain;
    all = merged([nested, all]);
  }
  return all;
}

/** A YAML file of keys and values, as it stands. Errors as with readConfig. */
export const readYaml = async (path: string): Promise<Plain> => parse(path, textOf(path, await readBytes(path))).value;

/** The kind that a file is by its keys: only the other has `samples`, only this one has `data`. */
export async function kindOf(path: string): Promise<ConfigKind> {
  const value = await readYaml(path);
  return Object.hasOwn(value, "data") && !Object.hasOwn(value, "samples") ? "train" : "run";
}

/**
 * Reads and resolves a configuration file; `set` wins over the file (flags, `settingsOf`). INVALID_CONFIG with file, line,
 * column and key, what was expected and what came; NOT_FOUND, IO.
 */
export async function readConfig<K extends ConfigKind>(
  path: string,
  kind: K,
  set: Plain = {},
): Promise<ResolvedConfig<Configs[K]>> {
  const { value, origin } = parse(path, textOf(path, await readBytes(path)));
  const origins = { set: unplaced("command line"), file: origin };
  return resolveLayers(kind, { set, file: value }, origins, dirname(resolve(path)));
}

/**
 * Resolves a configuration that a program gives, which messages call `name`; paths stay as they are. `free`: keys that the
 * program need not give.
 */
export function resolveConfig<K extends ConfigKind, const F extends readonly string[] = readonly []>(
  kind: K,
  value: unknown,
  name = "config",
  free?: F,
): ResolvedConfig<Without<Configs[K], F[number]>> {
  const origin = unplaced(name);
  if (!isPlain(value)) throw invalid(origin, [], `expected an object, got ${show(value)}`);
  if (endless(value)) throw invalid(origin, [], "expected values, got an object that holds itself");
  return resolveLayers(kind, { set: value, file: {} }, { set: origin, file: origin }, ".", free);
}
