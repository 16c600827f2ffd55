// Bad input: each a typed error that names the field or file, what was expected and what came. A new fault is a new row.
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { inspect } from "node:util";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import {
  createCommunicator,
  createTrainer,
  type ErrorCode,
  inspectCheckpoint,
  isIsrDpoError,
  loadModel,
  loadTokenizer,
  type Trainer,
  type VideoLM,
} from "../src/index.js";
import { dpoLoss, flashAttention, sequenceLogProbs } from "../src/native.js";
import { isError, isNoError, ordered, rejects, sameBytes } from "./helpers/assert.js";
import { freePort } from "./helpers/rank-group.js";
import { copyOf, temporaryFolder } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";
import { shared } from "./helpers/shared.js";

const test = suite("errors");
type Wrong = never; // what TypeScript would refuse, given anyway
const wrong = (x: unknown): Wrong => x as Wrong;
type Row<C> = [what: string, call: (c: C) => unknown, code: ErrorCode, message: RegExp];

const mask = (...mask: number[]) => Uint8Array.from(mask);
const ids = [1, 5, 9, 12];
const prompt = { ids: [1, 5] };

const modelRows: Row<VideoLM>[] = [
  ["an id beyond the vocabulary", (m) => m.forward({ ids: [1, 448] }), "INVALID_ARGUMENT", /ids\[1\].*\[0, 448\).*448/],
  ["a negative id", (m) => m.forward({ ids: [1, -200] }), "INVALID_ARGUMENT", /ids\[1\].*-200/],
  ["a fraction as id", (m) => m.forward({ ids: [1.5] }), "INVALID_ARGUMENT", /ids\[0\].*integer.*1\.5/],
  ["NaN as id", (m) => m.forward({ ids: [Number.NaN] }), "INVALID_ARGUMENT", /ids\[0\].*NaN/],
  ["ids of another kind", (m) => m.forward({ ids: wrong("1 2") }), "INVALID_ARGUMENT", /ids.*token ids.*"1 2"/],
  ["no ids", (m) => m.forward({ ids: [] }), "INVALID_ARGUMENT", /ids.*at least one/],
  ["no sequence", (m) => m.forward(wrong(undefined)), "INVALID_ARGUMENT", /sequence.*undefined/],
  ["too many ids", (m) => m.forward({ ids: new Int32Array(513).fill(3) }), "CONTEXT_OVERFLOW", /513.*512/],
  ["media for a text model", (m) => m.forward({ ids, media: ["a.mp4"] }), "INVALID_ARGUMENT", /media.*text model/],
  ["rows outside", (m) => m.forward({ ids }, { rows: [0, 5] }), "INVALID_ARGUMENT", /rows.*4.*\[0, 5\]/],
  ["rows before the start", (m) => m.forward({ ids }, { rows: [-5, 0] }), "INVALID_ARGUMENT", /rows.*-5/],
  ["rows backwards", (m) => m.forward({ ids }, { rows: [3, 2] }), "INVALID_ARGUMENT", /rows/],
  [
    "rows that are no pair",
    (m) => m.forward({ ids }, { rows: wrong([1]) }),
    "INVALID_ARGUMENT",
    /rows.*\[begin, end\]/,
  ],
  [
    "an unknown output",
    (m) => m.forward({ ids }, { outputs: wrong(["logit"]) }),
    "INVALID_ARGUMENT",
    /did you mean 'logits'/,
  ],
  [
    "an unknown option",
    (m) => m.forward({ ids }, wrong({ output: [] })),
    "INVALID_ARGUMENT",
    /'output'.*did you mean 'outputs'/,
  ],
  [
    "a signal that is none",
    (m) => m.forward({ ids }, { signal: wrong(1) }),
    "INVALID_ARGUMENT",
    /signal.*AbortSignal.*1/,
  ],
  ["no mask", (m) => m.logProbs([{ ids }]), "INVALID_ARGUMENT", /sequences\[0\]\.lossMask.*Uint8Array of 4/],
  [
    "a mask of another length",
    (m) => m.logProbs([{ ids, lossMask: mask(0, 1) }]),
    "INVALID_ARGUMENT",
    /lossMask.*of 4.*\(2\)/,
  ],
  [
    "a scored first token",
    (m) => m.logProbs([{ ids, lossMask: mask(1, 1, 1, 1) }]),
    "INVALID_ARGUMENT",
    /lossMask\[0\]/,
  ],
  [
    "an empty mask",
    (m) => m.logProbs([{ ids, lossMask: mask(0, 0, 0, 0) }]),
    "INVALID_ARGUMENT",
    /at least one scored/,
  ],
  ["targets in logProbs", (m) => m.logProbs([{ ids, targets: new Int32Array(4) }]), "INVALID_ARGUMENT", /targets.*sft/],
  ["a string as prompt", (m) => m.generate({ prompt: "hello" }), "TOKENIZER", /prompt.*no tokenizer/],
  ["messages as prompt", (m) => m.generate({ prompt: [{ role: "user", content: "hi" }] }), "TOKENIZER", /prompt/],
  [
    "messages in an object",
    (m) => m.generate({ prompt: wrong({ messages: [] }) }),
    "INVALID_ARGUMENT",
    /prompt: expected the list of messages itself.*"messages"/,
  ],
  [
    "one message",
    (m) => m.generate({ prompt: wrong({ role: "user", content: "hi" }) }),
    "INVALID_ARGUMENT",
    /prompt: expected the list of messages itself/,
  ],
  ["media beside ids", (m) => m.generate({ prompt, media: ["a.mp4"] }), "INVALID_ARGUMENT", /media beside a prompt/],
  ["a stop string", (m) => m.generate({ prompt, stop: ["."] }), "TOKENIZER", /stop/],
  ["no tokens wanted", (m) => m.generate({ prompt, maxTokens: 0 }), "INVALID_ARGUMENT", /maxTokens.*at least 1.*0/],
  [
    "a negative temperature",
    (m) => m.generate({ prompt, temperature: -1 }),
    "INVALID_ARGUMENT",
    /temperature.*at least 0.*-1/,
  ],
  [
    "a temperature that is no number",
    (m) => m.generate({ prompt, temperature: Number.NaN }),
    "INVALID_ARGUMENT",
    /temperature.*NaN/,
  ],
  ["topP of 0", (m) => m.generate({ prompt, topP: 0 }), "INVALID_ARGUMENT", /topP.*greater than 0/],
  ["topP above 1", (m) => m.generate({ prompt, topP: 1.1 }), "INVALID_ARGUMENT", /topP.*at most 1/],
  ["topK below 0", (m) => m.generate({ prompt, topK: -1 }), "INVALID_ARGUMENT", /topK/],
  [
    "more minTokens than maxTokens",
    (m) => m.generate({ prompt, minTokens: 9, maxTokens: 8 }),
    "INVALID_ARGUMENT",
    /minTokens/,
  ],
  ["a suppressed id outside", (m) => m.generate({ prompt, suppress: [448] }), "INVALID_ARGUMENT", /suppress\[0\]/],
  ["a stop id outside", (m) => m.generate({ prompt, stopIds: [-1] }), "INVALID_ARGUMENT", /stopIds\[0\]/],
  ["no answers", (m) => m.generate({ prompt, n: 0 }), "INVALID_ARGUMENT", /\.n: expected an integer/],
  ["a negative seed", (m) => m.generate({ prompt, seed: -1 }), "INVALID_ARGUMENT", /seed/],
  ["a seed beyond 64 bits", (m) => m.generate({ prompt, seed: 1n << 64n }), "INVALID_ARGUMENT", /seed/],
  [
    "two requests of one name",
    (m) =>
      m.generate([
        { id: "a", prompt },
        { id: "a", prompt },
      ]),
    "INVALID_ARGUMENT",
    /requests\[1\]\.id/,
  ],
  [
    "a misspelt request",
    (m) => m.generate(wrong({ prompt, temprature: 1 })),
    "INVALID_ARGUMENT",
    /did you mean 'temperature'/,
  ],
  [
    "a prompt beyond the context",
    (m) => m.generate({ prompt: { ids: new Int32Array(513) } }),
    "CONTEXT_OVERFLOW",
    /513/,
  ],
  [
    "a budget that holds nothing",
    (m) => m.session(wrong({ maxBytes: "1 GB" })),
    "INVALID_ARGUMENT",
    /maxBytes.*"1 GB"/,
  ],
  ["chat", (m) => m.chat([{ role: "user", content: "hi" }]), "TOKENIZER", /messages/],
  ["the tokenizer", (m) => m.tokenizer, "TOKENIZER", /tokenizer/],
  ["a sequence of words", (m) => m.sequence("hello"), "TOKENIZER", /prompt/],
  ["an answer beside ids", (m) => m.sequence(prompt, "hello"), "INVALID_ARGUMENT", /answer/],
  ["encode", (m) => m.encode("a.mp4"), "INVALID_ARGUMENT", /text model/],
  ["preprocess", (m) => m.preprocess("a.mp4"), "INVALID_ARGUMENT", /text model/],
  ["an unknown parameter", (m) => m.parameter("model.nothing"), "NOT_FOUND", /model\.nothing/],
  ["a parameter without a name", (m) => m.parameter(wrong(3)), "INVALID_ARGUMENT", /name.*string.*3/],
  ["an empty path", (m) => m.save(""), "INVALID_ARGUMENT", /dir.*path/],
  ["a trainer for nothing", () => createTrainer(wrong({})), "INVALID_ARGUMENT", /model.*loadModel/],
];

