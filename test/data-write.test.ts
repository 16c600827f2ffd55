// Pairs that are written come back the same, whole or not at all.
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parquetMetadata, parquetReadObjects } from "hyparquet";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { missing } from "./helpers/assert.js";
import { readPairs } from "../src/data/read-pairs.js";
import { type PairRecord, writePairs } from "../src/data/write-pairs.js";
import { root } from "./helpers/child.js";
import { all, caught } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("data-write");

const record = (i: number, change: Partial<PairRecord> = {}): PairRecord => ({
  id: `sample ${i}`,
  video: `clips/${i}.mp4`,
  prompt: ` What is "it" ${i}?\u2028\n`,
  chosen: `日本 😀 ${i}`,
  rejected: `\tNo\\ ${i}\r`,
  iteration: 3,
  seeds: [0, 2n ** 64n - 1n],
  promptHash: "p".repeat(64),
  modelHash: "m".repeat(64),
  margin: i / 3,
  agreement: i % 2 === 0,
  lengths: { chosen: i + 1, rejected: 2 },
  ...(i % 3 === 1 ? { chosenIds: Int32Array.of(i, 2 ** 31 - 1, 2), rejectedIds: [0, 2] } : {}),
  ...change,
});

const asRead = (r: PairRecord) => ({
  ...(r.id === undefined ? {} : { id: r.id }),
  prompt: r.prompt,
  ...(r.video === undefined ? {} : { media: [r.video] }),
  chosen: r.chosenIds ? Int32Array.from(r.chosenIds) : r.chosen,
  rejected: r.rejectedIds ? Int32Array.from(r.rejectedIds) : r.rejected,
});

async function* later<T>(rows: readonly T[]): AsyncGenerator<T> {
  for (const row of rows) yield row;
}

for (const format of ["trl", "hound"] as const)
  for (const ending of ["jsonl", "parquet"])
    for (const count of [0, 1, 1000, 2345])
      test(`${count} pairs in ${format} form to .${ending} and back`, async () => {
        const dir = temporaryFolder();
        const path = join(dir, `pairs.${ending}`);
        const rows = Array.from({ length: count }, (_, i) =>
          record(i, i === 5 ? { margin: null, agreement: null } : {}),
        );
        await writePairs(path, count % 2 ? later(rows) : rows, { format });
        assert.equal(readdirSync(dir), [`pairs.${ending}`]);
        const read = await all(readPairs(path));
        assert.is(read.length, count);
        for (const [i, row] of rows.entries()) assert.equal(read[i], asRead(row));
        if (count > 0) assert.equal(await all(readPairs(path, { format })), read);
      });

for (const ending of ["jsonl", "parquet"])
  test(`rows without id, video or ids: .${ending}`, async () => {
    const bare = record(0, { id: undefined, video: undefined });
    const path = join(temporaryFolder(), `a.${ending}`);
    await writePairs(path, [bare, record(1, { video: undefined })], { format: "trl" });
    assert.equal(await all(readPairs(path)), [asRead(bare), asRead(record(1, { video: undefined }))]);
  });

const provenance = {
  iteration: 3,
  seeds: ["0", "18446744073709551615"],
  prompt_hash: "p".repeat(64),
  model_hash: "m".repeat(64),
  chosen_ids: [1, 2147483647, 2],
  rejected_ids: [0, 2],
  margin: 1 / 3,
  agreement: false,
  chosen_length: 2,
  rejected_length: 2,
};

test("provenance stands in columns", async () => {
  const dir = temporaryFolder();
  for (const ending of ["jsonl", "parquet"])
    await writePairs(join(dir, `a.${ending}`), [record(1)], { format: "hound" });
  const text = { id: "sample 1", video: "clips/1.mp4", prompt: record(1).prompt, chosen: record(1).chosen };
  const expected = { ...text, rejected: record(1).rejected, ...provenance };
  assert.equal(JSON.parse(readFileSync(join(dir, "a.jsonl"), "utf8")), expected);
  const bytes = new Uint8Array(readFileSync(join(dir, "a.parquet"))).buffer;
  assert.equal(await parquetReadObjects({ file: bytes }), [expected]);
  assert.is(parquetMetadata(bytes).created_by, "isr-dpo");
});

