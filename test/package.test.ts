// The package as its user gets it: what is packed, what it says of itself, and what a bundler makes of it.
import { spawnSync } from "node:child_process";
import { copyFileSync, cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { buildSync } from "esbuild";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { isError, missing } from "./helpers/assert.js";
import { loadModel } from "../src/index.js";
import { worldModel } from "../src/synthetic/index.js";
import { node, root } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("package");
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

test("a clone without development packages, or with a part missing, is not packed", () => {
  const clone = temporaryFolder();
  for (const part of ["package.json", "scripts"]) cpSync(join(root, part), join(clone, part), { recursive: true });
  const pack = () => spawnSync("npm", ["pack", "--json"], { cwd: clone, encoding: "utf8" });
  const bare = pack();
  assert.is.not(bare.status, 0);
  assert.match(bare.stderr, /not packed: dist\/ cannot be built.*\n.*npm ci/);
  const tsup = join(clone, "node_modules/tsup"); // one that builds nothing
  mkdirSync(tsup, { recursive: true });
  writeFileSync(join(tsup, "package.json"), JSON.stringify({ bin: { tsup: "none.cjs" } }));
  writeFileSync(join(tsup, "none.cjs"), "");
  const partial = pack();
  assert.is.not(partial.status, 0);
  assert.match(partial.stderr, /not packed: \.\/dist\/index\.d\.ts.*native\/binding.*missing\n.*whole clone/);
  writeFileSync(join(tsup, "none.cjs"), "process.exit(3)");
  assert.match(pack().stderr, /not packed: tsup failed/);
  missing(join(clone, "isr-dpo-0.1.0.tgz"));
});

test("what is packed: all that is promised, all that a build needs, and no tests", () => {
  const packed = spawnSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], { cwd: root, encoding: "utf8" });
  assert.is(packed.status, 0, packed.stderr);
  const files = new Set<string>(JSON.parse(packed.stdout)[0].files.map((f: { path: string }) => f.path));
  const wanted = [
    ...["README.md", "LICENSE", "CHANGELOG.md", "package.json", "CMakeLists.txt", "binding.gyp"],
    ...["cmake/install.cjs", "cmake/build.cjs", "cmake/addon.cmake", "cmake/fuzz.cmake", "native/binding/host.cc"],
    ...[
      "src/report/page/page.js",
      "src/report/page/shared.js",
      "src/report/page/live.js",
      "src/report/page/live-chart.js",
      "src/report/page/live.css",
    ],
    ...["config.json", "model.safetensors", "tokenizer.json", "prompts.json"].map((f) => `models/world/${f}`),
    "examples/iterate.mjs",
  ];
  assert.equal(
    wanted.filter((f) => !files.has(f)),
    [],
  );
  assert.equal(
    [...files].filter((f) => /^(test|bench|scripts|docs|build|node_modules)\//.test(f)),
    [],
  );
});

test("metadata: where it comes from, where it runs, what a build needs and a user does not", () => {
  const { repository, homepage, bugs, os, cpu, libc, engines, license, dependencies } = manifest;
  assert.match(repository.url, /^git\+https:\/\/.*\.git$/);
  for (const url of [homepage, bugs.url]) assert.ok(url.startsWith(repository.url.slice(4, -4)), url);
  assert.equal([os, cpu, libc], [["linux"], ["x64"], ["glibc"]]);
  assert.match(engines.node, /^>=\d/);
  assert.is(license, "Apache-2.0");
  const tools = Object.keys(dependencies).filter((name) => /cmake|gyp$|prebuildify|typescript|tsup/.test(name));
  assert.equal(tools, []);
});

test("the model that ships: by its name in ESM, each of its files in CommonJS too, and as a path", async () => {
  const look = `
    import { createRequire } from "node:module";
    import { fileURLToPath } from "node:url";
    const require = createRequire(import.meta.url);
    console.log(fileURLToPath(import.meta.resolve("isr-dpo/models/world")));
    console.log(require.resolve("isr-dpo/models/world/prompts.json"));`;
  const file = join(root, "build", `resolve.${process.pid}.mjs`);
  writeFileSync(file, look);
  const { out, err, code } = node([file]);
  const { rmSync } = await import("node:fs");
  rmSync(file);
  assert.is(code, 0, err);
  const folder = join(root, "models/world");
  assert.equal(out.trim().split("\n"), [folder, join(folder, "prompts.json")]);
  assert.is(join(worldModel), folder);
  await using model = await loadModel(worldModel);
  assert.is(model.info.family, "llava_hound");
});

