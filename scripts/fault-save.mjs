// Disk faults while a checkpoint is saved over an older one: the folder must then hold the old checkpoint or the new one,
// whole; an error is typed; nothing half-written stays.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { root } from "./native.mjs";

const golden = join(root, "test", "golden");
const source = join(golden, "text_llama3_rope", "policy"); // three shards and an index
const older = join(golden, "text_llama", "reference");

const hashOf = (dir) => {
  const hash = createHash("sha256");
  for (const name of readdirSync(dir).sort()) hash.update(`${name}\0`).update(readFileSync(join(dir, name)));
  return hash.digest("hex");
};

export class Save {
  faults = ["EIO", "ENOSPC", "EROFS", "EINTR", "SHORT", "KILL"];
  sideBySide = 1; // all cases have the same folder
  some = (operations) => Math.max(1, (operations - 1) / 11);

  constructor(work, shim) {
    this.saved = join(work, "saved");
    this.target = join(this.saved, "model");
    this.shim = shim;
  }

  #reset() {
    rmSync(this.saved, { recursive: true, force: true });
    cpSync(older, this.target, { recursive: true });
  }

  #save(fault = {}) {
    const env = { ...process.env, LD_PRELOAD: this.shim, ISR_FAULT_PATH: this.saved, ...fault };
    const args = [join(root, "test", "faults", "save.mjs"), source, this.target];
    const child = spawnSync(process.execPath, args, { env, encoding: "utf8", timeout: 30000 });
    const line = child.stdout.trim().split("\n").at(-1);
    return { ...(line ? JSON.parse(line) : {}), signal: child.signal, status: child.status, stderr: child.stderr };
  }

  /** How many operations a save without a fault has. */
  count() {
    if (this.operations) return this.operations; // the same for every fault
    this.#reset();
    this.before = hashOf(this.target);
    const counted = this.#save({ ISR_FAULT_COUNT: "1" });
    const operations = Number(/(\d+) file operations/.exec(counted.stderr)?.[1]);
    this.after = hashOf(this.target);
    if (!counted.saved || !(operations > 10) || this.after === this.before)
      throw new Error(`the save without a fault failed: ${JSON.stringify(counted)}`);
    this.operations = operations;
    return operations;
  }

  /** What is wrong after the fault at operation k; null when nothing is. */
  attempt(fault, k) {
    this.#reset();
    return this.#judge(fault, this.#save({ ISR_FAULT: fault, ISR_FAULT_AT: String(k) }));
  }

  #judge(fault, result) {
    const { before, after } = this;
    const state = hashOf(this.target);
    const leftovers = readdirSync(this.saved).filter((name) => name !== "model");
    if (state !== before && state !== after) return "the folder holds neither the old nor the new checkpoint";
    if (fault === "KILL") {
      if (result.signal !== "SIGKILL") return `was not killed: ${JSON.stringify(result)}`;
      const again = this.#save();
      const left = readdirSync(this.saved).filter((name) => name !== "model");
      if (!again.saved || hashOf(this.target) !== after) return `the next save failed: ${JSON.stringify(again)}`;
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
}
