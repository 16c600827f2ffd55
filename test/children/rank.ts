// A rank of test/ranks.test.ts. Its one argument is JSON: {work, rank, size, address, ...}; it prints what it found as lines of JSON,
// and ends with the exit code of its failure.
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { createCommunicator, createTrainer, isIsrDpoError, loadModel, runIterations, train } from "../../src/index.js";
import { portionOf } from "../../src/train/ranks/agree.js";
import { voicesOf } from "../../src/train/ranks/share-out.js";
import { exitCode } from "../../src/cli/exit-code.js";
import { dpo, type Family, folder, pairs } from "../helpers/golden.js";
import { optionsOf, type SizeName, sizes } from "../helpers/train-run.js";
import { isrOptions } from "../helpers/isr-run.js";
import { folderOf, isOriginal, type VideoFamily, videoDpo, videoPairs } from "../helpers/golden-video.js";

const o = JSON.parse(process.argv[2]!);
const say = (line: object) => console.log(JSON.stringify(line));
const { rank, size, address, token, transport, device, facts, timeoutMs, silenceMs } = o;

/** The pairs of a golden family, its model's folder, and what is trained. */
function golden(family: string) {
  if (family.startsWith("text"))
    return { dir: folder(family as Family), items: pairs(dpo(family as Family), true), train: {} };
  const d = videoDpo(family as VideoFamily);
  const train = { vision: !isOriginal(family as VideoFamily), projector: family !== "llava_hound", decoder: true };
  return { dir: folderOf(family as VideoFamily), items: videoPairs(d, true), train: { train } };
}

async function steps(): Promise<void> {
  await using communicator = await createCommunicator({ rank, size, address, token, transport, device });
  const { dir, items, train } = golden(o.family);
  await using model = await loadModel(dir, { threads: 1, dtype: o.dtype ?? "f32", device: communicator.device });
  const sharing = { shard: o.shard, shardGradients: o.shardGradients };
  const options = { beta: 0.1, learningRate: 1e-3, weightDecay: 0.01, clipNorm: 1, ...sharing, ...train };
  await using trainer = await createTrainer(model, { ...options, communicator });
  const mine = portionOf(communicator, items);
  say({ transport: communicator.transport, notice: communicator.notice, device: communicator.device });
  if (o.load) await trainer.load(o.load);
  await using session = model.session();
  const ask = async (of: typeof model | typeof session) =>
    (await of.generate({ prompt: "Hi", maxTokens: 3, temperature: 0 })).map((c) => [...c.logProbs]);
  await ask(session);
  for (let step = 0; step < o.steps; step++) {
    const { seconds: _, ranks, ...metrics } = await trainer.trainStep(mine);
    say({ metrics, ranks: ranks?.length ?? 1 });
    if (step === 0) say({ inSession: await ask(session) }); // before anybody waits for the values of the step
    if (step === 1) say({ outside: await ask(model) });
  }
  if (o.save) await trainer.save(o.save);
  const { metrics } = await trainer.gradients(mine, { names: [] });
  say({ final: metrics.loss });
  if (o.model) say({ saved: await trainer.saveModel(o.model) });
  const sum = createHash("sha256");
  for (const name of o.parameters) sum.update(Buffer.from((await model.parameter(name)).data.buffer));
  say({ parameters: sum.digest("hex") });
}

/** Steps without end, so that something can happen to it. */
async function forever(): Promise<void> {
  await using communicator = await createCommunicator({ rank, size, address, token, transport, device, silenceMs });
  const { dir, items, train } = golden(o.family);
  await using model = await loadModel(dir, { threads: 1, device: communicator.device });
  await using trainer = await createTrainer(model, { learningRate: 1e-6, ...train, communicator });
  const mine = portionOf(communicator, items);
  for (let step = 0; ; step++) {
    await trainer.trainStep(mine);
    if (step === 1) say({ begun: true });
  }
}

async function collectives(): Promise<void> {
  await using c = await createCommunicator({ rank, size, address, token, transport, device });
  const x = Float32Array.from({ length: 5 }, (_, i) => 10 * rank + i);
  const sum = x.slice();
  await c.allReduce(sum);
  say({
    sum: [...sum],
    part: [...(await c.reduceScatter(x))],
    all: [...(await c.allGather(x.subarray(0, rank + 1)))],
    gathered: await c.gather({ rank, text: "\u2028 é", none: null }),
    long: (await c.gather('"é'.repeat(rank === 1 ? 40_000 : 1))).map((text) => text.length),
  });
  await c.barrier();
}

