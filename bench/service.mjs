// What callers of one model get when they ask at the same time: the rate of eight calls against one call of eight, how long a
// short call waits behind a long one, and times and rates at one to sixteen callers. A decoder of 134 M parameters, bf16, all
// threads of the machine; shares are taken within rounds that alternate.
import { makeCheckpoint } from "./checkpoint.mjs";

const rounds = Number(process.env.ISR_BENCH_ROUNDS ?? 5);
const tokens = 48;
const quantile = (values, q) =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(q * values.length))];

/** A prompt of its own for each number, so that no call finds another's rows. */
const prompt = (n, length = 64) => ({
  ids: Int32Array.from({ length }, (_, t) => 300 + ((n * 7919 + t * 131) % 30000)),
});
const request = (n, maxTokens = tokens) => ({
  prompt: prompt(n),
  maxTokens,
  minTokens: maxTokens,
  temperature: 1,
  seed: n,
});

async function seconds(work) {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1e3;
}

async function togetherOrApart(model, report) {
  const ratios = [];
  let n = 0;
  for (let i = 0; i < rounds; i++) {
    const eight = Array.from({ length: 8 }, () => request(n++));
    const one = await seconds(() => model.generate(eight));
    const calls = await seconds(() => Promise.all(eight.map((r) => model.generate(r))));
    ratios.push(one / calls);
  }
  report({
    bench: "service",
    name: "8 calls / one call of 8, tokens/s",
    value: quantile(ratios, 0.5),
    unit: "x",
    atLeast: 0.9,
  });
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
    waits.push(
      (await seconds(() => model.generate({ ...request(2000 + i, 1), prompt: prompt(2000 + i, 8) }))) / (token / 1e3),
    );
    stop.abort();
    await ended;
  }
  const name = "one token behind 400, in tokens' times";
  report({ bench: "service", name, value: quantile(waits, 0.5), unit: "x", atMost: 3 });
}

/** Each caller asks again as soon as it is answered. */
async function callers(model, count, asks) {
  const first = [];
  let n = count * 10_000;
  const ask = async () => {
    const started = performance.now();
    let seen = false;
    for await (const e of model.generate({ ...request(n++), copies: 1 }))
      if (!seen && e.type === "completion") {
        seen = true;
        first.push(performance.now() - started);
      }
  };
  const took = await seconds(() =>
    Promise.all(
      Array.from({ length: count }, async () => {
        for (let i = 0; i < asks; i++) await ask();
      }),
    ),
  );
  return { rate: (count * asks * tokens) / took, answers: first };
}

export async function benchService({ loadModel }, checkpoints, report) {
  const model = await loadModel(makeCheckpoint(checkpoints).dir, { dtype: "bf16" });
  await model.generate(request(0, 4));
  await togetherOrApart(model, report);
  await shortBehindLong(model, report);
  for (const count of [1, 2, 4, 8, 16]) {
    const { rate, answers } = await callers(model, count, 4);
    const row = (what, value, unit) => report({ bench: "service", name: `${count} callers: ${what}`, value, unit });
    row("tokens/s", rate, "tok/s");
    row(`an answer of ${tokens} tokens, p50`, quantile(answers, 0.5), "ms");
    row(`an answer of ${tokens} tokens, p99`, quantile(answers, 0.99), "ms");
  }
  await model.dispose();
}
