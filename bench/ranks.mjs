// What a second rank gains: steps of preference pairs by one rank of one thread and by two of one thread each, in turn, each rank in a
// process of its own, over the same pairs. The share of communication is the slowest rank's.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { median } from "./peers.mjs";

const rounds = 3;

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

async function rank(root, args) {
  const child = spawn(process.execPath, [join(root, "bench/ranks-step.mjs"), JSON.stringify(args)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  child.stdout.on("data", (bytes) => {
    text += bytes;
  });
  const [code] = await once(child, "close");
  if (code !== 0) throw new Error(`rank ${args.rank} ended with ${code}`);
  return JSON.parse(text);
}

/** Steps of `size` ranks: the seconds of each, and the share that communication had. */
async function steps(root, checkpoint, size, more) {
  const library = pathToFileURL(join(root, "dist/index.js")).href;
  const address = `127.0.0.1:${await freePort()}`;
  const all = { library, checkpoint, size, address, token: "bench", ...more };
  const ranks = await Promise.all(Array.from({ length: size }, (_, r) => rank(root, { ...all, rank: r })));
  return ranks[0];
}

export async function benchRanks(root, checkpoint, report) {
  for (const dtype of ["bf16", "f32"])
    for (const pairs of [4]) {
      const found = { 1: [], 2: [] };
      const shares = [];
      for (let round = 0; round < rounds; round++)
        for (const size of [1, 2]) {
          const { seconds, share } = await steps(root, checkpoint, size, { dtype, pairs });
          found[size].push(...seconds);
          if (size === 2) shares.push(...share);
        }
      const name = `${dtype}, ${pairs} pairs a step`;
      const [one, two] = [median(found[1]), median(found[2])];
      report({ bench: "ranks", name: `one rank of one thread: ${name}`, value: one, unit: "s/step" });
      report({ bench: "ranks", name: `two ranks of one thread: ${name}`, value: two, unit: "s/step" });
      report({ bench: "ranks", name: `what the second gains: ${name}`, value: one / two, unit: "x", atLeast: 1.9 });
      const percent = 100 * median(shares);
      report({
        bench: "ranks",
        name: `communication's share: ${name}`,
        value: (two * percent) / 100,
        unit: "s",
        percent,
      });
    }
}
