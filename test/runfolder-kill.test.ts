// SIGKILL at random instants while a child appends and commits: what it said was done is there, nothing half-written is
// seen, and the next start goes on. ISR_DPO_KILLS sets how often (20).
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ordered } from "./helpers/assert.js";
import { newestStep } from "../src/runfolder/checkpoints.js";
import { removeTemporaries } from "../src/base/atomic-files.js";
import { Journal } from "../src/runfolder/journal.js";
import { acquireLock } from "../src/runfolder/folder-lock.js";
import { finished, finishedGroups } from "../src/runfolder/journal-records.js";
import { root } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";
import { lossOf, type Paths, pathsOf, recordsOf, reportOf } from "./helpers/kill.js";

const test = suite("store kill");
const kills = Number(process.env.ISR_DPO_KILLS ?? 20);

/** Starts the child and kills it `delayMs` after it is ready. The last group that it said was done. */
async function killed(dir: string, delayMs: number): Promise<number> {
  const child = spawn(process.execPath, ["--import", "tsx", "test/children/store-kill.ts", dir], {
    cwd: root,
    stdio: ["ignore", "pipe", "inherit"],
  });
  let said = 0;
  const lines = createInterface(child.stdout!);
  lines.on("line", (line) => {
    if (line === "ready") setTimeout(() => child.kill("SIGKILL"), delayMs);
    else said = Number(line);
  });
  const [, signal] = await once(child, "close");
  assert.is(signal, "SIGKILL");
  return said;
}

async function checkJournal(path: string, said: number): Promise<{ groups: number; cut: number }> {
  const { journal, records, cut } = await Journal.open(path);
  await journal.close();
  const groups = finishedGroups(records).size;
  assert.ok(groups >= said, `${groups} groups, of ${said} that were done`);
  assert.equal(finished(records), Array.from({ length: groups }, (_, g) => recordsOf(g)).flat());
  return { groups, cut };
}

async function checkSteps(p: Paths): Promise<number> {
  const { newest, bad } = await newestStep(p.train);
  assert.equal(bad, [], "a step that is seen holds");
  const step = newest?.step ?? 0;
  const bytes = newest?.state.metricsBytes ?? 0;
  const expected = Array.from({ length: step }, (_, i) => `{"step":${i + 1},"loss":${lossOf(i + 1)}}\n`).join("");
  assert.is(readFileSync(p.metrics, "latin1").slice(0, bytes), expected);
  if (existsSync(p.report)) {
    const text = readFileSync(p.report, "utf8");
    assert.is(text, reportOf(Number.parseInt(text, 10)), "the report is whole");
  }
  return step;
}

test(`${kills} kills at random instants`, async () => {
  const p = pathsOf(temporaryFolder());
  const totals = { groups: 0, step: 0, temporaries: 0, cut: 0 };
  for (let i = 0; i < kills; i++) {
    const said = await killed(p.dir, i === kills - 1 ? 2000 : Math.random() * 120); // the last one gets on for certain
    (await acquireLock(p.dir)).release();
    const step = await checkSteps(p); // before anything is tidied: readers never look at temporaries
    totals.temporaries += (await removeTemporaries([p.dir, p.train])).length;
    const { groups, cut } = await checkJournal(p.journal, said);
    ordered(groups, ">=", totals.groups, "nothing is lost");
    ordered(step, ">=", totals.step, "nothing is lost");
    Object.assign(totals, { groups, step, cut: totals.cut + cut });
  }
  assert.ok(totals.groups > 0 && totals.step > 0, `it went on: ${JSON.stringify(totals)}`);
  if (process.env.ISR_DPO_KILLS !== undefined) console.log(`after ${kills} kills: ${JSON.stringify(totals)}`);
});

test.run();
