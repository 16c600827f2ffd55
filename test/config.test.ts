// Configuration files: what they come to, what is refused and where, and that the schema, the trainer and the docs agree.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { none } from "./helpers/assert.js";
import { trainOptionsOf } from "../src/config/function-options.js";
import { kindOf, readConfig, resolveConfig, settingsOf } from "../src/config/read-config.js";
import type { ConfigKind } from "../src/config/config-rows.js";
import { jsonSchema } from "../src/config/schema.js";
import { trainSettings } from "../src/train/train-options.js";
import { cliCommand, node } from "./helpers/child.js";
import { caught } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";

const script = new URL("../scripts/config-docs.mjs", import.meta.url).href;
const { configurationPage, keysOf } = await import(script);
const test = suite("config");
const start = "model: m\ndata: d.jsonl\nrunDir: r\n";
const runStart = "model: m\nsamples: s.jsonl\nrunDir: r\n";

function file(content: string | Buffer): string {
  const path = join(temporaryFolder(), "c.yaml");
  writeFileSync(path, content);
  return path;
}
const train = (content: string, set: readonly string[] = []) => readConfig(file(content), "train", settingsOf(set));

test("file over preset over defaults, and where each value came from", async () => {
  const { config, sources } = await train(
    `${start}preset: paper\nepochs: 2\ntrainer: {beta: 0.3, clipNorm: null, seed: "18446744073709551615"}\n`,
    ["trainer.beta=0.2", "trainer.betas=[0.8, 0.9]", "trainer.beta=0.5"],
  );
  assert.equal([config.epochs, config.itemsPerStep, config.onLong], [2, 128, "fail"]);
  assert.equal([config.trainer.beta, config.trainer.schedule, config.trainer.betas], [0.5, "linear", [0.8, 0.9]]);
  const from = (key: string) => sources.get(key);
  assert.equal(
    ["trainer.beta", "epochs", "trainer.clipNorm", "itemsPerStep", "load.dtype", "onLong", "load.device"].map(from),
    ["set", "file", "file", "preset", "preset", "default", "default"],
  );
  assert.is(trainOptionsOf("dpo", { config, sources }).trainer.seed, 2n ** 64n - 1n);
});

test("paths of the file stand beside it, others stay as they are", async () => {
  const path = file(`${start}videos: /v\nload: {visionTower: tower}\nfeatures: {dir: f}\n`);
  const { config } = await readConfig(path, "train", { data: "other.jsonl" });
  const beside = (name: string) => join(dirname(path), name);
  assert.equal(
    [config.model, config.runDir, config.data, config.videos],
    [beside("m"), beside("r"), "other.jsonl", "/v"],
  );
  assert.equal([config.load.visionTower, config.features], [beside("tower"), { dir: beside("f") }]);
});

test("~ in a path is the home folder, whoever gives it; ./~ is a folder's name", async () => {
  const path = file("model: ~/m\ndata: ./~/d.jsonl\nrunDir: '~'\nfeatures: {dir: ~/f}\n");
  const { config } = await readConfig(path, "train", settingsOf(["videos=~/v"]));
  const home = (name: string) => join(homedir(), name);
  assert.equal([config.model, config.runDir, config.videos], [home("m"), homedir(), home("v")]);
  assert.equal([config.features, config.data], [{ dir: home("f") }, join(dirname(path), "~/d.jsonl")]);
  const given = resolveConfig("run", { model: "~/m", samples: "s", runDir: "r", evaluate: { samples: "~/e.jsonl" } });
  assert.equal([given.config.model, given.config.evaluate!.samples], [home("m"), home("e.jsonl")]);
});

test("warm-up in steps takes the place of a ratio that nobody gave", async () => {
  const given = await readConfig(file(`${runStart}preset: paper\ntrain: {warmupSteps: 5}\n`), "run");
  assert.equal([given.config.train.warmupSteps, given.config.train.warmupRatio], [5, 0]);
  assert.is(given.sources.get("train.warmupRatio"), "default");
  const plain = await readConfig(file(runStart), "run");
  assert.is(plain.config.train.warmupRatio, 0.1);
});

