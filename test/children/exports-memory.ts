// Exports many pairs, made as they are asked for, into the folder given; run with a small heap. Prints the lines that are there.
import { readLines } from "../../src/base/lines.js";
import { type ChosenPair, writeExports } from "../../src/iterate/iteration-exports.js";

const [dir] = process.argv.slice(2) as [string];
const count = 150_000;
const words = "a dog runs over the grass and a man in a red coat looks on ".repeat(3);

function* pairs(): Generator<ChosenPair> {
  for (let i = 0; i < count; i++) {
    const rsp = (copy: number) => ({
      ...{ type: "rsp" as const, sample: `s${i}`, copy, end: "stop" },
      ids: Array.from({ length: 48 }, (_, k) => (i * 7 + k * copy) % 30_000),
      text: `${words}${i}, ${copy}`,
    });
    const sample = { id: `s${i}`, video: `v${i}.mp4`, question: "What is seen in the video?" };
    yield { sample, context: words, chosen: rsp(0), rejected: rsp(1), margin: 0.5, agreement: true };
  }
}

function* contexts() {
  for (let i = 0; i < count; i++) yield { video: `v${i}.mp4`, text: words, ids: [1, 2, 3], previous: words };
}

const left = await writeExports(dir, contexts(), pairs, { iteration: 1, seed: 0n, promptHash: "p", modelHash: "m" });
let lines = 0;
for await (const _ of readLines(`${dir}/pairs.jsonl`)) lines += 1;
console.log(`${lines} lines, ${left} left out`);
