// npm run faults [-- all]: saves a checkpoint over an older one while the k-th file operation fails (test/faults/shim.c).
// The folder must then hold the old checkpoint or the new one, whole; an error is typed; nothing half-written stays.
// Without "all" about twelve operations a fault are tried, spread evenly, first and last among them.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "./native.mjs";

const all = process.argv[2] === "all";
const golden = join(root, "test", "golden");
const source = join(golden, "text_llama3_rope", "policy"); // three shards and an index
const older = join(golden, "text_llama", "reference");
const work = mkdtempSync(join(tmpdir(), "isr-dpo-faults-"));
const target = join(work, "saved", "model");
const shim = join(root, "build", "faults", "libisr_faults.so");

const hashOf = (dir) => {
  const hash = createHash("sha256");
  for (const name of readdirSync(dir).sort()) hash.update(`${name}\0`).update(readFileSync(join(dir, name)));
  return hash.digest("hex");
};

function reset() {
  rmSync(join(work, "saved"), { recursive: true, force: true });
  cpSync(older, target, { recursive: true });
}

function save(fault = {}) {
  const env = { ...process.env, LD_PRELOAD: shim, ISR_FAULT_PATH: join(work, "saved"), ...fault };
  const args = [join(root, "test", "faults", "save.mjs"), source, target];
  const child = spawnSync(process.execPath, args, { env, encoding: "utf8", timeout: 30000 });
  const line = child.stdout.trim().split("\n").at(-1);
  return { ...(line ? JSON.parse(line) : {}), signal: child.signal, status: child.status, stderr: child.stderr };
}

// What is wrong with the state after a fault; null when nothing is.
function judge(fault, result, before, after) {
  const state = hashOf(target);
  const leftovers = readdirSync(join(work, "saved")).filter((name) => name !== "model");
  if (state !== before && state !== after) return "the folder holds neither the old nor the new checkpoint";
  if (fault === "KILL") {
    if (result.signal !== "SIGKILL") return `was not killed: ${JSON.stringify(result)}`;
    const again = save();
    const left = readdirSync(join(work, "saved")).filter((name) => name !== "model");
    if (!again.saved || hashOf(target) !== after) return `the next save failed: ${JSON.stringify(again)}`;
    return left.length ? `left behind after the next save: ${left}` : null;
  }
  if (result.status !== 0) return `ended with ${result.status ?? result.signal}: ${result.stderr.slice(-500)}`;
  if (leftovers.length) return `left behind: ${leftovers}`;
  if (result.saved) return state === after ? null : "said saved, but the old checkpoint is there";
  if (fault === "SHORT" || fault === "EINTR") return `did not go on after ${fault}: ${result.message}`;
  const expected = fault === "ENOSPC" || fault === "EDQUOT" ? "DISK_FULL" : "IO";
  if (result.code !== expected) return `expected ${expected} but received ${result.code}: ${result.message}`;
  return state === before ? null : "said failed, but the new checkpoint is there";
}

let passed = 0;
let failed = 0;
try {
  mkdirSync(join(root, "build", "faults"), { recursive: true });
  const cc = [join(root, "test", "faults", "shim.c"), "-O1", "-shared", "-fPIC", "-o", shim, "-ldl"];
  const built = spawnSync(process.env.CC ?? "gcc", cc, { stdio: "inherit" });
  if (built.status !== 0) throw new Error("test/faults/shim.c did not compile");
  reset();
  const before = hashOf(target);
  const counted = save({ ISR_FAULT_COUNT: "1" });
  const operations = Number(/(\d+) file operations/.exec(counted.stderr)?.[1]);
  const after = hashOf(target);
  if (!counted.saved || !(operations > 10) || after === before)
    throw new Error(`the save without a fault failed: ${JSON.stringify(counted)}`);
  const step = all ? 1 : Math.max(1, (operations - 1) / 11);
  for (const fault of ["EIO", "ENOSPC", "EROFS", "EINTR", "SHORT", "KILL"])
    for (let at = 1; at <= operations + 1e-9; at += step) {
      const k = Math.round(at);
      reset();
      const problem = judge(fault, save({ ISR_FAULT: fault, ISR_FAULT_AT: String(k) }), before, after);
      if (problem) console.log(`FAIL ${fault} at operation ${k} of ${operations}: ${problem}`);
      problem ? ++failed : ++passed;
    }
} finally {
  rmSync(work, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
