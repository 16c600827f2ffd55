// Disk faults while a run goes on in a child, reads counted too: an error is typed, the process lives on, and the next call ends
// in the straight run's bytes with no temporary left. A short write or read must go unnoticed.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { tsImport } from "tsx/esm/api";
import { root } from "./native.mjs";

const { bundled } = await tsImport("../test/helpers/bundle.ts", import.meta.url);

// A read finds no full disk, and a process killed before one leaves what the operation before it left.
const readsOf = (fault) => (fault === "EIO" || fault === "SHORT" ? { ISR_FAULT_READS: "1" } : {});

/** A scenario of scripts/faults.mjs. A child prints a line when it starts and one when a call has ended; after a failure it calls again. */
export class FaultyRun {
  faults = ["EIO", "ENOSPC", "SHORT", "KILL"];
  sideBySide = 2;

  /** child: of test/children; args: behind data and run folder; write(data) makes the data; resultOf(dir): what must be equal. */
  constructor(work, shim, { child, args = [], write, resultOf }) {
    this.work = work;
    this.shim = shim;
    this.name = child;
    this.args = args;
    this.write = write;
    this.resultOf = resultOf;
    this.data = join(work, `${child}-data`);
  }

  async #run(dir, fault) {
    const shim = fault ? { LD_PRELOAD: this.shim, ISR_FAULT_PATH: dir, ...fault } : {};
    const child = spawn(process.execPath, [this.child, this.data, dir, ...this.args], {
      cwd: root,
      env: { ...process.env, ...shim },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: 120_000,
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
    await this.write(this.data);
    this.child ??= bundled(this.name);
    const dir = join(this.work, `${this.name}-straight`);
    rmSync(dir, { recursive: true, force: true });
    const { said, err } = await this.#run(dir, { ISR_FAULT_COUNT: "1", ...readsOf(fault) });
    const operations = Number(/(\d+) file operations/.exec(err)?.[1]);
    this.straight = await this.resultOf(dir);
    if (!said[0]?.done || !(operations > 50))
      throw new Error(`the run without a fault failed: ${JSON.stringify(said)} ${err}`);
    return operations;
  }

  /** What is wrong after the fault at operation k; null when nothing is. */
  async attempt(fault, k) {
    const dir = join(this.work, `${this.name}-${fault}-${k}`);
    const result = await this.#run(dir, { ISR_FAULT: fault, ISR_FAULT_AT: String(k), ...readsOf(fault) });
    let problem = null;
    if (fault === "KILL") {
      if (result.signal !== "SIGKILL") problem = `was not killed: ${JSON.stringify(result)}`;
      const { said } = await this.#run(dir);
      if (!said[0]?.done) problem ??= `the next start failed: ${JSON.stringify(said)}`;
    } else problem = this.#judge(fault, result);
    problem ??= await this.#left(dir);
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
    return this.wrong(first) ?? (second.done ? null : `the next start failed: ${second.code} ${second.message}`);
  }

  /** What else is wrong with a call that failed as it should; null or undefined: nothing. */
  wrong() {
    return null;
  }

  async #left(dir) {
    const temporary = readdirSync(dir, { recursive: true }).filter((name) => name.endsWith(".tmp"));
    if (temporary.length > 0) return `temporaries are left: ${temporary.join(", ")}`;
    const now = await this.resultOf(dir);
    if (isDeepStrictEqual(now, this.straight)) return null;
    const names = [...new Set([...Object.keys(now), ...Object.keys(this.straight)])];
    return `not what the straight run leaves: ${names.filter((name) => now[name] !== this.straight[name]).join(", ")}`;
  }
}
