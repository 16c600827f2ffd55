// The life of a model: queue, events, cancellation, sessions, disposal.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { createTrainer, loadModel, type VideoLM } from "../src/index.js";
import { excludes, includes, isError, ordered, reasonOf, rejects, sameBits } from "./helpers/assert.js";
import { cases, folder } from "./helpers/golden.js";
import { memoized } from "./helpers/memoized.js";

const { usualLevel } = await import(new URL("../scripts/native.mjs", import.meta.url).href);

const test = suite("model");
const { cases: all, suppress } = cases("text_llama");
const prompt = { ids: all[1]!.prompt };
const long = (seed = 0) => ({ prompt, maxTokens: 480, temperature: 1, suppress, seed, n: 64 });
const tick = (ms = 0) => new Promise((resolve) => setTimeout(resolve, ms));

test("what info says", async () => {
  const progress: { bytes: number; totalBytes: number }[] = [];
  await using model = await loadModel(folder("text_llama"), { threads: 1, onProgress: (p) => progress.push(p) });
  const { isa, ...info } = model.info;
  assert.equal(info, {
    ...{
      family: model.info.family,
      modelType: "llama",
      device: "cpu",
      dtype: "f32",
      parameters: 84720,
      trainable: 84720,
    },
    ...{ contextLength: 512, vocabSize: 448, endTokenIds: [2], visualTokens: null, media: [], adapter: null },
  });
  assert.is(isa, process.env.ISR_DPO_ISA || usualLevel());
  const last = progress.at(-1);
  assert.ok(last && last.bytes === last.totalBytes && last.bytes > 0, JSON.stringify(progress));
});

for (const [given, begin, end] of [
  [[0, 0], 0, 23],
  [[-12, 0], 11, 23],
  [[3, -2], 3, 21],
  [[22, 23], 22, 23],
  [[-1, 0], 22, 23],
  [[5, 5], 5, 5],
] as const)
  test(`rows: negative from the end, 0 as the end: [${given}] is ${begin} to ${end}`, async () => {
    await using model = await loadModel(folder("text_llama"));
    const ids = all[0]!.ids;
    const whole = (await model.forward({ ids })).logits!.data as Float32Array;
    const out = await model.forward({ ids }, { rows: given, outputs: ["logits", "hidden"] });
    assert.equal(out.rows, [begin, end]);
    assert.equal(out.logits!.shape, [end - begin, 448]);
    assert.equal(out.hidden!.shape, [end - begin, 48]);
    sameBits(out.logits!.data, whole.slice(begin * 448, end * 448), `rows ${given}`);
    assert.equal(out.positions, undefined);
  });

test("completions come as events, and again as the result, in the order of the requests", async () => {
  await using model = await loadModel(folder("text_llama"));
  const requests = [7, 3, 12].map((maxTokens, i) => ({
    id: `q${i}`,
    prompt,
    maxTokens,
    suppress,
    n: 2,
    temperature: 1,
  }));
  const run = model.generate(requests);
  const seen: string[] = [];
  const texts = new Map<string, string>();
  for await (const e of run) {
    const { request, copy } = e.type === "completion" ? e.completion : e;
    const name = `${request}.${copy}`;
    if (e.type === "completion") seen.push(`${name}:${e.completion.ids.length}`);
    else texts.set(name, (texts.get(name) ?? "") + e.text);
  }
  const result = (await run).map((c) => `${c.request}.${c.copy}:${c.ids.length}`);
  assert.equal(result, ["q0.0:7", "q0.1:7", "q1.0:3", "q1.1:3", "q2.0:12", "q2.1:12"]);
  assert.equal([...seen].sort(), [...result].sort());
  for (const c of await run) {
    assert.is(c.finishReason, "length");
    assert.is(c.logProbs.length, c.ids.length);
    assert.is(c.text, model.tokenizer.decode(c.ids, { skipSpecial: true }));
    assert.is(texts.get(`${c.request}.${c.copy}`) ?? "", c.text, "streamed text");
  }
  assert.equal(await model.generate([]), []);
});

