// Disk faults while train() runs four steps with two checkpoints, reads counted too: an error is typed, the process lives on,
// the checkpoints that were saved before still load, and the next call of train() ends in the straight run's bytes with no
// temporary left. A short write or read must go unnoticed.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { tsImport } from "tsx/esm/api";
import { root } from "./native.mjs";

const { bundled } = await tsImport("../test/helpers/bundle.ts", import.meta.url);
const { resultOf, sizes, writeData } = await tsImport("../test/helpers/train-run.ts", import.meta.url);

// A read finds no full disk, and a process killed before one leaves what the operation before it left.
const readsOf = (fault) => (fault === "EIO" || fault === "SHORT" ? { ISR_FAULT_READS: "1" } : {});

export class Train {
  faults = ["EIO", "ENOSPC", "SHORT", "KILL"];
  sideBySide = 2;
  some = () => 7;

  constructor(work, shim) {
    this.work = work;
    this.shim = shim;
    this.data = join(work, "pairs");
  }

  async #train(dir, fault) {
    const shim = fault ? { LD_PRELOAD: this.shim, ISR_FAULT_PATH: dir, ...fault } : {};
    const child = spawn(process.execPath, [this.child, this.data, dir, "short"], {
      cwd: root,
      env: { ...process.env, ...shim },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: 60_000,
    });
    let out = "";
    let err = "";
    child.stdout.on("data", (part) => (out += part));
    child.stderr.on("data", (part) => (err += part));
    const [status, signal] = await once(child, "close");
    const [, ...said] = out.trim().split("\n");
    return { status, signal, err, said: said.map((line) => JSON.parse(line)) };
  }

  /** How many operations a run without a fault has. */
  async count(fault) {
    await writeData(this.data, sizes.short);
    this.child = bundled("train-run");
    const dir = join(this.work, "straight");
    rmSync(dir, { recursive: true, force: true });
    const { said, err } = await this.#train(dir, { ISR_FAULT_COUNT: "1", ...readsOf(fault) });
    const operations = Number(/(\d+) file operations/.exec(err)?.[1]);
    this.straight = resultOf(dir);
    if (!said[0]?.done || !(operations > 50))
      throw new Error(`the run without a fault failed: ${JSON.stringify(said)} ${err}`);
    return operations;
  }

  /** What is wrong after the fault at operation k; null when nothing is. */
  async attempt(fault, k) {
    const dir = join(this.work, `${fault}-${k}`);
    const result = await this.#train(dir, { ISR_FAULT: fault, ISR_FAULT_AT: String(k), ...readsOf(fault) });
    let problem = null;
    if (fault === "KILL") {
      if (result.signal !== "SIGKILL") problem = `was not killed: ${JSON.stringify(result)}`;
      const { said } = await this.#train(dir);
      if (!said[0]?.done) problem ??= `the next start failed: ${JSON.stringify(said)}`;
    } else problem = this.#judge(fault, result);
    if (!problem && !isDeepStrictEqual(resultOf(dir), this.straight))
      problem = `not what the straight run leaves: ${this.#differences(dir)}`;
    rmSync(dir, { recursive: true, force: true });
    return problem;
  }

  #judge(fault, { status, signal, err, said }) {
    if (status !== 0) return `ended with ${status ?? signal}: ${err.slice(-500)}`;
    const [first, second] = said;
    if (first.done) return null; // what failed was not needed, or tried again
    if (fault === "SHORT") return `did not go on: ${first.message}`;
    const expected = fault === "ENOSPC" ? "DISK_FULL" : "IO";
    if (first.code !== expected) return `expected ${expected} but received ${first.code}: ${first.message}`;
    if (first.bad.length) return `a checkpoint does not hold: ${JSON.stringify(first.bad)}`;
    const saved = Math.floor(first.reached / sizes.short.saveEverySteps) * sizes.short.saveEverySteps;
    if (first.saved < saved) return `expected the checkpoint of step ${saved}, got ${first.saved}`;
    return second.done ? null : `the next start failed: ${second.code} ${second.message}`;
  }

  #differences(dir) {
    const now = resultOf(dir);
    const names = [...new Set([...Object.keys(now), ...Object.keys(this.straight)])];
    return names.filter((name) => now[name] !== this.straight[name]).join(", ");
  }
}
