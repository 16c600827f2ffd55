// Mutated tokenizer files: nothing but IsrDpoError comes out, soon. ISR_DPO_FUZZ_SECONDS: go on for so long.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { isIsrDpoError } from "../src/base/errors.js";
import { loadTokenizer } from "../src/text/tokenizer.js";
import { temporaryFolder } from "./helpers/files.js";
import { uniform } from "./helpers/seeded.js";

const test = suite("text-fuzz");
const golden = fileURLToPath(new URL("golden/tokenizers/", import.meta.url));
const corpus = fileURLToPath(new URL("fuzz/corpus-text/", import.meta.url));
const seconds = Number(process.env.ISR_DPO_FUZZ_SECONDS ?? 0);
const mutations = 100; // of each kind
const slowest = 5000; // ms of one mutation, on a busy machine

const values: unknown[] = [
  null,
  true,
  0,
  -1,
  1.5,
  2 ** 31,
  "",
  "x",
  "(",
  "\ud800",
  [],
  {},
  [[]],
  { type: "Sequence" },
  "a".repeat(5000),
];

/** Puts something else into a random place of a JSON value. */
function mutateJson(value: unknown, pick: (n: number) => number): unknown {
  if (typeof value !== "object" || value === null || pick(6) === 0) return values[pick(values.length)];
  const copy = (Array.isArray(value) ? [...value] : { ...value }) as Record<string, unknown>;
  const keys = Object.keys(copy);
  const key = keys[pick(keys.length)];
  if (key === undefined) return values[pick(values.length)];
  if (pick(8) === 0) delete copy[key];
  else copy[key] = mutateJson(copy[key], pick);
  return copy;
}

function mutateBytes(bytes: Buffer, pick: (n: number) => number): Buffer {
  const copy = Buffer.from(bytes);
  for (let k = 0; k <= pick(4); k++) {
    const at = pick(copy.length);
    const kind = pick(4);
    if (kind === 0) copy[at] = pick(256);
    else if (kind === 1) copy[at]! ^= 1 << pick(8);
    else if (kind === 2) return copy.subarray(0, at);
    else copy.copy(copy, at, pick(copy.length));
  }
  return copy;
}

async function use(dir: string, pick: (n: number) => number): Promise<boolean> {
  const t = await loadTokenizer(dir);
  for (const text of ["", "a dog</s>\n 12", "日本 😀\ufeff", " ".repeat(50)]) t.decode(t.encode(text));
  t.decode(Array.from({ length: 20 }, () => pick(t.vocabSize)));
  if (t.template) t.applyChatTemplate([{ role: "user", content: "a" }], { generate: true });
  return true;
}

type Make = (pick: (n: number) => number) => Record<string, Buffer | string>;
const kinds: Record<string, Make> = {
  "tokenizer.json, values": (pick) => {
    const source = pick(2) ? `${corpus}tiny.json` : `${golden}llama3/tokenizer.json`;
    return { "tokenizer.json": JSON.stringify(mutateJson(JSON.parse(readFileSync(source, "utf8")), pick)) };
  },
  "tokenizer.json, bytes": (pick) => ({ "tokenizer.json": mutateBytes(readFileSync(`${corpus}tiny.json`), pick) }),
  "tokenizer.model": (pick) => {
    const source = pick(2) ? `${corpus}tiny.model` : `${golden}sentencepiece_bpe/tokenizer.model`;
    return { "tokenizer.model": mutateBytes(readFileSync(source), pick) };
  },
  "configuration and template": (pick) => ({
    "tokenizer.model": readFileSync(`${corpus}tiny.model`),
    "tokenizer_config.json": JSON.stringify(mutateJson(JSON.parse(readFileSync(`${corpus}config.json`, "utf8")), pick)),
    "chat_template.jinja": mutateBytes(readFileSync(`${golden}llama3/chat_template.jinja`), pick),
  }),
};

for (const [kind, make] of Object.entries(kinds))
  test(`mutations: ${kind}`, async () => {
    const seed = seconds > 0 ? Date.now() % 1e6 : 7;
    const next = uniform(seed);
    const pick = (n: number) => Math.floor(((next() + 1) / 2) * n);
    const until = performance.now() + (seconds * 1000) / Object.keys(kinds).length;
    const outcomes = { used: 0, refused: 0 };
    const dir = temporaryFolder();
    for (let n = 0; n < mutations || performance.now() < until; n++) {
      for (const [name, content] of Object.entries(make(pick))) writeFileSync(join(dir, name), content);
      const begun = performance.now();
      const outcome = await use(dir, pick).catch((e: unknown) => e);
      if (outcome === true) outcomes.used++;
      else if (isIsrDpoError(outcome)) outcomes.refused++;
      else assert.unreachable(`seed ${seed}, mutation ${n}: ${outcome instanceof Error ? outcome.stack : outcome}`);
      assert.ok(performance.now() - begun < slowest, `seed ${seed}, mutation ${n} took too long`);
    }
    assert.ok(outcomes.refused > 0 && outcomes.used + outcomes.refused >= mutations, JSON.stringify(outcomes));
  });

test("the corpus itself is used", async () => {
  const dir = temporaryFolder();
  writeFileSync(join(dir, "tokenizer.json"), readFileSync(`${corpus}tiny.json`));
  const other = temporaryFolder();
  writeFileSync(join(other, "tokenizer.model"), readFileSync(`${corpus}tiny.model`));
  writeFileSync(join(other, "tokenizer_config.json"), readFileSync(`${corpus}config.json`));
  assert.equal([await use(dir, () => 0), await use(other, () => 0)], [true, true]);
});

test.run();
