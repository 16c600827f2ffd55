// Runs the iterations of helpers/isr-run.ts in a run folder, or goes on there; after a failure once more. Arguments: data, run
// folder, clips (default: those of the helper). Prints a line when it starts and one when a call has ended.
import { runIterations } from "../../src/iterate/run-iterations.js";
import { isrOptions, manyClips } from "../helpers/isr-run.js";

const [data, runDir, videos] = process.argv.slice(2) as [string, string, string | undefined];
const say = (fact: object) => console.log(JSON.stringify(fact));

/** Whether it was done. */
async function once(): Promise<boolean> {
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

say({ ready: true });
if (!(await once())) await once();
