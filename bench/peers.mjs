// Against the peers, alternately in one run (bench/peers/README.md says how to install them). ISR_BENCH_PEERS names the folder
// with peer/ (the Python environment), llama/ (node-llama-cpp) and cache/ (made when missing). Without it: skipped, and said.
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, existsSync } from "node:fs";
import { join } from "node:path";

const rounds = Number(process.env.ISR_BENCH_ROUNDS ?? 3);
export const median = (x) => [...x].sort((a, b) => a - b)[x.length >> 1];

/** The folder of the peers, or nothing, said. */
export function peerFolder() {
  const dir = process.env.ISR_BENCH_PEERS;
  if (dir && existsSync(join(dir, "peer/bin/python"))) return dir;
  console.log("peers: not installed, skipped (set ISR_BENCH_PEERS; bench/peers/README.md)");
  return undefined;
}

/** What a command prints as JSON: its last line, or with `whole` all of it. */
export function json(command, args, cwd, whole = false) {
  const env = { ...process.env };
  for (const name of ["OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"]) delete env[name];
  const done = spawnSync(command, args, { cwd, env, encoding: "utf8", maxBuffer: 1 << 26 });
  if (done.status !== 0) throw new Error(`${command} ${args.join(" ")}: ${done.stderr.slice(-500)}`);
  return JSON.parse(whole ? done.stdout : done.stdout.trim().split("\n").at(-1));
}

function seconds(command, args) {
  const start = performance.now();
  execFileSync(command, args, { stdio: ["ignore", "ignore", "pipe"] });
  return (performance.now() - start) / 1e3;
}

export function benchPeers(root, report) {
  const dir = peerFolder();
  if (!dir) return;
  const python = join(dir, "peer/bin/python");
  const here = join(root, "bench/peers");
  const cache = join(dir, "cache");
  if (!existsSync(join(cache, "model"))) json(python, [join(here, "dpo_step_torch.py"), "make", cache]);
  const llama = existsSync(join(dir, "llama/node_modules"));
  if (llama) {
    copyFileSync(join(here, "generate_llamacpp.mjs"), join(dir, "llama/generate_llamacpp.mjs"));
    const files = ["lm-bf16.gguf", "lm-q8_0.gguf"];
    if (!files.every((f) => existsSync(join(cache, f))))
      execFileSync(python, [join(here, "make_gguf.py"), join(cache, "model"), join(cache, "lm"), "bf16", "q8_0"]);
  }
  const ours = [];
  const theirs = [];
  const cpp = { bf16: [], q8: [] };
  const start = { ours: [], theirs: [] };
  for (let i = 0; i < rounds; i++) {
    ours.push(json(process.execPath, [join(here, "generate_isr.mjs"), "gen", cache, "1"]));
    theirs.push(json(python, [join(here, "generate_transformers.py"), "gen", cache, "--reps", "1"]));
    if (llama)
      for (const threads of ["1", "2"])
        for (const [kind, file] of [
          ["bf16", "lm-bf16.gguf"],
          ["q8", "lm-q8_0.gguf"],
        ])
          cpp[kind].push(
            json(process.execPath, ["generate_llamacpp.mjs", join(cache, file), threads, "1"], join(dir, "llama"))
              .samples_1,
          );
    start.ours.push(seconds(process.execPath, [join(here, "generate_isr.mjs"), "first", cache]));
    start.theirs.push(seconds(python, [join(here, "generate_transformers.py"), "first", cache]));
  }
  const of = (list, samples, key) => median(list.map((x) => x[samples][key]));
  const row = (name, value, unit, bar = {}) => report({ bench: "peers", name, value, unit, ...bar });
  const prefill = (list) => of(list, "samples_1", "prefill_s_median");
  row("prefill of 560 with vision, ours", prefill(ours), "s");
  row("prefill, transformers", prefill(theirs), "s");
  row("prefill, ours / transformers", prefill(ours) / prefill(theirs), "x", { atMost: 0.7 });
  for (const [samples, least] of [
    ["samples_1", 3],
    ["samples_2", 4],
  ]) {
    const [a, b] = [ours, theirs].map((list) => of(list, samples, "decode_tok_s_median"));
    row(`decode ${samples}, ours`, a, "tok/s");
    row(`decode ${samples}, transformers`, b, "tok/s");
    row(`decode ${samples}, ours / transformers`, a / b, "x", { atLeast: least });
  }
  if (llama) {
    const best = (kind) => Math.max(...cpp[kind].map((x) => x.decode_tok_s_best));
    row("decode, llama.cpp BF16, best", best("bf16"), "tok/s");
    row("decode, llama.cpp Q8_0, best", best("q8"), "tok/s");
    const own = Math.max(...ours.map((x) => x.samples_1.decode_tok_s_best));
    row("decode one sample, ours / llama.cpp BF16, both best", own / best("bf16"), "x", { atLeast: 1.7 });
  } else console.log("peers: llama.cpp is not installed, skipped");
  row("four prompts / one", median(ours.map((x) => x.four_prompts_over_one)), "x", { atMost: 1.15 });
  const [a, b] = [median(start.ours), median(start.theirs)];
  row("process start to first token, ours", a, "s");
  row("process start to first token, ours / transformers", a / b, "x", { atMost: 0.2 });
}
