// Takes a folder and gives it up again, over and over. Arguments: folder, rounds. Prints how often it had it, and what was said
// besides RUN_LOCKED.
import { isIsrDpoError } from "../../src/base/errors.js";
import { Claim } from "../../src/runfolder/folder-claim.js";
import { readRun } from "../../src/runfolder/run-json.js";

const [dir, rounds] = process.argv.slice(2) as [string, string];
const others: string[] = [];
let won = 0;
for (let i = 0; i < Number(rounds); i++)
  try {
    const claim = await Claim.take(dir, {
      mark: "run.json",
      what: "the folder of a run",
      read: (path, found) => readRun(path, found, "sft"),
    });
    won += 1;
    await claim.end();
  } catch (e) {
    if (!isIsrDpoError(e, "RUN_LOCKED")) others.push(String(e));
  }
process.stdout.write(JSON.stringify({ won, others }));
