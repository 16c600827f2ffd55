// The feature cache: what went in comes out, spoiled files are misses, the bound holds, processes share it.
import { execFileSync, spawn } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Tensor } from "../src/index.js";
import { FeatureCache } from "../src/video/feature-cache.js";
import { every, rejects, sameBits } from "./helpers/assert.js";
import { root } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("video features");
const shape = { rows: 3, cols: 5, dtype: "f32" } as const;
const tensor = (seed: number): Tensor => ({
  dtype: "f32",
  shape: [3, 5],
  data: Float32Array.from({ length: 15 }, (_, i) => seed * 100 + i),
});
const fileBytes = 64 + 15 * 4;

function cacheOf(maxBytes?: number) {
  const dir = join(temporaryFolder(), "features");
  const cache = new FeatureCache(maxBytes === undefined ? { dir } : { dir, maxBytes });
  return { dir, cache, files: () => readdirSync(dir).map((name) => join(dir, name)) };
}

test("what went in comes out, of every type", async () => {
  const { cache, dir } = cacheOf();
  assert.is(await cache.get("a", shape), null);
  const all: Tensor[] = [
    tensor(1),
    { dtype: "bf16", shape: [2, 3], data: Uint16Array.of(1, 2, 3, 4, 5, 65535) },
    { dtype: "u8", shape: [1, 3], data: Uint8Array.of(7, 8, 255) },
    { dtype: "i32", shape: [3, 1], data: Int32Array.of(-1, 0, 2 ** 31 - 1) },
    { dtype: "f32", shape: [1, 2], data: new Float32Array([9, Number.NaN, 3, 9]).subarray(1, 3) },
  ];
  for (const [i, t] of all.entries()) await cache.put(`key ${i}`, t);
  for (const [i, t] of all.entries()) {
    const [rows, cols] = t.shape as [number, number];
    const found = await new FeatureCache({ dir }).get(`key ${i}`, { rows, cols, dtype: t.dtype });
    assert.equal(found?.shape, t.shape);
    sameBits(found!.data, t.data, `key ${i}`);
  }
  assert.equal([cache.hits, cache.misses, cache.corrupt], [0, 1, 0]);
  assert.is.not(await cache.get("key 0", shape), null);
  assert.is(cache.hits, 1);
  every(readdirSync(dir), (name) => /^[0-9a-f]{64}\.feat$/.test(name), "nothing temporary stays");
});

const spoilers: [what: string, spoil: (path: string, other: string) => void][] = [
  ["a bit of the data", (path) => flip(path, 64 + 11)],
  ["a bit of the checksum", (path) => flip(path, 40)],
  ["the magic", (path) => flip(path, 0)],
  ["the type", (path) => flip(path, 8)],
  ["rows", (path) => flip(path, 16 + 6)],
  ["a byte short", (path) => truncateSync(path, fileBytes - 1)],
  ["a byte long", (path) => writeFileSync(path, Buffer.concat([readFileSync(path), Buffer.of(0)]))],
  ["empty", (path) => truncateSync(path, 0)],
  ["another key's file", (path, other) => writeFileSync(path, readFileSync(other))],
];
function flip(path: string, at: number): void {
  const bytes = readFileSync(path);
  bytes[at]! ^= 1;
  writeFileSync(path, bytes);
}

for (const [what, spoil] of spoilers)
  test(`spoiled: ${what} is a miss, counted, and replaced`, async () => {
    const { cache, files } = cacheOf();
    await cache.put("a", tensor(1));
    const [path] = files();
    await cache.put("b", tensor(2));
    spoil(path!, files().find((f) => f !== path)!);
    assert.is(await cache.get("a", shape), null);
    assert.equal([cache.hits, cache.misses, cache.corrupt], [0, 1, 1]);
    await cache.put("a", tensor(1));
    sameBits((await cache.get("a", shape))!.data, tensor(1).data, "replaced");
    sameBits((await cache.get("b", shape))!.data, tensor(2).data, "the other");
  });

test("another shape or type than expected is a miss", async () => {
  const { cache } = cacheOf();
  await cache.put("a", tensor(1));
  assert.is(await cache.get("a", { ...shape, rows: 5, cols: 3 }), null);
  assert.is(await cache.get("a", { ...shape, dtype: "i32" }), null);
  assert.is(await cache.get("a", { ...shape, rows: 4 }), null);
  assert.is(cache.corrupt, 3);
});