type Row = [what: string, kind: ConfigKind, content: string | Buffer, message: RegExp, hint?: RegExp];
const circular = `${start}trainer: &t\n  train: *t\n`;
const bomb = `${start}a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c]\n`;
const manyKeys = Array.from({ length: 20_000 }, (_, i) => `k${i}: 1\n`).join("");
const refused: Row[] = [
  [
    "misspelt",
    "train",
    "modle: m\ndata: d\nrunDir: r\n",
    /c\.yaml:1:1: modle: unknown key; did you mean 'model'\?$/,
    /^known keys: preset, model/,
  ],
  ["misspelt below", "train", `${start}trainer:\n  lerningRate: 1\n`, /:5:3: trainer\.lerningRate: .*'learningRate'/],
  ["below a union", "train", `${start}features:\n  dirr: x\n`, /:5:3: features\.dirr: .*'dir'/, /dir, maxBytes/],
  ["a run's name in train", "train", `${start}pairsPerStep: 4\n`, /:4:1: pairsPerStep: .*'itemsPerStep'/],
  ["train's name in a run", "run", `${runStart}train: {itemsPerStep: 4}\n`, /train\.itemsPerStep: .*'pairsPerStep'/],
  ["a name of the field", "train", `${start}trainer: {lr: 1}\n`, /trainer\.lr: .*'learningRate'/],
  ["dotted", "train", `${start}trainer.beta: 1\n`, /:4:1: trainer\.beta: unknown key/],
  ["missing", "train", "model: m\n", /: data: expected a text, got nothing/],
  ["of the other kind", "run", start, /:2:1: data: unknown key/],
  ["type", "train", `${start}epochs: two\n`, /:4:9: epochs: expected a (finite|whole) number, got "two"/],
  ["fraction", "train", `${start}epochs: 1.5\n`, /:4:9: epochs: expected a whole number, got 1\.5/],
  ["range", "train", `${start}epochs: 0\n`, /epochs: expected a number at least 1, got 0/],
  [
    "choice",
    "train",
    `${start}trainer: {schedule: cosin}\n`,
    /:4:21: trainer\.schedule: expected one of constant, linear, cosine, got "cosin"/,
    /'cosine'/,
  ],
  ["yes", "train", `${start}trainer: {sharePrefix: yes}\n`, /expected true or false, got "yes"/],
  ["NaN", "train", `${start}trainer: {beta: .nan}\n`, /trainer\.beta: expected a finite number, got NaN/],
  ["infinite", "train", `${start}trainer: {eps: .inf}\n`, /trainer\.eps: expected a finite number, got Infinity/],
  ["empty", "train", `${start}videos:\n`, /videos: expected a text, got null/],
  ["empty text", "train", `${start}videos: ""\n`, /videos: expected a text that is not empty/],
  ["zero byte", "train", `${start}videos: "a\\0b"\n`, /videos: expected a path without zero bytes/],
  ["list", "train", `${start}trainer: {betas: [0.9]}\n`, /trainer\.betas: expected a list of 2/],
  [
    "in a list",
    "train",
    `${start}trainer: {betas: [0.9, 2]}\n`,
    /:4:24: trainer\.betas\.1: expected a number less than 1, got 2/,
  ],
  [
    "seed",
    "train",
    `${start}trainer: {seed: "99999999999999999999"}\n`,
    /trainer\.seed: expected a whole number from 0 to 2\^64 - 1/,
  ],
  ["negative seed", "train", `${start}trainer: {seed: -1}\n`, /trainer\.seed: expected a number at least 0, got -1/],
  ["preset", "train", `${start}preset: papper\n`, /preset: expected paper, got "papper"/, /'paper'/],
  [
    "both warm-ups",
    "train",
    `${start}trainer: {warmupSteps: 2, warmupRatio: 0.1}\n`,
    /trainer\.warmupSteps: expected one of/,
  ],
  [
    "divergence",
    "train",
    `${start}trainer: {loss: ipo, divergence: forward_kl}\n`,
    /trainer\.divergence: expected reverse_kl/,
  ],
  ["nothing trains", "train", `${start}trainer: {train: {decoder: false}}\n`, /trainer\.train: expected a part/],
  ["evalEvery", "train", `${start}evalEvery: 3\n`, /:4:12: evalEvery: expected evalData/],
  ["endpoint", "run", `${runStart}judge: {kind: openai}\n`, /judge\.endpoint: expected an endpoint/],
  [
    "address",
    "run",
    `${runStart}judge: {kind: openai, endpoint: {url: nowhere, model: m}}\n`,
    /judge\.endpoint\.url: expected an address/,
  ],
  ["window", "run", `${runStart}video: {window: [3, 2]}\n`, /video\.window: expected a begin before its end/],
  ["from, to", "run", `${runStart}from: 4\nto: 4\n`, /to: expected more than from/],
  ["twice", "train", `${start}model: n\n`, /c\.yaml:4:1: model: expected a key once/],
  ["twice below", "train", `${start}trainer:\n  beta: 1\n  beta: 1\n`, /:6:3: trainer\.beta: expected a key once/],
  ["a merge key", "train", `d: &d {beta: 1}\n${start}trainer:\n  <<: *d\n`, /:6:3: trainer\.<<: .*merge key.*write/],
  [
    "an alias before its anchor",
    "train",
    `${start}epochs: *n\nseed: &n 2\n`,
    /:4:9: epochs: expected an anchor &n before/,
  ],
  [
    "an alias in a list",
    "train",
    `${start}trainer: {betas: [0.9, *b]}\n`,
    /:4:24: trainer\.betas: expected an anchor &b/,
  ],
  ["another's home", "train", `${start}videos: ~sam/v\n`, /:4:9: videos: expected a path with ~\/.*got "~sam\/v"/],
  ["tabs", "train", `${start}trainer:\n\tbeta: 1\n`, /:5:1: expected YAML.*[Tt]ab/],
  ["unended", "train", `${start}trainer: {beta: 1\n`, /:\d+:\d+: expected YAML/],
  ["two documents", "train", `${start}---\na: 1\n`, /:4:1: expected YAML.*multiple documents$/],
  ["tag", "train", `${start}onBadRow: !x skip\n`, /:4:11: expected YAML.*tag/],
  ["no mapping", "train", "- a\n", /expected keys and values, got an array/],
  ["circular", "train", circular, /an alias inside of what it stands for/],
  ["aliases", "train", bomb, /at most 100 aliases/],
  ["unknown alias", "train", `${start}trainer: *t\n`, /:4:10: trainer: expected an anchor &t before the alias \*t/],
  ["deep", "train", `${start}a: ${"[".repeat(80)}${"]".repeat(80)}\n`, /at most 32 levels/],
  ["deeper than the stack", "train", `${start}a: ${"[".repeat(5000)}\n`, /more levels than can be read/],
  ["many keys", "train", manyKeys, /:1:1: k0: unknown key/],
  ["large", "train", `# ${"x".repeat(1 << 20)}\n${start}`, /expected at most 1048576 bytes/],
  ["Latin-1", "train", Buffer.from("model: caf\u00e9\n", "latin1"), /expected UTF-8/],
  ["prototype", "train", `${start}__proto__: {a: 1}\n`, /__proto__: unknown key/],
];

