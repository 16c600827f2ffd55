// Appends groups, saves steps and replaces files in a run folder until it is killed; says which group is done.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { newestStep, saveStep } from "../../src/runfolder/checkpoints.js";
import { makeFolders, removeTemporaries, writeAtomic } from "../../src/base/atomic-files.js";
import { Journal } from "../../src/runfolder/journal.js";
import { acquireLock } from "../../src/runfolder/folder-lock.js";
import { MetricsWriter } from "../../src/runfolder/metrics.js";
import { finishedGroups } from "../../src/runfolder/journal-records.js";
import { facts, lossOf, type Paths, pathsOf, recordsOf, reportOf } from "../helpers/kill.js";

async function recover(p: Paths) {
  await acquireLock(p.dir);
  await removeTemporaries([p.dir, p.train]);
  await makeFolders(p.train);
  const { journal, records } = await Journal.open(p.journal);
  const { newest } = await newestStep(p.train);
  const metrics = await MetricsWriter.open({ dir: p.train });
  await metrics.truncateTo(newest?.state.metricsBytes ?? 0);
  return { journal, metrics, group: finishedGroups(records).size, step: newest?.step ?? 0 };
}

const paths = pathsOf(process.argv[2]!);
const { journal, metrics, group, step } = await recover(paths);
console.log("ready");

async function groups(): Promise<void> {
  for (let g = group; ; g++) {
    for (const record of recordsOf(g)) void journal.append(record);
    await journal.endGroup(String(g));
    console.log(String(g + 1)); // a number would be coloured where FORCE_COLOR says so
  }
}

async function steps(): Promise<void> {
  for (let s = step + 1; ; s++) {
    await metrics.add(s, { loss: lossOf(s) }, { seconds: performance.now() });
    if (s % 3 !== 0) continue;
    await metrics.sync();
    const fill = async (dir: string) => {
      mkdirSync(join(dir, "deep"));
      writeFileSync(join(dir, "deep", "opt.0.bin"), Buffer.alloc(200_000, s));
    };
    await saveStep(paths.train, s, fill, facts(s, metrics.bytes));
    await writeAtomic(paths.report, reportOf(s));
  }
}

await Promise.all([groups(), steps()]);
