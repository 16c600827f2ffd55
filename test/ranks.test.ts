// Ranks as processes of this machine: they meet, train the goldens to the values of one rank, and end together when one is lost.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { loadModel } from "../src/index.js";
import { close, includes, near, ordered } from "./helpers/assert.js";
import { dpo, type Family } from "./helpers/golden.js";
import { videoDpo } from "./helpers/golden-video.js";
import { doneRanks, errorOf, slackMs, startRanks } from "./helpers/rank-group.js";

const test = suite("ranks");
const temporary = mkdtempSync(join(tmpdir(), "isr-dpo-ranks-"));
test.after(() => rmSync(temporary, { recursive: true, force: true }));

const f32 = (t: { data: ArrayLike<number> }) => t.data as Float32Array;
const byKey = (lines: readonly Record<string, unknown>[], key: string) =>
  lines.filter((l) => key in l).map((l) => l[key]);

test("sums, parts and values of all ranks, by rank", async () => {
  for (const [r, lines] of (await doneRanks(await startRanks(3, { work: "collectives" }))).entries()) {
    const [found] = lines.filter((l) => "sum" in l);
    assert.equal(found!.sum, [30, 33, 36, 39, 42], `the sum on rank ${r}`);
    assert.equal(found!.part, [[30, 33], [36, 39], [42]][r], `the part of rank ${r}`);
    assert.equal(found!.all, [0, 10, 11, 20, 21, 22], `all arrays on rank ${r}`);
    assert.equal(
      found!.gathered,
      [0, 1, 2].map((rank) => ({ rank, text: "\u2028 é", none: null })),
      `values on rank ${r}`,
    );
    assert.equal(found!.long, [2, 80_000, 2], `a value that is too long for the control, on rank ${r}`);
  }
});

const goldens = [
  { family: "text_llama", facts: () => dpo("text_llama" as Family) },
  { family: "llava_hound", facts: () => videoDpo("llava_hound") },
  { family: "video_llava", facts: () => videoDpo("video_llava") }, // with its towers
];
for (const { family, facts } of goldens)
  for (const [ranks, shard, shardGradients] of [
    [2, true, false],
    [2, true, true],
    [2, false, false],
    [4, true, false],
  ] as const)
    test(`${family}: ${ranks} ranks ${shard ? "with" : "without"} shards${shardGradients ? " of gradients, too," : ""} train to the golden values, twice to the same bits`, async () => {
      const d = facts();
      const { losses_before_each_step_then_final: losses, grad_norms_before_clip: norms } = d.facts.adamw;
      const run = async (n: number) => {
        const model = join(temporary, `${family}-${ranks}-${shard}-${shardGradients}-${n}`);
        const work = { work: "train", family, steps: 3, shard, shardGradients, model, parameters: [...d.after.keys()] };
        return { model, lines: await doneRanks(await startRanks(ranks, work)) };
      };
      const first = await run(0);
      for (const [r, lines] of first.lines.entries()) {
        assert.equal(byKey(lines, "transport"), ["shared"], `transport of rank ${r}`);
        const metrics = byKey(lines, "metrics") as { loss: number; gradNorm: number }[];
        for (const [step, { loss, gradNorm }] of metrics.entries()) {
          close(loss, losses[step]!, 1e-5, `loss before step ${step} on rank ${r}`);
          const tolerance = step > 0 && d.facts.adam_ill_conditioned.length > 0 ? 1e-4 : 1e-5;
          close(gradNorm, norms[step]!, tolerance * norms[step]!, `gradient norm of step ${step} on rank ${r}`);
        }
        assert.is(metrics.length, 3);
        close(byKey(lines, "final")[0] as number, losses[3]!, 1e-5, `loss after three steps on rank ${r}`);
        assert.equal(
          byKey(lines, "parameters"),
          byKey(first.lines[0]!, "parameters"),
          `weights of rank ${r} and of rank 0`,
        );
        for (const key of ["inSession", "outside"])
          assert.equal(byKey(lines, key), byKey(first.lines[0]!, key), `what rank ${r} answers behind a step, ${key}`);
        assert.equal(byKey(lines, "saved"), byKey(first.lines[0]!, "saved"), `hash that rank ${r} was told`);
      }
      await using model = await loadModel(first.model);
      for (const [name, values] of d.after) {
        const tolerance = d.facts.adam_ill_conditioned.includes(name) ? 3e-3 : 1e-4;
        near(f32(await model.parameter(name)), values, tolerance, `${name} of the saved model`);
      }
      const second = await run(1);
      assert.equal(byKey(second.lines[0]!, "saved"), byKey(first.lines[0]!, "saved"), "the saved model's hash, twice");
    });

test("a state saved by two ranks goes on with two to the same bits, and loads into one and three", async () => {
  const family = "text_llama";
  const parameters = [...dpo(family as Family).after.keys()];
  const work = (o: object) => ({ work: "train", family, dtype: "bf16", shard: true, parameters, ...o });
  const save = join(temporary, "state");
  const model = (name: string) => join(temporary, `state-model-${name}`);
  const straight = await doneRanks(await startRanks(2, work({ steps: 3, model: model("straight") })));
  await doneRanks(await startRanks(2, work({ steps: 2, save, model: model("part") })));
  const resumed = await doneRanks(await startRanks(2, work({ steps: 1, load: save, model: model("resumed") })));
  assert.equal(byKey(resumed[0]!, "saved"), byKey(straight[0]!, "saved"));
  for (const ranks of [1, 3]) {
    const other = await doneRanks(await startRanks(ranks, work({ steps: 0, load: save, model: model(`${ranks}`) })));
    const part = await loadModel(model("part"));
    const loaded = await loadModel(model(`${ranks}`));
    assert.is(await loaded.hash(), await part.hash(), `loaded by ${ranks}`);
    await Promise.all([part.dispose(), loaded.dispose()]);
    assert.is(other.length, ranks);
  }
});

