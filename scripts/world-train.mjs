// npm run world:train -- [FOLDER] [--seed N] [--threads N] [--share X]: the tiny model of the world from nothing, by this
// package's own supervised training. FOLDER (default models/world.new) must not be there. Then world:measure.
import { parseArgs } from "node:util";
import { trainWorld } from "./world/train-world.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { seed: { type: "string" }, threads: { type: "string" }, share: { type: "string" } },
});
const number = (name) => (values[name] === undefined ? {} : { [name]: Number(values[name]) });

const began = performance.now();
let sum = 0;
let count = 0;
const { hash, bytes } = await trainWorld({
  out: positionals[0] ?? "models/world.new",
  ...number("seed"),
  ...number("threads"),
  ...number("share"),
  onProgress({ stage, step, steps, loss, seconds }) {
    sum += loss;
    count += 1;
    if (step % 50 !== 0 && step !== steps) return;
    console.log(`${stage} ${step}/${steps}: mean loss ${(sum / count).toFixed(4)}, ${seconds.toFixed(0)} s`);
    sum = 0;
    count = 0;
  },
});
console.log(`${bytes} bytes, hash ${hash}, ${((performance.now() - began) / 1000).toFixed(0)} s in all`);
