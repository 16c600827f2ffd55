// The rule that a shipped binary is held against: no symbol of a glibc above the floor, no libstdc++ of the machine.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { includes } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";

interface Prebuilds {
  floor: number[];
  faultsOf(file: string): string[];
}
const script = new URL("../scripts/prebuilds.mjs", import.meta.url);
const { floor, faultsOf } = (await import(script.href)) as Prebuilds;

/** A shared library out of C++ that asks for what its lines name. */
function library(source: string, ...flags: string[]): string {
  const dir = temporaryFolder();
  writeFileSync(join(dir, "a.cc"), source);
  const args = ["-shared", "-fPIC", "-fno-builtin", "-nostdlib", join(dir, "a.cc"), "-o", join(dir, "a.so"), ...flags];
  execFileSync("g++", args, { stdio: "pipe" });
  return join(dir, "a.so");
}

test("the floor is that of the oldest Node that is supported", () => assert.equal(floor, [2, 28]));

test("versions of symbols", () => {
  const use = 'extern "C" double pow(double, double);\ndouble use(double x) { return pow(x, x); }\n';
  const old = library(`__asm__(".symver pow,pow@GLIBC_2.2.5");\n${use}`, "-lm");
  assert.equal(faultsOf(old), []);
  const [, minor] = execFileSync("getconf", ["GNU_LIBC_VERSION"], { encoding: "utf8" }).split(" ")[1]!.split(".");
  if (Number(minor ?? 0) >= 29) assert.equal(faultsOf(library(use, "-lm")), ["pow needs GLIBC_2.29"]);
});

test("libraries that are not everywhere", () => {
  const throws = "void use() { throw 1; }\n";
  const faults = faultsOf(library(throws, "-lstdc++", "-lgcc_s", "-lc"));
  assert.ok(faults.includes("it needs libstdc++.so.6"), faults.join("\n"));
  assert.ok(
    faults.some((f) => /^__cxa_throw needs CXXABI_/.test(f)),
    faults.join("\n"),
  );
});

test("a binary that was built for this machine alone is not shipped", () => {
  const local = fileURLToPath(new URL("../build/Release/isr_dpo.node", import.meta.url));
  includes(faultsOf(local), "it needs libstdc++.so.6");
});

test.run();