const optionRows: [options: object, code: ErrorCode, message: RegExp][] = [
  [{ lerningRate: 1 }, "INVALID_ARGUMENT", /did you mean 'learningRate'/],
  [{ loss: "sigmod" }, "INVALID_ARGUMENT", /options\.loss.*did you mean 'sigmoid'/],
  [{ beta: 0 }, "INVALID_ARGUMENT", /options\.beta.*greater than 0/],
  [{ beta: Number.NaN }, "INVALID_ARGUMENT", /options\.beta.*NaN/],
  [{ beta: "0.1" }, "INVALID_ARGUMENT", /options\.beta.*"0\.1"/],
  [{ labelSmoothing: 0.5 }, "INVALID_ARGUMENT", /labelSmoothing.*less than 0\.5/],
  [{ loss: "hinge", labelSmoothing: 0.1 }, "INVALID_ARGUMENT", /hinge/],
  [{ loss: "exo_pair" }, "INVALID_ARGUMENT", /labelSmoothing.*above 0 beside loss exo_pair/],
  [{ loss: "ipo", divergence: "forward_kl" }, "INVALID_ARGUMENT", /divergence.*sigmoid/],
  [{ ldAlpha: 2 }, "INVALID_ARGUMENT", /ldAlpha.*at most 1/],
  [{ sftWeight: -1 }, "INVALID_ARGUMENT", /sftWeight/],
  [{ learningRate: Infinity }, "INVALID_ARGUMENT", /learningRate.*finite/],
  [{ schedule: "linear" }, "INVALID_ARGUMENT", /totalSteps/],
  [{ schedule: "step" }, "INVALID_ARGUMENT", /schedule.*constant, linear, cosine/],
  [{ warmupRatio: 0.1 }, "INVALID_ARGUMENT", /totalSteps/],
  [{ warmupRatio: 0.1, warmupSteps: 3, totalSteps: 9 }, "INVALID_ARGUMENT", /warmupRatio/],
  [{ warmupSteps: 1.5 }, "INVALID_ARGUMENT", /warmupSteps.*integer/],
  [{ betas: [0.9] }, "INVALID_ARGUMENT", /betas.*two/],
  [{ betas: [0.9, 1] }, "INVALID_ARGUMENT", /betas\[1\]/],
  [{ eps: 0 }, "INVALID_ARGUMENT", /eps/],
  [{ weightDecay: -0.1 }, "INVALID_ARGUMENT", /weightDecay/],
  [{ clipNorm: 0 }, "INVALID_ARGUMENT", /clipNorm/],
  [{ microBatchTokens: 0 }, "INVALID_ARGUMENT", /microBatchTokens/],
  [{ checkpointing: 1 }, "INVALID_ARGUMENT", /checkpointing.*true or false/],
  [{ train: { vision: true } }, "INVALID_ARGUMENT", /train\.vision/],
  [{ train: { decoder: false } }, "INVALID_ARGUMENT", /options\.train: expected a part that is trained/],
  [{ seed: 0.5 }, "INVALID_ARGUMENT", /seed/],
  [
    { communicator: { size: 2 } },
    "INVALID_ARGUMENT",
    /communicator: expected a communicator that createCommunicator\(\) made/,
  ],
];

