// Disk faults while a run goes on in a child, reads counted too: an error is typed, the process lives on, and the next call ends
// in the straight run's bytes with no temporary left. A short write or read must go unnoticed. A child plays many runs, each with a
// fault of its own, so what a fault leaves in the process is met by the runs behind it; only a kill takes a child for itself.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { isDeepStrictEqual } from "node:util";
import { tsImport } from "tsx/esm/api";
import { root } from "./native.mjs";

const { bundled } = await tsImport("../test/helpers/bundle.ts", import.meta.url);

// A read finds no full disk, and a process killed before one leaves what the operation before it left.
const countsReads = (fault) => fault === "EIO" || fault === "SHORT";

const limit = 120_000; // milliseconds of a run

/** A child that plays one run after another (test/helpers/fault-player.ts). */
class Player {
  #said = [];
  #ended = () => {}; // of the run that is played
  #err = "";

  constructor(args, env) {
    this.child = spawn(process.execPath, args, { cwd: root, env, stdio: "pipe" });
    this.child.stderr.on("data", (part) => (this.#err += part));
    createInterface({ input: this.child.stdout }).on("line", (line) => {
      const fact = JSON.parse(line);
      if (fact.ended) this.#ended([0, null]);
      else if (!fact.ready) this.#said.push(fact);
    });
    this.child.stdin.on("error", () => {}); // a child that is gone: `closed` tells how it went
    this.closed = once(this.child, "close");
  }

  /** Plays a run: what it said, and 0; or, if the child ended in it, how. */
  async play(request) {
    this.#said = [];
    this.#err = "";
    const timer = setTimeout(() => this.child.kill("SIGKILL"), limit);
    const ended = new Promise((resolve) => {
      this.#ended = resolve;
    });
    this.child.stdin.write(`${JSON.stringify(request)}\n`);
    const [status, signal] = await Promise.race([ended, this.closed]);
    clearTimeout(timer);
    return { status, signal, err: this.#err, said: this.#said };
  }
}

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
    this.idle = []; // processes that wait for a run
  }

  /** A process of its own, which the fault kills. Its signal. */
  async #killed(dir, k) {
    const fault = { LD_PRELOAD: this.shim, ISR_FAULT_PATH: dir, ISR_FAULT: "KILL", ISR_FAULT_AT: String(k) };
    const options = { cwd: root, env: { ...process.env, ...fault }, stdio: "ignore", timeout: limit };
    const [, signal] = await once(
      spawn(process.execPath, [this.child, this.data, dir, ...this.args], options),
      "close",
    );
    return signal;
  }

  /** A run in a process that has played others. */
  async #play(dir, fault = "NONE", k = 0, report = undefined) {
    const env = { ...process.env, LD_PRELOAD: this.shim };
    const player = this.idle.pop() ?? new Player([this.child, this.data, "-", ...this.args], env);
    const result = await player.play({ dir, plan: `${fault}:${k}:${countsReads(fault) ? 1 : 0}`, report });
    if (result.status === 0) this.idle.push(player);
    return result;
  }

  /** How many operations a run without a fault has. */
  async count(fault) {
    if (this.child === undefined) {
      await this.write(this.data);
      this.child = bundled(this.name);
    }
    const dir = join(this.work, `${this.name}-straight`);
    const report = join(this.work, "operations");
    for (const first of [true, false]) {
      rmSync(dir, { recursive: true, force: true });
      const { said, err } = await this.#play(dir, fault, 0, report); // k 0: none fails
      if (!said[0]?.done) throw new Error(`the run without a fault failed: ${JSON.stringify(said)} ${err}`);
      if (first) this.straight ??= await this.resultOf(dir);
    }
    const operations = Number(readFileSync(report, "utf8"));
    if (!(operations > 50)) throw new Error(`expected more than 50 file operations, got ${operations}`);
    return operations;
  }

  /** Ends the processes. */
  end() {
    for (const { child } of this.idle) child.kill();
  }

  /** What is wrong after the fault at operation k; null when nothing is. */
  async attempt(fault, k) {
    const dir = join(this.work, `${this.name}-${fault}-${k}`);
    let problem = null;
    if (fault === "KILL") {
      const signal = await this.#killed(dir, k);
      if (signal !== "SIGKILL") problem = `was not killed: ${signal}`;
      const { said } = await this.#play(dir);
      if (!said[0]?.done) problem ??= `the next start failed: ${JSON.stringify(said)}`;
    } else problem = this.#judge(fault, await this.#play(dir, fault, k));
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
