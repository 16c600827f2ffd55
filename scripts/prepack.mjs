// What npm runs before it packs: builds dist/, and refuses where the package would not be whole. Everything is told on
// stderr: stdout is npm's (npm pack --json).
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const { exports, bin, main, module, types } = require(join(root, "package.json"));

function refuse(what, todo) {
  console.error(`isr-dpo: not packed: ${what}\nisr-dpo: ${todo}`);
  process.exit(1);
}

/** Every path that package.json promises. */
function promised(value) {
  if (typeof value === "string") return value.includes("*") ? [] : [value];
  return Object.values(value).flatMap(promised);
}

if (!existsSync(join(root, "node_modules", "tsup", "package.json")))
  refuse("dist/ cannot be built without the development packages", "run npm ci first");
const { bin: tsup } = require(join(root, "node_modules", "tsup", "package.json"));
const built = spawnSync(process.execPath, [join(root, "node_modules", "tsup", tsup.tsup), "--silent"], {
  cwd: root,
  stdio: ["ignore", 2, 2],
});
if (built.status !== 0) refuse("tsup failed", "see above");

const needed = [
  ...new Set([...promised([exports, bin, main, module, types])]),
  ...["CMakeLists.txt", "binding.gyp", "cmake/install.cjs", "cmake/build.cjs", "cmake/addon.cmake", "cmake/fuzz.cmake"],
  ...["native/binding", "native/kernels/cpu", "src/report/page", "LICENSE", "README.md"],
  ...[
    "models/world/config.json",
    "models/world/model.safetensors",
    "models/world/tokenizer.json",
    "models/world/prompts.json",
  ],
];
const missing = needed.filter((path) => !existsSync(join(root, path)));
if (missing.length > 0)
  refuse(`${missing.join(", ")} ${missing.length > 1 ? "are" : "is"} missing`, "pack a whole clone");

/** A pointer of git-lfs, or a file cut off, is no model. */
const weights = readFileSync(join(root, "models/world/model.safetensors"));
if (weights.length < 8 || 8n + weights.readBigUInt64LE() > BigInt(weights.length))
  refuse("models/world/model.safetensors is no safetensors file", "fetch it again");

const prebuilds = join(root, "prebuilds");
const targets = existsSync(prebuilds) ? readdirSync(prebuilds) : [];
for (const target of targets.filter((name) => name === `${process.platform}-${process.arch}`))
  for (const file of readdirSync(join(prebuilds, target)).filter((name) => name.endsWith(".node"))) {
    const load = ["-e", `require(${JSON.stringify(join(prebuilds, target, file))})`];
    const { status, stderr } = spawnSync(process.execPath, load, { encoding: "utf8" });
    if (status !== 0)
      refuse(`prebuilds/${target}/${file} does not load: ${stderr.trim().split("\n")[0]}`, "npm run prebuilds");
  }
if (targets.length === 0)
  console.error(
    "isr-dpo: packed without a prebuild: whoever installs it needs a compiler (npm run prebuilds makes one)",
  );