const good = { prompt, chosen: [7, 8], rejected: [9] };
const logps = (n: number) => new Float32Array(n).fill(-1);
const itemRows: Row<Trainer>[] = [
  ["no items", (t) => t.trainStep([]), "INVALID_ARGUMENT", /items.*at least one/],
  ["items that are none", (t) => t.trainStep(wrong({})), "INVALID_ARGUMENT", /items.*array/],
  ["an item of no kind", (t) => t.trainStep([wrong({ text: "a" })]), "INVALID_ARGUMENT", /items\[0\]/],
  [
    "items of two kinds",
    (t) => t.trainStep([good, { ids, lossMask: mask(0, 0, 1, 1) }]),
    "INVALID_ARGUMENT",
    /items\[1\].*Pair.*Sequence/,
  ],
  [
    "a sequence for a preference loss",
    (t) => t.trainStep([{ ids, lossMask: mask(0, 0, 1, 1) }]),
    "INVALID_ARGUMENT",
    /items\[0\].*sft|items\[0\].*Pair/,
  ],
  ["words as answer", (t) => t.trainStep([{ ...good, chosen: "yes" }]), "TOKENIZER", /items\[0\]\.chosen/],
  ["words as prompt", (t) => t.trainStep([{ ...good, prompt: "why" }]), "TOKENIZER", /items\[0\]\.prompt/],
  [
    "no rejected answer",
    (t) => t.trainStep([wrong({ prompt, chosen: [7] })]),
    "INVALID_ARGUMENT",
    /items\[0\]\.rejected/,
  ],
  [
    "an empty answer",
    (t) => t.trainStep([{ ...good, chosen: [] }]),
    "INVALID_ARGUMENT",
    /items\[0\]\.chosen.*at least one/,
  ],
  [
    "an id outside",
    (t) => t.trainStep([good, { ...good, rejected: [448] }]),
    "INVALID_ARGUMENT",
    /items\[1\]\.rejected\[0\]/,
  ],
  [
    "a pair beyond the context",
    (t) => t.trainStep([{ ...good, chosen: new Int32Array(511).fill(3) }]),
    "CONTEXT_OVERFLOW",
    /513.*512/,
  ],
  [
    "a reference of another length",
    (t) => t.trainStep([{ ...good, reference: { chosen: logps(3), rejected: logps(1) } }]),
    "INVALID_ARGUMENT",
    /reference\.chosen.*of 2/,
  ],
  [
    "a reference that is NaN",
    (t) => t.trainStep([{ ...good, reference: { chosen: logps(2).fill(NaN), rejected: logps(1) } }]),
    "INVALID_ARGUMENT",
    /reference\.chosen\[0\].*NaN/,
  ],
  ["gradients of nothing known", (t) => t.gradients([good], { names: ["nothing"] }), "NOT_FOUND", /nothing/],
  ["a state that is not there", (t) => t.load(join(temporaryFolder(), "none")), "NOT_FOUND", /none/],
];

