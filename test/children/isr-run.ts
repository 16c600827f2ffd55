// Runs the iterations of helpers/isr-run.ts in a run folder, or goes on there. Arguments: data, run folder. Prints a line when
// it starts and one with its work when it is done.
import { runIterations } from "../../src/isr/run.js";
import { isrOptions } from "../helpers/isr-run.js";

const [data, runDir] = process.argv.slice(2) as [string, string];
console.log(JSON.stringify({ ready: true }));
const results = await runIterations(isrOptions(data, runDir));
console.log(JSON.stringify({ done: true, work: results.map((r) => r.work), counts: results.map((r) => r.counts) }));
