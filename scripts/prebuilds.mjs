// npm run prebuilds: the addon as it is shipped, in prebuilds/<platform>-<arch>/isr-dpo.node. It has the device cuda, which needs nvcc
// of CUDA 12 (docs/gpu.md); WITH_CUDA=OFF makes one without. It is linked twice: the first link tells which symbols it would take
// from a glibc that is too new, and the second binds those to their older versions through stub libraries. Then it is held against
// the floor and loaded. With `check [FILE]`, only that.
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const build = join(root, "build", "prebuild");
const target = join(root, "prebuilds", `${process.platform}-${process.arch}`, "isr-dpo.node");

/** The oldest C library that a shipped binary has to load with: Node 20's own floor. */
export const floor = [2, 28];
/** Libraries that a shipped binary may ask for; a machine with Node has them. */
const allowed =
  /^(libc\.so\.6|libm\.so\.6|libpthread\.so\.0|libdl\.so\.2|librt\.so\.1|libgcc_s\.so\.1|ld-linux-x86-64\.so\.2)$/;
const newestGcc = [4, 8]; // of libgcc_s

const output = (command, args) => execFileSync(command, args, { encoding: "utf8", maxBuffer: 1 << 28 });
const versionOf = (text) => text.split(".").map(Number);
const above = (a, b) => (a[0] !== b[0] ? a[0] > b[0] : a[1] !== b[1] ? a[1] > b[1] : (a[2] ?? 0) > (b[2] ?? 0));

/** [{name, family, version, own}] of the dynamic symbols of a file that have a version; `own`: it defines them. */
function symbolsOf(file) {
  const found = [];
  for (const line of output("objdump", ["-T", file]).split("\n")) {
    const m = /\(?([A-Z]+)_([0-9.]+)\)?\s+(\S+)$/.exec(line);
    if (m)
      found.push({
        name: m[3],
        family: m[1],
        version: versionOf(m[2]),
        text: `${m[1]}_${m[2]}`,
        own: !line.includes("*UND*"),
      });
  }
  return found;
}

const tooNew = (file) => symbolsOf(file).filter((s) => !s.own && s.family === "GLIBC" && above(s.version, floor));

/** What keeps a binary from loading on an old machine, in words; empty when nothing does. */
export function faultsOf(file) {
  const faults = [];
  for (const { own, family, version, name, text } of symbolsOf(file)) {
    if (own) continue;
    if (family === "GLIBC" ? above(version, floor) : family === "GCC" ? above(version, newestGcc) : true)
      faults.push(`${name} needs ${text}`);
  }
  for (const [, library] of output("objdump", ["-p", file]).matchAll(/NEEDED\s+(\S+)/g))
    if (!allowed.test(library)) faults.push(`it needs ${library}`);
  return faults;
}

/** Where 2.28 has what newer ones have in libc itself. */
const homes = [
  [/^dl/, "libdl.so.2"],
  [/^(shm|timer|mq|aio|lio)_/, "librt.so.1"],
];

/** Libraries that hold nothing but names, each with the newest version that is not above the floor. */
function writeStubs(names, dir) {
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  const libraries = new Map(); // soname -> version -> names
  const chosen = new Map();
  for (const library of ["libc.so.6", "libm.so.6"])
    for (const s of symbolsOf(output("g++", [`-print-file-name=${library}`]).trim())) {
      if (!s.own || s.family !== "GLIBC" || !names.has(s.name) || above(s.version, floor)) continue;
      const before = chosen.get(s.name);
      if (!before || above(s.version, before.version)) chosen.set(s.name, { ...s, library });
    }
  const missing = [...names].filter((name) => !chosen.has(name));
  if (missing.length > 0)
    throw new Error(
      `no version up to ${floor.join(".")} of ${missing.join(", ")}: cmake/glibc_compat.cc has to hold them`,
    );
  for (const { name, text, library } of chosen.values()) {
    const soname =
      library === "libm.so.6" ? library : (homes.find(([names]) => names.test(name))?.[1] ?? "libpthread.so.0");
    const versions = libraries.get(soname) ?? libraries.set(soname, new Map()).get(soname);
    versions.set(text, [...(versions.get(text) ?? []), name]);
  }
  for (const [soname, versions] of libraries) {
    const base = join(dir, soname.split(".")[0]);
    writeFileSync(
      `${base}.c`,
      [...versions.values()]
        .flat()
        .map((name) => `void ${name}(void) {}\n`)
        .join(""),
    );
    writeFileSync(`${base}.map`, [...versions].map(([v, all]) => `${v} { global: ${all.join("; ")}; };\n`).join(""));
    const flags = [
      "-x",
      "c",
      "-shared",
      "-fPIC",
      "-nostdlib",
      "-fno-builtin",
      "-w",
      `-Wl,-soname,${soname}`,
      `-Wl,--version-script=${base}.map`,
    ];
    execFileSync("g++", [...flags, `${base}.c`, "-o", `${base}.so`], { stdio: "inherit" });
  }
}

