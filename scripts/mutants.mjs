// npm run mutants [-- part of a name]: tests the tests. Each row of test/mutants/mutants.json is a one-line fault and the
// named test that has to notice it. In a copy of the tree (build/mutants, kept for incremental builds) every named test
// must pass, and then fail with its fault; "ops" are the rows that a test of the op table runs then (ISR_TEST_OPS). A pattern
// that does not match exactly once is an error: the row is stale.
import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { executable, machineLevels, root, tool } from "./native.mjs";
import { run, seconds } from "./stages.mjs";
import { closingLine, tallyOf } from "./tally.mjs";
import { testCommand, transpile } from "./transpile.mjs";

const tree = join(root, "build", "mutants");
const mutants = JSON.parse(readFileSync(join(root, "test", "mutants", "mutants.json"), "utf8"));

function writeIfChanged(path, bytes) {
  if (existsSync(path) && readFileSync(path).equals(bytes)) return;
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, bytes);
}

/** The bytes of a file in the copy: biome takes a configuration below another one only where it says so. */
function copied(file) {
  const bytes = readFileSync(join(root, file));
  return file === "biome.json" ? Buffer.from(JSON.stringify({ root: false, ...JSON.parse(bytes) })) : bytes;
}

/** What git would track, as it is now; files that are gone are removed, so that a build's globs see the same. */
function copyTree() {
  const git = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
  const files = execFileSync("git", git, { cwd: root, encoding: "utf8", maxBuffer: 1 << 26 }).split("\0");
  const isFile = (file) => statSync(join(root, file), { throwIfNoEntry: false })?.isFile();
  const wanted = new Set(files.filter((file) => file && isFile(file)));
  for (const file of wanted) writeIfChanged(join(tree, file), copied(file));
  for (const entry of readdirSync(tree, { recursive: true, withFileTypes: true })) {
    const file = join(entry.parentPath ?? entry.path, entry.name).slice(tree.length + 1);
    if (entry.isFile() && !/^(build|dist|node_modules)\//.test(file) && !wanted.has(file)) rmSync(join(tree, file));
  }
  if (!existsSync(join(tree, "node_modules"))) symlinkSync(join(root, "node_modules"), join(tree, "node_modules"));
}

const quiet = { cwd: tree, quiet: true, limit: 1800 };

/** Whether a test runs the package as users get it: then a fault in src/ has to be bundled. */
const usesBundle = ({ ts }) =>
  ts !== undefined && readFileSync(join(root, "test", ts), "utf8").match(/"dist"|dist\/|"examples"/) !== null;

/** Builds what these tests need; `changed`: the file that is another since the last build, where it is one. */
async function build(tests, changed) {
  if (tests.some(usesBundle)) {
    const { status, output } = await run(tool("tsup"), ["--silent"], quiet);
    if (status !== 0) throw new Error(`the bundle failed:\n${output.slice(-3000)}`);
  }
  if (changed !== undefined && /\.(ts|mjs|html|css)$/.test(changed)) return; // nothing that is compiled
  const dir = join(tree, "build", "cmake");
  if (!existsSync(join(dir, "native_tests"))) {
    // Most of the time goes into compiling: levels that cannot run here and the last optimisations show no fault.
    const level = { MAX_LEVEL: String(machineLevels().length - 1), CMAKE_CXX_FLAGS_RELEASE: "-O1" };
    const env = { ...level, BUILD_TESTING: "ON", BUILD_EMULATION: "ON" };
    const first = await run(process.execPath, ["cmake/build.cjs"], { ...quiet, env });
    if (first.status !== 0) throw new Error(`the build failed:\n${first.output.slice(-3000)}`);
  }
  const targets = [];
  if (tests.some((test) => test.cuda)) targets.push("cuda_tests");
  if (tests.some((test) => !test.cuda)) targets.push("native_tests");
  if (tests.some((test) => test.ts)) targets.push("addon");
  const args = ["--build", dir, "--parallel", String(availableParallelism()), "--target", ...targets];
  const { status, output } = await run("cmake", args, quiet);
  if (status !== 0) throw new Error(`the build failed:\n${output.slice(-3000)}`);
}

const onlySome = ["--import", pathToFileURL(join(root, "scripts", "one-test.mjs")).href];

/** Runs a file of TypeScript tests, or the `wanted` ones of it: [suite, name] of those that failed, and how many passed. */
async function runFile(ts, wanted) {
  const args = testCommand(ts, javascript, tree, wanted ? onlySome : []);
  const env = wanted ? { ISR_TEST_ONLY: JSON.stringify(wanted) } : {};
  const { status, output } = await run(process.execPath, args, { ...quiet, env, limit: 300 });
  // uvu names failed tests only, and their suites
  const found = output.split("\n").flatMap((line) => /^ *FAIL +(?:(\S.*?) +)?"(.*)"$/.exec(line) ?? []);
  const failures = Array.from({ length: found.length / 3 }, (_, i) => found.slice(3 * i + 1, 3 * i + 3));
  return { failures, passed: status === 0 ? tallyOf(output, status).passed : 0 };
}

// Of a TypeScript test: those of its file that it passed among without a fault, and has to fail among with one; none: the whole file.
const among = new Map();

/** Runs the test that a row names: true passed, false failed, null when it did not run. */
async function passes(test) {
  const name = test.native ?? test.cuda;
  if (name) {
    const program = executable(join(tree, "build", "cmake"), test.cuda ? "cuda_tests" : "native_tests");
    const env = test.ops ? { ISR_TEST_OPS: test.ops } : {};
    const { output, note } = await run(program, [name], { ...quiet, env, limit: 300 });
    const line = output.split("\n").find((text) => text.slice(5).startsWith(`${name} (`));
    if (!line && note.startsWith("ended by SIG")) return false; // it crashed
    return line ? line.startsWith("ok") : null;
  }
  const { failures, passed } = await runFile(test.ts, among.get(text(test)));
  if (failures.some(([suite, name]) => name === test.name && (!test.suite || suite === test.suite))) return false;
  return passed > 0 ? true : null;
}

/** What the tests of a file, or one of the others, say without a fault. */
async function check(tests) {
  if (tests[0].ts && (await runFile(tests[0].ts, tests)).passed === tests.length) {
    for (const test of tests) {
      among.set(text(test), tests);
      count(true, `without a fault: ${text(test)}`);
    }
    return;
  }
  for (const test of tests) {
    among.set(text(test), [test]);
    let result = await passes(test);
    if (result !== true && test.ts) {
      among.delete(text(test));
      result = await passes(test);
    }
    count(result === true, `without a fault: ${text(test)}${result === null ? " (did not run)" : ""}`);
  }
}

const text = ({ native, cuda, ops, ts, suite, name }) =>
  [native, cuda, ops, ts, suite, name].filter(Boolean).join(": ");

function mutate({ file, find, replace }) {
  const source = readFileSync(join(root, file), "utf8");
  const count = source.split(find).length - 1;
  if (count !== 1) throw new Error(`the pattern matches ${count} times in ${file}`);
  writeFileSync(
    join(tree, file),
    source.replace(find, () => replace),
  );
}

/** A changed source as JavaScript, beside the others. */
const transpiled = async ({ file }) => (file.endsWith(".ts") ? await transpile(tree, [file]) : undefined);

let javascript; // the folder of it
let passed = 0;
let failed = 0;
function count(ok, line) {
  ok ? ++passed : ++failed;
  console.log(`${ok ? "ok  " : "FAIL"} ${line}`);
}

const chosen = mutants.filter((m) => m.name.includes(process.argv[2] ?? ""));
if (!chosen.length) throw new Error(`no mutant has a name with "${process.argv[2]}"`);
mkdirSync(tree, { recursive: true });
copyTree();
await build(chosen.map((m) => m.test));
javascript = await transpile(tree);
const named = [...new Set(chosen.map((m) => JSON.stringify(m.test)))].map((test) => JSON.parse(test));
const together = new Map(); // tests of one file
for (const test of named) {
  const key = test.ts ?? text(test);
  together.set(key, [...(together.get(key) ?? []), test]);
}
for (const tests of together.values()) await check(tests);
for (const mutant of chosen) {
  const started = Date.now();
  try {
    mutate(mutant);
    await build([mutant.test], mutant.file);
    await transpiled(mutant);
    const result = await passes(mutant.test);
    const found = result === false ? "caught by" : result === null ? "did not run:" : "NOT caught by";
    count(result === false, `${mutant.name}: ${found} ${text(mutant.test)} (${seconds(Date.now() - started)})`);
  } catch (error) {
    count(false, `${mutant.name}: ${error.message}`);
  }
  writeIfChanged(join(tree, mutant.file), readFileSync(join(root, mutant.file)));
  await transpiled(mutant);
}
console.log(closingLine({ passed, failed, skipped: 0 }));
process.exitCode = failed ? 1 : 0;
