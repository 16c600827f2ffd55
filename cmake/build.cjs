#!/usr/bin/env node
// Builds the addon into build/<config>/isr_dpo.node with CMake. One entry for everything that builds for this
// machine: the npm scripts and binding.gyp (which adds flags of its own, ignored here). What is shipped: scripts/prebuilds.mjs.
// Node-API headers come from the packages node-api-headers and node-addon-api: nothing is downloaded.
const { spawnSync } = require("node:child_process");
const { existsSync, rmSync } = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const root = path.resolve(__dirname, "..");
const config = process.argv.includes("--debug") ? "Debug" : "Release";
// build/ itself holds node-gyp's files when that runs us. CUDA's kernels are compiled in another way for the emulation.
const folder = path.join(root, "build", process.env.WITH_CUDA === "ON" ? "cuda" : "cmake");

const works = (program) => spawnSync(program, ["--version"], { stdio: "ignore" }).status === 0;

/** Of a folder that is configured for the first time; make, where ninja is missing, builds one file at a time by itself. */
const generator = () => (existsSync(path.join(folder, "CMakeCache.txt")) || !works("ninja") ? [] : ["-G", "Ninja"]);

function configure() {
  const headers = [require("node-api-headers").include_dir, path.dirname(require.resolve("node-addon-api/napi.h"))];
  const options = {
    CMAKE_BUILD_TYPE: config,
    NODE_API_INCLUDE: headers.join(";"),
    CMAKE_LIBRARY_OUTPUT_DIRECTORY: path.join(root, "build", config),
  };
  const switches = ["BUILD_TESTING", "BUILD_BENCH", "BUILD_EMULATION", "WITH_CUDA", "SANITIZE", "MAX_LEVEL", "PRECOMPILE"];
  for (const name of [...switches, "CMAKE_CXX_COMPILER_LAUNCHER", "CMAKE_CXX_FLAGS_RELEASE"])
    if (process.env[name] !== undefined) options[name] = process.env[name];
  const defined = Object.entries(options).map(([name, value]) => `-D${name}=${value}`);
  return ["-S", root, "-B", folder, ...generator(), ...defined];
}

function cmake(args) {
  const env = { CMAKE_BUILD_PARALLEL_LEVEL: String(os.availableParallelism()), ...process.env };
  const { status, error } = spawnSync("cmake", args, { stdio: "inherit", cwd: root, env });
  if (error) console.error(`isr-dpo: ${error.code === "ENOENT" ? "there is no cmake on the PATH" : error.message}`);
  return status ?? 1;
}

const status = cmake(configure()) || cmake(["--build", folder, "--config", config]);
if (status !== 0) {
  console.error("isr-dpo: the native build failed. It needs CMake 3.20+, g++ 12+ and make or ninja:");
  console.error("isr-dpo: on Debian and Ubuntu, apt-get install -y g++ cmake ninja-build; then npm rebuild isr-dpo.");
  console.error("isr-dpo: with --ignore-scripts the package installs without it: types and `isr-dpo --help` work.");
}
// What a user installed is not built again: objects and precompiled headers would stay behind as hundreds of megabytes.
else if (path.basename(path.dirname(root)) === "node_modules") rmSync(folder, { recursive: true, force: true });
process.exit(status);
