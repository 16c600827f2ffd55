// How the closing line of a test run comes about: what counts as passed, failed and skipped.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ordered } from "./helpers/assert.js";
import { node, root } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";

type Sums = { passed: number; failed: number; skipped: number };
const script = async (name: string) => await import(new URL(`../scripts/${name}.mjs`, import.meta.url).href);
const { closingLine, tallyOf } = (await script("tally")) as {
  closingLine(sums: Sums): string;
  tallyOf(output: string, status: number): Sums & { names: string[] };
};

const test = suite("tally");

const uvu = (total: number, passed: number, skipped: number) =>
  `\n  Total:     ${total}\n  Passed:    ${passed}\n  Skipped:   ${skipped}\n  Duration:  1.00ms\n\n`;
const skip = (...names: string[]) => names.map((name) => `\nskipped test: ${name}: no browser\n`).join("");

// What is told, its output, its exit status, and [passed, failed, skipped].
const rows: [string, string, number, [number, number, number]][] = [
  ["uvu, all passed", uvu(5, 5, 0), 0, [5, 0, 0]],
  ["uvu, two failed", uvu(5, 3, 0), 1, [3, 2, 0]],
  ["uvu leaves skipped tests out of its total", skip("a", "b", "c") + uvu(5, 5, 3), 0, [5, 0, 3]],
  ["uvu, more skipped than there are others", skip("a", "b", "c") + uvu(1, 1, 3), 0, [1, 0, 3]],
  ["uvu, failed and skipped", skip("a") + uvu(5, 4, 1), 1, [4, 1, 1]],
  ["uvu, everything skipped", skip("a", "b") + uvu(0, 0, 2), 0, [0, 0, 2]],
  ["uvu, a hook that failed: its exit status is 0", uvu(5, 2, 0), 0, [2, 3, 0]],
  ["uvu, a filter that fits no test", uvu(0, 0, 0), 0, [0, 1, 0]],
  ["uvu, coloured", uvu(2, 2, 0).replace("  Passed:", "\x1b[32m  Passed:").replace("2\n", "2\x1b[39m\n"), 0, [2, 0, 0]],
  ["uvu, ended behind its summary", uvu(5, 5, 0), 134, [5, 1, 0]],
  ["skipped, but not named", skip("a") + uvu(5, 5, 2), 0, [5, 1, 2]],
  ["named, but not counted", skip("a", "b") + uvu(5, 5, 1), 0, [5, 1, 1]],
  ["a closing line", "3 passed, 0 failed\n", 0, [3, 0, 0]],
  ["a closing line with skipped ones", `${skip("x")}3 passed, 0 failed, 1 skipped\n`, 0, [3, 0, 1]],
  ["the last closing line counts", "9 passed, 1 failed\n3 passed, 0 failed, 0 skipped\n", 0, [3, 0, 0]],
  ["a closing line, crashed behind it", "3 passed, 0 failed\n", 139, [3, 1, 0]],
  ["a closing line of nothing", "0 passed, 0 failed, 0 skipped\n", 0, [0, 1, 0]],
  ["no tally, success", "built\n", 0, [1, 0, 0]],
  ["no tally, failure", "boom\n", 1, [0, 1, 0]],
  ["no output, killed", "", 137, [0, 1, 0]],
];

for (const [name, output, status, expected] of rows)
  test(name, () => {
    const { passed, failed, skipped } = tallyOf(output, status);
    assert.equal([passed, failed, skipped], expected);
  });

test("skipped tests are named with what is missing", () => {
  assert.equal(tallyOf(skip("keys: move", "print") + uvu(5, 5, 2), 0).names, [
    "keys: move: no browser",
    "print: no browser",
  ]);
});

test("a closing line is read as it is written", () => {
  const said = { passed: 7, failed: 2, skipped: 3 };
  assert.is(closingLine(said), "7 passed, 2 failed, 3 skipped");
  const { passed, failed, skipped } = tallyOf(`${skip("a", "b", "c")}${closingLine(said)}\n`, 1);
  assert.equal({ passed, failed, skipped }, said);
});

/** A run of stages in a process of its own: its output and its exit status. */
const stages = (body: string, options = "") =>
  node([
    "--input-type=module",
    "-e",
    `import { Stages } from "./scripts/stages.mjs"; const stages = new Stages(${options}); ${body}; stages.end();`,
  ]);
