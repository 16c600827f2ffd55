// Runs named commands one after another, passes their output through, and adds up what their tests report (tally.mjs).
import { spawn } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import { dirname } from "node:path";
import { closingLine, tallyOf } from "./tally.mjs";

export const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

/** Runs one command to its end. Output goes to this process's own and is kept; `limit` seconds later the command and its children are killed. */
export function run(command, args, { cwd, env, limit = 3600, quiet = false } = {}) {
  return new Promise((resolve) => {
    const started = Date.now();
    const { FORCE_COLOR, ...inherited } = process.env; // node warns where both are set
    const child = spawn(command, args, {
      cwd,
      env: { ...inherited, NO_COLOR: "1", ...env },
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
    });
    let output = "";
    const take = (stream) => (chunk) => {
      output += chunk;
      if (!quiet) stream.write(chunk);
    };
    child.stdout.setEncoding("utf8").on("data", take(process.stdout));
    child.stderr.setEncoding("utf8").on("data", take(process.stderr));
    const killGroup = (signal) => {
      try {
        process.kill(-child.pid, signal);
      } catch {} // already gone
    };
    const onSignal = (signal) => {
      killGroup("SIGKILL");
      process.exit(128 + constants.signals[signal]);
    };
    process.on("SIGINT", onSignal).on("SIGTERM", onSignal);
    let note = "";
    const timer = setTimeout(() => {
      note = `stopped after ${limit} s`;
      killGroup("SIGKILL");
    }, limit * 1000);
    const finish = (status) => {
      clearTimeout(timer);
      process.off("SIGINT", onSignal).off("SIGTERM", onSignal);
      resolve({ status, output, note, ms: Date.now() - started });
    };
    child.on("error", (error) => {
      note = error.message;
      finish(127);
    });
    child.on("close", (code, signal) => {
      if (signal && !note) note = `ended by ${signal}`;
      finish(code ?? 128);
    });
  });
}

export class Stages {
  #began = Date.now();
  rows = [];
  passed = 0;
  failed = 0;
  skipped = 0;
  #skipped = new Set();
  #record;
  #earlier = new Map();

  /** record: a file that gets a line per stage that passed; stages whose lines it holds already are not run again, which is told. */
  constructor({ record } = {}) {
    this.#record = record;
    if (record === undefined) return;
    mkdirSync(dirname(record), { recursive: true });
    if (!existsSync(record)) return;
    const rows = readFileSync(record, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    this.#earlier = new Map(rows.map((row) => [row.name, row]));
  }

  /** One stage: a command and options of run(). `silentPass`: a build; only its failure counts. True when nothing failed. */
  async stage(name, command, args = [], { silentPass = false, ...options } = {}) {
    const earlier = silentPass ? undefined : this.#earlier.get(name);
    if (earlier) return this.#done(name, earlier);
    console.log(`\n== ${name}: ${[command, ...args].join(" ")}`);
    const { status, output, note, ms } = await run(command, args, options);
    const tally = { ...tallyOf(output, status), ms, note };
    if (silentPass) return this.add(name, 0, tally.failed, ms, note, tally.skipped);
    if (this.#record !== undefined && tally.failed === 0)
      appendFileSync(
        this.#record,
        `${JSON.stringify({ name, ...tally, note: `passed at ${new Date().toISOString()}` })}\n`,
      );
    return this.#done(name, tally);
  }

  #done(name, { passed, failed, skipped, names, ms, note }) {
    for (const test of names) this.#skipped.add(test);
    return this.add(name, passed, failed, ms, note, skipped);
  }

  add(name, passed, failed, ms, note = "", skipped = 0) {
    this.passed += passed;
    this.failed += failed;
    this.skipped += skipped;
    this.rows.push({ name, passed, failed, skipped, ms, note });
    console.log(`-- ${name}: ${failed ? "FAILED" : "ok"}, ${seconds(ms)}${note ? ` (${note})` : ""}`);
    return failed === 0;
  }

  /** What this machine cannot do. */
  skip(name, why) {
    this.#skipped.add(`${name}: ${why}`);
    this.add(name, 0, 0, 0, why, 1);
  }

  /** The closing table, what was skipped by name, the sum as the last line, and the exit status. */
  end() {
    const width = Math.max(...this.rows.map((r) => r.name.length));
    console.log("");
    for (const r of this.rows)
      console.log(
        `${r.name.padEnd(width)}  ${String(r.passed).padStart(5)} ok ${String(r.failed).padStart(4)} bad ${String(r.skipped).padStart(4)} skipped  ${seconds(r.ms).padStart(9)}${r.note ? `  ${r.note}` : ""}`,
      );
    console.log(`total time ${seconds(Date.now() - this.#began)}`);
    for (const test of this.#skipped) console.log(`not run: ${test}`);
    console.log(closingLine(this));
    process.exitCode = this.failed ? 1 : 0;
  }
}