/** A text model that has no tokenizer: words are refused, ids are not. */
function wordless(): string {
  const dir = copyOf(folder("text_llama"));
  for (const name of readdirSync(dir)) if (/token|chat_template/.test(name)) rmSync(join(dir, name));
  return dir;
}

const wordlessModel = shared(() => loadModel(wordless()));
for (const [what, call, code, message] of modelRows)
  test(`a call of a model: ${what}`, async () => {
    const model = await wordlessModel();
    await rejects(() => call(model), code, message, what);
  });

const modelOfOptions = shared(() => loadModel(folder("text_llama")));
for (const [options, code, message] of optionRows) {
  const what = inspect(options);
  test(`options of a trainer: ${what}`, async () => {
    const model = await modelOfOptions();
    await rejects(() => createTrainer(model, options), code, message, what);
  });
}

test("a model has one trainer", async () => {
  await using model = await loadModel(folder("text_llama"));
  await using _trainer = await createTrainer(model);
  await rejects(() => createTrainer(model), "INVALID_ARGUMENT", /trainer already/, "a second trainer");
});

/** A model without words, its trainer, and its hash while no step is done. */
const preferenceTrainer = shared(async () => {
  const model = await loadModel(wordless());
  return { model, trainer: await createTrainer(model, { learningRate: 1e-3 }), untrained: await model.hash() };
});
for (const [what, call, code, message] of itemRows)
  test(`items of a trainer, which stays as it was: ${what}`, async () => {
    const { model, trainer, untrained } = await preferenceTrainer();
    await rejects(() => call(trainer), code, message, what);
    assert.equal([trainer.step, await model.hash()], [0, untrained]);
  });