const wrong: readonly [name: string, change: Record<string, unknown>, message: RegExp][] = [
  ["a path upward", { video: "../a" }, /rows\[1\]\.video/],
  ["an absolute path", { video: "/a" }, /rows\[1\]\.video/],
  ["no video in LLaVA-Hound form", { video: undefined }, /format hound has one/],
  ["an empty answer", { chosen: "" }, /rows\[1\]\.chosen/],
  ["a lone surrogate", { rejected: "a\ud800" }, /well-formed/],
  ["a place in the prompt", { prompt: "<video>\nWho?" }, /without <video>/],
  ["an id for the second time", { id: "sample 0" }, /no row before/],
  ["ids of one answer", { rejectedIds: [1] }, /both answers or of none/],
  ["a negative id", { chosenIds: [-1], rejectedIds: [1] }, /chosenIds\[0\]/],
  ["half an iteration", { iteration: 0.5 }, /iteration/],
  ["a margin that is no number", { margin: Number.NaN }, /margin/],
  ["no agreement", { agreement: undefined }, /agreement/],
  ["a negative seed", { seeds: [-1] }, /seeds\[0\]/],
  ["no lengths", { lengths: undefined }, /lengths/],
  ["no hash", { modelHash: "" }, /modelHash/],
];
for (const [name, change, message] of wrong)
  for (const ending of ["jsonl", "parquet"])
    test(`refused, and the .${ending} file that stood there stays: ${name}`, async () => {
      const dir = temporaryFolder();
      const path = join(dir, `a.${ending}`);
      await writePairs(path, [record(5)], { format: "hound" });
      const before = readFileSync(path);
      const rows = [record(0), { ...record(2), ...change } as PairRecord];
      const e = await caught(() => writePairs(path, rows, { format: "hound" }));
      assert.is(e.code, "INVALID_ARGUMENT");
      assert.match(e.message, message);
      assert.equal(readdirSync(dir), [`a.${ending}`]);
      assert.equal(readFileSync(path), before);
    });

const foreign: readonly [name: string, file: string, text: string][] = [
  ["notes", "a.jsonl", "notes of mine\n"],
  ["rows that somebody else wrote", "a.jsonl", `${JSON.stringify({ prompt: "a", chosen: "b", rejected: "c" })}\n`],
  ["a long line", "a.jsonl", `{"prompt":"${"x".repeat(100_000)}"}`],
  ["a table of another writer", "a.parquet", "PAR1 a table PAR1"],
];
for (const [name, file, text] of foreign)
  test(`what we did not write is not replaced: ${name}`, async () => {
    const path = join(temporaryFolder(), file);
    writeFileSync(path, text);
    const e = await caught(() => writePairs(path, [record(0)], { format: "hound" }));
    assert.is(e.code, "INVALID_ARGUMENT");
    assert.is(readFileSync(path, "utf8"), text);
  });

for (const ending of ["jsonl", "parquet"])
  test(`an error of the rows comes out as it is, and nothing is left: .${ending}`, async () => {
    const own = new Error("mine");
    async function* broken() {
      yield record(0);
      throw own;
    }
    const dir = temporaryFolder();
    const e = await writePairs(join(dir, `a.${ending}`), broken(), { format: "trl" }).catch((e) => e);
    assert.is(e, own);
    assert.equal(readdirSync(dir), []);
  });

for (const ending of ["jsonl", "parquet"])
  test(`no room: DISK_FULL, and nothing half written stays: .${ending}`, () => {
    // A limit on the size of files stands for a disk that fills up in the middle of one.
    const args = [
      process.execPath,
      "--import",
      "tsx",
      "test/children/data-full.ts",
      join(temporaryFolder(), `a.${ending}`),
    ];
    const command = `ulimit -f 2048; exec ${args.map((a) => `'${a}'`).join(" ")}`;
    const out = execFileSync("sh", ["-c", command], { cwd: root, encoding: "utf8" });
    assert.equal(JSON.parse(out), { code: "DISK_FULL", left: [] });
  });

test("paths and options", async () => {
  const dir = temporaryFolder();
  const write = (path: string, rows: unknown, o: unknown) => caught(() => writePairs(path, rows as never, o as never));
  assert.is((await write(join(dir, "no/a.jsonl"), [], { format: "trl" })).code, "NOT_FOUND");
  assert.is((await write(join(dir, "a.json"), [], { format: "trl" })).code, "INVALID_ARGUMENT");
  assert.is((await write(join(dir, "a.jsonl"), [], undefined)).code, "INVALID_ARGUMENT");
  assert.is((await write(join(dir, "a.jsonl"), [], { format: "sharegpt" })).code, "INVALID_ARGUMENT");
  assert.is((await write(join(dir, "a.jsonl"), "rows", { format: "trl" })).code, "INVALID_ARGUMENT");
  assert.is((await write(join(dir, "a.jsonl"), null, { format: "trl" })).code, "INVALID_ARGUMENT");
  assert.is((await write(join(dir, "a.jsonl"), [1], { format: "trl" })).code, "INVALID_ARGUMENT");
  missing(join(dir, "a.jsonl"));
});

test.run();
