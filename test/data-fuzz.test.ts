// Mutated rows and Parquet bytes: nothing but IsrDpoError comes out, soon. ISR_DPO_FUZZ_SECONDS: go on for so long.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ordered } from "./helpers/assert.js";
import { checkSnappy } from "../src/data/snappy.js";
import { readExamples } from "../src/data/read-examples.js";
import { readPairs } from "../src/data/read-pairs.js";
import { readSamples } from "../src/data/read-samples.js";
import { readThrift } from "../src/data/thrift.js";
import { isIsrDpoError } from "../src/base/errors.js";
import { all, caught } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";
import { uniform } from "./helpers/seeded.js";

const test = suite("data-fuzz");
const folder = fileURLToPath(new URL("data/", import.meta.url));
const seconds = Number(process.env.ISR_DPO_FUZZ_SECONDS ?? 0);
const mutations = 150; // of each kind
const slowest = 5000; // ms of one mutation, on a busy machine
const named = (ending: RegExp) => readdirSync(folder).filter((name) => ending.test(name));
const sources = Object.fromEntries(named(/\.(jsonl?|parquet)$/).map((name) => [name, readFileSync(folder + name)]));
const texts = named(/\.jsonl$/);
const tables = named(/\.parquet$/);

type Pick = (n: number) => number;
const values = [
  null,
  true,
  -1,
  1.5,
  Number.MAX_VALUE,
  "",
  "x",
  "<video>",
  "../x",
  "\ud800",
  [],
  {},
  [[]],
  [{}],
  { value: "x" },
  "a\0",
];

/** Puts something else into a random place of a JSON value. */
function mutateJson(value: unknown, pick: Pick): unknown {
  if (typeof value !== "object" || value === null || pick(6) === 0) return values[pick(values.length)];
  const copy = (Array.isArray(value) ? [...value] : { ...value }) as Record<string, unknown>;
  const keys = Object.keys(copy);
  const key = keys[pick(keys.length)];
  if (key === undefined) return values[pick(values.length)];
  if (pick(8) === 0) delete copy[key];
  else copy[key] = mutateJson(copy[key], pick);
  return copy;
}

function mutateBytes(bytes: Buffer, pick: Pick, from = 0): Buffer {
  const copy = Buffer.from(bytes);
  const place = () => from + pick(copy.length - from);
  for (let k = 0; k <= pick(4); k++) {
    const at = place();
    const kind = pick(8);
    if (kind < 3) copy[at] = pick(256);
    else if (kind < 5) copy[at]! ^= 1 << pick(8);
    else if (kind === 5) copy.fill(255, at, Math.min(copy.length, at + 1 + pick(5)));
    else if (kind === 6) copy.copy(copy, at, place(), Math.min(copy.length, at + pick(64)));
    else if (pick(4) === 0) return copy.subarray(0, at);
  }
  return copy;
}

type Made = [name: string, bytes: Buffer | string];
const kinds: Record<string, (pick: Pick) => Made> = {
  "rows, values": (pick) => {
    const rows = sources[texts[pick(texts.length)]!]!.toString().split("\n").filter(Boolean);
    const mutated = rows.map((row) => JSON.stringify(pick(2) ? JSON.parse(row) : mutateJson(JSON.parse(row), pick)));
    return pick(2) ? ["a.jsonl", mutated.join("\n")] : ["a.json", `[${mutated.join(",")}]`];
  },
  "rows, bytes": (pick) => ["a.jsonl", mutateBytes(sources[texts[pick(texts.length)]!]!, pick)],
  "Parquet, bytes": (pick) => ["a.parquet", mutateBytes(sources[tables[pick(tables.length)]!]!, pick)],
  "Parquet, footer": (pick) => {
    const bytes = sources[tables[pick(tables.length)]!]!;
    return ["a.parquet", mutateBytes(bytes, pick, bytes.length - 8 - bytes.readUInt32LE(bytes.length - 8))];
  },
  "Parquet, pages": (pick) => {
    const bytes = sources[["pyarrow_none.parquet", "pyarrow_delta.parquet", "pyarrow_chat.parquet"][pick(3)]!]!;
    const pages = bytes.length - 8 - bytes.readUInt32LE(bytes.length - 8);
    return ["a.parquet", Buffer.concat([mutateBytes(bytes.subarray(0, pages), pick), bytes.subarray(pages)])];
  },
};

