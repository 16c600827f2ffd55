// The shape of the house: no file over 500 lines, no logic that stands twice, no error told from another by its text. Functions
// of over 60 lines are the linter's to find (biome.json), layers and circles are in layers.test.ts.
import { suite } from "uvu";
import * as assert from "uvu/assert";

interface Duplicates {
  countedLines(text: string): { number: number; code: string }[];
  duplicatesOf(files: ReadonlyMap<string, string>): { n: number; at: string; again: string }[];
  sources(): Map<string, string>;
}
const script = new URL("../scripts/duplicates.mjs", import.meta.url).href;
const { countedLines, duplicatesOf, sources } = (await import(script)) as Duplicates;

const test = suite("house");

test("no file of src/ or native/ has more than 500 lines", () => {
  const files = [...sources()];
  assert.ok(files.length > 300, `${files.length} files`);
  const lengths = files.map(([path, text]) => [text.split("\n").length - 1, path] as const);
  assert.equal(
    lengths.filter(([lines]) => lines > 500).map(([lines, path]) => `${path}: ${lines} lines`),
    [],
  );
});

test("no six lines of logic stand twice in src/ or native/", () => {
  const found = duplicatesOf(sources());
  assert.equal(
    found.map(({ n, at, again }) => `${n} lines of ${at} stand again in ${again}`),
    [],
  );
});

// A check that finds nothing proves nothing: planted texts, and what has to be found in them.
const numbered = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, i) => `step(${from + i});`).join("\n");
const planted: readonly [what: string, files: Readonly<Record<string, string>>, found: number][] = [
  ["six lines in two files", { "a.ts": numbered(0, 6), "b.ts": `first();\n${numbered(0, 6)}` }, 1],
  ["nine lines are one stretch", { "a.ts": numbered(0, 9), "b.ts": numbered(0, 9) }, 1],
  ["twice in one file", { "a.ts": `${numbered(0, 6)}\nbetween();\n${numbered(0, 6)}` }, 1],
  ["other white space", { "a.ts": numbered(0, 6), "b.ts": numbered(0, 6).replaceAll("(", " ( ") }, 1],
  ["a comment between", { "a.ts": numbered(0, 6), "b.ts": numbered(0, 6).replace("\n", "\n// why\n\n") }, 1],
  ["five lines", { "a.ts": numbered(0, 5), "b.ts": numbered(0, 5) }, 0],
  ["another line among them", { "a.ts": numbered(0, 8), "b.ts": numbered(0, 8).replace("step(4)", "leap(4)") }, 0],
];

for (const [what, files, count] of planted)
  test(`planted: ${what}`, () => {
    const found = duplicatesOf(new Map(Object.entries(files)));
    assert.is(found.length, count, JSON.stringify(found));
  });

/** Where the text of an error is looked into, as "line: code". */
const inMessage =
  /\b(message|stack)\b\??!?\)?\.(match|matchAll|search|includes|indexOf|startsWith|endsWith|replace|replaceAll|split|slice)\(/;
const ofMessage = /\.(test|exec)\(\s*(String\()?(\w+\.)?\b(e|err|error|cause|reason|message|stack)\b/;
const textsOfErrors = (text: string): string[] =>
  countedLines(text)
    .filter(({ code }) => inMessage.test(code) || ofMessage.test(code))
    .map(({ number, code }) => `${number}: ${code}`);

/** Where an error has nothing but its text; each a file, how many lines of it, and why. */
const allowed: readonly [path: string, lines: number, why: string][] = [
  ["src/base/addon.ts", 1, "shows the first line of what the loader of the binary says"],
  ["src/base/errors.ts", 3, "a structured clone of an error keeps its message and stack alone"],
  [
    "src/config/read-config.ts",
    2,
    "the YAML parser tells of an exhausted call stack by text alone, and adds advice for programmers",
  ],
  ["src/iterate/generate-group.ts", 1, "takes the machine's path out of what the journal keeps"],
  ["src/model/generate.ts", 1, "the engine puts the name of a request before its message"],
  ["src/video/frame-files.ts", 1, "shows the first line of what the decoder of images says"],
];

test("errors are told apart by code and detail, never by their text", () => {
  const found = [...sources()].filter(([path]) => /^src\/.*\.ts$/.test(path));
  const wrong = found.flatMap(([path, text]) => {
    const lines = textsOfErrors(text);
    const [, most = 0] = allowed.find(([file]) => file === path) ?? [];
    return lines.length > most ? lines.map((line) => `${path}:${line}`) : [];
  });
  assert.equal(wrong, []);
});

const routed: readonly [code: string, found: boolean][] = [
  ["if (e.message.includes('EEXIST')) return;", true],
  ["if ((e as Error).message.startsWith(name)) return;", true],
  ["const [, code] = /E[A-Z]+/.exec(error.message) ?? [];", true],
  ["if (/full/.test(String(e))) return;", true],
  ["if (/call stack/.test(message)) return;", true],
  ["const why = message.replace(/; items .*$/, '');", true],
  ["if (isIsrDpoError(e, 'NOT_FOUND')) return null; // e.message.includes('x')", false],
  ["tell(path, e.message);", false],
  ["if (codeOf(e) === 'ENOENT') return [];", false],
  ["const messages = chat.messages.slice(0, 2);", false],
];

for (const [code, finds] of routed)
  test(`planted: ${code} ${finds ? "is found" : "is lawful"}`, () =>
    assert.is(textsOfErrors(code).length, finds ? 1 : 0));

test("imports, comments and declared overrides do not count", () => {
  const text =
    'import {\n  a,\n} from "a";\nimport b from "b";\n#include "c.h"\n/* one\ntwo */\nvoid f(int a,\n  int b) const override;\nrun(); // now\n';
  assert.equal(countedLines(text), [{ number: 10, code: "run();" }]);
});

test.run();
