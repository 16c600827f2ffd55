// Writes pairs that do not fit and says which error came and what is left in the folder.
import { readdirSync } from "node:fs";
import { dirname } from "node:path";
import { writePairs } from "../../src/data/write-pairs.js";

const path = process.argv[2]!;

function* rows() {
  for (let i = 0; i < 20_000; i++) {
    const words = Array.from({ length: 40 }, (_, k) => Math.imul(i + 1, (k + 7) * 2654435761) >>> 0).join(" ");
    yield {
      ...{ id: `${i}`, video: `${i}.mp4`, prompt: words, chosen: `a ${words}`, rejected: `b ${words}`, iteration: 1 },
      ...{ seeds: [1], promptHash: "p", modelHash: "m", margin: 0, agreement: true },
      lengths: { chosen: 1, rejected: 1 },
    };
  }
}

const code = await writePairs(path, rows(), { format: "trl" }).then(
  () => "none",
  (e) => e.code,
);
console.log(JSON.stringify({ code, left: readdirSync(dirname(path)) }));