for (const [what, kind, content, message, hint] of refused)
  test(`a ${kind} configuration is refused, with its place: ${what}`, async () => {
    const e = await caught(() => readConfig(file(content), kind));
    assert.is(e.code, "INVALID_CONFIG");
    assert.match(e.message, message);
    if (hint) assert.match(e.hint ?? "", hint);
  });

const refusedSettings: [set: string, message: RegExp][] = [
  ["trainer.beta=-1", /^command line: trainer\.beta: expected a number greater than 0, got -1/],
  ["trainer.bta=1", /^command line: trainer\.bta: unknown key; did you mean 'beta'/],
  ["trainer.beta", /--set: expected key=value/],
  ["=1", /--set: expected key=value/],
  ["a..b=1", /--set: expected key=value/],
  ["trainer.beta=[1", /^--set trainer\.beta:\d+:\d+: expected YAML/],
];
for (const [set, message] of refusedSettings)
  test(`a setting of the command line is refused as such: ${set}`, async () => {
    const e = await caught(async () => train(start, [set]));
    assert.is(e.code, "INVALID_CONFIG");
    assert.match(e.message, message);
  });

test("a missing key is told of where the configuration came from", async () => {
  const e = await caught(async () => resolveConfig("train", { model: "m" }, "somewhere"));
  assert.match(e.message, /^somewhere: data: expected/);
});