const says = (text: string, status = 0) =>
  `await stages.stage("s", process.execPath, ["-e", ${JSON.stringify(`console.log(${JSON.stringify(text)}); process.exitCode = ${status};`)}])`;

test("several stages are added up, each skipped test is listed once, and failures decide the exit status", () => {
  const good = says(skip("a") + uvu(4, 4, 1));
  const sound = stages(`${good}; ${good}; ${says("2 passed, 0 failed")}`);
  assert.is(sound.out.trimEnd().split("\n").at(-1), "10 passed, 0 failed, 2 skipped");
  assert.is(sound.out.match(/^not run: a: no browser$/gm)?.length, 1);
  assert.is(sound.code, 0);
  const bad = stages(`${good}; ${says("x", 3)}`);
  assert.is(bad.out.trimEnd().split("\n").at(-1), "4 passed, 1 failed, 1 skipped");
  assert.is(bad.code, 1);
});

test("a build that succeeds is no test, one that fails is a failure", () => {
  const build = (status: number) =>
    `await stages.stage("b", process.execPath, ["-e", "process.exitCode = ${status}"], { silentPass: true })`;
  const ended = stages(`${says("2 passed, 0 failed")}; ${build(0)}; ${build(1)}`);
  assert.is(ended.out.trimEnd().split("\n").at(-1), "2 passed, 1 failed, 0 skipped");
});

test("a stage that has passed is not run again where that is recorded; builds and stages that failed are", () => {
  const record = join(temporaryFolder(), "deep", "record.jsonl");
  const stage = (name: string, status: number, more = "") =>
    `await stages.stage("${name}", process.execPath, ["-e", "console.log('3 passed, 0 failed'); process.exitCode = ${status};"], {${more}})`;
  const all = (status: number) =>
    [stage("sound", status), stage("broken", 1 - status), stage("built", status, "silentPass: true")].join("; ");
  const ran = (out: string) => [...out.matchAll(/^== (\w+):/gm)].map((match) => match[1]);
  const first = stages(all(0), `{ record: ${JSON.stringify(record)} }`);
  assert.equal(ran(first.out), ["sound", "broken", "built"]);
  assert.is(first.out.trimEnd().split("\n").at(-1), "6 passed, 1 failed, 0 skipped");
  const second = stages(all(1), `{ record: ${JSON.stringify(record)} }`);
  assert.equal(ran(second.out), ["broken", "built"]);
  assert.match(second.out, /^sound +3 ok +0 bad +0 skipped .* passed at 2/m);
  assert.is(second.out.trimEnd().split("\n").at(-1), "6 passed, 1 failed, 0 skipped");
});

const empty = { CHROMIUM: "", PATH: "/nonexistent" };

for (const file of ["live", "report-page"])
  test(`without a browser the tests of pages are skipped by name, and nothing fails: ${file}`, () => {
    const ended = node(["--import", "tsx", `test/${file}.test.ts`], empty);
    const { failed, skipped, names } = tallyOf(ended.out, ended.code ?? 1);
    assert.is(failed, 0, ended.out + ended.err);
    assert.ok(skipped > 0 && names.every((name) => name.endsWith(": no Chromium on this machine")), ended.out);
  });

test("a browser that CHROMIUM names and that does not start is a failure", () => {
  const ended = node(["--import", "tsx", "test/report-page.test.ts"], { CHROMIUM: "/bin/false" });
  ordered(tallyOf(ended.out, ended.code ?? 1).failed, ">", 0);
});

for (const name of readdirSync(join(root, "test")).filter((file) => file.endsWith(".test.ts")))
  test(`it runs its suites, and only helpers/optional.ts skips: ${name}`, () => {
    const text = readFileSync(join(root, "test", name), "utf8");
    const suites = [...text.matchAll(/^ *const (\w+) = suite\(/gm)].map((match) => match[1]!);
    assert.ok(suites.length > 0 || /import \{[^}]*\btest\b[^}]*\} from "uvu"/.test(text), `${name} has a suite`);
    for (const one of suites) assert.ok(text.includes(`${one}.run();`), `${name}: ${one}.run()`);
    assert.not.match(text, /\.(only|skip)\(/, name);
  });

test.run();
