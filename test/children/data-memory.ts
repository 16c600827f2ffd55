// Reads a file's lines and says how much memory was held at most on the way (heap and buffers, after collection).
import { readLines } from "../../src/base/lines.js";

const used = () => {
  globalThis.gc?.();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
};

const before = used();
let [rows, most] = [0, 0];
for await (const _ of readLines(process.argv[2]!)) if (++rows % 20_000 === 0) most = Math.max(most, used());
console.log(JSON.stringify({ rows, grown: most - before }));