async function use(path: string, pick: Pick): Promise<number> {
  const o = pick(2) ? { onBadRow: "skip" as const, onSkip: () => {} } : {};
  const format = (["auto", "hound", "trl", "sharegpt"] as const)[pick(4)];
  const kind = pick(4);
  if (kind === 0) return (await all(readSamples(path, o))).length;
  const items: AsyncIterable<unknown> = (kind === 1 ? readExamples : readPairs)(path, { ...o, format });
  return (await all(items)).length;
}

for (const [kind, make] of Object.entries(kinds))
  test(`mutations: ${kind}`, async () => {
    const seed = Number(process.env.ISR_DPO_FUZZ_SEED ?? (seconds > 0 ? Date.now() % 1e6 : 11));
    const next = uniform(seed);
    const pick = (n: number) => Math.floor(((next() + 1) / 2) * n);
    const until = performance.now() + (seconds * 1000) / Object.keys(kinds).length;
    const outcomes = { used: 0, refused: 0 };
    const dir = temporaryFolder();
    for (let n = 0; n < mutations || performance.now() < until; n++) {
      const [name, bytes] = make(pick);
      const path = join(dir, name);
      writeFileSync(path, bytes);
      const begun = performance.now();
      const outcome = await use(path, pick).catch((e: unknown) => e);
      if (typeof outcome === "number") outcomes.used++;
      else if (isIsrDpoError(outcome, "DATA_INVALID")) outcomes.refused++;
      else assert.unreachable(`seed ${seed}, mutation ${n}: ${outcome instanceof Error ? outcome.stack : outcome}`);
      assert.ok(performance.now() - begun < slowest, `seed ${seed}, mutation ${n} took too long`);
    }
    assert.ok(outcomes.refused > 0 && outcomes.used > 0, JSON.stringify(outcomes));
  });

// Bytes that would make a trusting reader allocate without bound or never end.
const varint = (n: number): number[] => (n < 128 ? [n] : [(n % 128) + 128, ...varint(Math.floor(n / 128))]);
const struct = (...fields: number[][]) => [...fields.flat(), 0];
const i32 = (delta: number, n: number) => [delta * 16 + 5, ...varint(n * 2)];
const nested = (delta: number, body: number[]) => [delta * 16 + 12, ...body];

/** The file of `pyarrow_none.parquet` with the first column's page replaced; its place and length stay. */
function withPage(page: number[]): Buffer {
  const bytes = Buffer.from(sources["pyarrow_none.parquet"]!);
  const dictionary = readThrift(bytes, 4);
  ordered(dictionary.end, "<", 100);
  bytes.fill(0, 4, 4 + 64);
  Buffer.from(page).copy(bytes, 4);
  return bytes;
}