const runs = (command) => spawnSync(command, ["--version"], { stdio: "ignore" }).status === 0;

/** Nobody shall ship a binary without CUDA because a compiler was missing. */
function chooseCuda() {
  const { WITH_CUDA, CUDACXX } = process.env;
  if (WITH_CUDA === "OFF") return;
  if (!runs(CUDACXX ?? "nvcc"))
    throw new Error(
      `the shipped binary has the device cuda, and ${CUDACXX ?? "nvcc"} does not run: put nvcc of CUDA 12 on the PATH, or name it in CUDACXX; WITH_CUDA=OFF makes a binary for the CPU alone`,
    );
  process.env.WITH_CUDA = "ON";
}

/** Links the objects of the addon of this machine, which build.cjs has brought up to date. */
function link(stubs) {
  const quiet = { stdio: ["ignore", "ignore", "inherit"], cwd: root };
  const dir = join(root, "build", process.env.WITH_CUDA === "ON" ? "cuda" : "cmake");
  execFileSync(process.execPath, ["cmake/build.cjs"], { ...quiet, env: { ...process.env, SANITIZE: "" } });
  execFileSync("cmake", ["-DPREBUILD=ON", `-DPREBUILD_STUBS=${stubs}`, dir], quiet);
  const parallel = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(availableParallelism());
  execFileSync("cmake", ["--build", dir, "--config", "Release", "--parallel", parallel, "--target", "prebuild"], quiet);
  const file = [build, join(build, "Release")].map((dir) => join(dir, "isr_dpo.node")).find(existsSync);
  if (file === undefined)
    throw new Error("the binary was not built: run npm ci first, which brings the headers of Node-API");
  return file;
}

/** What a model of this repository computes with the shipped binary alone, in a process of its own. */
function smoke() {
  const words = `
    const { inspectDevice, loadModel } = await import(${JSON.stringify(pathToFileURL(join(root, "src/index.ts")).href)});
    const { binary, isa } = await inspectDevice();
    const model = await loadModel(${JSON.stringify(join(root, "models/world"))});
    const { logits } = await model.forward({ ids: [1, 5, 9, 2] }, { outputs: ["logits"] });
    if (!logits.data.every(Number.isFinite)) throw new Error("logits are not finite");
    console.log(binary + " on " + isa + ": " + logits.data.slice(0, 2).join(" "));`;
  const env = { ...process.env, PREBUILDS_ONLY: "1" };
  const args = ["--import", "tsx", "--input-type=module", "-e", words];
  const text = execFileSync(process.execPath, args, { encoding: "utf8", env, cwd: root }).trim();
  if (!text.startsWith(target)) throw new Error(`expected ${target} to be loaded, got ${text}`);
  return text.slice(target.length).trim();
}

function check(file) {
  const faults = faultsOf(file);
  if (faults.length > 0)
    throw new Error(`${file} does not load with glibc ${floor.join(".")}: ${faults.slice(0, 10).join(", ")}`);
  const newest = symbolsOf(file)
    .filter((s) => !s.own && s.family === "GLIBC")
    .reduce((a, s) => (above(s.version, a) ? s.version : a), [0]);
  console.log(
    `${file}: needs glibc ${newest.join(".")} at most, ${file === target ? `computes ${smoke()}, ` : ""}${Math.ceil(statSync(file).size / 1024)} KiB`,
  );
}

function make() {
  chooseCuda();
  const first = link("");
  const names = new Set(tooNew(first).map((s) => s.name));
  const stubs = join(build, "stubs");
  writeStubs(names, stubs);
  const file = names.size > 0 ? link(stubs) : first;
  mkdirSync(dirname(target), { recursive: true });
  copyFileSync(file, target);
  execFileSync("strip", ["--strip-unneeded", target]);
  check(target);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  if (process.argv[2] === "check") check(process.argv[3] ?? target);
  else make();
}