const strangers: [string, number, (rank: number) => Record<string, unknown>, string, RegExp, number][] = [
  [
    "another setting",
    2,
    (r) => ({ facts: { "the config": r === 1 ? "b" : "a" } }),
    "RUN_MISMATCH",
    /rank 1 .*the config is b, on rank 0 a/,
    78,
  ],
  [
    "another number of ranks",
    2,
    (r) => ({ size: r === 1 ? 3 : 2 }),
    "RUN_MISMATCH",
    /rank 1 .*expects 3 ranks, rank 0 2/,
    78,
  ],
  [
    "a rank that never arrives",
    2,
    (r) => ({ size: 3, rank: r, timeoutMs: 3000 }),
    "RANK_LOST",
    /1 rank of 3 did not come: 2 \(waited 3 s\)/,
    75,
  ],
  [
    "a rank that arrives twice",
    3,
    (r) => ({ rank: Math.min(r, 1), size: 3 }),
    "INVALID_ARGUMENT",
    /rank 1 has come twice/,
    2,
  ],
  [
    "a transport that is not there",
    2,
    () => ({ transport: "nccl" }),
    "DEVICE_UNAVAILABLE",
    /2 ranks over 'nccl': rank 0 cannot/,
    78,
  ],
];
for (const [name, size, of, code, message, exit] of strangers)
  test(`${name}: a typed error on every rank`, async () => {
    const ends = await Promise.all((await startRanks(size, { work: "meet", timeoutMs: 20_000 }, of)).map((r) => r.end));
    for (const [r, end] of ends.entries()) {
      const error = errorOf(end);
      assert.ok(error?.ours, `rank ${r}: ${JSON.stringify(end)}`);
      assert.is(error!.code, code, `rank ${r}: ${error!.message}`);
      assert.match(error!.message, message);
      assert.is(end.code, exit, `exit code of rank ${r}`);
    }
  });

test("who has another token is sent away, and the others meet", async () => {
  const ranks = await startRanks(3, { work: "meet", timeoutMs: 20_000, stay: 4000 }, (r) =>
    r === 2 ? { token: "other", rank: 1, size: 2 } : { size: 2 },
  );
  const [first, second, stranger] = await Promise.all(ranks.map((r) => r.end));
  assert.equal([byKey(first!.lines, "met"), byKey(second!.lines, "met")], [[2], [2]]);
  assert.match(errorOf(stranger!)?.message ?? "", /another job's rank 0/);
});

for (const [lost, signal, within] of [
  [0, "SIGKILL", 2000],
  [1, "SIGKILL", 2000],
  [0, "SIGSTOP", 12_000],
  [2, "SIGSTOP", 12_000],
] as const)
  test(`rank ${lost} of three ends by ${signal}: the others end with 75 within ${within / 1000} s, and name it`, async () => {
    const ranks = await startRanks(3, { work: "forever", family: "text_llama" });
    try {
      await Promise.all(ranks.map((r) => r.heard("begun")));
      const at = performance.now();
      ranks[lost]!.child.kill(signal);
      setTimeout(() => ranks.map(({ child }) => child.kill("SIGKILL")), within + 2 * slackMs).unref(); // who has not ended by then
      const others = ranks.filter((_, r) => r !== lost);
      for (const end of await Promise.all(others.map((r) => r.end))) {
        assert.is(end.code, 75, JSON.stringify(end.lines.at(-1)));
        const { code, message } = errorOf(end)!;
        assert.is(code, "RANK_LOST");
        includes(message, `rank ${lost} (`);
        ordered(end.at - at, "<", within + slackMs, "milliseconds");
      }
    } finally {
      for (const { child } of ranks) child.kill("SIGKILL");
    }
  });

test("rank 0 has told what every rank has seen when they have settled; what all see it tells once", async () => {
  const lines = await doneRanks(await startRanks(3, { work: "voices", events: 500 }));
  assert.equal(
    lines.map((l) => l.find((line) => "told" in line)!.told),
    [1501, 0, 0],
  );
});

test("rank 0's place takes no connection and refuses none: the others wait as long as they were told, and no longer", async () => {
  const listen =
    "require('node:net').createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1 }, function () { console.log(this.address().port); })";
  const full = spawn(process.execPath, ["-e", listen], { stdio: ["ignore", "pipe", "inherit"] });
  const waiting: Socket[] = [];
  try {
    const port = Number(String((await once(full.stdout, "data"))[0]));
    full.kill("SIGSTOP");
    for (let i = 0; i < 8; i++) waiting.push(connect({ host: "127.0.0.1", port }).on("error", () => {})); // more than it has room for
    const options = { address: `127.0.0.1:${port}`, timeoutMs: 1000 };
    const [rank] = await startRanks(1, { work: "meet", ...options }, () => ({ size: 2, rank: 1 }));
    await rank!.heard("ready");
    const at = performance.now();
    const end = await rank!.end;
    assert.is(end.code, 75, JSON.stringify(end));
    includes(errorOf(end).message, "did not answer");
    ordered(end.at - at, "<", 3000 + slackMs, "milliseconds");
  } finally {
    for (const socket of waiting) socket.destroy();
    full.kill("SIGKILL");
  }
});

test.run();
