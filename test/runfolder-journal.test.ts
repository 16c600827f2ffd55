// The journal: what was appended comes back; torn tails are cut at every byte, damage in the middle is told; keys and groups.
import { appendFileSync, existsSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { IsrDpoError } from "../src/index.js";
import { crc32c } from "../src/runfolder/crc32c.js";
import { Journal } from "../src/runfolder/journal.js";
import { finished, finishedGroups, type JournalRecord, keyOf, shortFloats } from "../src/runfolder/journal-records.js";
import { isError, rejects, sameBytes } from "./helpers/assert.js";
import { withFault } from "./helpers/faults.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("store journal");
type Plain = Parameters<Journal["append"]>[0];

const samples: Plain[] = [
  { type: "ctx", video: "v1", ids: [1, 2, 3], text: "a \n line, é, \u2028, \ud83d\ude00, \0 and \ud800" },
  { type: "rsp", sample: "s1", copy: 0, ids: [4], text: "", end: "stop" },
  { type: "rsp", sample: "s1", copy: 1, ids: [], text: "x", end: "length" },
  { type: "verdict", sample: "s1", order: 0, choice: "A", margin: -0.1, raw: "A" },
  { type: "pair", sample: "s1", status: "pair", chosen: 1 },
  { type: "skip", sample: "s2", code: "MEDIA_EMPTY", message: "none" },
  { type: "skip", video: "s2", code: "MEDIA_EMPTY", message: "none" },
  { type: "ref", sample: "s1", w: shortFloats(Float32Array.of(-0.1, 1e-40, 3.4e38)), l: [] },
];

const place = () => join(temporaryFolder(), "journal.0.log");

async function written(records: readonly Plain[], group?: string, path = place()): Promise<string> {
  const { journal } = await Journal.open(path);
  for (const r of records) void journal.append(r); // the order is that of the calls
  if (group !== undefined) await journal.endGroup(group);
  await journal.close();
  return path;
}

async function reopened(path: string) {
  const { journal, records, cut } = await Journal.open(path);
  await journal.close();
  return { records, cut };
}

/** The checksum, bit by bit. */
function slowCrc(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const b of bytes) {
    crc ^= b;
    for (let i = 0; i < 8; i++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

const up = Uint8Array.from({ length: 32 }, (_, i) => i);
const vectors: [what: string, bytes: Uint8Array, crc: number][] = [
  ["digits", Buffer.from("123456789"), 0xe3069283],
  ["zeros", new Uint8Array(32), 0x8a9136aa],
  ["ones", new Uint8Array(32).fill(255), 0x62a8ab43],
  ["upwards", up, 0x46dd794e],
  ["downwards", up.slice().reverse(), 0x113fdb5c],
  ["nothing", new Uint8Array(0), 0],
];
for (const [what, bytes, crc] of vectors)
  test(`crc32c: published vectors (RFC 3720, B.4): ${what}`, () => assert.is(crc32c(bytes), crc));

test("crc32c: the bitwise form", () => {
  const noise = Uint8Array.from({ length: 300 }, (_, i) => (i * 167 + (i >> 3)) & 255);
  for (let n = 0; n < 40; n++) {
    const part = noise.subarray(n, n + 7 * n + (n & 3));
    assert.is(crc32c(part), slowCrc(part), `${n}`);
    assert.is(crc32c(part.subarray(n), crc32c(part.subarray(0, n))), slowCrc(part), `in two, ${n}`);
  }
});

test("crc32c: at least 100 MB a second of processor time", () => {
  const bytes = Buffer.alloc(4 << 20, "some text, ");
  let best = Infinity;
  for (let i = 0; i < 8; i++) {
    const before = process.cpuUsage();
    crc32c(bytes);
    const used = process.cpuUsage(before);
    best = Math.min(best, (used.user + used.system) / 1e6);
  }
  assert.ok(bytes.length / best > 100e6, `${Math.round(bytes.length / best / 1e6)} MB/s`);
});

test("what was appended comes back, as lines of checksum and JSON", async () => {
  const path = await written(samples, "g0");
  const { records, cut } = await reopened(path);
  assert.equal([records.slice(0, -1), cut], [samples, 0]);
  const lines = readFileSync(path, "utf8").split("\n");
  assert.is(lines.length, samples.length + 2);
  for (const line of lines.slice(0, -1)) {
    assert.match(line, /^[0-9a-f]{8} \{"type":/);
    assert.is(Number.parseInt(line.slice(0, 8), 16), slowCrc(Buffer.from(line.slice(9))));
  }
  assert.equal([finished(records), [...finishedGroups(records)]], [samples, ["g0"]]);
});

const short = ["a", "b", "c"].map((sample): Plain => ({ type: "pair", sample, status: "" }));

test("a tail torn at every byte is cut, and the journal goes on", async () => {
  const path = await written(short, "g0");
  const whole = readFileSync(path);
  const ends = [0];
  for (const [i, byte] of whole.entries()) if (byte === 10) ends.push(i + 1);
  for (let length = 0; length <= whole.length; length++) {
    writeFileSync(path, whole.subarray(0, length));
    const { records, cut } = await reopened(path);
    const stands = ends.filter((end) => end <= length).length - 1;
    assert.equal([records.length, cut, readFileSync(path).length], [stands, length - ends[stands]!, ends[stands]!]);
    assert.is(finished(records).length, length === whole.length ? short.length : 0, `${length} bytes`);
  }
  truncateSync(path, ends[2]! + 5);
  await written(short.slice(2), undefined, path);
  assert.equal((await reopened(path)).records, short);
});

test("a changed byte anywhere is cut at the tail and told in the middle", async () => {
  const path = await written(short.slice(0, 3));
  const whole = readFileSync(path);
  const last = whole.lastIndexOf(10, whole.length - 2) + 1;
  for (let at = 0; at < whole.length; at++) {
    const bytes = Buffer.from(whole);
    bytes[at]! ^= 1 << (at % 8);
    writeFileSync(path, bytes);
    const start = whole.lastIndexOf(10, at - 1) + 1;
    if (at >= last - 1) {
      // from the newline before the last line on: nothing that holds follows
      const { records, cut } = await reopened(path);
      assert.ok(cut > 0 && records.length <= 2, `byte ${at}: ${cut} cut, ${records.length} records`);
    } else {
      const error = (await Journal.open(path).catch((e) => e)) as IsrDpoError;
      isError(error, "JOURNAL_CORRUPT", `byte ${at}`);
      assert.is(error.detail?.offset, at === 0 ? 0 : start, `byte ${at}`);
      sameBytes(readFileSync(path), bytes, "a corrupt journal is left as it is");
    }
  }
});

const tails: [what: string, tail: () => Buffer][] = [
  ["zeros", () => Buffer.alloc(5000)],
  ["a line without end", () => Buffer.alloc(20 << 20, "x")],
  ["newlines", () => Buffer.from("\n".repeat(10_000))],
  ["short lines", () => Buffer.from("0 {}\n00000000 {}\n")],
];
for (const [what, make] of tails)
  test(`a hostile tail is cut off: ${what}`, async () => {
    const path = await written(samples.slice(0, 2));
    const whole = readFileSync(path);
    const tail = make();
    appendFileSync(path, tail);
    const { records, cut } = await reopened(path);
    assert.equal([records.length, cut, readFileSync(path).length], [2, tail.length, whole.length]);
  });

const lineOf = (json: string) => `${crc32c(Buffer.from(json)).toString(16).padStart(8, "0")} ${json}\n`;

for (const json of [
  "1",
  "null",
  "[]",
  "{}",
  "{",
  '{"type":"later","sample":"s"}',
  '{"type":"rsp","sample":"s"}',
  '{"type":"constructor"}',
  '{"type":"skip"}',
  "[".repeat(100_000),
]) {
  const what = json.slice(0, 40);
  test(`a line whose checksum holds but that is no record: ${what}`, async () => {
    const path = place();
    writeFileSync(path, lineOf('{"type":"pair","sample":"s","status":"tie"}') + lineOf(json));
    const message = /at byte 53: expected a record of a known type/;
    await rejects(() => Journal.open(path), "JOURNAL_CORRUPT", message, what);
  });
}

test("keys: one each, and equal records only", async () => {
  assert.is(new Set(samples.map(keyOf)).size, samples.length);
  const path = await written(samples.slice(0, 3));
  const { journal } = await Journal.open(path);
  await journal.append(samples[1]!);
  const other = { ...samples[1]!, text: "other" } as Plain;
  await rejects(() => journal.append(other), "NONDETERMINISM", /"rsp","s1",0.*"text":"",.*"text":"other"/s, "append");
  await rejects(() => journal.append(samples[4]!), "NONDETERMINISM", /differ/, "nothing is written after a failure");
  await rejects(() => journal.close(), "NONDETERMINISM", /differ/, "and closing says so");
  await journal.close();
  assert.equal((await reopened(path)).records, [...samples.slice(0, 3), samples[1]]);
  appendFileSync(path, lineOf(JSON.stringify(other)));
  const error = (await Journal.open(path).catch((e) => e)) as IsrDpoError;
  isError(error, "NONDETERMINISM");
  const first = readFileSync(path).indexOf(10) + 1;
  assert.is(error.detail?.first, first, "the first line of the key, not the last");
});

for (const margin of [Number.NaN, Infinity])
  test(`a record that JSON would change is refused: ${margin}`, async () => {
    const { journal } = await Journal.open(place());
    const append = () => journal.append({ ...samples[3], margin } as Plain);
    await rejects(append, "BUG", /margin: expected a finite/, `${margin}`);
    await journal.close().catch(() => {});
  });

test("what is no record is refused, too long ones and closed journals too", async () => {
  const { journal } = await Journal.open(place());
  await rejects(() => journal.append({ type: "nothing" } as unknown as Plain), "BUG", /expected a record/, "no record");
  await journal.append({ type: "pair", sample: "null", status: "tie" });
  const long = "x".repeat(17 << 20);
  await rejects(
    () => journal.append({ type: "ctx", video: "v", ids: [], text: long }),
    "BUG",
    /at most 16777216/,
    "long",
  );
  await journal.close().catch(() => {});
  await rejects(() => journal.append(samples[0]!), "BUG", /a closed one/, "closed");
});

const pair = (sample: string, status = "tie"): Plain => ({ type: "pair", sample, status });
const end = (group: string, records: number, crc: string): JournalRecord => ({ type: "end", group, records, crc });

{
  const [a, b, c] = [pair("a"), pair("b"), pair("c")];
  const sum = (...all: JournalRecord[]) => {
    let crc = 0;
    for (const r of all) crc = crc32c(Buffer.from(`${JSON.stringify(r)}\n`), crc);
    return crc.toString(16).padStart(8, "0");
  };
  const cases: [string, JournalRecord[], JournalRecord[]][] = [
    ["no end", [a, b], []],
    ["one group", [a, b, end("0", 2, sum(a, b))], [a, b]],
    ["an open group after it", [a, end("0", 1, sum(a)), b], [a]],
    ["begun, then run again", [a, b, a, b, c, end("0", 3, sum(a, b, c))], [a, b, c]],
    ["a wrong sum", [a, end("0", 1, sum(b)), b, end("1", 1, sum(b))], [b]],
    ["too few records", [a, end("0", 2, sum(a, a))], []],
    ["records of the group before do not count", [a, end("0", 1, sum(a)), b, end("1", 2, sum(a, b))], [a]],
    ["an empty group", [a, end("0", 0, "00000000")], []],
    ["no number", [a, end("0", -1, "00000000"), b, end("1", 0.5, "00000000")], []],
    ["a key twice", [a, end("0", 1, sum(a)), a, b, end("1", 2, sum(a, b))], [a, b]],
  ];
  for (const [what, records, expected] of cases)
    test(`only groups whose end holds count: ${what}`, () => assert.equal(finished(records), expected));
}

test("a group begun before a resume is run again in one journal", async () => {
  const [a, b, c] = [pair("a"), pair("b"), pair("c")];
  const path = await written([a, b]);
  await written([a, b, c], "g", path);
  const { records } = await reopened(path);
  assert.equal([records.length, finished(records)], [6, [a, b, c]]);
});

for (const [code, expected] of [
  ["ENOSPC", "DISK_FULL"],
  ["EIO", "IO"],
] as const)
  test(`${code} at every call: an error, and no half line after the next open`, async () => {
    const group = samples.slice(0, 3);
    const { calls } = await withFault(0, code, () => written(group, "g"));
    assert.ok(calls >= 7, `${calls} calls`);
    for (let at = 1; at <= calls; at++) {
      const path = place();
      const { error } = await withFault(at, code, async () => {
        const { journal } = await Journal.open(path);
        try {
          await Promise.all(group.map((r) => journal.append(r)));
          await journal.endGroup("g");
        } finally {
          await journal.close();
        }
      });
      isError(error, expected, `call ${at}`);
      assert.match(existsSync(path) ? readFileSync(path, "latin1") : "", /^([^\n]+\n)*$/, `call ${at}: whole lines`);
      const { records } = await reopened(path);
      assert.equal(records.slice(0, 3), group.slice(0, Math.min(3, records.length)), `call ${at}`);
      await written(group, "g", path);
      assert.equal(finished((await reopened(path)).records), group, `call ${at}: the same work again`);
    }
  });

test("it syncs by itself within about a second of an append, once for many", async () => {
  const { journal } = await Journal.open(place());
  const { calls } = await withFault(0, "EIO", async () => {
    for (const r of samples) await journal.append(r);
    await new Promise((r) => setTimeout(r, 1500));
  });
  assert.is(calls, samples.length + 1);
  await journal.close();
});

test("float32 values keep their bits in the shortest decimals", () => {
  const words = Uint32Array.from({ length: 5000 }, (_, i) => Math.imul(i, 0x9e3779b1) >>> 0);
  words.set([0, 1, 0x80000001, 0x00800000, 0x007fffff, 0x7f7fffff, 0x3dcccccd]);
  const values = new Float32Array(words.buffer).filter(Number.isFinite);
  const short = shortFloats(values);
  for (const [i, x] of values.entries()) {
    assert.ok(Object.is(Math.fround(Number(String(short[i]))), x) || x === 0, `${x}`);
    const digits = (n: number) => n.toExponential().replace(/e.*|[-.]/g, "").length;
    if (x !== 0 && digits(short[i]!) > 1)
      assert.is.not(Math.fround(Number(x.toPrecision(digits(short[i]!) - 1))), x, `${short[i]} could be shorter`);
  }
  assert.equal(shortFloats(Float32Array.of(0.1, -2.5)), [0.1, -2.5]);
});

test.run();
