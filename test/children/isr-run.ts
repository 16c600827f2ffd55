// Runs the iterations of helpers/isr-run.ts in a run folder, or goes on there; after a failure once more. Arguments: data, run
// folder ("-": those that standard input names, one after another), clips (default: those of the helper). Prints a line when it
// starts and one when a call has ended.
import { runIterations } from "../../src/iterate/run-iterations.js";
import { playFaults } from "../helpers/fault-player.js";
import { isrOptions, manyClips } from "../helpers/isr-run.js";

const [data, folder, videos] = process.argv.slice(2) as [string, string, string | undefined];
const say = (fact: object) => console.log(JSON.stringify(fact));

/** Whether it was done. */
async function once(runDir: string): Promise<boolean> {
  try {
    const options = videos === undefined ? isrOptions(data, runDir) : manyClips(data, runDir, Number(videos));
    const results = await runIterations(options);
    say({ done: true, work: results.map((r) => r.work), counts: results.map((r) => r.counts) });
    return true;
  } catch (e) {
    const { code = null, message, path = null, name } = e as NodeJS.ErrnoException;
    say({ name, code, message, path });
    return false;
  }
}

async function play(runDir: string): Promise<void> {
  if (!(await once(runDir))) await once(runDir);
}

say({ ready: true });
await (folder === "-" ? playFaults(play) : play(folder));
