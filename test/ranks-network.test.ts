// Ranks that speak through Gloo: the bits of shared memory, on loopback and between two network namespaces, and what a cut link does.
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { includes, ordered } from "./helpers/assert.js";
import { root } from "./helpers/child.js";
import { dpo, type Family } from "./helpers/golden.js";
import { memoized } from "./helpers/memoized.js";
import { needing } from "./helpers/optional.js";
import { doneRanks, type RankEnd, type RankProcess, slackMs, startRanks } from "./helpers/rank-group.js";

const test = suite("ranks, network");
const temporary = mkdtempSync(join(tmpdir(), "isr-dpo-gloo-"));
test.after(() => rmSync(temporary, { recursive: true, force: true }));

const gloo = existsSync(join(root, "build/Release/isr_dpo_gloo.so"));
const withGloo = needing(test, gloo ? undefined : "the addon was built without Gloo (Debian: libgloo-dev)");

const parameters = [...dpo("text_llama" as Family).after.keys()];
let models = 0;
const work = (transport: string) => ({
  ...{ work: "train", family: "text_llama", steps: 3, shard: true, transport, parameters },
  model: join(temporary, `model-${models++}`),
});
const savedBy = (lines: readonly Record<string, unknown>[]) =>
  lines.find((l) => "saved" in l)!.saved as { hash: string };
const shared = [2, 4].map((n) =>
  memoized(async () => savedBy((await doneRanks(await startRanks(n, work("shared"))))[0]!)),
);

withGloo("two ranks on loopback: the bits of shared memory", async () => {
  for (const lines of await doneRanks(await startRanks(2, work("gloo")))) {
    assert.equal(
      lines.filter((l) => "transport" in l).map((l) => l.transport),
      ["gloo"],
    );
    assert.equal(savedBy(lines), await shared[0]!());
  }
});

const errorOf = (end: RankEnd) => end.lines.find((l) => "error" in l)?.error as { code: string; message: string };

async function endWithin(ranks: readonly RankProcess[], since: number, ms: number, name: string): Promise<void> {
  for (const end of await Promise.all(ranks.map((r) => r.end))) {
    assert.is(end.code, 75, JSON.stringify(end.lines.at(-1)));
    assert.is(errorOf(end).code, "RANK_LOST");
    includes(errorOf(end).message, name);
    ordered(end.at - since, "<", ms + slackMs, "milliseconds");
  }
}

withGloo("a rank that is killed: the other ends with 75 within 2 s, and names it", async () => {
  const ranks = await startRanks(2, { work: "forever", family: "text_llama", transport: "gloo" });
  try {
    await Promise.all(ranks.map((r) => r.heard("begun")));
    const at = performance.now();
    ranks[1]!.child.kill("SIGKILL");
    await endWithin([ranks[0]!], at, 2000, "rank 1 (");
  } finally {
    for (const { child } of ranks) child.kill("SIGKILL");
  }
});

// ---- two network namespaces, as two machines

const names = [`isr-a-${process.pid}`, `isr-b-${process.pid}`];
const ip = (...args: string[]) => execFileSync("ip", args, { stdio: "pipe" });

/** Two namespaces and a cable between them; whether this machine lets us. */
function cabled(): boolean {
  if (process.getuid?.() !== 0 || spawnSync("ip", ["-V"]).status !== 0) return false;
  try {
    for (const name of names) ip("netns", "add", name);
    ip("link", "add", "isr-va", "netns", names[0]!, "type", "veth", "peer", "name", "isr-vb", "netns", names[1]!);
    for (const [i, name] of names.entries()) {
      const device = i === 0 ? "isr-va" : "isr-vb";
      ip("-n", name, "addr", "add", `10.77.0.${i + 1}/24`, "dev", device);
      ip("-n", name, "link", "set", device, "up");
      ip("-n", name, "link", "set", "lo", "up");
    }
    return true;
  } catch {
    return false;
  }
}
const cable = gloo && cabled();
test.after(() => {
  for (const name of names) spawnSync("ip", ["netns", "del", name]);
});
const between = needing(test, cable ? undefined : "no Gloo, or no network namespaces (root, iproute2)");

const placed = (size: number) => ({
  address: "10.77.0.1:29700",
  inNamespace: Array.from({ length: size }, (_, r) => names[Math.floor((2 * r) / size)]!),
});

between("two machines of two ranks each: the bits of four ranks on one", async () => {
  const { address, inNamespace } = placed(4);
  const ranks = await startRanks(4, { ...work("gloo"), address }, () => ({}), {}, inNamespace);
  for (const lines of await doneRanks(ranks)) assert.equal(savedBy(lines), await shared[1]!());
});

between("a cut cable: both sides end with 75 within 12 s", async () => {
  const { address, inNamespace } = placed(2);
  const forever = { work: "forever", family: "text_llama", transport: "gloo", address };
  const ranks = await startRanks(2, forever, () => ({}), {}, inNamespace);
  try {
    await Promise.all(ranks.map((r) => r.heard("begun")));
    const at = performance.now();
    ip("-n", names[1]!, "link", "set", "isr-vb", "down");
    await endWithin(ranks, at, 12_000, "was lost");
  } finally {
    for (const { child } of ranks) child.kill("SIGKILL");
    ip("-n", names[1]!, "link", "set", "isr-vb", "up");
  }
});

test.run();
