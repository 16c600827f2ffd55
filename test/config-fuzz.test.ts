// Mutated configuration files: nothing but INVALID_CONFIG comes out, soon. ISR_DPO_FUZZ_SECONDS: go on for so long.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { trainOptionsOf } from "../src/config/function-options.js";
import { readConfig } from "../src/config/read-config.js";
import { isIsrDpoError } from "../src/base/errors.js";
import { temporaryFolder } from "./helpers/files.js";
import { uniform } from "./helpers/seeded.js";

const test = suite("config-fuzz");
const seconds = Number(process.env.ISR_DPO_FUZZ_SECONDS ?? 0);
const mutations = 300; // of each kind
const slowest = 5000; // ms of one mutation, on a busy machine

const corpus = {
  train: `preset: paper
model: "a b" # where it starts
data: rows.jsonl
runDir: run
epochs: 2
load: &l {dtype: bf16, threads: 2, device: "cuda:0"}
features: false
trainer:
  beta: 0.2
  seed: "12345678901234567890"
  betas: [0.9, 0.95]
  clipNorm: null
  train: {vision: false, decoder: true}
`,
  run: `model: m
samples: s.jsonl
runDir: |
  a folder
from: 1
to: 3
context: {design: retrospective, maxTokens: 64}
judge:
  kind: openai
  orders: both
  endpoint: {url: "https://example.org/v1", model: 'x', keyEnv: KEY}
video: {window: [0, 2.5], frames: 8}
keep: all
train:
  warmupSteps: 3
`,
} as const;

const tokens = [
  ...[
    "&a ",
    "*a",
    "*l",
    "<<: *l",
    "!!binary ",
    "!x ",
    "? ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "\n",
    "\t",
    "  ",
    "#",
    "|\n",
    ">\n",
  ],
  ...[".nan", ".inf", "null", "~", "yes", "1e999", "-0", "0x10", "18446744073709551616", "''", '"\\ud800"', '"\\0"'],
  ...[
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    "__proto__",
    "constructor",
    "toString",
    "trainer",
    "train",
    "model",
    "a.b",
    "\ufeff",
    "\u0000",
    "\u2028",
  ],
];

function mutateText(text: string, pick: (n: number) => number): string {
  let out = text;
  for (let k = 0; k <= pick(4); k++) {
    const at = pick(out.length + 1);
    const kind = pick(5);
    if (kind === 0) out = out.slice(0, at) + tokens[pick(tokens.length)] + out.slice(at);
    else if (kind === 1) out = out.slice(0, at) + out.slice(at + 1 + pick(8));
    else if (kind === 2) out = out.replace(/: \S+/g, (v) => (pick(8) === 0 ? `: ${tokens[pick(tokens.length)]}` : v));
    else if (kind === 3) out += out.slice(at, at + pick(60));
    else out = out.replace(/\w+(?=:)/g, (v) => (pick(10) === 0 ? tokens[pick(tokens.length)]! : v));
  }
  return out;
}

function mutateBytes(text: string, pick: (n: number) => number): Buffer {
  const copy = Buffer.from(text);
  for (let k = 0; k <= pick(4); k++) copy[pick(copy.length)] = pick(256);
  return copy;
}

for (const [name, mutate] of Object.entries({ text: mutateText, bytes: mutateBytes }))
  test(`mutations: ${name}`, async () => {
    const seed = seconds > 0 ? Date.now() % 1e6 : 11;
    const next = uniform(seed);
    const pick = (n: number) => Math.floor(((next() + 1) / 2) * n);
    const until = performance.now() + (seconds * 1000) / 2;
    const outcomes = { used: 0, refused: 0 };
    const path = join(temporaryFolder(), "c.yaml");
    for (let n = 0; n < mutations || performance.now() < until; n++) {
      const kind = n % 2 === 0 ? "train" : "run";
      const content = mutate(corpus[kind], pick);
      writeFileSync(path, content);
      const begun = performance.now();
      try {
        if (kind === "run") await readConfig(path, "run");
        else trainOptionsOf("dpo", await readConfig(path, "train"));
        outcomes.used++;
      } catch (e) {
        if (!isIsrDpoError(e, "INVALID_CONFIG"))
          assert.unreachable(`seed ${seed}, mutation ${n}: ${e instanceof Error ? e.stack : e}\n${content}`);
        outcomes.refused++;
      }
      assert.ok(performance.now() - begun < slowest, `seed ${seed}, mutation ${n} took too long`);
    }
    assert.ok(outcomes.refused > 20 && outcomes.used > 5, JSON.stringify(outcomes));
  });

test("the corpus itself is used", async () => {
  const path = join(temporaryFolder(), "c.yaml");
  for (const kind of ["train", "run"] as const) {
    writeFileSync(path, corpus[kind]);
    await readConfig(path, kind);
  }
});

test.run();