test("files that are none", async () => {
  const dir = temporaryFolder();
  mkdirSync(join(dir, "folder.yaml"));
  assert.is((await caught(() => readConfig(join(dir, "no.yaml"), "train"))).code, "NOT_FOUND");
  assert.is((await caught(() => readConfig(join(dir, "folder.yaml"), "train"))).code, "IO");
});

test("a supervised run takes no keys of a preference loss, except from a preset", async () => {
  const options = trainOptionsOf("sft", await train(`${start}preset: paper\n`));
  none(Object.keys(options.trainer), (key) => key === "beta" || key === "loss");
  const given = await train(`${start}trainer: {beta: 0.2}\n`);
  assert.match((await caught(async () => trainOptionsOf("sft", given))).message, /trainer\.beta: expected nothing/);
});

test("defaults are those of train(): an empty configuration asks for the same", async () => {
  const plain = { kind: "dpo", model: "m", data: "d", runDir: "r" } as const;
  const { kind: _, ...given } = plain;
  const configured = trainSettings(trainOptionsOf("dpo", resolveConfig("train", given)));
  const { load, givenTrainer: __, ...settings } = configured;
  const { load: nothing, givenTrainer, ...defaults } = trainSettings(plain);
  assert.equal(settings, defaults);
  assert.equal([givenTrainer, nothing], [{}, {}]);
  const media = { mediaTimeoutMs: 300_000, mediaMaxLost: 0 };
  assert.equal(load, { device: "auto", dtype: "auto", featureCache: { dir: join("r", "features") }, ...media });
});

const { generatedTypes } = await import(new URL("../scripts/option-types.mjs", import.meta.url).href);
for (const [path, text] of generatedTypes() as [string, string][])
  test(`src/base/${basename(path)} is what the rows say`, () => {
    assert.is(readFileSync(path, "utf8"), text, "run node --import tsx scripts/option-types.mjs");
  });

for (const kind of ["train", "run"] as const)
  test(`JSON Schema of ${kind}: every key is described and closed`, () => {
    const schema = jsonSchema(kind);
    const keys = [...keysOf(schema)] as { key: string; schema: { description?: string } }[];
    assert.ok(keys.length > 40, String(keys.length));
    assert.equal(
      keys.filter(({ schema: s }) => !s.description).map(({ key }) => key),
      [],
    );
    const objects = JSON.stringify(schema).match(/"type":"object"/g)!.length;
    const records = JSON.stringify(schema).match(/"propertyNames"/g)!.length; // values by names that are no keys
    assert.is(JSON.stringify(schema).match(/"additionalProperties":false/g)!.length, objects - records);
  });

test("docs/configuration.md is what the schema says", () => {
  const page = readFileSync(fileURLToPath(new URL("../docs/configuration.md", import.meta.url)), "utf8");
  assert.is(page, configurationPage(), "run node --import tsx scripts/config-docs.mjs");
});

test("config show and config schema", async () => {
  const path = file(`${start}epochs: 3\n`);
  assert.equal([await kindOf(path), await kindOf(file(runStart))], ["train", "run"]);
  const cli = (...args: string[]) => node([...cliCommand, "config", ...args], { NODE_NO_WARNINGS: "1" });
  const shown = cli("show", path, "--set", "trainer.beta=0.2");
  assert.match(shown.out, /^epochs +3 +file$/m);
  assert.match(shown.out, /^trainer\.beta +0\.2 +set$/m);
  assert.match(shown.out, /^trainer\.eps +1e-8 +default$/m);
  const json = JSON.parse(cli("show", path, "--json").out);
  assert.equal([json.kind, json.config.epochs, json.sources.epochs], ["train", 3, "file"]);
  assert.is(JSON.parse(cli("schema", "--kind", "train").out).properties.trainer.type, "object");
  assert.is(cli("show", file("a: 1")).code, 78);
});

test.run();
