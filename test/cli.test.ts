// The command line: what it prints, and its exit codes.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { endsWith, excludes, ordered } from "./helpers/assert.js";
import { modelFolder } from "../src/cli/newest-model.js";
import { isIsrDpoError } from "../src/index.js";
import { cliCommand, node } from "./helpers/child.js";
import { copyOf, temporaryFolder } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";

const test = suite("cli");
const cli = (args: string[], env: Record<string, string> = {}) =>
  node([...cliCommand, ...args], { NODE_NO_WARNINGS: "1", ...env }); // newer Nodes warn of NO_COLOR beside the FORCE_COLOR that uvu sets

test("inspect: this machine", () => {
  const ended = cli(["inspect", "--json"]);
  assert.is(ended.code, 0, ended.err);
  const found = JSON.parse(ended.out);
  const cuda = ["cuda", "cudaLibrary", "cudaRanksLibrary", "cudaProblem"];
  assert.equal(Object.keys(found), ["binary", "isa", "threads", "memoryBytes", ...cuda, "problems", "ffmpeg"]);
  endsWith(found.binary, ".node");
  ordered(found.threads, ">=", 1);
  ordered(found.memoryBytes, ">", 2 ** 28);
  const text = cli(["inspect"]);
  assert.match(
    text.out,
    /binary .*\.node\ninstructions +(generic|avx2|avx512|avx512bf16)\nthreads +\d+\nmemory +[\d.]+ GiB\ncuda +not used: this binary has no CUDA; /,
  );
  excludes(text.out, "\u001b[", "colours only on a terminal");
});

test("inspect gpu: the cards alone, or why there are none; a folder of that name is ./gpu", () => {
  const ended = cli(["inspect", "gpu"]);
  assert.is(ended.code, 0, ended.err);
  assert.match(ended.out, /^binary +.*\.node\ncuda +not used: this binary has no CUDA; .*\n$/);
  assert.equal(JSON.parse(cli(["inspect", "gpu", "--json"]).out), JSON.parse(cli(["inspect", "--json"]).out));
  const there = cli(["inspect", "./gpu"]);
  assert.is(there.code, 65, there.err);
  assert.match(there.err, /NOT_FOUND: \.\/gpu: no such folder/);
});

test("inspect DIR: a checkpoint", () => {
  const ended = cli(["inspect", folder("text_llama3_rope"), "--json"]);
  assert.is(ended.code, 0, ended.err);
  const found = JSON.parse(ended.out);
  assert.is(found.modelType, "llama");
  assert.is(found.parameters, 79344);
  assert.is(found.files.length, 3);
  assert.equal([found.missing, found.unused], [[], []]);
  const half = JSON.parse(cli(["inspect", folder("text_llama_gqa_tied", "policy-bf16"), "--json"]).out);
  assert.is(half.dtype, "bf16");
  const text = cli(["inspect", folder("text_qwen2")]);
  assert.match(text.out, /family +.*qwen2/);
  assert.match(text.out, /parameters +54,960/);
});

const nowhere = join(temporaryFolder(), "nowhere");
const broken = copyOf(folder("text_llama"));
writeFileSync(join(broken, "model.safetensors"), "short");
const other = copyOf(folder("text_llama"));
writeFileSync(join(other, "config.json"), JSON.stringify({ model_type: "mamba", architectures: ["MambaForCausalLM"] }));
const ends: [what: string, args: string[], code: number, message: RegExp, env?: Record<string, string>][] = [
  ["--help", ["--help"], 0, /^$/],
  ["--version", ["--version"], 0, /^$/],
  ["a command's --help", ["inspect", "--help"], 0, /^$/],
  ["a command that is none", ["inspct"], 2, /Did you mean inspect/],
  ["a flag that is none", ["inspect", "--jsn"], 2, /Did you mean --json/],
  ["too many arguments", ["inspect", "a", "b"], 2, /too many arguments/],
  ["no folder", ["inspect", nowhere], 65, /NOT_FOUND: .*nowhere/],
  ["a broken checkpoint", ["inspect", broken], 65, /CHECKPOINT_CORRUPT: .*model\.safetensors/],
  ["another model", ["inspect", other], 65, /CHECKPOINT_UNSUPPORTED: .*mamba[\s\S]*hint:/i],
  ["no run", ["report", nowhere], 65, /NOT_FOUND: .*nowhere: expected the folder of a run, got nothing/],
  [
    "a folder that is no run",
    ["report", temporaryFolder()],
    65,
    /NOT_FOUND: .*got one without iterations\/, train\/ or run\.json/,
  ],
  ["no binary", ["inspect"], 78, /BINARY_MISSING[\s\S]*hint: build/, { ISR_DPO_PREBUILD: temporaryFolder() }],
];
for (const [what, args, code, message, env] of ends)
  test(`exit codes and where messages go: ${what}`, () => {
    const ended = cli(args, env);
    assert.is(ended.code, code, `${args.join(" ")}: ${ended.err}`);
    assert.match(ended.err, message, args.join(" "));
    if (code !== 0) assert.is(ended.out, "", args.join(" "));
  });

test("a level that the machine lacks, and one that does not exist", () => {
  const ended = cli(["inspect", "--json"], { ISR_DPO_ISA: "sse9" });
  assert.is(ended.code, 0, ended.err);
  assert.match(JSON.parse(ended.out).problems[0], /ISR_DPO_ISA=sse9/);
});

test("a run's folder stands for its newest model", () => {
  const dir = temporaryFolder();
  assert.is(modelFolder(dir), dir, "what is no run is left as it is");
  writeFileSync(join(dir, "run.json"), "{}");
  assert.throws(
    () => modelFolder(dir),
    (e: Error) => isIsrDpoError(e, "NOT_FOUND"),
  );
  const model = (...names: string[]) => {
    const folder = join(dir, ...names);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "config.json"), "{}");
    return folder;
  };
  for (const names of [["seed", "model"], ["model"], ["iterations", "2", "model"], ["iterations", "10", "model"]]) {
    const newest = model(...names);
    assert.is(modelFolder(dir), newest);
  }
});

test.run();