test("behind the first step an item has its reference", async () => {
  await using model = await loadModel(wordless());
  await using trainer = await createTrainer(model, { learningRate: 1e-3 });
  await trainer.trainStep([good]);
  await rejects(() => trainer.trainStep([good]), "INVALID_ARGUMENT", /reference/, "no reference after the first step");
});

const targets = Int32Array.of(-1, 4, -1, 2);
const supervisedRows: Row<Trainer>[] = [
  ["a pair", (t) => t.trainStep([good]), "INVALID_ARGUMENT", /items\[0\].*Example or Sequence/],
  [
    "targets and a mask",
    (t) => t.trainStep([{ ids, targets, lossMask: mask(0, 1, 1, 1) }]),
    "INVALID_ARGUMENT",
    /targets/,
  ],
  [
    "targets of another length",
    (t) => t.trainStep([{ ids, targets: targets.slice(1) }]),
    "INVALID_ARGUMENT",
    /targets.*of 4/,
  ],
  [
    "a target outside",
    (t) => t.trainStep([{ ids, targets: Int32Array.of(0, 448, 0, 0) }]),
    "INVALID_ARGUMENT",
    /targets\[1\]/,
  ],
  [
    "no target at all",
    (t) => t.trainStep([{ ids, targets: new Int32Array(4).fill(-1) }]),
    "INVALID_ARGUMENT",
    /targets/,
  ],
  [
    "a negative weight",
    (t) => t.trainStep([{ ids, targets, weights: new Float32Array(4).fill(-1) }]),
    "INVALID_ARGUMENT",
    /weights\[0\]/,
  ],
  ["an answer of words", (t) => t.trainStep([{ prompt, answer: "yes" }]), "TOKENIZER", /answer/],
];
const supervisedTrainer = shared(async () => {
  const model = await loadModel(wordless());
  return { model, trainer: await createTrainer(model, { loss: "sft" }) };
});
for (const [what, call, code, message] of supervisedRows)
  test(`items of supervised training: ${what}`, async () => {
    const { trainer } = await supervisedTrainer();
    await rejects(() => call(trainer), code, message, what);
  });

test("a supervised step has a loss, and nothing of preferences", async () => {
  await using model = await loadModel(wordless());
  await using trainer = await createTrainer(model, { loss: "sft" });
  const metrics = await trainer.trainStep([{ ids, targets, weights: Float32Array.of(1, 1, 1, 0.5) }]);
  ordered(metrics.loss, ">", 0);
  assert.is(metrics.margin, 0);
  assert.is(metrics.dpoLoss, 0);
});

test("a state of another run", async () => {
  const dir = join(temporaryFolder(), "state");
  await using model = await loadModel(folder("text_llama"));
  {
    await using trainer = await createTrainer(model, { learningRate: 1e-3 });
    await trainer.save(dir);
  }
  {
    await using other = await createTrainer(model, { learningRate: 1e-3, beta: 0.3 });
    await rejects(() => other.load(dir), "RUN_MISMATCH", /./, "other options");
  }
  await using wider = await loadModel(folder("text_llama_gqa_tied"));
  await using trainer = await createTrainer(wider, { learningRate: 1e-3 });
  await rejects(() => trainer.load(dir), "RUN_MISMATCH", /./, "another architecture");
});

