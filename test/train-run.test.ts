// train() from data to a saved model: events, the exact first step, the same call again, stopping anywhere and going on to
// the same bytes, what may not change, and what is computed once.
import { readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { createTrainer, type IterationEvent, loadModel, type TrainOptions, train } from "../src/index.js";
import { close, includes, isNoError, ordered, rejects, sameBits, some } from "./helpers/assert.js";
import { script } from "./helpers/child.js";
import { caught, rowsFile } from "./helpers/data.js";
import { copyOf, temporaryFolder } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";
import { floatsOf, readSafetensors } from "./helpers/safetensors.js";
import { bytesOf, eventsOf, idPairs, pixelPairs, setups, textRows } from "./helpers/training.js";

const test = suite("training run");
const newDir = () => join(temporaryFolder(), "run");
const names = Object.keys(setups);
const at = (name: string, more: Partial<TrainOptions> = {}): TrainOptions => ({
  ...setups[name]!(),
  ...more,
  runDir: more.runDir ?? newDir(),
});
const where = (e: IterationEvent): string => {
  if (e.type === "stage") return `${e.stage} ${e.state}`;
  if (e.type === "step") return `step ${e.metrics.step}`;
  return e.type === "progress" ? `${e.stage} ${e.done}/${e.total}` : e.type;
};

interface Straight {
  options: TrainOptions;
  events: IterationEvent[];
  hash: string;
  bytes: Record<string, string>;
}
const done = new Map<string, Straight>();

/** The run of a setup that nothing stopped, made once. */
async function straight(name: string): Promise<Straight> {
  const found = done.get(name);
  if (found) return found;
  const options = at(name);
  const { events, result } = await eventsOf(options);
  const made = { options, events, hash: result.hash, bytes: bytesOf(options.runDir) };
  done.set(name, made);
  return made;
}

for (const name of names)
  test(`${name}: events in order, metrics, a model that is the trainer's state`, async () => {
    const { options, events, hash } = await straight(name);
    const supervised = options.kind === "sft";
    const stages = events.filter((e) => e.type === "stage").map(where);
    assert.equal(stages, [
      ...(supervised ? [] : ["score begin", "score end"]),
      ...["train begin", "train end", "save begin", "save end"],
    ]);
    const steps = events.flatMap((e) => (e.type === "step" ? [e.metrics] : []));
    assert.equal(
      steps.map((m) => m.step),
      steps.map((_, i) => i),
    );
    const order = events.map(where);
    ordered(order.indexOf("train begin"), "<", order.indexOf("step 0"));
    ordered(order.indexOf(`step ${steps.length - 1}`), "<", order.indexOf("train end"));
    includes(order, `train ${steps.length}/${steps.length}`, "the last progress is told");
    for (const m of steps) {
      ordered(m.seconds, ">", 0);
      ordered(m.memoryBytes, ">", 1e7);
      assert.is(m.tokensPerSecond, m.tokensComputed / m.seconds);
      assert.is(m.epoch, Math.floor(m.step / (steps.length / (options.epochs ?? 1))));
      assert.is(m.truncated, 0);
    }
    const lines = readFileSync(join(options.runDir, "train/metrics.jsonl"), "utf8").trim().split("\n");
    for (const [i, line] of lines.entries()) {
      const { seconds: _, tokensPerSecond: __, shareOfPeak: ___, memoryBytes: ____, ...kept } = steps[i]!;
      assert.equal(JSON.parse(line), kept, "metrics.jsonl holds the events' metrics, without clocks");
    }
    await using model = await loadModel(join(options.runDir, "model"));
    assert.is(await model.hash(), hash);
    const last = join(options.runDir, `train/step-${String(steps.length).padStart(6, "0")}/trainer.safetensors`);
    let compared = 0;
    const state = readSafetensors(last);
    for (const key of state.keys()) {
      if (!key.startsWith("master.")) continue;
      const parameter = (await model.parameter(key.slice("master.".length))).data;
      sameBits(parameter, floatsOf(state, key), key);
      compared++;
    }
    ordered(compared, ">", 10);
  });

for (const name of names)
  test(`${name}: the same call again gives the finished run`, async () => {
    const { options, hash, bytes, events } = await straight(name);
    const again = await eventsOf(at(name, { runDir: options.runDir }));
    assert.equal(again.events, []);
    assert.equal([again.result.hash, again.result.resumed], [hash, true]);
    assert.is(again.result.model, join(options.runDir, "model"));
    assert.equal(
      again.result.metrics.map((m) => m.loss),
      events.flatMap((e) => (e.type === "step" ? [e.metrics.loss] : [])),
    );
    assert.equal(bytesOf(options.runDir), bytes);
  });

/** Starts a setup and stops it when `point` is told, by leaving the loop, by abort() or by the signal. */
async function stopped(options: TrainOptions, point: string, how: string): Promise<void> {
  const controller = new AbortController();
  const run = train({ ...options, signal: controller.signal });
  const reason = new Error("stopped by the test");
  try {
    for await (const event of run) {
      if (where(event) !== point) continue;
      if (how === "break") break;
      if (how === "abort") run.abort(reason);
      else controller.abort(reason);
    }
    await run.result;
  } catch (e) {
    assert.ok(e === reason || (how === "break" && (e as Error).name === "AbortError"), `${e}`);
  }
}

const points: [point: RegExp, how: string][] = [
  [/^score begin$/, "signal"],
  [/^score [1-9]/, "break"],
  [/^train begin$/, "abort"],
  [/^step 0$/, "signal"],
  [/^step 1$/, "break"],
  [/^train end$/, "abort"],
];
const scores = (name: string) => setups[name]!().kind === "dpo"; // supervised runs score nothing
for (const name of names)
  for (const [point, how] of points.filter(([point]) => scores(name) || !/score/.test(point.source)))
    test(`${name}: stopped at ${point.source} by ${how}, it goes on to the bytes of the straight run`, async () => {
      const { events, bytes, hash } = await straight(name);
      const found = events.map(where).find((e) => point.test(e))!;
      assert.type(found, "string");
      const runDir = newDir();
      await stopped(at(name, { runDir }), found, how);
      const { result } = await eventsOf(at(name, { runDir }));
      assert.equal([result.hash, result.resumed], [hash, true], `${found}, ${how}`);
      assert.equal(bytesOf(runDir), bytes, `${found}, ${how}`);
    });

test("stopped again and again, a run goes on, and says what it resumed", async () => {
  const { bytes, hash } = await straight("dpo, text rows");
  const runDir = newDir();
  for (const [point, first] of [
    ["score 4/10", "score begin"],
    ["score 8/10", "score resumed"],
    ["step 0", "score resumed"],
    ["step 1", "train resumed"],
    ["step 3", "train resumed"],
  ] as const) {
    const told: string[] = [];
    for await (const event of train(at("dpo, text rows", { runDir }))) {
      told.push(where(event));
      if (where(event) === point) break;
    }
    assert.is(told[0], first, point);
  }
  const { result } = await eventsOf(at("dpo, text rows", { runDir }));
  assert.is(result.hash, hash);
  assert.equal(bytesOf(runDir), bytes);
});

for (const stage of ["train", "save"])
  test(`a run that ended at ${stage}, behind its last step, saves the model of that step`, async () => {
    const { options, hash, bytes } = await straight("dpo, pixels");
    const runDir = copyOf(options.runDir);
    rmSync(join(runDir, "model"), { recursive: true });
    const { hash: _, ...facts } = JSON.parse(readFileSync(join(runDir, "stage.json"), "utf8"));
    writeFileSync(join(runDir, "stage.json"), JSON.stringify({ ...facts, stage }));
    const { result, events } = await eventsOf(at("dpo, pixels", { runDir }));
    assert.equal(
      events.filter((e) => e.type === "step"),
      [],
    );
    assert.is(events.map(where)[0], `${stage} resumed`);
    assert.is(result.hash, hash);
    assert.equal(bytesOf(runDir), bytes);
  });

const paper = {
  schedule: "linear",
  warmupRatio: 0.1,
  learningRate: 5e-4,
  beta: 0.1,
  weightDecay: 0,
  clipNorm: 1,
} as const;
for (const dtype of ["f32", "bf16"] as const)
  for (const [name, more] of [
    ["dpo, ids", { itemsPerStep: 1 }],
    ["dpo, text rows", { itemsPerStep: 3, trainer: { ...paper, microBatchTokens: 40 } }],
    ["dpo, text rows", { itemsPerStep: 3, trainer: { ...paper, sharePrefix: false, checkpointing: true } }],
    ["dpo, video files", { itemsPerStep: 2, epochs: 4 }],
    ["dpo, pixels", { itemsPerStep: 2, epochs: 6, trainer: { ...paper, train: { vision: true, projector: true } } }],
  ] as [string, Partial<TrainOptions>][])
    test(`the first two steps of ${name} (${dtype}): margin 0, loss ln 2; the first learning rate is 0`, async () => {
      const options = at(name, { trainer: paper, ...more, load: { dtype, threads: 2 } });
      const { metrics } = await train(options);
      ordered(metrics.length, ">=", 8);
      assert.is(metrics[0]!.learningRate, 0);
      for (const m of metrics.slice(0, 2)) {
        assert.equal([m.margin, m.chosenReward, m.rejectedReward, m.accuracy], [0, 0, 0, 0]);
        assert.ok(Math.abs(m.loss - Math.LN2) <= 1e-12, `${m.loss}`);
        assert.is(m.loss, m.dpoLoss);
      }
      ordered(metrics[1]!.learningRate, ">", 0);
      ordered(Math.abs(metrics[3]!.loss - Math.LN2), ">", 1e-9, "then it learns");
    });

const changes: [change: Partial<TrainOptions>, key: string][] = [
  [{ epochs: 3 }, "config.epochs"],
  [{ itemsPerStep: 2 }, "config.itemsPerStep"],
  [{ trainer: { learningRate: 1e-3, beta: 0.2, schedule: "linear", warmupRatio: 0.1 } }, "config.trainer.beta"],
  [
    { trainer: { learningRate: 1e-3, beta: 0.1, schedule: "linear", warmupRatio: 0.1, seed: 7 } },
    "config.trainer.seed",
  ],
  [{ kind: "sft", trainer: {} }, "kind"],
  [{ data: rowsFile(textRows(9)) }, "inputs.data"],
  [{ onLong: "truncate" }, "config.onLong"],
  [{ onBadRow: "skip" }, "config.onBadRow"],
  [{ load: { dtype: "bf16" } }, "facts.dtype"],
  [{ evalData: rowsFile(textRows(2)) }, "inputs.evalData"],
];
for (const [change, key] of changes)
  test(`a changed ${key} is refused, and nothing is touched`, async () => {
    const { options, bytes } = await straight("dpo, text rows");
    const e = await caught(async () => train(at("dpo, text rows", { ...change, runDir: options.runDir })));
    assert.is(e.code, "RUN_MISMATCH");
    assert.match(e.message, new RegExp(`^  ${key.replaceAll(".", "\\.")}: expected .*, got `, "m"));
    const { differences } = e.detail as { differences: { key: string }[] };
    some(differences, (d) => d.key === key);
    assert.equal(bytesOf(options.runDir), bytes);
  });

const free: [what: string, change: Partial<TrainOptions>][] = [
  ["threads", { load: { threads: 2 } }],
  ["how often state is saved", { saveEverySteps: 4 }],
  ["where the model lies", { model: copyOf(folder("text_llama")) }],
];
for (const [what, change] of free)
  test(`what changes no result may differ: ${what}`, async () => {
    const { bytes, hash } = await straight("dpo, text rows");
    const runDir = newDir();
    await stopped(at("dpo, text rows", { runDir }), "step 1", "break");
    const { result } = await eventsOf(at("dpo, text rows", { ...change, runDir }));
    assert.is(result.hash, hash);
    const found = bytesOf(runDir);
    for (const key of Object.keys(bytes).filter((k) => !k.startsWith("train/step-000005")))
      assert.is(found[key], bytes[key], key);
  });

test("another model is refused by its hash", async () => {
  const { options } = await straight("dpo, ids");
  const other = at("dpo, ids", { runDir: options.runDir, model: folder("text_llama", "reference") });
  await rejects(() => train(other), "RUN_MISMATCH", /facts\.modelSha256/, "another model");
});

test("other items from the program are refused", async () => {
  const runDir = newDir();
  await stopped(at("dpo, pixels", { runDir }), "step 0", "break");
  const fewer = pixelPairs("video_llava").slice(1);
  await rejects(() => train(at("dpo, pixels", { runDir, data: fewer })), "RUN_MISMATCH", /items/, "fewer");
  const { bytes } = await straight("dpo, pixels");
  await train(at("dpo, pixels", { runDir, data: pixelPairs("video_llava") })); // an array instead of a stream
  assert.equal(bytesOf(runDir), bytes);
});

test("two runs of one folder: the second is refused, the first goes on", async () => {
  const { bytes } = await straight("dpo, ids");
  const runDir = newDir();
  let refused = 0;
  for await (const event of train(at("dpo, ids", { runDir }))) {
    if (event.type !== "step") continue;
    await rejects(() => train(at("dpo, ids", { runDir })), "RUN_LOCKED", new RegExp(`${process.pid}`), "second");
    refused++;
  }
  ordered(refused, ">", 1);
  assert.equal(bytesOf(runDir), bytes);
});

test("runs of different models at once give what each gives alone", async () => {
  const dirs = new Map(names.map((name) => [name, newDir()]));
  await Promise.all(names.map((name) => train(at(name, { runDir: dirs.get(name)! })).result));
  for (const name of names) assert.equal(bytesOf(dirs.get(name)!), (await straight(name)).bytes, name);
});

test("in a worker thread it is the same", async () => {
  const runDir = newDir();
  const ended = script("train-worker.ts", [runDir]);
  assert.is(ended.code, 0, ended.err);
  const mine = newDir();
  const { hash } = await train({ kind: "dpo", model: folder("text_llama"), data: idPairs(4), runDir: mine });
  assert.equal(JSON.parse(ended.out), { hash, resumed: false });
  assert.equal(bytesOf(runDir), bytesOf(mine));
});

test("a clip is decoded and encoded once over all epochs; a later run takes it from the cache", async () => {
  const runDir = newDir();
  const dir = join(temporaryFolder(), "features");
  const load = { threads: 1, featureCache: { dir } };
  const { work } = await train(at("dpo, video files", { runDir, load, epochs: 3 }));
  const media = ({ decodes, towerPasses, featureHits, featureMisses }: typeof work) => [
    ...[decodes, towerPasses, featureHits, featureMisses],
  ];
  assert.equal(media(work), [3, 3, 0, 3]);
  const again = await train(at("dpo, video files", { load, epochs: 3 }));
  assert.equal(media(again.work), [0, 0, 3, 0]);
  const own = newDir();
  await stopped(at("dpo, video files", { runDir: own }), "step 1", "break");
  const resumed = await train(at("dpo, video files", { runDir: own }));
  assert.equal(media(resumed.work), [0, 0, 3, 0], "the run's own folder");
});

const losses: [what: string, spoil: (path: string) => void][] = [
  ["the file", (path) => rmSync(path)],
  ["its end", (path) => truncateSync(path, 200)],
  [
    "a bit",
    (path) => {
      const found = readFileSync(path);
      found[150]! ^= 1;
      writeFileSync(path, found);
    },
  ],
];
for (const [what, spoil] of losses)
  test(`reference log-probs that were lost are scored again, to the same bits, and told: ${what}`, async () => {
    const { bytes } = await straight("dpo, text rows");
    const runDir = newDir();
    await stopped(at("dpo, text rows", { runDir }), "step 2", "break");
    spoil(join(runDir, "refs.f32"));
    const { events } = await eventsOf(at("dpo, text rows", { runDir }));
    assert.equal(
      events.flatMap((e) => (e.type === "warning" ? [e.code] : [])),
      ["REFERENCES_LOST"],
    );
    assert.equal(bytesOf(runDir), bytes);
  });

test("what was refused before anything was computed may be corrected in the same folder", async () => {
  const runDir = newDir();
  const text = (more: Partial<TrainOptions>) => train(at("dpo, text rows", { ...more, runDir })).result;
  await rejects(() => text({ trainer: { beta: -1 } }), "INVALID_ARGUMENT", /beta/, "an option");
  await rejects(() => text({ data: "/nowhere.jsonl" }), "NOT_FOUND", /nowhere/, "no file");
  await text({});
  assert.equal(bytesOf(runDir), (await straight("dpo, text rows")).bytes);
});

test("references that pairs bring are taken, and not scored", async () => {
  const data = idPairs(8).map((p, i) => ({
    ...p,
    reference: {
      chosen: new Float32Array((p.chosen as number[]).length).fill(-1 - i),
      rejected: new Float32Array((p.rejected as number[]).length).fill(-2),
    },
  }));
  const { metrics, counts, work } = await train({ kind: "dpo", model: folder("text_llama"), data, runDir: newDir() });
  await using model = await loadModel(folder("text_llama"));
  await using trainer = await createTrainer(model);
  const { metrics: expected } = await trainer.gradients(data, { names: [] });
  close(metrics[0]!.loss, expected.loss, 1e-9, "loss");
  close(metrics[0]!.margin, expected.margin, 1e-9, "margin");
  assert.is(work.trainTokens, counts.tokensComputed, "one pass over the pairs");
});

test("an aborted signal ends it before it begins", async () => {
  const reason = new Error("never");
  const run = train(at("dpo, ids", { signal: AbortSignal.abort(reason) }));
  const e = await run.result.catch((x) => x);
  assert.is(e, reason);
  isNoError(e);
});

test.run();
