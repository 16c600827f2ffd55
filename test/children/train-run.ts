// Trains in a run folder, or goes on there. Arguments: data, run folder, long | short. Prints how it ended.
import { train } from "../../src/training/train.js";
import { longRun, optionsOf, shortRun } from "../helpers/train-run.js";

const [data, runDir, size] = process.argv.slice(2) as [string, string, string];
console.log(JSON.stringify({ ready: true })); // what it starts with is loaded
try {
  const run = train(optionsOf(data, runDir, size === "long" ? longRun : shortRun));
  const { hash, resumed } = await run.result;
  console.log(JSON.stringify({ done: true, hash, resumed }));
} catch (e) {
  const { code = null, message, path = null } = e as { code?: string; message: string; path?: string };
  console.log(JSON.stringify({ code, message, path }));
}