test("loadModel and inspectCheckpoint refuse what is no model, with its place", async () => {
  const dir = folder("text_llama");
  const nowhere = join(temporaryFolder(), "nowhere");
  await rejects(() => loadModel(nowhere), "NOT_FOUND", /nowhere/, "a folder that is not there");
  await rejects(() => inspectCheckpoint(nowhere), "NOT_FOUND", /nowhere/, "inspecting a folder that is not there");
  await rejects(() => loadModel(wrong(undefined)), "INVALID_ARGUMENT", /dir.*string.*undefined/, "no folder");
  await rejects(() => loadModel(dir, { device: "cuda" }), "DEVICE_UNAVAILABLE", /"cuda"/, "a GPU");
  await rejects(
    () => loadModel(dir, { device: wrong("gpu") }),
    "INVALID_ARGUMENT",
    /device.*"gpu"/,
    "a device of no kind",
  );
  await rejects(
    () => loadModel(dir, { dtype: wrong("f16") }),
    "INVALID_ARGUMENT",
    /dtype.*auto, f32, bf16/,
    "a dtype of no kind",
  );
  await rejects(() => loadModel(dir, { threads: 0 }), "INVALID_ARGUMENT", /threads/, "no threads");
  await rejects(() => loadModel(dir, { onProgress: wrong(1) }), "INVALID_ARGUMENT", /onProgress/, "no callback");
  await rejects(() => loadTokenizer(wordless()), "NOT_FOUND", /tokenizer/, "a tokenizer");
});

test("an error has a hint, a path, and the stack of the call", async () => {
  const nowhere = join(temporaryFolder(), "nowhere");
  try {
    await loadModel(nowhere);
    assert.unreachable();
  } catch (e) {
    isNoError(e, "IO");
    if (!isIsrDpoError(e, "NOT_FOUND")) throw e;
    assert.ok(e.path?.includes("nowhere"), `path ${e.path}`);
    assert.match(e.stack!, /errors\.test\.ts/);
    isError(JSON.parse(JSON.stringify(e)), undefined, "recognised by name and code alone");
  }
});

test("a save that fails leaves the old file and nothing half-written", async () => {
  await using model = await loadModel(folder("text_llama"));
  const dir = temporaryFolder();
  writeFileSync(join(dir, "file"), "kept");
  await rejects(() => model.save(join(dir, "file", "sub")), "INVALID_ARGUMENT", /file.*folder/, "a file in the path");
  await rejects(() => model.save("/proc/isr-dpo/model"), "NOT_FOUND", /proc/, "a file system that takes no folders");
  assert.equal(readdirSync(dir), ["file"]);
  assert.is(readFileSync(join(dir, "file"), "utf8"), "kept");
  const old = join(dir, "old");
  await model.save(old);
  const before = readFileSync(join(old, "model.safetensors"));
  await model.save(old, { signal: AbortSignal.abort(new Error("no more")) }).then(
    () => assert.unreachable(),
    (e) => assert.is(e.message, "no more"),
  );
  sameBytes(readFileSync(join(old, "model.safetensors")), before);
  assert.equal(readdirSync(dir).sort(), ["file", "old"]);
});

