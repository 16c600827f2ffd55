// The ladder: native includes and src imports go downward only (native/README.md, CONTRIBUTING.md).
// A room may use every room of a lower step; rooms of one step do not know each other. A file or folder that is not in
// the table fails the test: a new room gets its place here.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, posix, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { ordered } from "./helpers/assert.js";

interface Ladder {
  steps: readonly (readonly string[])[];
  /** Rooms inside a room: they see what the outer room sees and the room itself; nobody includes them. */
  inner: readonly string[];
  /** Outside modules that one room, or one file, alone may touch. */
  only: readonly { module: RegExp; room: string }[];
}

const native: Ladder = {
  steps: [["core"], ["kernels", "io", "dist"], ["autograd"], ["models"], ["infer", "train"], ["binding"]],
  inner: ["kernels/cpu", "kernels/cuda"],
  only: [{ module: /^(napi|node_api|js_native_api|uv|v8|node)(\.h|-.*)$/, room: "binding" }],
};

const src: Ladder = {
  steps: [
    ["base"],
    ["text", "video", "data"],
    ["model", "runfolder"],
    ["judge"],
    ["train"],
    ["native", "config"],
    ["iterate"],
    ["plan", "report", "synthetic"],
    ["index"],
    ["cli"],
  ],
  inner: [],
  only: [{ module: /^node-gyp-build$/, room: "base/addon.ts" }],
};

type Files = ReadonlyMap<string, string>; // path inside native/ or src/ -> text
interface Edge {
  from: string; // file
  to: string; // path inside the tree, or the name of an outside module
  inside: boolean;
}

function includesOf(file: string, text: string, files: Files): Edge[] {
  const edges: Edge[] = [];
  for (const [, open, path] of text.matchAll(/^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]/gm)) {
    const beside = posix.join(posix.dirname(file), path!);
    const inside = open === '"' || files.has(path!);
    edges.push({ from: file, to: inside && !files.has(path!) && files.has(beside) ? beside : path!, inside });
  }
  return edges;
}

