// run.json: the options and inputs that a run was started with. It is written once; a later start must have the same.
import { randomUUID } from "node:crypto";
import { recorded } from "../base/renamed.js";
import { join } from "node:path";
import { sha256, shortHash } from "../base/sha256.js";
import { isObject, show } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";
import { clockText, wallClock } from "../text/template-date.js";
import { readState, writeAtomic } from "../base/atomic-files.js";

const format = 2;
const maxListed = 12;

/** Keys of config and facts that may differ between starts, with all below them: they change no result. */
export const mayDiffer: readonly string[] = ["config.threads", "config.logging", "config.deviceMemory"];

export interface RunOptions {
  /** What kind of run: "isr", "sft", "dpo", ... */
  kind: string;
  /** The resolved configuration, for JSON; a bigint is kept as its decimal string. */
  config: Readonly<Record<string, unknown>>;
  /** What else must stay: engine version, isa, device, ranks, seed, hashes of prompts and samples. */
  facts: Readonly<Record<string, unknown>>;
  /** Dotted keys; default `mayDiffer`. */
  mayDiffer?: readonly string[];
  /** What is read, by its content. */
  inputs?: Inputs;
  /** The date that chat templates print (LoadOptions.templateDate), kept for all starts. */
  templateDate?: string;
}

/** What a run reads: data, evalData, samples, ... A file at another place with the same content is the same. */
export type Inputs = Readonly<Record<string, { sha256: string; path?: string }>>;

export interface RunFile {
  format: number;
  id: string;
  kind: string;
  config: Record<string, unknown>;
  configSha256: string;
  facts: Record<string, unknown>;
  /** When the run began. */
  recorded: string;
  inputs: Record<string, { sha256: string; path?: string }>;
  templateDate: string | null;
}

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** As JSON keeps it, keys in the order of their code units. BUG for what JSON cannot hold. */
function plain(value: unknown, where: string): Json {
  if (typeof value === "bigint") return String(value);
  if (value === null || typeof value === "boolean" || typeof value === "string") return value;
  if (typeof value === "number" && Number.isFinite(value)) return value;
  if (Array.isArray(value)) return value.map((v, i) => plain(v, `${where}[${i}]`));
  if (typeof value !== "object")
    throw new IsrDpoError("BUG", `${where}: expected a value for JSON, got ${show(value)}`);
  const given = Object.entries(value).filter(([, v]) => v !== undefined);
  const sorted = given.sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(sorted.map(([key, v]) => [key, plain(v, `${where}.${key}`)]));
}

/** The one JSON text of a value: keys sorted, no spaces, undefined left out. */
export const canonicalJson = (value: unknown): string => JSON.stringify(plain(value, "value"));

/**
 * Creates `dir`/run.json, or checks the one that is there: RUN_MISMATCH lists the keys of config, facts and inputs that differ,
 * with both values; JOURNAL_CORRUPT for a file that was changed. The folder must exist.
 */
export async function openRun(dir: string, o: RunOptions): Promise<{ run: RunFile; created: boolean }> {
  const path = join(dir, runName);
  const config = plain(o.config, "config") as Record<string, unknown>;
  const facts = plain(o.facts, "facts") as Record<string, unknown>;
  const found = await readState(path);
  if (found !== null) {
    const run = checked(path, found);
    const asked = { kind: o.kind, config, facts };
    const before = { kind: run.kind, config: byTodaysNames(run.config), facts: run.facts };
    const free = o.mayDiffer ?? mayDiffer;
    refuse(path, [...differencesOf(before, asked, free), ...inputDifferences(run, o.inputs ?? {})]);
    return { run, created: false };
  }
  const run: RunFile = {
    ...{ format, id: randomUUID(), kind: o.kind, config, configSha256: hashOf(config), facts },
    recorded: new Date().toISOString(),
    inputs: plain(o.inputs ?? {}, "inputs") as RunFile["inputs"],
    templateDate: o.templateDate ?? null,
  };
  await writeAtomic(path, `${JSON.stringify(run, null, 2)}\n`);
  return { run, created: true };
}

/** A recorded configuration, whose trainer may have been recorded by old names. */
const byTodaysNames = (config: Record<string, unknown>): Record<string, unknown> => {
  const { trainer } = config;
  if (typeof trainer !== "object" || trainer === null) return config;
  return { ...config, trainer: recorded(trainer as Record<string, unknown>, "gamma") };
};

/** RUN_MISMATCH, with which of them and since when, for inputs that do not hold what the run began with. */
export function checkInputs(dir: string, run: RunFile, inputs: Inputs): void {
  refuse(join(dir, runName), inputDifferences(run, inputs));
}

