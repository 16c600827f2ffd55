// Evaluation beside training changes no bit of it and says what the steps say; a loss that is not finite stops a run before
// the update, names the samples and leaves the last good state.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { createTrainer, type IterationEvent, loadModel, type TrainOptions, train } from "../src/index.js";
import { newestStep } from "../src/runfolder/checkpoints.js";
import { close, excludes, includes, ordered, rejects } from "./helpers/assert.js";
import { caught, rowsFile } from "./helpers/data.js";
import { copyOf, temporaryFolder } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";
import { readSafetensors, writeSafetensors } from "./helpers/safetensors.js";
import { bytesOf, eventsOf, exampleRows, idPairs, setups, textRows, videoRows } from "./helpers/training.js";
import { memoized } from "./helpers/memoized.js";

const test = suite("training evaluation");
const newDir = () => join(temporaryFolder(), "run");
const trained = (bytes: Record<string, string>) =>
  Object.fromEntries(Object.entries(bytes).filter(([name]) => !/eval/.test(name)));
const evaluations = (events: readonly IterationEvent[]) => events.flatMap((e) => (e.type === "evaluation" ? [e] : []));

const sets: Readonly<Record<string, string>> = {
  "dpo, text rows": rowsFile(textRows(5), "eval.jsonl"),
  "sft, text rows": rowsFile(exampleRows(5), "eval.jsonl"),
  "dpo, video files": rowsFile(videoRows(4), "eval.jsonl"),
};

for (const [name, evalData] of Object.entries(sets))
  test(`${name}: the same bytes with and without; evaluated when asked, and as often`, async () => {
    const run = async (more: Partial<TrainOptions>) => {
      const runDir = newDir();
      const { events } = await eventsOf({ ...setups[name]!(), ...more, runDir });
      const bytes = bytesOf(runDir);
      return { bytes, found: evaluations(events), steps: events.filter((e) => e.type === "step").length, runDir };
    };
    const without = await run({});
    const ends = await run({ evalData });
    const every = await run({ evalData, evalEvery: 2 });
    assert.equal(trained(ends.bytes), trained(without.bytes));
    assert.equal(trained(every.bytes), trained(without.bytes));
    const total = without.steps;
    assert.equal(
      ends.found.map((e) => e.step),
      [0, total],
    );
    const due = Array.from({ length: total + 1 }, (_, s) => s).filter((s) => s % 2 === 0 || s === total);
    assert.equal(
      every.found.map((e) => e.step),
      due,
    );
    assert.equal(every.found[0], ends.found[0]);
    assert.equal(every.found.at(-1), ends.found[1], "how often changes nothing");
    const lines = readFileSync(join(every.runDir, "train/evaluation.jsonl"), "utf8").trim().split("\n");
    assert.equal(
      lines.map((l) => JSON.parse(l)),
      every.found.map(({ step, loss, accuracy, margin }) => ({ step, loss, accuracy, margin })),
    );
    if (!name.startsWith("dpo")) return;
    const [first] = ends.found;
    assert.equal([first!.accuracy, first!.margin], [0, 0], "the model is its own reference");
    ordered(Math.abs(first!.loss - Math.LN2), "<=", 1e-12);
    assert.not.equal(ends.found[1]!.margin, 0);
  });

for (const loss of ["sigmoid", "ipo", "hinge"] as const)
  test(`${loss}: before a step over the whole set, evaluation says what the step says`, async () => {
    const data = sets["dpo, text rows"]!;
    const { events } = await eventsOf({
      kind: "dpo",
      model: folder("text_llama"),
      data,
      evalData: data,
      evalEvery: 1,
      epochs: 4,
      itemsPerStep: 5,
      trainer: { loss, learningRate: 1e-3, beta: 0.3 },
      runDir: newDir(),
    });
    const found = new Map(evaluations(events).map((e) => [e.step, e]));
    const steps = events.flatMap((e) => (e.type === "step" ? [e.metrics] : []));
    assert.is(steps.length, 4);
    for (const m of steps) {
      const e = found.get(m.step)!;
      close(e.loss, m.loss, 1e-6, `loss before step ${m.step}`);
      close(e.margin, m.margin, 1e-6, `margin before step ${m.step}`);
      close(e.accuracy, m.accuracy, 1e-9, `accuracy before step ${m.step}`);
    }
    ordered(steps[3]!.margin, ">", 0);
  });

test("supervised: before a step over the whole set, evaluation says the step's loss", async () => {
  const data = sets["sft, text rows"]!;
  const o = { kind: "sft", model: folder("text_llama"), data, evalData: data, evalEvery: 1, epochs: 3 } as const;
  const { events } = await eventsOf({ ...o, trainer: { learningRate: 1e-3 }, runDir: newDir() });
  const steps = events.flatMap((e) => (e.type === "step" ? [e.metrics.loss] : []));
  const found = evaluations(events).map((e) => e.loss);
  for (const [i, loss] of steps.entries()) close(found[i]!, loss, 1e-6, `step ${i}`);
  ordered(found[3]!, "<", found[0]!);
});

const evaluated = (runDir: string) => ({
  ...setups["dpo, text rows"]!(),
  ...{ evalData: sets["dpo, text rows"]!, evalEvery: 2, runDir },
});
const straight = memoized(async () => {
  const runDir = newDir();
  const { events } = await eventsOf(evaluated(runDir));
  return { events, bytes: bytesOf(runDir) };
});
for (const point of [0, 2, 6])
  test(`stopped at evaluation ${point}, a run goes on to the same bytes and evaluates nothing twice`, async () => {
    const { events, bytes } = await straight();
    const runDir = newDir();
    const told: number[] = [];
    const collect = async () => {
      for await (const e of train(evaluated(runDir)))
        if (e.type === "evaluation") {
          told.push(e.step);
          if (e.step === point) break;
        }
    };
    await collect();
    const { events: rest } = await eventsOf(evaluated(runDir));
    assert.equal(
      [...told, ...evaluations(rest).map((e) => e.step)],
      evaluations(events).map((e) => e.step),
    );
    assert.equal(bytesOf(runDir), bytes, `stopped at ${point}`);
  });