test("end and stop ids end a completion and stay in it; minTokens holds them back", async () => {
  await using model = await loadModel(folder("text_llama"));
  const [free] = await model.generate({ prompt, maxTokens: 16, suppress });
  const stopIds = [free!.ids[3]!];
  const first = free!.ids.indexOf(stopIds[0]!);
  const [stopped] = await model.generate({ prompt, maxTokens: 16, suppress, stopIds });
  assert.equal([...stopped!.ids], [...free!.ids.slice(0, first + 1)]);
  assert.is(stopped!.finishReason, "stop");
  const [held] = await model.generate({ prompt, maxTokens: 16, suppress, stopIds, minTokens: 10 });
  ordered(held!.ids.length, ">=", 10);
  excludes(held!.ids.slice(0, 9), stopIds[0]!);
});

test("maxTokens defaults to 256, or to what the context has room for", async () => {
  await using model = await loadModel(folder("text_llama"));
  const [short, full] = await model.generate([
    { prompt, suppress },
    { prompt: { ids: new Int32Array(500).fill(9) }, suppress },
  ]);
  assert.equal([short!.ids.length, full!.ids.length], [256, 12]);
});

test("a draw is a function of seed, stream and copy", async () => {
  await using model = await loadModel(folder("text_llama"));
  const draw = async (o: object) => {
    const [c] = await model.generate({ prompt, maxTokens: 12, temperature: 1, suppress, ...o });
    return c!.ids.join();
  };
  const base = await draw({ seed: 5 });
  assert.is(await draw({ seed: 5n }), base);
  assert.is.not(await draw({ seed: 6 }), base);
  assert.is.not(await draw({ seed: 5, randomStream: "other" }), base);
  const copies = await model.generate({ prompt, maxTokens: 12, temperature: 1, suppress, seed: 5, n: 3 });
  assert.is(copies[0]!.ids.join(), base);
  assert.is(new Set(copies.map((c) => c.ids.join())).size, 3);
});

test("counters count, and shared prefixes once", async () => {
  await using model = await loadModel(folder("text_llama"));
  assert.equal(model.counters.prefillTokens, 0);
  await model.generate({ prompt, maxTokens: 4, suppress, n: 8, temperature: 1 });
  const { prefillTokens, decodeTokens, trainTokens, judgeCalls } = model.counters;
  assert.ok(
    prefillTokens <= prompt.ids.length + 8,
    `${prefillTokens} tokens prefilled for one prompt of ${prompt.ids.length}`,
  );
  ordered(decodeTokens, ">", 0);
  ordered(decodeTokens, "<=", 32);
  assert.equal([trainTokens, judgeCalls], [0, 0]);
});

test("the event loop runs on while the engine works", async () => {
  await using model = await loadModel(folder("text_llama"));
  const run = model.generate(long());
  let done = false;
  run.then(() => {
    done = true;
  });
  let [worst, last, turns] = [0, performance.now(), 0];
  while (!done) {
    await tick(1);
    const now = performance.now();
    worst = Math.max(worst, now - last);
    last = now;
    turns++;
  }
  assert.ok(turns > 10 && worst < 1000, `${turns} turns, the longest ${worst} ms`);
});

test("abort while running, while queued, and before", async () => {
  await using model = await loadModel(folder("text_llama"));
  const [a, b] = [new AbortController(), new AbortController()];
  await using trainer = await createTrainer(model);
  const running = reasonOf(model.generate(long(), { signal: a.signal }));
  const step = trainer.trainStep([{ prompt, chosen: [3], rejected: [4] }], { signal: b.signal });
  const queued = reasonOf(step);
  const after = model.forward({ ids: all[0]!.ids });
  await tick(20);
  b.abort(new Error("queued"));
  assert.is(((await queued) as Error).message, "queued"); // at once, though the first still runs
  a.abort(new Error("running"));
  assert.is(((await running) as Error).message, "running");
  includes(Object.keys(await after), "logits");
  const gone = { signal: AbortSignal.abort(new Error("before")) };
  for (const call of [model.forward({ ids: all[0]!.ids }, gone), model.sequence({ ids: all[0]!.ids }, undefined, gone)])
    assert.is(((await reasonOf(call)) as Error).message, "before");
});

test("break out of the events aborts the generation", async () => {
  await using model = await loadModel(folder("text_llama"));
  const requests = [
    { prompt, maxTokens: 1, suppress },
    { ...long(), n: 32 },
  ];
  const began = performance.now();
  for await (const e of model.generate(requests)) if (e.type === "completion") break;
  const stopped = performance.now() - began;
  const whole = performance.now();
  await model.generate(requests);
  ordered(stopped, "<", performance.now() - whole, "leaving early takes less than the whole");
});