/** The date of a run's chat templates: that of run.json, else the one that is asked for, else now. RUN_MISMATCH for another. */
export function templateDateOf(dir: string, run: RunFile | null, asked: Date | string | undefined): string {
  const date = clockText(wallClock("options.load.templateDate", asked));
  if (!run || run.templateDate === null) return date;
  const difference = { key: "templateDate", before: run.templateDate, now: date };
  if (asked !== undefined && date !== run.templateDate) refuse(join(dir, runName), [difference]);
  return run.templateDate;
}

export const runName = "run.json";

/** What run.json says, for a run of one of these kinds: RUN_MISMATCH for another; null for a file of another program. */
export function readRun(path: string, found: Record<string, unknown>, kind: string): RunFile | null {
  if (typeof found.format !== "number" || typeof found.configSha256 !== "string") return null;
  const run = checked(path, found);
  if (run.kind !== kind) refuse(path, differencesOf({ kind: run.kind }, { kind }, []));
  return run;
}

const hashOf = (config: unknown): string => sha256(canonicalJson(config));

function checked(path: string, found: Record<string, unknown>): RunFile {
  if (found.format !== format) {
    const { engine } = (isObject(found.facts) ? found.facts : {}) as { engine?: unknown };
    const by = typeof engine === "string" ? `, written by version ${engine}` : "";
    throw new IsrDpoError("RUN_MISMATCH", `${path}: expected format ${format}, got ${show(found.format)}${by}`, {
      hint: "the run was made by another version of this package: resume it with that, or start in a new folder",
      path,
      detail: { differences: [{ key: "format", before: found.format, now: format }] },
    });
  }
  const whole = typeof found.id === "string" && typeof found.kind === "string" && isObject(found.facts);
  const content = isObject(found.inputs) && typeof found.recorded === "string";
  if (!whole || !content || !isObject(found.config) || found.configSha256 !== hashOf(found.config))
    throw new IsrDpoError("JOURNAL_CORRUPT", `${path}: expected the file as it was written, got a changed one`, {
      hint: "restore it, or start in a new folder",
      path,
    });
  return found as unknown as RunFile;
}

/** Values by dotted key; arrays and empty objects are values. */
function* leaves(value: unknown, key = ""): Generator<[string, unknown]> {
  const entries = isObject(value) ? Object.entries(value) : [];
  if (entries.length === 0) yield [key, value];
  for (const [name, below] of entries) yield* leaves(below, key === "" ? name : `${key}.${name}`);
}

interface Difference {
  key: string;
  before: unknown;
  now: unknown;
  /** In place of both values. */
  text?: string;
}

function differencesOf(before: object, now: object, allowed: readonly string[]): Difference[] {
  const [old, asked] = [new Map(leaves(before)), new Map(leaves(now))];
  const same = (key: string) =>
    old.has(key) === asked.has(key) && JSON.stringify(old.get(key)) === JSON.stringify(asked.get(key));
  const free = (key: string) => allowed.some((a) => key === a || key.startsWith(`${a}.`));
  return [...new Set([...old.keys(), ...asked.keys()])]
    .filter((key) => !same(key) && !free(key))
    .map((key) => ({ key, before: old.get(key), now: asked.get(key) }));
}

function inputDifferences({ inputs, recorded }: RunFile, now: Inputs): Difference[] {
  return Object.entries(now).flatMap(([name, { sha256, path }]): Difference[] => {
    const before = inputs[name];
    if (before?.sha256 === sha256) return [];
    const was = before
      ? `the content of ${recorded} (sha256 ${shortHash(before.sha256)}${before.path ? `, then ${before.path}` : ""})`
      : `none, as on ${recorded}`;
    const is = `other content (sha256 ${shortHash(sha256)}${path === undefined ? "" : `, ${path}`})`;
    return [{ key: `inputs.${name}`, before: before?.sha256, now: sha256, text: `expected ${was}, got ${is}` }];
  });
}

/** RUN_MISMATCH for differences, if there are any. */
function refuse(path: string, differences: readonly Difference[]): void {
  if (differences.length === 0) return;
  const value = (v: unknown) =>
    v === undefined ? "nothing" : Array.isArray(v) ? JSON.stringify(v).slice(0, 60) : show(v);
  const listed = differences
    .slice(0, maxListed)
    .map((d) => `  ${d.key}: ${d.text ?? `expected ${value(d.before)}, got ${value(d.now)}`}`);
  const more = differences.length > maxListed ? [`  and ${differences.length - maxListed} more`] : [];
  const content = differences.every((d) => d.text !== undefined);
  const [what, hint] = content
    ? ["other content", "restore the file, or start in a new folder"]
    : ["other values", "resume with the configuration of the run, or start in a new folder"];
  throw new IsrDpoError("RUN_MISMATCH", [`${path}: the run was started with ${what}`, ...listed, ...more].join("\n"), {
    hint,
    path,
    detail: { differences: differences.map(({ key, before, now }) => ({ key, before, now })) },
  });
}
