// run.json: what a run was started with. It is written once; a later start must ask for the same.
import { createHash, randomUUID } from "node:crypto";
import { join } from "node:path";
import { show } from "../check.js";
import { IsrDpoError } from "../errors.js";
import { readState, writeAtomic } from "./files.js";

const format = 1;
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
}

export interface RunFile {
  format: number;
  id: string;
  kind: string;
  config: Record<string, unknown>;
  configSha256: string;
  facts: Record<string, unknown>;
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

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

/**
 * Creates `dir`/run.json, or checks the one that is there: RUN_MISMATCH lists the keys of config and facts that differ,
 * with both values; JOURNAL_CORRUPT for a file that was changed. The folder must exist.
 */
export async function openRun(dir: string, o: RunOptions): Promise<{ run: RunFile; created: boolean }> {
  const path = join(dir, "run.json");
  const config = plain(o.config, "config") as Record<string, unknown>;
  const facts = plain(o.facts, "facts") as Record<string, unknown>;
  const found = await readState(path);
  if (found !== null) {
    const run = checked(path, found);
    const asked = { kind: o.kind, config, facts };
    compare(path, { kind: run.kind, config: run.config, facts: run.facts }, asked, o.mayDiffer ?? mayDiffer);
    return { run, created: false };
  }
  const run: RunFile = { format, id: randomUUID(), kind: o.kind, config, configSha256: hashOf(config), facts };
  await writeAtomic(path, `${JSON.stringify(run, null, 2)}\n`);
  return { run, created: true };
}

const hashOf = (config: unknown): string => sha256(canonicalJson(config));

function checked(path: string, found: Record<string, unknown>): RunFile {
  if (found.format !== format)
    throw new IsrDpoError("RUN_MISMATCH", `${path}: expected format ${format}, got ${show(found.format)}`, {
      hint: "the run was made by another version of this package: resume it with that, or start in a new folder",
      path,
      detail: { differences: [{ key: "format", before: found.format, now: format }] },
    });
  const isObject = (v: unknown) => typeof v === "object" && v !== null && !Array.isArray(v);
  const whole = typeof found.id === "string" && typeof found.kind === "string" && isObject(found.facts);
  if (!whole || !isObject(found.config) || found.configSha256 !== hashOf(found.config))
    throw new IsrDpoError("JOURNAL_CORRUPT", `${path}: expected the file as it was written, got a changed one`, {
      hint: "restore it, or start in a new folder",
      path,
    });
  return found as unknown as RunFile;
}

/** Values by dotted key; arrays and empty objects are values. */
function* leaves(value: unknown, key = ""): Generator<[string, unknown]> {
  const branch = typeof value === "object" && value !== null && !Array.isArray(value);
  const entries = branch ? Object.entries(value) : [];
  if (entries.length === 0) yield [key, value];
  for (const [name, below] of entries) yield* leaves(below, key === "" ? name : `${key}.${name}`);
}

function compare(path: string, before: object, now: object, allowed: readonly string[]): void {
  const [old, asked] = [new Map(leaves(before)), new Map(leaves(now))];
  const same = (key: string) =>
    old.has(key) === asked.has(key) && JSON.stringify(old.get(key)) === JSON.stringify(asked.get(key));
  const free = (key: string) => allowed.some((a) => key === a || key.startsWith(`${a}.`));
  const differences = [...new Set([...old.keys(), ...asked.keys()])]
    .filter((key) => !same(key) && !free(key))
    .map((key) => ({ key, before: old.get(key), now: asked.get(key) }));
  if (differences.length === 0) return;
  const text = (v: unknown) =>
    v === undefined ? "nothing" : Array.isArray(v) ? JSON.stringify(v).slice(0, 60) : show(v);
  const listed = differences
    .slice(0, maxListed)
    .map((d) => `  ${d.key}: expected ${text(d.before)}, got ${text(d.now)}`);
  const more = differences.length > maxListed ? [`  and ${differences.length - maxListed} more`] : [];
  throw new IsrDpoError(
    "RUN_MISMATCH",
    [`${path}: the run was started with other values`, ...listed, ...more].join("\n"),
    {
      hint: "resume with the configuration of the run, or start in a new folder",
      path,
      detail: { differences },
    },
  );
}
