// The TypeScript tests: node scripts/ts-tests.mjs [pattern of test files]. Each file runs in a process of its own, three at a
// time where there are two cores or more (most files wait for processes and files half of their time), those that take the
// longest first. Ends with "N passed, N failed, N skipped".
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { root } from "./native.mjs";
import { closingLine, tallyOf } from "./tally.mjs";
import { testCommand, transpile } from "./transpile.mjs";

const pattern = new RegExp(process.argv[2] ?? "\\.test\\.ts$");
const isLong = (file) =>
  /kill|train-r|linear-time|video-(long|truncated)|synthetic-model|report-page|-pairs|-content/.test(file);
const waiting = readdirSync(join(root, "test"))
  .filter((file) => file.endsWith(".test.ts") && pattern.test(file))
  .sort((a, b) => isLong(b) - isLong(a) || (a < b ? -1 : 1));
const sums = { passed: 0, failed: 0, skipped: 0 };

const outdir = await transpile();
const running = new Set();
for (const signal of ["SIGINT", "SIGTERM"])
  process.on(signal, () => {
    for (const child of running) child.kill();
    process.exit(1);
  });

const { FORCE_COLOR, ...env } = process.env; // the tally reads plain text

/** What the tests of a file print, once they have ended, and its exit status. */
function run(file) {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, testCommand(file, outdir), {
      cwd: root,
      env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    running.add(child);
    child.on("close", () => running.delete(child));
    let output = "";
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding("utf8").on("data", (text) => {
        output += text;
      });
    child.on("error", (error) => resolve({ output: error.message, status: 127 }));
    child.on("close", (code, signal) =>
      resolve({ output: signal ? `${output}\nended by ${signal}` : output, status: code ?? 128 }),
    );
  });
}

async function lane() {
  for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
    console.log(`begins: ${file}`); // says which one it was, should it never end
    const { output, status } = await run(file);
    const tally = tallyOf(output, status);
    for (const key of Object.keys(sums)) sums[key] += tally[key];
    console.log(`\n${tally.failed > 0 ? `FAILED (exit status ${status}): ` : ""}${output.trim()}`);
  }
}

const lanes = availableParallelism() > 1 ? 3 : 1;
await Promise.all(Array.from({ length: lanes }, lane));
console.log(`\n${closingLine(sums)}`);
process.exitCode = sums.failed > 0 || sums.passed + sums.skipped === 0 ? 1 : 0;
