// Runs named commands one after another, passes their output through, and adds up what their tests report.
// A command's tally is its last line "N passed, N failed" or uvu's closing summary; a command that reports none counts
// as one test. A tally of a failing command is never without a failure.
import { spawn } from "node:child_process";
import { constants } from "node:os";

export const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

export function tallyOf(output, status) {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: colours of test runners
  const plain = output.replace(/\x1b\[[0-9;]*m/g, "");
  const ours = [...plain.matchAll(/^(\d+) passed, (\d+) failed$/gm)].at(-1);
  const total = [...plain.matchAll(/^\s*Total:\s+(\d+)$/gm)].at(-1);
  const passed = [...plain.matchAll(/^\s*Passed:\s+(\d+)$/gm)].at(-1);
  const skipped = [...plain.matchAll(/^\s*Skipped:\s+(\d+)$/gm)].at(-1);
  let tally = { passed: status === 0 ? 1 : 0, failed: 0 };
  if (ours) tally = { passed: Number(ours[1]), failed: Number(ours[2]) };
  else if (total && passed)
    tally = { passed: Number(passed[1]), failed: Number(total[1]) - Number(passed[1]) - Number(skipped?.[1] ?? 0) };
  if (tally.failed === 0 && (status !== 0 || tally.passed === 0)) tally.failed = 1; // no test ran: a filter that fits none
  return tally;
}

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

  /** One stage: a command and options of run(). `silentPass`: a build; only its failure counts. True when nothing failed. */
  async stage(name, command, args = [], { silentPass = false, ...options } = {}) {
    console.log(`\n== ${name}: ${[command, ...args].join(" ")}`);
    const { status, output, note, ms } = await run(command, args, options);
    const { passed, failed } = tallyOf(output, status);
    return this.add(name, silentPass ? 0 : passed, failed, ms, note);
  }

  add(name, passed, failed, ms, note = "") {
    this.passed += passed;
    this.failed += failed;
    this.rows.push({ name, passed, failed, ms, note });
    console.log(`-- ${name}: ${failed ? "FAILED" : "ok"}, ${seconds(ms)}${note ? ` (${note})` : ""}`);
    return failed === 0;
  }

  /** The closing table, the sum as the last line, and the exit status. */
  end() {
    const width = Math.max(...this.rows.map((r) => r.name.length));
    console.log("");
    for (const r of this.rows)
      console.log(
        `${r.name.padEnd(width)}  ${String(r.passed).padStart(5)} ok ${String(r.failed).padStart(4)} bad  ${seconds(r.ms).padStart(9)}${r.note ? `  ${r.note}` : ""}`,
      );
    console.log(`total time ${seconds(Date.now() - this.#began)}`);
    console.log(`${this.passed} passed, ${this.failed} failed`);
    process.exitCode = this.failed ? 1 : 0;
  }
}
