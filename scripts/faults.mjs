// npm run faults [-- all] [save | train | isr]: what is done while the k-th file operation fails (test/faults/shim.c). Without
// "all" some operations a fault are tried, spread evenly, first and last among them; with it each, or where there are
// thousands every 97th.
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Iterations } from "./fault-isr.mjs";
import { Save } from "./fault-save.mjs";
import { Train } from "./fault-train.mjs";
import { root } from "./native.mjs";
import { closingLine } from "./tally.mjs";

const scenarios = { save: Save, train: Train, isr: Iterations };
const given = process.argv.slice(2);
const all = given.includes("all");
const names = given.filter((name) => name !== "all");
for (const name of names)
  if (!scenarios[name]) throw new Error(`Expected all, save, train or isr but received ${name}`);

const work = mkdtempSync(join(tmpdir(), "isr-dpo-faults-"));
const shim = join(root, "build", "faults", "libisr_faults.so");
let passed = 0;
let failed = 0;

function buildShim() {
  mkdirSync(join(root, "build", "faults"), { recursive: true });
  const cc = [join(root, "test", "faults", "shim.c"), "-O1", "-shared", "-fPIC", "-o", shim, "-ldl"];
  const built = spawnSync(process.env.CC ?? "gcc", cc, { stdio: "inherit" });
  if (built.status !== 0) throw new Error("test/faults/shim.c did not compile");
}

async function play(name) {
  const scenario = new scenarios[name](work, shim);
  const cases = [];
  for (const fault of scenario.faults) {
    const operations = await scenario.count(fault);
    const step = all ? (scenario.every ?? 1) : scenario.some(operations);
    for (let at = 1; at <= operations + 1e-9; at += step) cases.push({ fault, k: Math.round(at), operations });
    console.log(
      `${name}: ${fault} at ${step === 1 ? "each" : `every ${step.toFixed(0)}.`} of ${operations} file operations`,
    );
  }
  const take = async () => {
    for (let next = cases.shift(); next; next = cases.shift()) {
      const problem = await scenario.attempt(next.fault, next.k);
      if (problem) console.log(`FAIL ${name}: ${next.fault} at operation ${next.k} of ${next.operations}: ${problem}`);
      problem ? ++failed : ++passed;
    }
  };
  await Promise.all(Array.from({ length: scenario.sideBySide }, take));
  scenario.end?.();
}

try {
  buildShim();
  for (const name of names.length ? names : Object.keys(scenarios)) await play(name);
} finally {
  rmSync(work, { recursive: true, force: true });
}
console.log(closingLine({ passed, failed, skipped: 0 }));
process.exitCode = failed ? 1 : 0;
