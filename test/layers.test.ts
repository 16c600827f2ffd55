// The ladder: native includes and src imports go downward only (native/README.md, CONTRIBUTING.md).
// A room may use every room of a lower step; rooms of one step do not know each other. A file or folder that is not in
// the table fails the test: a new room gets its place here.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, posix, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "uvu";
import * as assert from "uvu/assert";

interface Ladder {
  steps: readonly (readonly string[])[];
  /** Rooms inside a room: they see what the outer room sees and the room itself; nobody includes them. */
  inner: readonly string[];
  /** Outside modules that one room alone may touch. */
  only: readonly { module: RegExp; room: string }[];
}

const native: Ladder = {
  steps: [["core"], ["kernels", "io", "dist"], ["autograd"], ["models"], ["infer", "train"], ["binding"]],
  inner: ["kernels/cpu", "kernels/cuda"],
  only: [{ module: /^(napi|node_api|js_native_api|uv|v8|node)(\.h|-.*)$/, room: "binding" }],
};

const src: Ladder = {
  steps: [
    ["errors", "types", "python-json"],
    ["addon", "check", "handler", "outputs", "run", "owned"],
    ["text", "video"],
    ["media", "stream"],
    ["inputs"],
    ["sequence", "loss", "communicator"],
    ["generate"],
    ["chat", "session"],
    ["model", "inspect", "data", "store"],
    ["trainer", "judge"],
    ["native"],
    ["training", "config"],
    ["isr"],
    ["evaluate", "report", "world", "plan"],
    ["live"],
    ["index"],
    ["cli"],
  ],
  inner: [],
  only: [{ module: /^node-gyp-build$/, room: "addon" }],
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
        if (rule.module.test(to) && room !== rule.room) found.push(`${from} uses ${to}: only ${rule.room} may`);
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
  assert.ok(edges.filter((e) => e.inside).length > 50, "the scan found the includes");
  assert.equal(violationsOf(edges, native), []);
  const missing = edges.filter((e) => e.inside && !files.has(e.to)).map((e) => `${e.from}: no file ${e.to}`);
  assert.equal(missing, []);
});

test("src imports go downward only", () => {
  const edges = srcEdges(readTree("src", /\.[cm]?ts$/));
  assert.ok(edges.filter((e) => e.inside).length > 5, "the scan found the imports");
  assert.equal(violationsOf(edges, src), []);
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
  ["addon.ts", 'import { loadModel } from "./model.js";', false],
  ["model.ts", 'import type { Trainer } from "./trainer.js";', false],
  ["model.ts", 'export * from "./index.js";', false],
  ["data/hound.ts", 'const { compare } = await import("../judge/self.js");', false],
  ["isr/iteration.ts", 'import "../cli/main.js";', false],
  ["index.ts", 'import run from "./cli/run.js";', false],
  ["model.ts", 'import build from "node-gyp-build";', false],
  ["attic.ts", 'import { x } from "./addon.js";', false],
  ["cli/run.ts", 'import { version } from "../../package.json";', false],
  ["trainer.ts", 'import { VideoLM } from "./model.js";', true],
  ["cli/run.ts", 'import { loadModel } from "../index.js";', true],
  ["cli/run.ts", 'import { print } from "./print.js";', true],
  ["addon.ts", 'import build from "node-gyp-build";', true],
  ["model.ts", '// import { run } from "./cli/run.js";', true],
];

for (const [file, line, ok] of plantedImports)
  test(`planted: ${line} in src/${file} ${ok ? "is lawful" : "is found"}`, () => {
    const found = violationsOf(srcEdges(new Map([[file, `${line}\n`]])), src);
    assert.is(found.length, ok ? 0 : 1, found.join("; "));
  });

test.run();
