// Trains in a run folder, or goes on there; after a failure once more. Arguments: data, run folder ("-": those that standard input
// names, one after another), a name of `sizes`. Prints a line when what it starts with is loaded, and one when a call of train() has ended.
import { join } from "node:path";
import { newestStep } from "../../src/runfolder/checkpoints.js";
import { train } from "../../src/train/train.js";
import { playFaults } from "../helpers/fault-player.js";
import { optionsOf, type SizeName, sizes } from "../helpers/train-run.js";

const [data, folder, size] = process.argv.slice(2) as [string, string, SizeName];
const say = (fact: object) => console.log(JSON.stringify(fact));

/** Whether it was done. */
async function once(runDir: string): Promise<boolean> {
  let reached = -1; // the last step whose metrics were told
  try {
    const run = train(optionsOf(data, runDir, sizes[size]));
    for await (const event of run) if (event.type === "step") reached = event.metrics.step;
    await run.result;
    say({ done: true, reached });
    return true;
  } catch (e) {
    const { code = null, message, path = null, name } = e as NodeJS.ErrnoException;
    const { newest, bad } = await newestStep(join(runDir, "train"));
    say({ name, code, message, path, reached, saved: newest?.step ?? 0, bad });
    return false;
  }
}

async function play(runDir: string): Promise<void> {
  if (!(await once(runDir))) await once(runDir);
}

say({ ready: true });
await (folder === "-" ? playFaults(play) : play(folder));