test("an aborted step leaves weights and step as they were", async () => {
  await using model = await loadModel(folder("text_llama"));
  await using trainer = await createTrainer(model, { learningRate: 1e-2, microBatchTokens: 64 });
  const before = await model.hash();
  const items = Array.from({ length: 3000 }, (_, i) => ({ prompt, chosen: [5 + (i % 300), 7], rejected: [9, 11, 13] }));
  const controller = new AbortController();
  const step = reasonOf(trainer.trainStep(items, { signal: controller.signal }));
  while (model.load().running === 0) await tick(1);
  controller.abort(new Error("stop"));
  assert.is(((await step) as Error).message, "stop");
  assert.is(trainer.step, 0);
  assert.is(await model.hash(), before);
  await trainer.trainStep(items.slice(0, 2));
  assert.is(trainer.step, 1);
  assert.is.not(await model.hash(), before);
});

test("dispose cancels, and waits", async () => {
  const model = await loadModel(folder("text_llama"));
  const session = model.session();
  const trainer = await createTrainer(model);
  const running = reasonOf(model.generate(long()));
  const queued = reasonOf(trainer.trainStep([{ prompt, chosen: [3], rejected: [4] }]));
  await tick(10);
  const disposal = model[Symbol.asyncDispose]();
  for (const failed of [await running, await queued]) isError(failed, "DISPOSED");
  await disposal;
  await model[Symbol.asyncDispose]();
  await trainer[Symbol.asyncDispose]();
  await session[Symbol.asyncDispose]();
});

const disposed = memoized(async () => {
  const model = await loadModel(folder("text_llama"));
  const found = { model, session: model.session(), trainer: await createTrainer(model) };
  await model[Symbol.asyncDispose]();
  return found;
});
type Disposed = Awaited<ReturnType<typeof disposed>>;
const later: [string, (from: Disposed) => unknown][] = [
  ["forward", ({ model }) => model.forward({ ids: [1] })],
  ["generate", ({ model }) => model.generate({ prompt })],
  ["session", ({ model }) => model.session()],
  ["session.generate", ({ session }) => session.generate({ prompt })],
  ["trainStep", ({ trainer }) => trainer.trainStep([{ prompt, chosen: [3], rejected: [4] }])],
  ["createTrainer", ({ model }) => createTrainer(model)],
  ["hash", ({ model }) => model.hash()],
];
for (const [what, call] of later)
  test(`what was disposed of says so: ${what}`, async () => {
    const from = await disposed();
    await rejects(() => call(from), "DISPOSED", /disposed/, what);
  });

test("sessions and trainers are disposed alone; trained weights stay in the model", async () => {
  await using model = await loadModel(folder("text_llama"));
  const session = model.session();
  await session.generate({ prompt, maxTokens: 4 });
  ordered(session.cachedTokens, ">", 0);
  await session[Symbol.asyncDispose]();
  assert.is(session.cachedTokens, 0);
  await rejects(() => session.generate({ prompt }), "DISPOSED", /session/, "a disposed session");
  const trainer = await createTrainer(model, { learningRate: 1e-2 });
  const before = await model.hash();
  await trainer.trainStep([{ prompt, chosen: [3], rejected: [4] }]);
  const trained = await model.hash();
  assert.is.not(trained, before);
  await trainer[Symbol.asyncDispose]();
  await rejects(
    () => trainer.score([{ prompt, chosen: [3], rejected: [4] }]),
    "DISPOSED",
    /trainer/,
    "a disposed trainer",
  );
  assert.is(await model.hash(), trained);
  await using _next = await createTrainer(model);
});

test("two models take turns", async () => {
  const dirs = [folder("text_llama"), folder("text_qwen2")];
  const models: VideoLM[] = await Promise.all(dirs.map((dir) => loadModel(dir, { threads: 2 })));
  const ask = (m: VideoLM) => m.generate({ prompt: { ids: [1, 5, 9] }, maxTokens: 40, temperature: 1, seed: 3 });
  const alone = [await ask(models[0]!), await ask(models[1]!)];
  const together = await Promise.all(models.map(ask));
  together.forEach((c, i) => {
    assert.equal([...c[0]!.ids], [...alone[i]![0]!.ids]);
  });
  await Promise.all(models.map((m) => m[Symbol.asyncDispose]()));
});

test.run();