test("isr-dpo/synthetic holds the synthetic world, and isr-dpo still has each of its old names", async () => {
  const [synthetic, main] = await Promise.all([import("../src/synthetic/index.js"), import("../src/index.js")]);
  assert.equal(Object.keys(synthetic).sort(), [
    "initCheckpoint",
    "worldModel",
    "worldSpec",
    "writeWorld",
    "writeWorldExamples",
  ]);
  for (const [name, value] of Object.entries(synthetic)) assert.is(main[name as keyof typeof main], value, name);
});

for (const format of ["esm", "cjs"] as const)
  test(`bundled into somebody's ${format} file: the first use says to leave it out`, () => {
    const dir = temporaryFolder();
    const outfile = join(dir, "out", `app.${format === "esm" ? "mjs" : "cjs"}`);
    const app = `
      import { loadModel } from ${JSON.stringify(join(root, "src/index.ts"))};
      import { dpoLoss } from ${JSON.stringify(join(root, "src/native.ts"))};
      const told = (e) => console.log(JSON.stringify({ code: e.code, hint: e.hint }));
      loadModel("somewhere").catch(told);
      try { const one = [new Float32Array(1)]; dpoLoss(one, one, one, one); } catch (e) { told(e); }`;
    buildSync({
      stdin: { contents: app, resolveDir: root, loader: "ts" },
      outfile,
      bundle: true,
      platform: "node",
      format,
      external: ["sharp", "node-gyp-build"],
      logLevel: "silent",
    });
    writeFileSync(join(dir, "package.json"), JSON.stringify({ name: "somebodys-app" }));
    const ended = node([outfile]);
    assert.is(ended.code, 0, ended.err);
    const lines = ended.out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    assert.is(lines.length, 2);
    for (const { code, hint } of lines) {
      assert.is(code, "BINARY_MISSING");
      assert.match(hint, /bundled.*--external:isr-dpo/);
    }
  });

for (const [place, way] of [
  ["clone", /npm run build:native/],
  ["node_modules/isr-dpo", /npm rebuild isr-dpo/],
] as const)
  test(`without a binary the way to build is that of the place: ${place}`, () => {
    const copy = join(temporaryFolder(), place);
    mkdirSync(copy, { recursive: true });
    for (const part of ["src", "package.json", "tsconfig.json"])
      cpSync(join(root, part), join(copy, part), { recursive: true });
    const use = `import { loadModel } from ${JSON.stringify(join(copy, "src/index.ts"))};
      loadModel(".").catch((e) => console.log(JSON.stringify(e)));`;
    const env = { NODE_PATH: join(root, "node_modules"), ISR_DPO_PREBUILD: "" };
    const ended = node(["--import", "tsx", "--input-type=module", "-e", use], env);
    const told = JSON.parse(ended.out);
    isError(told, "BINARY_MISSING", ended.out + ended.err);
    assert.match(told.hint!, way);
  });

test("the install script takes a binary that loads, and builds where it is told to", () => {
  const dir = temporaryFolder();
  mkdirSync(join(dir, "cmake"));
  mkdirSync(join(dir, "build/Release"), { recursive: true });
  cpSync(join(root, "cmake/install.cjs"), join(dir, "cmake/install.cjs"));
  writeFileSync(join(dir, "cmake/build.cjs"), 'console.log("built"); process.exit(9);');
  writeFileSync(join(dir, "package.json"), manifest && JSON.stringify({ name: "isr-dpo" }));
  const install = (env: Record<string, string> = {}) =>
    node([join(dir, "cmake/install.cjs")], {
      NODE_PATH: join(root, "node_modules"),
      npm_config_build_from_source: "",
      ...env,
    });
  assert.equal([install().code, install().out], [9, "built\n"]);
  copyFileSync(join(root, "build/Release/isr_dpo.node"), join(dir, "build/Release/isr_dpo.node")); // never a link
  assert.equal([install().code, install().out], [0, ""]);
  assert.equal([install({ npm_config_build_from_source: "true" }).code], [9]);
  writeFileSync(join(dir, "build/Release/isr_dpo.node"), "no binary");
  assert.is(install().code, 9);
});

test.run();
