// One DPO step against PyTorch's, on the same checkpoint and pairs, alternately in one run (bench/peers/README.md says how to
// install the peers). Wall time decides where the machine is quiet; CPU time stands beside it, since neighbours hardly touch it.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { json, median, peerFolder } from "./peers.mjs";

const rounds = Number(process.env.ISR_BENCH_ROUNDS ?? 3);

const peers = {
  "torch bf16, compact head": ["--dtype", "bf16"],
  "torch autocast, compact head": ["--dtype", "autocast"],
  "torch bf16, TRL's way": ["--dtype", "bf16", "--head", "trl", "--ref", "online"],
  "torch fp32, compact head": ["--dtype", "fp32"],
};

export function benchDpo(root, report) {
  const dir = peerFolder();
  if (!dir) return;
  const python = join(dir, "peer/bin/python");
  const here = join(root, "bench/peers");
  const cache = join(dir, "cache");
  const torch = (...args) => json(python, [join(here, "dpo_step_torch.py"), ...args]);
  const ours = (...args) => json(process.execPath, [join(here, "dpo_step_isr.mjs"), cache, ...args]);
  if (!existsSync(join(cache, "model"))) torch("make", cache);

  const row = (name, value, unit, bar = {}) => report({ bench: "dpo", name, value, unit, ...bar });
  agreement(row, torch, ours, cache);

  const found = { bf16: [], f32: [], four: [] };
  const theirs = Object.fromEntries(Object.keys(peers).map((name) => [name, []]));
  for (let i = 0; i < rounds; i++) {
    found.bf16.push(ours("bf16", "1", "2"));
    for (const [name, args] of Object.entries(peers)) {
      theirs[name].push(torch("one", cache, "--threads", "2", "--pairs", "1", "--reps", "2", ...args));
      if (name.includes("autocast")) found.f32.push(ours("f32", "1", "2"));
    }
    found.four.push(ours("bf16", "4", "1"));
  }
  const of = (list, key) => median(list.map((x) => x[key]));
  for (const [name, list] of [
    ...Object.entries(theirs),
    ["ours bf16", found.bf16],
    ["ours f32", found.f32],
    ["ours bf16, four pairs", found.four],
  ]) {
    row(`${name}: step`, of(list, "s_per_pair_median"), "s/pair");
    row(`${name}: CPU time`, of(list, "cpu_s_per_pair_min"), "s/pair");
    row(`${name}: peak RSS`, of(list, "peak_rss_MB"), "MiB", name === "ours bf16" ? { atMost: 3.2e9 / 2 ** 20 } : {});
  }
  const ratio = (name, mine, others, bar) => {
    const best = (key) => Math.min(...others.map((other) => of(theirs[other], key)));
    row(`${name}, wall`, of(mine, "s_per_pair_median") / best("s_per_pair_median"), "x", { atMost: bar });
    row(`${name}, CPU time`, of(mine, "cpu_s_per_pair_min") / best("cpu_s_per_pair_min"), "x");
  };
  ratio("ours bf16 / torch's best", found.bf16, ["torch bf16, compact head", "torch autocast, compact head"], 0.5);
  ratio("ours bf16 / TRL's way", found.bf16, ["torch bf16, TRL's way"], 0.25);
  ratio("ours f32 / torch fp32", found.f32, ["torch fp32, compact head"], 0.5);
  // Pairs of several clips share the text before the video too.
  const tokens =
    [...found.bf16, ...found.f32].every((x) => x.tokens_computed === x.tokens_expected) &&
    found.four.every((x) => x.tokens_computed <= x.tokens_expected);
  row("tokens computed are 561 + |w| + |l| a pair", tokens ? 1 : 0, "yes", { atLeast: 1 });
}

/** The log-probs of step 0 against torch's float32 ones. */
function agreement(row, torch, ours, cache) {
  torch("one", cache, "--dtype", "fp32", "--threads", "2", "--pairs", "2", "--reps", "1", "--golden");
  const { policy_logps_chosen_rejected: expected } = json("cat", [join(cache, "golden.json")], undefined, true);
  for (const dtype of ["f32", "bf16"]) {
    const { logProbs } = ours(dtype, "2", "1", "2", "golden");
    const off = Math.max(...expected.flatMap((pair, i) => pair.map((x, k) => Math.abs(x - logProbs[i][k]))));
    row(
      `step-0 log-probs, ${dtype}: off torch fp32 by`,
      off,
      "nat",
      dtype === "f32" ? { atMost: 3e-3 } : { atMost: 1 },
    );
  }
}