{
  const tensor = (...shape: number[]) => ({
    dtype: "f32" as const,
    shape,
    data: new Float32Array(shape.reduce((a, b) => a * b)),
  });
  const [q, k] = [tensor(4, 2, 8), tensor(4, 1, 8)];
  const spec = { spans: Int32Array.of(0, 4, -1), causal: true };
  const rows: [string, () => unknown, ErrorCode, RegExp][] = [
    [
      "spans with a hole",
      () => flashAttention(q, k, k, { ...spec, spans: Int32Array.of(0, 1, -1, 2, 4, -1) }),
      "INVALID_ARGUMENT",
      /spans\[1\]/,
    ],
    [
      "spans that end early",
      () => flashAttention(q, k, k, { ...spec, spans: Int32Array.of(0, 3, -1) }),
      "INVALID_ARGUMENT",
      /4 rows/,
    ],
    [
      "a later parent",
      () => flashAttention(q, k, k, { ...spec, spans: Int32Array.of(0, 2, 1, 2, 4, -1) }),
      "INVALID_ARGUMENT",
      /parent/,
    ],
    [
      "heads that do not divide",
      () => flashAttention(tensor(4, 3, 8), tensor(4, 2, 8), tensor(4, 2, 8), spec),
      "INVALID_ARGUMENT",
      /k\.shape\[1\]/,
    ],
    ["another length", () => flashAttention(q, tensor(5, 1, 8), k, spec), "INVALID_ARGUMENT", /k\.shape/],
    [
      "data of another size",
      () => flashAttention({ ...q, data: new Float32Array(3) }, k, k, spec),
      "INVALID_ARGUMENT",
      /q\.data.*of 64/,
    ],
    [
      "a head size beyond 256",
      () =>
        flashAttention(tensor(1, 1, 257), tensor(1, 1, 257), tensor(1, 1, 257), {
          ...spec,
          spans: Int32Array.of(0, 1, -1),
        }),
      "INVALID_ARGUMENT",
      /256/,
    ],
    ["a GPU", () => flashAttention(q, k, k, { ...spec, backend: "cuda" }), "DEVICE_UNAVAILABLE", /CUDA|NVIDIA/],
    [
      "a target outside",
      () => sequenceLogProbs(tensor(2, 4), tensor(3, 4), Int32Array.of(0, 3)),
      "INVALID_ARGUMENT",
      /targets\[1\]/,
    ],
    [
      "a head of another width",
      () => sequenceLogProbs(tensor(2, 4), tensor(3, 5), Int32Array.of(0, 1)),
      "INVALID_ARGUMENT",
      /head\.shape/,
    ],
    [
      "lengths that differ",
      () => dpoLoss([logps(2)], [logps(2)], [logps(3)], [logps(2)]),
      "INVALID_ARGUMENT",
      /refChosen\[0\]/,
    ],
    ["no pairs", () => dpoLoss([], [], [], []), "INVALID_ARGUMENT", /chosen/],
    [
      "sft as a loss of pairs",
      () => dpoLoss([logps(2)], [logps(2)], [logps(2)], [logps(2)], wrong({ loss: "sft" })),
      "INVALID_ARGUMENT",
      /loss/,
    ],
    [
      "a loss without its smoothing",
      () => dpoLoss([logps(2)], [logps(2)], [logps(2)], [logps(2)], { loss: "exo_pair" }),
      "INVALID_ARGUMENT",
      /labelSmoothing/,
    ],
    [
      "a log-prob that is NaN",
      () => dpoLoss([logps(2).fill(NaN)], [logps(2)], [logps(2)], [logps(2)]),
      "INVALID_ARGUMENT",
      /chosen\[0\]\[0\]/,
    ],
  ];
  for (const [what, call, code, message] of rows)
    test(`raw kernels refuse tensors that do not fit: ${what}`, () => rejects(call, code, message, what));
}

test("communicators refuse ranks and answers that do not fit", async () => {
  await using one = await createCommunicator({ transport: "none" });
  assert.equal([one.rank, one.size], [0, 1]);
  const x = Float32Array.of(1, 2);
  await one.allReduce(x);
  await one.barrier();
  assert.equal([...x, ...(await one.reduceScatter(x)), ...(await one.allGather(x))], [1, 2, 1, 2, 1, 2]);
  assert.equal(await one.gather({ a: [1, null] }), [{ a: [1, null] }]);
  const address = `127.0.0.1:${await freePort()}`;
  const alone = () => createCommunicator({ size: 2, address, timeoutMs: 50 });
  await rejects(alone, "RANK_LOST", /1 rank of 2 did not come: 1 \(waited 0\.05 s\)/, "two ranks");
  await rejects(() => createCommunicator({ transport: "nccl" }), "DEVICE_UNAVAILABLE", /nccl/, "nccl");
  await rejects(() => createCommunicator({ address: "nowhere" }), "INVALID_ARGUMENT", /host:port/, "an address");
  await rejects(() => createCommunicator({ facts: { a: 1 as never } }), "INVALID_ARGUMENT", /facts\.a/, "a fact");
  one.abort("enough");
  await rejects(() => one.barrier(), "RANK_LOST", /rank 0: enough/, "after abort");
  await rejects(() => createCommunicator({ rank: 1, size: 1 }), "INVALID_ARGUMENT", /rank/, "a rank beyond the size");
});

test.after(async () => {
  await (await wordlessModel()).dispose();
  await (await modelOfOptions()).dispose();
  await (await preferenceTrainer()).model.dispose();
  await (await supervisedTrainer()).model.dispose();
});
test.run();
