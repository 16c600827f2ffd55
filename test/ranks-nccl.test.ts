// Ranks with a card each, on the emulated machine: NCCL's double carries their messages. Without the addon of the emulation: skipped.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { createCommunicator } from "../src/index.js";
import { ordered, rejects } from "./helpers/assert.js";
import { cliCommand, root } from "./helpers/child.js";
import { dpo, type Family } from "./helpers/golden.js";
import { memoized } from "./helpers/memoized.js";
import { needing } from "./helpers/optional.js";
import { doneRanks, freePort, type RankEnd, slackMs, startRanks } from "./helpers/rank-group.js";
import { optionsOf, sizes, writeData } from "./helpers/train-run.js";

const test = suite("ranks, NCCL");
const emulated = process.env.ISR_DPO_PREBUILD?.includes("emulated");
const onCards = needing(test, emulated ? undefined : "the binary of the emulation");

const parameters = [...dpo("text_llama" as Family).after.keys()];
const train = { work: "train", family: "text_llama", steps: 1, shard: true, parameters };
const cards = (n: number) => ({ ISR_CUDA_CARDS: String(n) });
const said = (lines: Record<string, unknown>[], key: string) => lines.find((l) => key in l)![key];
const places = (all: Record<string, unknown>[][]) =>
  all.map((lines) => [said(lines, "transport"), said(lines, "device")]);

const overNccl = memoized(async () => await doneRanks(await startRanks(2, train, () => ({}), cards(2))));

onCards("two ranks, two cards: each has its own, they speak through NCCL, and end with the same weights", async () => {
  const [first, second] = await overNccl();
  assert.equal(places([first!, second!]), [
    ["nccl", "cuda:0"],
    ["nccl", "cuda:1"],
  ]);
  assert.equal(said(first!, "parameters"), said(second!, "parameters"));
});

onCards("two ranks, one card: they speak through the host's memory, say why, and end with the same bits", async () => {
  const all = await doneRanks(await startRanks(2, train, () => ({}), cards(1)));
  assert.equal(places(all), [
    ["shared", "cuda:0"],
    ["shared", "cuda:0"],
  ]);
  assert.match(String(said(all[0]!, "notice")), /pass through the host's memory: ranks 0 and 1 share a card/);
  assert.equal(said(all[0]!, "parameters"), said((await overNccl())[0]!, "parameters"));
});

onCards("values of programs and objects of ranks pass through NCCL, too", async () => {
  const all = await doneRanks(await startRanks(3, { work: "collectives", transport: "nccl" }, () => ({}), cards(3)));
  assert.equal(
    all.map((lines) => said(lines, "sum")),
    Array(3).fill([30, 33, 36, 39, 42]),
  );
  assert.equal(
    all.map((lines) => (said(lines, "gathered") as { rank: number }[]).map((g) => g.rank)),
    Array(3).fill([0, 1, 2]),
  );
});

const errorOf = (end: RankEnd) => end.lines.find((l) => "error" in l)?.error as { code: string; message: string };
const refusals: [string, Record<string, unknown>, Record<string, string>, RegExp][] = [
  ["ranks on the CPU", { transport: "nccl", device: "cpu" }, cards(2), /rank 0 cannot: its device is the CPU/],
  [
    "no NCCL",
    { transport: "nccl" },
    { ...cards(2), ISR_CUDA_NCCL: "0", ISR_DPO_NCCL: "/nowhere/libnccl.so.2" },
    /NCCL was not found in \/nowhere\/libnccl\.so\.2/,
  ],
  ["a card that is not there", { device: "cuda:5" }, cards(2), /rank 0: options\.device: "cuda:5" is not available/],
];
for (const [name, options, env, message] of refusals)
  onCards(`${name}: a typed error on every rank`, async () => {
    const ranks = await startRanks(2, { work: "meet", timeoutMs: 60_000, ...options }, () => ({}), env);
    for (const end of await Promise.all(ranks.map((r) => r.end))) {
      assert.is(errorOf(end)?.code, "DEVICE_UNAVAILABLE", end.err);
      assert.match(errorOf(end).message, message);
      assert.is(end.code, 78);
    }
  });

onCards("cards without NCCL speak through the host's memory, and say why", async () => {
  const env = { ...cards(2), ISR_CUDA_NCCL: "0", ISR_DPO_NCCL: "/nowhere/libnccl.so.2" };
  const all = await doneRanks(await startRanks(2, train, () => ({}), env));
  assert.equal(places(all), [
    ["shared", "cuda:0"],
    ["shared", "cuda:1"],
  ]);
  assert.match(String(said(all[0]!, "notice")), /rank 0 has no NCCL: NCCL was not found in/);
});

onCards("a rank that is killed while the card of the other waits for it: RANK_LOST, 75", async () => {
  const ranks = await startRanks(2, { work: "forever", family: "text_llama" }, () => ({}), cards(2));
  try {
    await Promise.all(ranks.map((r) => r.heard("begun")));
    ranks[1]!.child.kill("SIGKILL");
    const end = await ranks[0]!.end;
    assert.is(end.code, 75, JSON.stringify(end.lines.at(-1)));
    assert.is(errorOf(end).code, "RANK_LOST");
    assert.match(errorOf(end).message, /rank 1 \(/);
  } finally {
    for (const { child } of ranks) child.kill("SIGKILL");
  }
});

if (process.env.ISR_DPO_LONG === "1")
  onCards("a command whose NCCL hangs when it is given up ends with 75 all the same", async () => {
    const data = mkdtempSync(join(tmpdir(), "isr-dpo-nccl-"));
    await writeData(data, sizes.three);
    const { model } = optionsOf(data, data, sizes.three);
    const flags = [
      "--model",
      String(model),
      "--data",
      join(data, "pairs.jsonl"),
      "--run-dir",
      join(data, "run"),
      "--json",
    ];
    const more = ["--set", `videos=${data}`, "--set", "epochs=1000", "--set", "itemsPerStep=2"];
    const port = String(await freePort());
    const started = ["0", "1"].map((RANK) =>
      spawn(process.execPath, [...cliCommand, "train", "dpo", ...flags, ...more], {
        cwd: root,
        env: {
          ...{ ...process.env, ...cards(2), ISR_CUDA_NCCL: "hangs" },
          ...{ RANK, WORLD_SIZE: "2", LOCAL_RANK: RANK, MASTER_ADDR: "127.0.0.1", MASTER_PORT: port },
        },
      }),
    );
    const [first, second] = started as [ChildProcess, ChildProcess];
    try {
      let out = "";
      const stepped = new Promise<void>((resolve) =>
        first.stdout!.on("data", (text) => {
          out += text;
          if (/"type": ?"step"/.test(out)) resolve();
        }),
      );
      const ended = once(first, "exit") as Promise<[number | null, NodeJS.Signals | null]>;
      let err = "";
      first.stderr!.on("data", (text) => {
        err += text;
      });
      await Promise.race([stepped, ended]);
      second.kill("SIGKILL");
      const at = performance.now();
      assert.equal([(await ended)[0], first.signalCode], [75, null], err + out.slice(-500));
      ordered(performance.now() - at, "<", 15_000 + slackMs, "milliseconds");
    } finally {
      for (const child of started) child.kill("SIGKILL");
      rmSync(data, { recursive: true, force: true });
    }
  });

test("options that name no device are refused", async () => {
  for (const device of ["gpu", "cuda:x", "CPU"])
    await rejects(
      () => createCommunicator({ device: device as "cpu" }),
      "INVALID_ARGUMENT",
      /options\.device: expected/,
      device,
    );
});

test.run();
