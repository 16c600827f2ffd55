// Importing costs nothing: no thread, no binary; without a binary types and --help work, and computing says BINARY_MISSING.
import { cpSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { node, root, script } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("import");

test("import starts no thread and loads no binary; the first use does", () => {
  script("import.ts"); // fills the loader's cache: compiling starts threads of its own
  const ended = script("import.ts");
  assert.is(ended.code, 0, ended.err);
  const { before, imported, used } = JSON.parse(ended.out) as Record<string, { threads: number; addons: string[] }>;
  assert.equal(imported, before);
  assert.is(used!.addons.length, 1);
});

test("a package without its binary: import and --help work, use names every path that was tried", () => {
  const copy = join(temporaryFolder(), "package");
  mkdirSync(copy);
  for (const part of ["src", "package.json", "tsconfig.json"])
    cpSync(join(root, part), join(copy, part), { recursive: true });
  const modules = { NODE_PATH: join(root, "node_modules"), ISR_DPO_PREBUILD: "" };
  const uses = `
    import { loadModel, isIsrDpoError, IsrDpoError } from "${copy}/src/index.ts";
    import { dpoLoss } from "${copy}/src/native.ts";
    for (const use of [() => loadModel("."), async () => dpoLoss([new Float32Array(1)], [new Float32Array(1)], [new Float32Array(1)], [new Float32Array(1)])]) {
      const e = await use().catch((e) => e);
      if (!isIsrDpoError(e, "BINARY_MISSING")) throw e;
      console.log(JSON.stringify(e.detail.tried), e.message.includes("build/Release"), e.hint);
    }`;
  const ended = node(["--import", "tsx", "--input-type=module", "-e", uses], modules);
  assert.is(ended.code, 0, ended.err);
  const lines = ended.out.trim().split("\n");
  assert.is(lines.length, 2);
  for (const line of lines)
    assert.match(line, /build\/Release\/isr_dpo\.node.*prebuilds\/linux-x64\/isr-dpo\.node.*true.*build:native/);
});

test.run();