function importsOf(file: string, text: string): Edge[] {
  const code = text.replace(/^\s*(\/\/|\*|\/\*).*$/gm, "");
  const specifier =
    /(?:\bfrom\s*|\bimport\s*\(\s*|\bimport\s+|\brequire\s*\(\s*|\brequire\.resolve\s*\(\s*)["']([^"']+)["']/g;
  return [...code.matchAll(specifier)].map(([, path]) => {
    const inside = path!.startsWith(".");
    return { from: file, to: inside ? posix.join(posix.dirname(file), path!) : path!, inside };
  });
}

function roomOf(path: string, ladder: Ladder): string {
  const inner = ladder.inner.find((room) => path.startsWith(`${room}/`));
  return inner ?? path.split("/")[0]!.replace(/\.[cm]?[jt]s$/, "");
}

function violationsOf(edges: readonly Edge[], ladder: Ladder): string[] {
  const stepOf = (room: string) => ladder.steps.findIndex((step) => step.includes(room.split("/")[0]!));
  const found: string[] = [];
  for (const { from, to, inside } of edges) {
    const room = roomOf(from, ladder);
    if (stepOf(room) < 0) {
      found.push(`${from}: room "${room}" is not in the ladder`);
      continue;
    }
    if (!inside) {
      for (const rule of ladder.only)
        if (rule.module.test(to) && room !== rule.room && from !== rule.room)
          found.push(`${from} uses ${to}: only ${rule.room} may`);
      continue;
    }
    const target = roomOf(to, ladder);
    if (target === room) continue;
    if (to.startsWith("../")) found.push(`${from} reaches outside: ${to}`);
    else if (stepOf(target) < 0) found.push(`${from} uses ${to}: room "${target}" is not in the ladder`);
    else if (ladder.inner.includes(target)) found.push(`${from} uses ${to}: nobody includes ${target}`);
    else if (room.startsWith(`${target}/`))
      continue; // an inner room uses its outer one
    else if (stepOf(target) >= stepOf(room)) found.push(`${from} uses ${to}: ${target} is not below ${room}`);
  }
  return found;
}

/** Files that use each other in a circle, edges of types included: each circle once, in the order of its edges. */
function circlesOf(edges: readonly Edge[]): string[] {
  const uses = new Map<string, string[]>();
  for (const { from, to, inside } of edges)
    if (inside) uses.set(from, [...(uses.get(from) ?? []), to.replace(/\.js$/, ".ts")]);
  const found = new Set<string>();
  const done = new Set<string>();
  const walk = (file: string, path: readonly string[]): void => {
    const at = path.indexOf(file);
    if (at >= 0) found.add([...path.slice(at), file].join(" -> "));
    if (at >= 0 || done.has(file)) return;
    for (const next of uses.get(file) ?? []) walk(next, [...path, file]);
    done.add(file);
  };
  for (const file of uses.keys()) walk(file, []);
  return [...found];
}

/** The ladder in one line, as CONTRIBUTING.md shows it. */
const drawn = ({ steps }: Ladder): string =>
  steps.map((rooms) => (rooms.length > 1 ? `{${rooms.join(", ")}}` : rooms[0])).join(" < ");

const top = dirname(dirname(fileURLToPath(import.meta.url)));

function readTree(folder: string, name: RegExp): Files {
  const files = new Map<string, string>();
  for (const entry of readdirSync(join(top, folder), { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !name.test(entry.name)) continue;
    const path = join(entry.parentPath ?? entry.path, entry.name);
    files.set(relative(join(top, folder), path).split(sep).join("/"), readFileSync(path, "utf8"));
  }
  return files;
}

const nativeEdges = (files: Files) => [...files].flatMap(([file, text]) => includesOf(file, text, files));
const srcEdges = (files: Files) => [...files].flatMap(([file, text]) => importsOf(file, text));

test("native includes go downward only", () => {
  const files = readTree("native", /\.(h|cc|cu|cuh)$/);
  const edges = nativeEdges(files);
  ordered(edges.filter((e) => e.inside).length, ">", 50, "the scan found the includes");
  assert.equal(violationsOf(edges, native), []);
  const missing = edges.filter((e) => e.inside && !files.has(e.to)).map((e) => `${e.from}: no file ${e.to}`);
  assert.equal(missing, []);
});

test("src imports go downward only", () => {
  const edges = srcEdges(readTree("src", /\.[cm]?ts$/));
  ordered(edges.filter((e) => e.inside).length, ">", 5, "the scan found the imports");
  assert.equal(violationsOf(edges, src), []);
});

for (const [tree, edges] of [
  ["native", () => nativeEdges(readTree("native", /\.(h|cc|cu|cuh)$/))],
  ["src", () => srcEdges(readTree("src", /\.[cm]?ts$/))],
] as const)
  test(`no circle between files of ${tree}/`, () => assert.equal(circlesOf(edges()), []));

test("src/ has at most 14 folders, each of them a room, and no loose file but the entries of the package", () => {
  const paths = [...readTree("src", /./).keys()];
  const folders = [...new Set(paths.filter((path) => path.includes("/")).map((path) => path.split("/")[0]!))];
  assert.ok(folders.length <= 14, folders.join(" "));
  assert.equal(
    paths.filter((path) => !path.includes("/")),
    ["index.ts", "native.ts"],
  );
  const rooms = src.steps.flat().filter((room) => room !== "index" && room !== "native");
  assert.equal(rooms.sort(), folders.sort());
});

for (const [tree, ladder] of Object.entries({ native, src }))
  test(`CONTRIBUTING.md shows the ladder of ${tree}/`, () => {
    const page = readFileSync(join(top, "CONTRIBUTING.md"), "utf8").replace(/\s+/g, " ");
    const line = `${tree}: ${drawn(ladder)}`;
    assert.ok(page.includes(line), `CONTRIBUTING.md has to show: ${line}`);
  });

// A checker that finds nothing proves nothing: each planted edge must be found, and its lawful twin must not.
const plantedIncludes: readonly [file: string, line: string, ok: boolean][] = [
  ["core/x.h", '#include "models/model.h"', false],
  ["core/x.h", '  #  include "kernels/backend.h"', false],
  ["io/x.cc", '#include "kernels/backend.h"', false],
  ["infer/x.cc", '#include "train/trainer.h"', false],
  ["models/x.cc", '#include "kernels/cpu/simd.h"', false],
  ["kernels/x.h", '#include "kernels/cpu/level.h"', false],
  ["kernels/cpu/x.cc", '#include "autograd/tape.h"', false],
  ["kernels/cpu/x.cc", '#include "kernels/cuda/x.h"', false],
  ["train/x.cc", "#include <napi.h>", false],
  ["train/x.cc", "#include <node_api.h>", false],
  ["attic/x.cc", '#include "core/tensor.h"', false],
  ["models/x.cc", '#include "attic/x.h"', false],
  ["models/x.cc", '#include "kernels/backend.h"', true],
  ["kernels/cpu/x.cc", '#include "kernels/backend.h"', true],
  ["kernels/cpu/x.cc", '#include "core/tensor.h"', true],
  ["binding/x.cc", "#include <napi.h>", true],
  ["train/x.cc", "#include <vector>", true],
];

for (const [file, line, ok] of plantedIncludes)
  test(`planted: ${line.trim()} in native/${file} ${ok ? "is lawful" : "is found"}`, () => {
    const found = violationsOf(nativeEdges(new Map([[file, `// a file\n${line}\n`]])), native);
    assert.is(found.length, ok ? 0 : 1, found.join("; "));
  });

const plantedImports: readonly [file: string, line: string, ok: boolean][] = [
  ["base/addon.ts", 'import { loadModel } from "../model/model.js";', false],
  ["model/model.ts", 'import type { Trainer } from "../train/trainer.js";', false],
  ["model/model.ts", 'export * from "../index.js";', false],
  ["data/llava-hound.ts", 'const { compare } = await import("../judge/self-judge.js");', false],
  ["iterate/iteration.ts", 'import "../cli/main.js";', false],
  ["index.ts", 'import run from "./cli/run-command.js";', false],
  ["base/check.ts", 'import build from "node-gyp-build";', false],
  ["attic.ts", 'import { x } from "./base/addon.js";', false],
  ["cli/run-command.ts", 'import { version } from "../../package.json";', false],
  ["train/trainer.ts", 'import { VideoLM } from "../model/model.js";', true],
  ["cli/run-command.ts", 'import { loadModel } from "../index.js";', true],
  ["cli/run-command.ts", 'import { print } from "./print.js";', true],
  ["base/addon.ts", 'import build from "node-gyp-build";', true],
  ["model/model.ts", '// import { run } from "../cli/main.js";', true],
];

for (const [file, line, ok] of plantedImports)
  test(`planted: ${line} in src/${file} ${ok ? "is lawful" : "is found"}`, () => {
    const found = violationsOf(srcEdges(new Map([[file, `${line}\n`]])), src);
    assert.is(found.length, ok ? 0 : 1, found.join("; "));
  });

const plantedCircles: readonly [what: string, files: Readonly<Record<string, string>>, circles: readonly string[]][] = [
  [
    "two files, one edge of types",
    { "a.ts": 'import { b } from "./b.js";', "b.ts": 'import type { A } from "./a.js";' },
    ["a.ts -> b.ts -> a.ts"],
  ],
  [
    "three files, behind one that is in no circle",
    { "a.ts": 'import "./b.js";', "b.ts": 'import "./c.js";', "c.ts": 'import "./d.js";', "d.ts": 'import "./b.js";' },
    ["b.ts -> c.ts -> d.ts -> b.ts"],
  ],
  [
    "a diamond, which is none",
    { "a.ts": 'import "./b.js";\nimport "./c.js";', "b.ts": 'import "./d.js";', "c.ts": 'import "./d.js";' },
    [],
  ],
];

for (const [what, files, circles] of plantedCircles)
  test(`planted circle: ${what}`, () => assert.equal(circlesOf(srcEdges(new Map(Object.entries(files)))), circles));

test.run();
