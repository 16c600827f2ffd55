// What callers of one model get when they ask at the same time: the rate of eight calls against one call of eight, how long a
// short call waits behind a long one, and then one to sixteen callers, here and with node-llama-cpp in turn. A decoder of
// 134 M parameters, bfloat16, all threads of the machine; shares are taken within rounds that alternate. ISR_BENCH_ROUNDS,
// ISR_BENCH_CALLERS (how many at the same time), ISR_BENCH_THREADS and ISR_BENCH_GGUF (llama.cpp's types) say otherwise.
import { execFileSync, fork } from "node:child_process";
import { once } from "node:events";
import { existsSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { callers, promptIds, quantile, seconds } from "./callers.mjs";
import { benchShape, makeCheckpoint } from "./checkpoint.mjs";
import { peerFolder } from "./peers.mjs";

const rounds = Number(process.env.ISR_BENCH_ROUNDS ?? 5);
const threads = Number(process.env.ISR_BENCH_THREADS ?? availableParallelism());
const counts = (process.env.ISR_BENCH_CALLERS ?? "1,2,4,8,16").split(",").map(Number);
const kinds = (process.env.ISR_BENCH_GGUF ?? "bf16,q8_0").split(",");
const median = (values) => quantile(values, 0.5);

const request = (n, maxTokens = 48, length = 64) => ({
  prompt: { ids: promptIds(n, length) },
  maxTokens,
  minTokens: maxTokens,
  temperature: 1,
  seed: n,
});

async function togetherOrApart(model, report) {
  const ratios = [];
  let n = 0;
  for (let i = 0; i < rounds; i++) {
    const eight = Array.from({ length: 8 }, () => request(n++));
    const one = await seconds(() => model.generate(eight));
    const calls = await seconds(() => Promise.all(eight.map((r) => model.generate(r))));
    ratios.push(one / calls);
  }
  const name = "8 calls / one call of 8, tokens/s";
  report({ bench: "service", name, value: median(ratios), unit: "x", atLeast: 0.9 });
}

async function shortBehindLong(model, report) {
  const waits = [];
  for (let i = 0; i < rounds; i++) {
    const stop = new AbortController();
    const long = model.generate(request(1000 + i, 400), { signal: stop.signal });
    const ended = long.then(
      () => undefined,
      () => undefined,
    );
    const before = model.counters.decodeTokens;
    while (model.counters.decodeTokens < before + 8) await new Promise((resolve) => setTimeout(resolve, 1));
    const [at, started] = [model.counters.decodeTokens, performance.now()];
    while (model.counters.decodeTokens < at + 16) await new Promise((resolve) => setTimeout(resolve, 1));
    const token = (performance.now() - started) / (model.counters.decodeTokens - at);
    waits.push((await seconds(() => model.generate(request(2000 + i, 1, 8)))) / (token / 1e3));
    stop.abort();
    await ended;
  }
  const name = "one token behind 400, in tokens' times";
  report({ bench: "service", name, value: median(waits), unit: "x", atMost: 3 });
}

/** A word for each id, so that every token gives its text at once. */
function writeTokenizer(dir) {
  const vocab = Object.fromEntries(Array.from({ length: benchShape.vocab }, (_, i) => [`▁t${i}`, i]));
  const decoder = { type: "Replace", pattern: { String: "▁" }, content: " " };
  writeFileSync(join(dir, "tokenizer.json"), JSON.stringify({ model: { type: "BPE", vocab, merges: [] }, decoder }));
}

function ours(model) {
  return ({ temperature, ...load }) =>
    callers(load, async ({ n, ids, tokens }, _, token) => {
      const limits = { maxTokens: tokens, minTokens: tokens };
      for await (const e of model.generate({ prompt: { ids }, ...limits, temperature, seed: n }))
        if (e.type === "text") token(Number(e.text.slice(2)));
    });
}

/** node-llama-cpp's folder, or nothing, said. */
function llamaFolder() {
  const dir = peerFolder();
  if (!dir) return undefined;
  if (existsSync(join(dir, "llama/node_modules/node-llama-cpp"))) return dir;
  console.log("service: node-llama-cpp is not installed, skipped (bench/peers/README.md)");
  return undefined;
}

/** node-llama-cpp in a process of its own, on the same weights as GGUF of this kind. */
async function llama(kind, dir, checkpoint, root) {
  const here = join(root, "bench/peers");
  const weights = join(checkpoint, `lm-${kind}.gguf`);
  if (!existsSync(weights))
    execFileSync(join(dir, "peer/bin/python"), [join(here, "make_gguf.py"), checkpoint, join(checkpoint, "lm"), kind]);
  const child = fork(join(here, "serve_llamacpp.mjs"), [join(dir, "llama"), weights, String(threads)]);
  const failed = once(child, "exit").then(([code]) => {
    throw new Error(`serve_llamacpp.mjs ended with ${code}`);
  });
  failed.catch(() => undefined);
  const answer = async () => (await Promise.race([once(child, "message"), failed]))[0];
  await answer();
  const measure = (load) => {
    child.send(load);
    return answer();
  };
  return { name: `llama.cpp ${kind.toUpperCase()}`, measure, end: () => child.kill() };
}

const figures = [
  { what: "tokens/s", unit: "tok/s", of: (r) => r.rate, bar: { atLeast: 1 } },
  { what: "first token, p50", unit: "ms", of: (r) => quantile(r.first, 0.5), bar: { atMost: 1 } },
  { what: "first token, p99", unit: "ms", of: (r) => quantile(r.first, 0.99), bar: { atMost: 1 } },
  { what: "whole answer, p50", unit: "ms", of: (r) => quantile(r.last, 0.5), bar: { atMost: 1 } },
];

/** Medians of rounds, and of the ratios within rounds. */
function reportCallers(title, [own, ...peers], report) {
  const row = (name, value, more) => report({ bench: "service", name: `${title}: ${name}`, value, ...more });
  for (const { what, unit, of, bar } of figures) {
    row(`${what}, ours`, median(own.results.map(of)), { unit });
    for (const { name, results } of peers) {
      row(`${what}, ${name}`, median(results.map(of)), { unit });
      const ratio = median(own.results.map((r, i) => of(r) / of(results[i])));
      row(`${what}, ours / ${name}`, ratio, { unit: "x", ...(name.endsWith("BF16") ? bar : {}) });
    }
  }
}

/** Greedy answers of the same weights begin alike, but where rounding decides. */
function reportAgreement(loads, report) {
  const greedy = loads.filter((load) => load.temperature === 0);
  for (const [e, { name }] of loads[0].engines.entries()) {
    if (e === 0) continue;
    const pairs = greedy.flatMap(({ engines }) =>
      engines[0].results.flatMap(({ began }, i) =>
        Object.entries(began).map(([n, id]) => [id, engines[e].results[i].began[n]]),
      ),
    );
    const same = pairs.filter(([a, b]) => a === b).length / pairs.length;
    report({ bench: "service", name: `answers with the first token of ${name}`, value: 100 * same, unit: "%" });
  }
}

async function oneToSixteen(engines, report) {
  const load = (count, temperature) => ({ count, temperature, engines: engines.map((e) => ({ ...e, results: [] })) });
  const loads = [...counts.map((count) => load(count, 0)), load(8, 1)];
  for (let round = -1; round < rounds; round++)
    for (const { count, temperature, engines: measured } of loads) {
      const asks = round < 0 ? 1 : Math.max(2, Math.ceil(8 / count)); // the first round warms up
      for (const { measure, results } of round % 2 ? measured : [...measured].reverse()) {
        const result = await measure({ count, temperature, asks, from: 100_000 + (round + 1) * 1000 });
        if (round >= 0) results.push(result);
      }
    }
  for (const { count, temperature, engines: measured } of loads)
    reportCallers(`${count} callers${temperature > 0 ? ", sampled" : ""}`, measured, report);
  reportAgreement(loads, report);
}

export async function benchService({ loadModel }, root, scratch, report) {
  const { dir } = makeCheckpoint(join(scratch, "service"));
  writeTokenizer(dir);
  const model = await loadModel(dir, { dtype: "bf16", threads });
  await model.generate(request(0, 4));
  await togetherOrApart(model, report);
  await shortBehindLong(model, report);
  const folder = llamaFolder();
  const peers = [];
  for (const kind of folder ? kinds : []) peers.push(await llama(kind, folder, dir, root));
  await oneToSixteen([{ name: "ours", measure: ours(model) }, ...peers], report);
  for (const peer of peers) peer.end();
  await model.dispose();
}