test("the bound holds: what was used longest ago goes, what is too large stays out", async () => {
  const { cache, files } = cacheOf(fileBytes * 3);
  const total = () => files().reduce((sum, f) => sum + statSync(f).size, 0);
  for (let i = 0; i < 3; i++) await cache.put(`k${i}`, tensor(i));
  const before = new Date(Date.now() - 60_000);
  for (const file of files()) utimesSync(file, before, before);
  assert.is.not(await cache.get("k0", shape), null, "used now");
  await cache.put("k3", tensor(3));
  await cache.put("k4", tensor(4));
  assert.is(total(), fileBytes * 3);
  for (const [i, there] of [true, false, false, true, true].entries())
    assert.is((await cache.get(`k${i}`, shape)) !== null, there, `k${i}`);
  await cache.put("large", { dtype: "u8", shape: [1, fileBytes * 3], data: new Uint8Array(fileBytes * 3) });
  assert.is(await cache.get("large", { rows: 1, cols: fileBytes * 3, dtype: "u8" }), null);
  assert.is(total(), fileBytes * 3, "nothing was pushed out for it");
});

test("what a process that died left is swept, what another writes now is not", async () => {
  const { cache, dir } = cacheOf(fileBytes);
  mkdirSync(dir);
  const own = (digit: string) => `${digit.repeat(64)}.feat`;
  const [old, now] = [`${own("1")}.7-0123456789ab.tmp`, `${own("2")}.8-0123456789ab.tmp`];
  const others = ["x.feat", "notes.feat.old", "x.feat.1-aa.tmp"];
  for (const name of [old, now, ...others]) writeFileSync(join(dir, name), Buffer.alloc(2 * fileBytes));
  for (const name of [old, ...others]) utimesSync(join(dir, name), new Date(0), new Date(0));
  await cache.put("a", tensor(1));
  assert.equal(
    [old, now, ...others].map((name) => existsSync(join(dir, name))),
    [false, true, true, true, true],
    "what other programs call .feat is neither counted nor removed",
  );
});

test("several processes share a folder", async () => {
  const { dir, files } = cacheOf();
  const args = ["--import", "tsx", "test/children/features.ts", dir, String(64 * 1024)];
  const run = () =>
    new Promise<string>((resolve, reject) => {
      const child = spawn(process.execPath, args, { cwd: root, stdio: ["ignore", "pipe", "inherit"] });
      let out = "";
      child.stdout.on("data", (chunk) => (out += chunk));
      child.once("close", (code) => (code === 0 ? resolve(out) : reject(new Error(`ended with ${code}`))));
    });
  for (const out of await Promise.all([run(), run(), run()])) {
    const { hits, corrupt } = JSON.parse(out) as { hits: number; corrupt: number };
    assert.ok(hits >= 30 && corrupt === 0, out);
  }
  assert.is(files().length, 7);
});

test("no room: DISK_FULL, and nothing half written stays", () => {
  // A limit on the size of files stands for a disk that fills up in the middle of one.
  const args = [process.execPath, "--import", "tsx", "test/children/full.ts", join(temporaryFolder(), "features")];
  const command = `ulimit -f 4096; exec ${args.map((a) => `'${a}'`).join(" ")}`;
  const out = execFileSync("sh", ["-c", command], { cwd: root, encoding: "utf8" });
  assert.equal(JSON.parse(out), { code: "DISK_FULL", left: [] });
});

test("folders that cannot be, wrong values", async () => {
  const full = new FeatureCache({ dir: "/dev/full/features" });
  await rejects(() => full.put("a", tensor(1)), "IO", /expected to make it/, "no folder");
  assert.is(await full.get("a", shape), null);
  const { cache } = cacheOf();
  await rejects(() => cache.put("a", { ...tensor(1), shape: [15] }), "INVALID_ARGUMENT", /\(rows, cols\)/, "rank");
  await rejects(() => cache.put("a", { ...tensor(1), shape: [3, 6] }), "INVALID_ARGUMENT", /\(rows, cols\)/, "size");
  await rejects(() => new FeatureCache({ dir: "" }), "INVALID_ARGUMENT", /dir/, "dir");
  await rejects(() => new FeatureCache({ dir: "a", maxByte: 1 } as never), "INVALID_ARGUMENT", /maxBytes/, "option");
});

test.run();
