// run.json: written once, then compared; what differs is listed with both values.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { inspect } from "node:util";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { IsrDpoError } from "../src/index.js";
import { canonicalJson, openRun, type RunOptions } from "../src/runfolder/run-json.js";
import { isError, isNoError, rejects } from "./helpers/assert.js";
import { withFault } from "./helpers/faults.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("store run");
const asked: RunOptions = {
  kind: "isr",
  config: { model: "m", threads: 2, train: { beta: 0.1, list: [1, 2] }, logging: { level: "info" }, seed: 2n ** 63n },
  facts: { engineVersion: "1.0.0", isa: "avx2", ranks: 1, promptHashes: { answer: "ab" } },
};
type Over = { kind?: string; config?: Record<string, unknown>; facts?: Record<string, unknown> };
const over = (o: Over): RunOptions => ({
  kind: o.kind ?? asked.kind,
  config: { ...asked.config, ...o.config },
  facts: { ...asked.facts, ...o.facts },
});

const canonical: [value: unknown, text: string][] = [
  [{ b: 1, a: [{ d: undefined, c: null }] }, '{"a":[{"c":null}],"b":1}'],
  [{ é: 1, Z: 2, a: 3, "10": 4, "9": 5 }, '{"9":5,"10":4,"Z":2,"a":3,"é":1}'],
  [2n ** 64n - 1n, '"18446744073709551615"'],
  [[0.1, -0, 1e300], "[0.1,0,1e+300]"],
  [JSON.parse('{"__proto__":{"x":1},"a":2}'), '{"__proto__":{"x":1},"a":2}'],
];
for (const [value, text] of canonical) test(`canonical JSON: ${text}`, () => assert.is(canonicalJson(value), text));

for (const value of [Number.NaN, () => 1, { a: Symbol("s") }, undefined])
  test(`no canonical JSON: ${inspect(value)}`, () => rejects(() => canonicalJson(value), "BUG", /./, inspect(value)));

test("the first start writes it, the same start reads it", async () => {
  const dir = temporaryFolder();
  const first = await openRun(dir, asked);
  const text = readFileSync(join(dir, "run.json"), "utf8");
  assert.equal([first.created, JSON.parse(text)], [true, first.run]);
  assert.match(first.run.id, /^[0-9a-f-]{36}$/);
  assert.is(first.run.config.seed, "9223372036854775808");
  const reordered = { ...asked, config: Object.fromEntries(Object.entries(asked.config).reverse()) };
  for (const again of [asked, reordered]) assert.equal(await openRun(dir, again), { run: first.run, created: false });
  assert.is(readFileSync(join(dir, "run.json"), "utf8"), text);
  assert.is.not((await openRun(temporaryFolder(), asked)).run.id, first.run.id);
  assert.equal(readdirSync(dir), ["run.json"]);
});

test("a run that an earlier version recorded under an old name goes on", async () => {
  const dir = temporaryFolder();
  const by = (trainer: object) => over({ config: { trainer } });
  const { run } = await openRun(dir, by({ beta: 0.1, gamma: 0.5 }));
  assert.equal(await openRun(dir, by({ beta: 0.1, sftWeight: 0.5 })), { run, created: false });
  await rejects(() => openRun(dir, by({ beta: 0.1, sftWeight: 1 })), "RUN_MISMATCH", /config\.trainer\.sftWeight/, "1");
});

const changes: [what: string, over: Over, keys: string[]][] = [
  ["threads", { config: { threads: 8 } }, []],
  ["logging", { config: { logging: { level: "debug", file: "x" } } }, []],
  ["device memory", { config: { deviceMemory: 1e9 } }, []],
  ["a nested value", { config: { train: { beta: 0.2, list: [1, 2] } } }, ["config.train.beta"]],
  ["a list", { config: { train: { beta: 0.1, list: [1, 3] } } }, ["config.train.list"]],
  ["a new key", { config: { extra: true } }, ["config.extra"]],
  ["a lost key", { config: { model: undefined } }, ["config.model"]],
  ["threads of another thing", { config: { threadsOfJudge: 1 } }, ["config.threadsOfJudge"]],
  ["ranks", { facts: { ranks: 2 } }, ["facts.ranks"]],
  ["the kind", { kind: "sft" }, ["kind"]],
  [
    "many",
    { kind: "dpo", config: { model: "n", threads: 1 }, facts: { isa: "avx512" } },
    ["kind", "config.model", "facts.isa"],
  ],
];

for (const [what, change, keys] of changes)
  test(`${what} differs: ${keys.length ? keys.join(", ") : "allowed"}`, async () => {
    const dir = temporaryFolder();
    await openRun(dir, asked);
    const error = (await openRun(dir, over(change)).catch((e) => e)) as IsrDpoError;
    if (keys.length === 0) return isNoError(error);
    isError(error, "RUN_MISMATCH");
    const differences = error.detail?.differences as { key: string }[];
    assert.equal(differences.map((d) => d.key).sort(), [...keys].sort());
    for (const key of keys) assert.ok(error.message.includes(`  ${key}: expected `), error.message);
  });

test("both values are told; a long list is cut", async () => {
  const dir = temporaryFolder();
  await openRun(dir, asked);
  await rejects(
    () => openRun(dir, over({ config: { model: "n" } })),
    "RUN_MISMATCH",
    /config\.model: expected "m", got "n"/,
    "values",
  );
  const many = Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`k${i}`, i]));
  await rejects(
    () => openRun(dir, over({ config: many })),
    "RUN_MISMATCH",
    /k0: expected nothing, got 0.*and 18 more/s,
    "many",
  );
  await rejects(
    () => openRun(dir, { ...over({ config: { threads: 4 } }), mayDiffer: [] }),
    "RUN_MISMATCH",
    /config\.threads/,
    "an own list",
  );
});

/** A run.json in a folder of its own, as it was written but for a change. */
async function changedFile(change: object): Promise<string> {
  const dir = temporaryFolder();
  const { run } = await openRun(dir, asked);
  writeFileSync(join(dir, "run.json"), JSON.stringify({ ...run, ...change }));
  return dir;
}

for (const change of [
  { config: { ...JSON.parse(canonicalJson(asked.config)), model: "n" } },
  { configSha256: "" },
  { id: 1 },
  { facts: null },
  { config: [] },
  { kind: 0 },
])
  test(`a changed file: ${JSON.stringify(change)}`, async () => {
    const dir = await changedFile(change);
    await rejects(
      () => openRun(dir, asked),
      "JOURNAL_CORRUPT",
      /expected the file as it was written/,
      JSON.stringify(change),
    );
  });

test("a file of another format", async () => {
  const dir = await changedFile({ format: 1, facts: { engine: "0.9.0" } });
  await rejects(
    () => openRun(dir, asked),
    "RUN_MISMATCH",
    /expected format 2, got 1, written by version 0\.9\.0/,
    "format",
  );
});

test("under a fault at every call there is a whole file or none", async () => {
  for (let at = 1; ; at++) {
    const dir = temporaryFolder();
    const { error } = await withFault(at, "ENOSPC", () => openRun(dir, asked));
    if (error === undefined) break;
    isError(error, "DISK_FULL", `call ${at}`);
    assert.ok(
      readdirSync(dir).every((name) => name === "run.json"),
      `call ${at}`,
    );
    await openRun(dir, asked);
  }
});

test.run();