const dataPage = (size: number, stored: number, values: number, encoding: number, body: number[]) => [
  ...struct(
    i32(1, 0),
    i32(1, size),
    i32(1, stored),
    nested(2, struct(i32(1, values), i32(1, encoding), i32(1, 3), i32(1, 3))),
  ),
  ...body,
];
const bombs: readonly [name: string, page: number[], message: RegExp][] = [
  ["two billion values", dataPage(20, 20, 2 ** 31 - 1, 0, []), /count of values from 0 to 16777216/],
  ["a page of 2 GiB", dataPage(2 ** 31 - 1, 20, 1, 0, []), /page size from 0 to/],
  ["a page beyond its column", dataPage(20, 2 ** 24, 1, 0, []), /stored page size/],
  [
    "a run of a billion levels",
    dataPage(20, 20, 9, 0, [6, 0, 0, 0, ...varint(2 ** 31), 1]),
    /a run of 1073741824 where 9/,
  ],
  ["a packed run of a billion", dataPage(20, 20, 9, 0, [6, 0, 0, 0, ...varint(2 ** 31 + 1), 1]), /a run of 8589934592/],
  [
    "a run of a billion indices",
    dataPage(20, 20, 9, 8, [2, 0, 0, 0, 18, 1, 3, ...varint(2 ** 31), 1]),
    /a run of 1073741824/,
  ],
  ["deltas without blocks", dataPage(20, 20, 9, 5, [2, 0, 0, 0, 18, 1, 0, 0, 0, 0]), /blocks of 0 \/ 0/],
  ["an encoding of shared prefixes", dataPage(20, 20, 9, 7, [2, 0, 0, 0, 18, 1]), /got encoding 7/],
];
for (const [name, page, message] of bombs)
  test(`refused before it is decoded: ${name}`, async () => {
    const path = join(temporaryFolder(), "a.parquet");
    writeFileSync(path, withPage(page));
    const e = await caught(() => all(readPairs(path)));
    assert.is(e.code, "DATA_INVALID");
    assert.match(e.message, message);
  });

const structures: readonly [name: string, bytes: number[], message: RegExp][] = [
  ["a list of more elements than bytes", [0x19, 0xf5, ...varint(2 ** 28), 0], /a length of/],
  ["lists nested without end", [0x19, ...Array<number>(5000).fill(0x19)], /nested/],
  ["structures nested without end", Array<number>(5000).fill(0x1c), /nested/],
  ["a number without end", [0x15, ...Array<number>(5000).fill(0x80)], /more than 10 bytes/],
  ["a number of 40 bits as one of 32", [0x15, ...varint(2 ** 40), 0], /32-bit/],
  ["a text past the end", [0x18, 50, 1], /a length of 50/],
  ["no end", [0x15, 2], /past its end/],
  ["an unknown type", [0x1d, 0], /type 13/],
];
for (const [name, bytes, message] of structures)
  test(`thrift: ${name}`, () => assert.throws(() => readThrift(Uint8Array.from(bytes)), message));

test("the sources themselves are read", async () => {
  for (const name of tables.filter((name) => !name.includes("lz4")))
    ordered(await use(folder + name, () => 2), ">", 0, name);
});

// A block for each way in which a Snappy length can lie; the last two made a reader walk backwards.
const snappy: readonly [name: string, size: number, bytes: number[], message: RegExp | null][] = [
  ["a literal", 3, [3, 2 << 2, 1, 2, 3], null],
  ["a literal of a long length", 3, [3, 60 << 2, 2, 1, 2, 3], null],
  ["a copy of itself", 11, [11, 0, 7, (3 << 2) | 1, 1, (2 << 2) | 2, 1, 0], null],
  ["nothing", 0, [0], null],
  ["no length", 3, [], /no length/],
  ["another length", 4, [3, 2 << 2, 1, 2, 3], /announces 3 bytes, the page 4/],
  ["too little", 4, [4, 2 << 2, 1, 2, 3], /holds 3 bytes, not 4/],
  ["too much", 2, [2, 2 << 2, 1, 2, 3], /more than 2 bytes/],
  ["a literal past the end", 9, [9, 8 << 2, 1], /a literal goes past its end/],
  ["a copy from nowhere", 9, [9, 0, 1, (3 << 2) | 1, 9], /from before its start/],
  ["a copy of offset 0", 9, [9, 0, 1, (3 << 2) | 1, 0], /from before its start/],
  ["an end inside a tag", 9, [9, 0, 1, (3 << 2) | 3, 1, 0], /ends inside a length/],
  ["a literal of 4 GiB", 9, [9, 63 << 2, 255, 255, 255, 255], /a literal goes past its end/],
  ["a copy from 2 GiB before", 9, [9, 0, 1, (3 << 2) | 3, 0, 0, 0, 128], /from before its start/],
];
for (const [name, size, bytes, message] of snappy)
  test(`snappy: ${name}`, () => {
    const check = () => checkSnappy(Uint8Array.from(bytes), size);
    if (message) assert.throws(check, message);
    else check();
  });

test.run();
