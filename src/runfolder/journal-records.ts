// The contents of a journal: records, each with a key, in groups. A group counts once its end record follows its records.
import { IsrDpoError } from "../base/errors.js";
import { crc32c, hex32 } from "./crc32c.js";

/** A value for JSON: finite numbers only. `cut`: the prompt was cut to fit into the context window. */
export type JournalRecord =
  | { type: "ctx"; video: string; ids: readonly number[]; text: string; cut?: true }
  | { type: "rsp"; sample: string; copy: number; ids: readonly number[]; text: string; end: string }
  | { type: "verdict"; sample: string; order: number; choice: string; margin?: number; raw?: string; cut?: true }
  | { type: "pair"; sample: string; status: string; chosen?: number }
  | { type: "damage"; video: string; lost: number; damaged: number; frames: number }
  | { type: "skip"; sample?: string; video?: string; code: string; message: string }
  | { type: "ref"; sample: string; w: readonly number[]; l: readonly number[] }
  | GroupEnd;

/** Closes the `records` records that stand right before it; `crc` is the CRC-32C of their lines' JSON, newlines included. */
export interface GroupEnd {
  type: "end";
  group: string;
  records: number;
  crc: string;
}

const keyFields: Record<JournalRecord["type"], readonly string[]> = {
  ctx: ["video"],
  rsp: ["sample", "copy"],
  verdict: ["sample", "order"],
  pair: ["sample"],
  damage: ["video"], // of a video that is used all the same
  skip: ["sample", "video"], // one of them
  ref: ["sample"],
  end: ["group"],
};

/** The type and the fields that identify a record, as JSON; undefined for what is no record. */
export function keyIfRecord(value: unknown): string | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const fields = value as Record<string, unknown>;
  const { type } = fields;
  if (typeof type !== "string" || !Object.hasOwn(keyFields, type)) return undefined;
  const names = keyFields[type as JournalRecord["type"]].filter(
    (name) => type !== "skip" || fields[name] !== undefined,
  );
  if (names.length === 0) return undefined;
  const known = names.every((name) => typeof fields[name] === "string" || Number.isSafeInteger(fields[name]));
  if (!known) return undefined;
  const parts = names.map((name) => fields[name]);
  return JSON.stringify(type === "skip" ? [type, names, ...parts] : [type, ...parts]);
}

/** Two records of one key must be equal. BUG for what is no record. */
export function keyOf(record: JournalRecord): string {
  const key = keyIfRecord(record);
  if (key === undefined)
    throw new IsrDpoError("BUG", `journal: expected a record, got ${JSON.stringify(record)?.slice(0, 200)}`);
  return key;
}

const refuseNonFinite = (key: string, value: unknown): unknown => {
  if (typeof value === "number" && !Number.isFinite(value))
    throw new IsrDpoError("BUG", `journal: ${key}: expected a finite number, got ${value}`);
  return value;
};

/** A record as its line's JSON, newline included. */
export function textOf(record: JournalRecord): Buffer {
  const text = JSON.stringify(record);
  if (text.includes("null")) JSON.stringify(record, refuseNonFinite); // NaN and infinities become null
  return Buffer.from(`${text}\n`);
}

/** Takes a journal's records in their order, and gives back those of a group, with what came with each, once it is whole. */
export class GroupReader<T> {
  #open: [record: JournalRecord, more: T][] = []; // since the last end
  /** Names of the groups that are whole, with the checksums of their records. */
  readonly whole = new Map<string, string>();

  push(record: JournalRecord, more: T): [record: Exclude<JournalRecord, GroupEnd>, more: T][] {
    if (record.type !== "end") {
      this.#open.push([record, more]);
      return [];
    }
    const open = this.#open;
    this.#open = [];
    if (
      !holds(
        record,
        open.map(([r]) => r),
      )
    )
      return [];
    this.whole.set(record.group, record.crc);
    return open.slice(open.length - record.records) as ReturnType<this["push"]>;
  }
}

/** The records of the groups that are whole, each key once, in the order of the journal; ends are left out. */
export function finished(records: readonly JournalRecord[]): Exclude<JournalRecord, GroupEnd>[] {
  const found = new Map<string, Exclude<JournalRecord, GroupEnd>>();
  const reader = new GroupReader<undefined>();
  for (const record of records)
    for (const [r] of reader.push(record, undefined)) {
      const key = keyOf(r);
      if (!found.has(key)) found.set(key, r);
    }
  return [...found.values()];
}

/** The groups that are whole. */
export function finishedGroups(records: readonly JournalRecord[]): Set<string> {
  const reader = new GroupReader<undefined>();
  for (const record of records) reader.push(record, undefined);
  return new Set(reader.whole.keys());
}

function holds(end: GroupEnd, before: readonly JournalRecord[]): boolean {
  if (!Number.isSafeInteger(end.records) || end.records < 0 || end.records > before.length) return false;
  let crc = 0;
  for (const record of before.slice(before.length - end.records)) crc = crc32c(textOf(record), crc);
  return hex32(crc) === end.crc;
}

/** Float32 values as the numbers whose decimals are the shortest that give the same float32 back. */
export function shortFloats(values: Float32Array): number[] {
  return Array.from(values, (x) => {
    // Six digits are a shortest form wherever fewer would do, except below the normal range.
    for (let digits = Math.abs(x) < 1.2e-38 ? 1 : 6; digits < 9; digits++) {
      const short = Number(x.toPrecision(digits));
      if (Math.fround(short) === x) return short;
    }
    return Number(x.toPrecision(9));
  });
}
