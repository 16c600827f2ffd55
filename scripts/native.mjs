// Builds of the native code beside the addon's own: tests and benches share the addon's objects (build/cmake), sanitizer
// builds have a folder each (build/address, build/thread).
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
/** A tool of devDependencies; npx would start npm first, which hangs where the home folder cannot be written. */
export const tool = (name) => join(root, "node_modules", ".bin", name);

const parallel = ["--parallel", String(availableParallelism())];

const emulation = "-DBUILD_EMULATION=ON";
const switches = { native_bench: "-DBUILD_BENCH=ON", cuda_tests: emulation, cuda_addon: emulation };

/** Builds the addon, then configures its folder for `targets` too and builds those. The folder, or null after a failure. */
export async function buildShared(stages, targets) {
  const dir = join(root, "build", "cmake");
  const build = { cwd: root, silentPass: true };
  if (!(await stages.stage("build the addon", process.execPath, ["cmake/build.cjs"], build))) return null;
  if (!targets.length) return dir;
  const options = targets.map((target) => switches[target] ?? "-DBUILD_TESTING=ON");
  if (!(await stages.stage("configure", "cmake", [...options, dir], build))) return null;
  const args = ["--build", dir, "--config", "Release", ...parallel, "--target", ...targets];
  return (await stages.stage(`build ${targets.join(", ")}`, "cmake", args, build)) ? dir : null;
}

/** Where the addon is whose models live on the far device (test/native/far.h), for ISR_DPO_PREBUILD. Null after a failure. */
export async function buildFar(stages) {
  return (await buildShared(stages, ["native_tests", "far_addon"])) ? join(root, "build", "far") : null;
}

/** dist/ by tsup, unless it is newer than every source. */
export async function bundle(stages) {
  const made = ["index.js", "index.d.ts"].map(
    (name) => statSync(join(root, "dist", name), { throwIfNoEntry: false })?.mtimeMs ?? 0,
  );
  const sources = readdirSync(join(root, "src"), { recursive: true }).map((name) => join("src", name));
  const newest = Math.max(
    ...["package.json", "tsup.config.ts", "tsconfig.json", ...sources].map(
      (name) => statSync(join(root, name)).mtimeMs,
    ),
  );
  if (newest < Math.min(...made)) return true;
  return await stages.stage("build dist", tool("tsup"), ["--silent"], { cwd: root, silentPass: true });
}

/** A program of native tests as two stages side by side, each with every other test: most of them keep one core busy. */
export async function halves(stages, name, program, args = [], options = {}) {
  const half = (i) =>
    stages.stage(`${name}, ${i + 1} of 2`, program, args, {
      ...options,
      env: { ...options.env, ISR_TEST_SHARD: `${i}/2` },
    });
  await Promise.all([half(0), half(1)]);
}

/**
 * Stages of the CUDA backend without a GPU: its kernels on fibers against the op table, then a model of each kind on the
 * emulated card, to the goldens.
 */
export async function testEmulation(
  stages,
  {
    filter = "cuda",
    families = "gqa_tied|qwen|llava_hound|llava_next",
    goldens = "golden(-video)?",
    env: more = {},
  } = {},
) {
  const dir = await buildShared(stages, ["cuda_tests", "cuda_addon"]);
  if (!dir) return;
  await halves(stages, "the CUDA backend on fibers", executable(dir, "cuda_tests"), [filter], { env: more });
  const env = { ISR_DPO_PREBUILD: join(root, "build", "emulated") };
  const all = { ISR_CUDA_FOR_CPU: "1", ISR_DPO_GOLDEN: families };
  const typescript = (name, files, more) =>
    stages.stage(name, process.execPath, tsTests(files), { cwd: root, env: { ...env, ...more }, limit: 1800 });
  await typescript("goldens on the emulated card", `^${goldens}\\.test\\.ts$`, all);
  await typescript("choosing a device, ranks with cards", "^(device|ranks-nccl)\\.test\\.ts$", {});
}

const levels = ["generic", "avx2", "avx512", "avx512bf16"];

/** Instruction-set levels of this machine, lowest first. */
export function machineLevels() {
  const flags = new Set(/^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]?.trim().split(" "));
  const avx2 = flags.has("avx2") && flags.has("fma");
  const avx512 = avx2 && ["avx512f", "avx512bw", "avx512dq", "avx512vl"].every((f) => flags.has(f));
  const top = avx512 && flags.has("avx512_bf16") ? 3 : avx512 ? 2 : avx2 ? 1 : 0;
  return levels.slice(0, top + 1);
}

/** The level that is used where ISR_DPO_ISA is not set (default_isa of native/core/cpu.cc). */
export function usualLevel() {
  const intel = /^vendor_id\s*: GenuineIntel$/m.test(readFileSync("/proc/cpuinfo", "utf8"));
  const all = machineLevels();
  return intel && all.includes("avx512") ? "avx512" : all.at(-1);
}

/** A build with sanitizers, optimised a little: -O1 keeps the whole suite quick enough to run on every change. */
export async function buildSanitized(stages, sanitize, targets) {
  const dir = join(root, "build", sanitize.split(",")[0]);
  const build = { cwd: root, silentPass: true };
  const options = [`-DSANITIZE=${sanitize}`, "-DCMAKE_BUILD_TYPE=Debug", "-DBUILD_TESTING=ON", "-DBUILD_FUZZ=ON"];
  options.push("-DBUILD_EMULATION=ON", `-DMAX_LEVEL=${machineLevels().length - 1}`); // kernels that cannot run here take a while to instrument
  if (!(await stages.stage(`configure ${sanitize}`, "cmake", ["-G", "Ninja", "-S", ".", "-B", dir, ...options], build)))
    return null;
  const args = ["--build", dir, ...parallel, "--target", ...targets];
  return (await stages.stage(`build ${sanitize}`, "cmake", args, build)) ? dir : null;
}

/** A built executable; single-configuration generators put it beside their files, cmake-js may ask for a subfolder. */
export function executable(dir, name) {
  const places = [join(dir, name), join(dir, "Release", name), join(root, "build", "Release", name)];
  const found = places.find((place) => existsSync(place));
  if (!found) throw new Error(`${name} was built, but is in none of ${places.join(", ")}`);
  return found;
}

/** Arguments of node for the TypeScript tests whose files fit a pattern; all without one. */
export const tsTests = (pattern) => ["scripts/ts-tests.mjs", ...(pattern === undefined ? [] : [pattern])];
