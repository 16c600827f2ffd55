// The lock of a run folder: one holder among and within processes, named; free at once when it is killed.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { acquireLock } from "../src/runfolder/folder-lock.js";
import { isError, ordered, rejects } from "./helpers/assert.js";
import { node, root, script } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("store lock");

test("one holder in a process, named to the second; free after it", async () => {
  const dir = temporaryFolder();
  const lock = await acquireLock(dir);
  assert.is(lock.path, join(dir, "lock"));
  const named = new RegExp(`held by process ${process.pid} on ${hostname()} since 20\\d\\d-\\d\\d-\\d\\dT`);
  for (let i = 0; i < 3; i++) await rejects(() => acquireLock(dir), "RUN_LOCKED", named, `try ${i}`);
  lock.release();
  const again = await acquireLock(dir);
  lock.release(); // the first one's: the second stays
  await rejects(() => acquireLock(dir), "RUN_LOCKED", named, "the second holder");
  again.release();
});

test("another process: RUN_LOCKED naming it; free at once after SIGKILL", async () => {
  const dir = temporaryFolder();
  for (let round = 0; round < 3; round++) {
    const child = spawn(process.execPath, ["--import", "tsx", "test/children/lock.ts", dir], {
      cwd: root,
      stdio: ["ignore", "pipe", "inherit"],
    });
    const [said] = await once(child.stdout!, "data");
    assert.is(String(said), "held\n");
    const started = performance.now();
    await rejects(() => acquireLock(dir), "RUN_LOCKED", new RegExp(`process ${child.pid} on `), "held by the child");
    ordered(performance.now() - started, "<", 20_000, "it is refused at once");
    child.kill("SIGKILL");
    await once(child, "exit");
    (await acquireLock(dir)).release();
  }
});

test("a child that this process starts does not keep the lock, and is refused while it is held", async () => {
  const dir = temporaryFolder();
  const lock = await acquireLock(dir);
  const sleeper = spawn("sleep", ["60"]);
  await once(sleeper, "spawn");
  const refused = JSON.parse(script("lock.ts", [dir]).out);
  isError(refused, "RUN_LOCKED");
  assert.equal([refused.path, typeof refused.hint], [lock.path, "string"]);
  lock.release();
  (await acquireLock(dir)).release();
  sleeper.kill();
});

test("collecting what the caller dropped does not unlock", () => {
  const dir = temporaryFolder();
  const text = `
    const { acquireLock } = await import("./src/runfolder/folder-lock.ts");
    await acquireLock(${JSON.stringify(dir)});
    for (let i = 0; i < 3; i++) { gc(); await new Promise((r) => setTimeout(r, 10)); }
    console.log(await acquireLock(${JSON.stringify(dir)}).then(() => "got it", (e) => e.code));`;
  const { out, err } = node(["--expose-gc", "--import", "tsx", "--input-type=module", "-e", text]);
  assert.is(out.trim(), "RUN_LOCKED", err);
});

test("a worker that ends frees what it held", async () => {
  const dir = temporaryFolder();
  const addon = (await import("../src/base/addon.js")).binaryPath();
  const text = `
    const held = require(${JSON.stringify(addon)}).lockFile(${JSON.stringify(join(dir, "lock"))});
    require("node:worker_threads").parentPort.postMessage("held");
    setInterval(() => held, 1000);`;
  const worker = new Worker(text, { eval: true });
  await once(worker, "message");
  await rejects(() => acquireLock(dir), "RUN_LOCKED", new RegExp(`process ${process.pid} `), "held by the worker");
  await worker.terminate();
  (await acquireLock(dir)).release();
});

test("no folder, and something else in the lock's place", async () => {
  const dir = temporaryFolder();
  await rejects(() => acquireLock(join(dir, "none")), "NOT_FOUND", /could not open the lock/, "no folder");
  mkdirSync(join(dir, "lock"));
  await rejects(() => acquireLock(dir), "IO", /could not open the lock/, "a folder");
  await rejects(() => acquireLock(""), "INVALID_ARGUMENT", /expected a path/, "no path");
});

test.run();
