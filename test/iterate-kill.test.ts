// Iterations killed at random instants over all stages and resumed: the deterministic set of the run folder is that of a run
// which was never stopped. ISR_DPO_KILLS sets how many kills there are (3); from 10 on a run of 64 clips is killed five times too.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { bundled } from "./helpers/bundle.js";
import { root } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";
import { clips, isrResultOf } from "./helpers/isr-run.js";
import { writeClips } from "./helpers/train-run.js";

const test = suite("isr kill");
const kills = Number(process.env.ISR_DPO_KILLS ?? 3);
const many = kills >= 10 ? 64 : 0; // clips of the longer run
const data = temporaryFolder();
let child = "";

test.before(async () => {
  await writeClips(data, Math.max(clips, many));
  child = bundled("isr-run");
});

async function start(
  dir: string,
  killMs?: number,
  videos: readonly string[] = [],
): Promise<{ killed: boolean; done: boolean; ms: number; said: string }> {
  const started = spawn(process.execPath, [child, data, dir, ...videos], {
    cwd: root,
    stdio: ["ignore", "pipe", "inherit"],
  });
  let began = 0;
  let said = "";
  createInterface(started.stdout!).on("line", (line) => {
    said = line;
    if (!JSON.parse(line).ready) return;
    began = performance.now();
    if (killMs !== undefined) setTimeout(() => started.kill("SIGKILL"), killMs);
  });
  const [, signal] = await once(started, "close");
  return { killed: signal === "SIGKILL", done: said.includes('"done"'), ms: performance.now() - began, said };
}

function runFolder(): string {
  const above = join(temporaryFolder(), "runs");
  mkdirSync(above);
  return join(above, "run");
}

async function finish(dir: string, videos?: readonly string[]): Promise<number> {
  const { done, ms, said } = await start(dir, undefined, videos);
  assert.ok(done, `it ends: ${said}`);
  return ms;
}

test(`${kills} kills at random instants of two iterations`, async () => {
  const straight = runFolder();
  const ms = await finish(straight);
  const expected = await isrResultOf(straight);
  assert.is(Object.keys(expected).filter((name) => name.endsWith("model.safetensors")).length, 2);
  let left = kills;
  while (left > 0) {
    const dir = runFolder();
    const most = 1 + Math.floor(Math.random() * 4);
    for (let i = 0; i < most && left > 0; i++) {
      const { killed, done, said } = await start(dir, Math.random() * ms);
      assert.ok(killed || done, said);
      if (!killed) break; // it was done before
      left--;
    }
    await finish(dir);
    assert.equal(await isrResultOf(dir), expected);
  }
});

if (many > 0)
  test(`${many} clips: killed five times on the way`, async () => {
    const videos = [String(many)];
    const straight = runFolder();
    const ms = await finish(straight, videos);
    const expected = await isrResultOf(straight);
    const dir = runFolder();
    for (let i = 0; i < 5; i++) {
      const { killed, done, said } = await start(dir, ((0.5 + Math.random()) * ms) / 8, videos); // of what is left, less than all
      assert.ok(killed || done, said);
    }
    await finish(dir, videos);
    assert.equal(await isrResultOf(dir), expected);
  });

test.run();
