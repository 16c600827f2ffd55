#!/usr/bin/env node
// Builds the addon into build/<config>/isr_dpo.node with cmake-js. One entry for everything that builds: the npm scripts,
// prebuildify (which runs this file in place of node-gyp and adds flags of its own, ignored here) and binding.gyp.
// Node-API headers come from the node-api-headers package (package.json: binary.napi_versions): nothing is downloaded.
const { spawnSync } = require("node:child_process");
const os = require("node:os");
const path = require("node:path");

const root = path.resolve(__dirname, "..");
const config = process.argv.includes("--debug") ? "Debug" : "Release";
const cli = path.join(path.dirname(require.resolve("cmake-js/package.json")), "bin", "cmake-js");

// cmake-js' own folder is build/cmake: `rebuild` empties it, and build/ itself holds node-gyp's files when that runs us.
const args = [cli, "build", "-d", root, "-O", path.join(root, "build", "cmake"), "-B", config, "-l", "warn"];
args.push(`--CDCMAKE_LIBRARY_OUTPUT_DIRECTORY=${path.join(root, "build", config)}`);
for (const name of ["BUILD_TESTING", "BUILD_BENCH", "SANITIZE", "CMAKE_CXX_COMPILER_LAUNCHER"])
  if (process.env[name] !== undefined) args.push(`--CD${name}=${process.env[name]}`);

// make, where ninja is missing, would build one file at a time.
const env = { CMAKE_BUILD_PARALLEL_LEVEL: String(os.availableParallelism()), ...process.env };
const child = spawnSync(process.execPath, args, { stdio: "inherit", cwd: root, env });
if (child.status !== 0) {
  console.error("isr-dpo: the native build failed. It needs CMake 3.20+, a C++20 compiler (gcc 12+, clang 15+) and make or ninja.");
  console.error("isr-dpo: without it, types and `isr-dpo --help` work; computing says BINARY_MISSING.");
}
process.exit(child.status ?? 1);