test("an evaluation set with bad rows is refused before training, or told", async () => {
  const evalData = rowsFile([...textRows(2), { ...textRows(1)[0], chosen: "" }], "eval.jsonl");
  const options = () => ({ ...setups["dpo, text rows"]!(), evalData, runDir: newDir() });
  const told: IterationEvent[] = [];
  const o = options();
  const e = await caught(async () => {
    for await (const event of train(o)) told.push(event);
  });
  assert.is(e.code, "DATA_INVALID");
  assert.match(e.message, /eval\.jsonl:3: chosen/);
  assert.equal(
    told.filter((x) => x.type === "step" || x.type === "stage"),
    [],
    "before anything is computed",
  );
  const { result, events } = await eventsOf({ ...options(), onBadRow: "skip" });
  assert.is(result.counts.skippedRows, 0, "of the data alone");
  assert.equal(
    events.flatMap((x) => (x.type === "warning" ? [(x.detail as { path: string }).path] : [])),
    [evalData],
  );
});

/** A copy of a checkpoint in which one token's embedding is infinite. */
function poisoned(token: number): string {
  const dir = copyOf(folder("text_llama"));
  const path = join(dir, "model.safetensors");
  const tensors = readSafetensors(path);
  const { shape, data } = tensors.get("model.embed_tokens.weight")!;
  (data as Float32Array).fill(Infinity, token * shape[1]!, (token + 1) * shape[1]!);
  writeSafetensors(path, tensors);
  return dir;
}

const rare = 447; // in no golden pair
const withRare = () => idPairs(8).map((p, i) => (i === 5 ? { ...p, id: "the bad one", chosen: [rare, 2] } : p));

test("a start model that gives no finite log-prob to a pair: refused while scoring, by the pair's name", async () => {
  const runDir = newDir();
  const options = { kind: "dpo", model: poisoned(rare), data: withRare(), itemsPerStep: 3, runDir } as const;
  const e = await caught(async () => train(options));
  assert.is(e.code, "NUMERIC");
  assert.match(e.message, /the bad one/);
  assert.equal(e.detail, { samples: ["the bad one"] });
  excludes(readdirSync(runDir), "model");
});

test("a step whose loss is not finite: stops before the update, names the samples, keeps the last good state", async () => {
  const data = withRare().map(({ prompt, chosen, id }) => ({ id, prompt, answer: chosen }));
  const model = poisoned(rare);
  const runDir = newDir();
  const options = () => ({
    ...({ kind: "sft", model, data, itemsPerStep: 2, epochs: 2, saveEverySteps: 1, runDir } as const),
    trainer: { learningRate: 1e-3, seed: 2 },
  });
  const told: IterationEvent[] = [];
  const failed = async () => {
    told.length = 0;
    return caught(async () => {
      for await (const event of train(options())) told.push(event);
    });
  };
  const e = await failed();
  const steps = told.filter((x) => x.type === "step").length;
  ordered(steps, ">", 0, "the seed puts the bad one behind the first step");
  assert.is(e.code, "NUMERIC");
  assert.match(e.message, new RegExp(`^step ${steps}: loss .*not finite; of the bad one$`));
  assert.equal(e.detail, { samples: ["the bad one"] });
  assert.type(e.hint, "string");
  const { newest, bad } = await newestStep(join(runDir, "train"));
  assert.equal([newest?.step, bad], [steps, []]);
  assert.is(readFileSync(join(runDir, "train/metrics.jsonl"), "utf8").trim().split("\n").length, steps);
  assert.equal(
    readdirSync(runDir, { recursive: true }).filter((n) => /tmp|^model$/.test(String(n))),
    [],
  );
  const before = bytesOf(runDir);
  const again = await failed();
  assert.is(again.message, e.message, "started again it stops at the same place");
  assert.equal(bytesOf(runDir), before);
  await using good = await loadModel(model);
  await using trainer = await createTrainer(good, { loss: "sft", ...options().trainer, totalSteps: 8 });
  await trainer.load(newest!.path);
  assert.is(trainer.step, steps);
});

test("a learning rate that is far too high is told at the step that it breaks", async () => {
  const runDir = newDir();
  const told: IterationEvent[] = [];
  const e = await caught(async () => {
    const o = { kind: "dpo", model: folder("text_llama"), data: idPairs(8), itemsPerStep: 2, epochs: 20 } as const;
    for await (const event of train({ ...o, trainer: { learningRate: 1e6 }, saveEverySteps: 1, runDir }))
      told.push(event);
  });
  assert.is(e.code, "NUMERIC");
  const { samples } = e.detail as { samples: string[] };
  assert.ok(samples.length > 0 && samples.every((s) => /^pair \d+$/.test(s)), samples.join());
  for (const s of samples) includes(e.message, s);
  const steps = told.filter((x) => x.type === "step").length;
  assert.is((await newestStep(join(runDir, "train"))).newest?.step, steps);
});

test("an item without a name is told by its place", async () => {
  const data = withRare().map(({ prompt, chosen }) => ({ prompt, answer: chosen }));
  await rejects(
    () => train({ kind: "sft", model: poisoned(rare), data, runDir: newDir() }),
    "NUMERIC",
    /of item 5$/,
    "no ids",
  );
});

test.run();
