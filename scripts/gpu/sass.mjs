// npm run sass: what nvcc made of each kernel (registers, spilled bytes, tensor-core and shared-memory instructions), into
// bench/cuda/sass.jsonl. It needs nvcc of CUDA 12 (CUDACXX, or on the PATH) with cuobjdump and cu++filt beside it, and no GPU.
// `check`: holds the table to the gates below and to the sources, without nvcc; test/sass.test.ts does the same.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const table = join(root, "bench", "cuda", "sass.jsonl");
const folder = join(root, "native", "kernels", "cuda");
export const architectures = ["sm_80", "sm_90"];

const withoutComments = (text) =>
  text
    .replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, "")
    .replace(/\s+/g, " ")
    .trim();

/** A hash of a source and of the engine's headers that it includes, without comments and white space. */
export function hashOf(source) {
  const seen = new Map();
  const take = (path) => {
    if (seen.has(path) || !existsSync(path)) return; // a header of CUDA's or of the system's
    const text = readFileSync(path, "utf8");
    seen.set(path, withoutComments(text));
    for (const [, name] of text.matchAll(/^#include "(.+)"/gm)) take(join(root, "native", name));
  };
  take(join(folder, source));
  const hash = createHash("sha256");
  for (const path of [...seen.keys()].sort()) hash.update(seen.get(path));
  return hash.digest("hex").slice(0, 16);
}

export const sourcesOf = () =>
  readdirSync(folder)
    .filter((name) => name.endsWith(".cu"))
    .sort();

// ---- what has to hold

const tiles = /^(forward|key|query|cached)_tiles<(64|80|96|128)(?:, [01])?>$/;

/** Shared memory of a block of threads: tiles of 64 rows (attention_tile.h), padded by 16 bytes, and floats a row besides. */
const blockMemory = { forward: [4, 0], key: [4, 2], query: [4, 2], cached: [3, 0] };
function sharedOf(kernel) {
  const [, which, columns] = tiles.exec(kernel);
  const [count, floats] = blockMemory[which];
  return count * 64 * (Number(columns) + 8) * 2 + floats * 64 * 4;
}

// Of one multiprocessor: bytes of shared memory, of which a block takes 1 KiB besides its own; registers, given out in steps of 8 a thread.
const shared = { sm_80: 164 << 10, sm_90: 228 << 10 };

/** Blocks of 128 threads of an attention kernel that run on a multiprocessor at once. */
export function blocksOf(kernel, architecture, registers) {
  const byShared = Math.floor(shared[architecture] / (sharedOf(kernel) + 1024));
  return Math.min(byShared, Math.floor(65536 / (128 * 8 * Math.ceil(registers / 8))));
}

/** Bytes of local memory that stand, with their reason. */
const spills = {
  "forward_tiles<128>": [
    8,
    "sm_80: 254 registers hold 32 rows' sums and scores; 8 bytes stand outside of the loop over keys",
  ],
  "key_tiles<128>": [
    16,
    "sm_90: all 255 registers hold 16 keys' gradients and the scores of 64 rows; 12 bytes are put aside",
  ],
  fill_table: [
    48,
    "the range reduction of sin and cos in float64 for very large angles; a table is filled once a batch",
  ],
};

/** [name, kernels, whether a row of the table passes, what was expected]. */
export const gates = [
  [
    "no spilled registers",
    /./,
    ({ kernel, stack, spilled }) => spilled === 0 && stack <= (spills[kernel]?.[0] ?? 0),
    "0 bytes, or a few with a reason",
  ],
  [
    "attention multiplies on the tensor cores",
    tiles,
    ({ kernel, HMMA }) => {
      const [, which, columns] = tiles.exec(kernel);
      return HMMA >= { forward: 2, key: 2, query: 1.5, cached: 1 }[which] * Number(columns);
    },
    "HMMA at least 2 a column forward and for keys, 1.5 for queries, 1 cached",
  ],
  [
    "a fragment that was read is used often",
    tiles,
    ({ kernel, HMMA, LDSM }) => HMMA / LDSM >= (kernel.startsWith("forward") ? 3.2 : 1.7),
    "HMMA : LDSM at least 3.2 forward, 1.7 backward and cached",
  ],
  [
    "keys and values are copied while others are computed with",
    tiles,
    ({ LDGSTS }) => LDGSTS > 0,
    "asynchronous copies",
  ],
  [
    "blocks on a multiprocessor",
    tiles,
    ({ kernel, architecture, registers }) =>
      blocksOf(kernel, architecture, registers) >= (kernel.endsWith("<128>") ? 1 : 2),
    "at least 2, with 128 columns 1",
  ],
];

export const read = () =>
  readFileSync(table, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

/** What is wrong with the table's rows, in words. */
export function faultsOf([head, ...rows]) {
  const faults = [];
  for (const source of sourcesOf())
    if (head.sources[source] !== hashOf(source))
      faults.push(`${source} is not what the table was made from: npm run sass`);
  for (const [name, kernels, holds, wanted] of gates) {
    const meant = rows.filter((row) => kernels.test(row.kernel));
    if (meant.length === 0) faults.push(`${name}: no kernel of the table is meant by ${kernels}`);
    for (const row of meant) if (!holds(row)) faults.push(`${name}: ${JSON.stringify(row)}: expected ${wanted}`);
  }
  for (const kernel of Object.keys(spills))
    if (!rows.some((row) => row.kernel === kernel && row.stack + row.spilled > 0))
      faults.push(`${kernel} spills nothing: its exception is stale`);
  return faults;
}

// ---- the table

const counted = ["HMMA", "LDSM", "LDGSTS", "BAR", "MUFU"];
const output = (command, args, input) =>
  execFileSync(command, args, { encoding: "utf8", maxBuffer: 1 << 30, stdio: ["pipe", "pipe", "ignore"], input });

/** "forward_tiles<128>" of a demangled "void isr::cuda::(anonymous namespace)::forward_tiles<(int)128>(isr::...)". */
function shortName(text) {
  let depth = 0;
  const name = text
    .replaceAll("isr::cuda::", "")
    .replace(/\(anonymous namespace\)::|<unnamed>::/g, "")
    .replace(/^void /, "");
  for (let i = 0; i < name.length; ++i) {
    if (name[i] === "<") ++depth;
    else if (name[i] === ">") --depth;
    else if (name[i] === "(" && depth === 0) return name.slice(0, i).replace(/\((?:int|bool|long|unsigned int)\)/g, "");
  }
  return name;
}

function kernelsOf(object, architecture, cuobjdump) {
  const found = new Map();
  let current;
  for (const line of output(cuobjdump, ["-res-usage", "-arch", architecture, object]).split("\n")) {
    const [, name] = /^ Function (\S+):/.exec(line) ?? [];
    if (name) {
      current = {};
      found.set(name, current);
    }
    const [, registers, stack, spilled] = /REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)/.exec(line) ?? [];
    if (registers) Object.assign(current, { registers: +registers, stack: +stack, spilled: +spilled });
  }
  for (const line of output(cuobjdump, ["-sass", "-arch", architecture, object]).split("\n")) {
    const [, name] = /^\s+Function : (\S+)/.exec(line) ?? [];
    if (name) for (const key of counted) found.get(name)[key] = 0;
    if (name) current = found.get(name);
    const [, operation] = /^\s+\/\*[0-9a-f]{4,}\*\/\s+(?:@!?U?P\w+ )?([A-Z]+)/.exec(line) ?? [];
    if (operation && counted.includes(operation)) current[operation]++;
  }
  return found;
}

function make() {
  const nvcc = process.env.CUDACXX ?? output("sh", ["-c", "command -v nvcc || true"]).trim();
  if (!nvcc) throw new Error("npm run sass needs nvcc of CUDA 12: put it on the PATH, or name it in CUDACXX");
  const tool = (name) => join(dirname(nvcc), name);
  const build = join(root, "build", "cuda");
  mkdirSync(build, { recursive: true });
  const quiet = { stdio: ["ignore", "ignore", "inherit"], env: { ...process.env, CUDACXX: nvcc } };
  execFileSync(
    "cmake",
    ["-S", root, "-B", build, "-DWITH_CUDA=ON", ...(existsSync(join(build, "CMakeCache.txt")) ? [] : ["-G", "Ninja"])],
    quiet,
  );
  execFileSync(
    "cmake",
    [
      "--build",
      build,
      "--parallel",
      process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(availableParallelism()),
      "--target",
      "cuda_kernels",
    ],
    quiet,
  );
  const objects = join(build, "CMakeFiles", "cuda_kernels.dir", "native", "kernels", "cuda");
  const version = /release ([\d.]+), V([\d.]+)/.exec(output(nvcc, ["--version"]))[2];
  const rows = [{ nvcc: version, sources: Object.fromEntries(sourcesOf().map((name) => [name, hashOf(name)])) }];
  for (const source of sourcesOf())
    for (const architecture of architectures) {
      const found = kernelsOf(join(objects, `${source}.o`), architecture, tool("cuobjdump"));
      const names = [...found.keys()];
      const words = names.length ? output(tool("cu++filt"), [], names.join("\n")).trim().split("\n") : [];
      const sorted = words.map((text, i) => ({
        kernel: shortName(text),
        architecture,
        source,
        ...found.get(names[i]),
      }));
      rows.push(...sorted.sort((a, b) => (a.kernel < b.kernel ? -1 : 1)));
    }
  writeFileSync(table, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  if (process.argv[2] !== "check") make();
  const faults = faultsOf(read());
  for (const fault of faults) console.error(fault);
  console.log(`${read().length - 1} rows, ${faults.length} faults`);
  process.exitCode = faults.length ? 1 : 0;
}