/** One rank's own thread does something else for a while; then all of them meet again. */
async function busy(): Promise<void> {
  await using c = await createCommunicator({ rank, size, address, token, silenceMs, device: "cpu" });
  await c.barrier();
  say({ begun: true });
  if (rank === o.who) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, o.block);
  else await sleep(o.block);
  await c.barrier();
  say({ met: c.size });
}

/** A rank's job waits for its own program, which takes none of its events: it lives, and its work stands still. */
async function stuck(): Promise<void> {
  await using c = await createCommunicator({ rank, size, address, token, stuckMs: o.stuckMs, device: "cpu" });
  await using model = await loadModel(folder("text_llama"), { threads: 1, device: "cpu" });
  await c.barrier();
  say({ begun: true });
  if (rank !== o.who) await c.allReduce(new Float32Array(3));
  const run = model.generate({ prompt: "Hi", n: 16, maxTokens: 40, suppress: model.info.endTokenIds });
  for await (const _ of run) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, o.block);
    break;
  }
  await c.barrier();
}

async function meet(): Promise<void> {
  await using c = await createCommunicator({ rank, size, address, token, facts, timeoutMs, transport, device });
  say({ met: c.size });
  await sleep(o.stay ?? 0);
}

/** A whole run of train(), or what is left of it. */
async function run(): Promise<void> {
  await using communicator = await createCommunicator({ rank, size, address, token, timeoutMs });
  const options = optionsOf(o.data, o.runDir, sizes[o.runSize as SizeName]);
  const running = train({
    ...options,
    ...o.options,
    load: { ...options.load, threads: 1 },
    trainer: { ...options.trainer, communicator },
  });
  for await (const e of running) {
    if (e.type === "step") say({ step: e.metrics.step, loss: e.metrics.loss, ranks: e.metrics.ranks?.length });
    else if (e.type === "warning") say({ warning: e.code });
  }
  const { hash, counts, work, metrics } = await running.result;
  say({ done: { hash, counts, work, losses: metrics.map((m) => m.loss) } });
}

/** What ranks alone have seen: as many events as o.events of each. */
async function voices(): Promise<void> {
  await using communicator = await createCommunicator({ rank, size, address, token });
  const told: unknown[] = [];
  const { own, common, settle } = voicesOf(communicator, (event) => told.push(event));
  for (let i = 0; i < o.events; i++) own({ rank, i, text: "word ".repeat(200) });
  common({ all: true });
  await settle();
  say({ told: told.length });
}

/** Iterations, or what is left of them. */
async function iterate(): Promise<void> {
  await using communicator = await createCommunicator({ rank, size, address, token, timeoutMs, transport });
  say({ met: true });
  const options = isrOptions(o.data, o.runDir);
  const { config, from, ...more } = o.options ?? {};
  const all = {
    ...options,
    ...more,
    from: from ?? options.from,
    config: { ...options.config, ...config },
    communicator,
  };
  const running = runIterations(all);
  for await (const e of running) {
    if (e.type === "stage") say({ [`${e.stage} ${e.iteration}`]: e.state });
    else if (e.type === "pair") say({ pair: e.sample, status: e.status });
    else if (e.type === "answer") say({ answer: e.sample, model: e.model });
    else if (e.type === "step") say({ step: e.metrics.step, ranks: e.metrics.ranks?.length });
    else if (e.type === "warning") say({ warning: e.code, message: e.message });
  }
  say({ done: (await running.result).map(({ metrics, ...r }) => ({ ...r, losses: metrics.map((m) => m.loss) })) });
}

const works: Record<string, () => Promise<void>> = {
  train: steps,
  forever,
  collectives,
  meet,
  run,
  voices,
  iterate,
  busy,
  stuck,
};
try {
  say({ ready: true });
  await works[o.work]!();
} catch (e) {
  const { code = null, message, hint = null } = e as { code?: string; message: string; hint?: string };
  say({ error: { ours: isIsrDpoError(e), code, message, hint } });
  process.exitCode = exitCode(e);
}
