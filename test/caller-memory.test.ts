// The engine reads on a thread of its own while the caller's code goes on: memory that the caller resizes, transfers or
// changes right after a call never reaches a job.
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { isError } from "./helpers/assert.js";
import { Host } from "../src/base/addon.js";
import { loadModel } from "../src/index.js";
import { flashAttention, flashAttentionBackward, sequenceLogProbs, type Tensor } from "../src/native.js";
import { preprocessFrames } from "../src/video/preprocess.js";
import { folder } from "./helpers/golden.js";

const test = suite("owned");

type Numbers = Float32Array | Uint8Array | Int32Array;
const values = (n: number) => Float32Array.from({ length: n }, (_, i) => Math.sin(i));

/** Ways to lose memory: the array to give, and what is done to it right after the call. */
const ways: [string, (from: Numbers) => [Numbers, () => void]][] = [
  [
    "a resizable buffer that shrinks to nothing",
    (from) => {
      // biome-ignore lint/suspicious/noExplicitAny: newer than the types of Node 20
      const buffer = new (ArrayBuffer as any)(from.byteLength, { maxByteLength: 2 * from.byteLength });
      const array = new (from.constructor as typeof Float32Array)(buffer);
      array.set(from);
      return [array, () => buffer.resize(0)];
    },
  ],
  [
    "a transferred buffer",
    (from) => {
      const array = from.slice();
      return [array, () => void structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] })];
    },
  ],
  [
    "ArrayBuffer.prototype.transfer, where there is one",
    (from) => {
      const array = from.slice();
      const buffer = array.buffer as ArrayBuffer & { transfer?(length: number): ArrayBuffer };
      return [array, () => void buffer.transfer?.(0)];
    },
  ],
  [
    "shared memory that is written",
    (from) => {
      const array = new (from.constructor as typeof Float32Array)(new SharedArrayBuffer(from.byteLength));
      array.set(from);
      return [array, () => void array.fill(77)];
    },
  ],
  ["memory that is written", (from) => [from.slice(), () => {}]],
];

const shape = [40, 2, 16];
const spec = { spans: Int32Array.of(0, 40, -1), causal: true, threads: 2 };
const tensor = (dims: number[], data: Numbers): Tensor => ({ dtype: "f32", shape: dims, data });
const size = 40 * 2 * 16;
const frame = Uint8Array.from({ length: 48 * 40 * 3 * 2 }, (_, i) => (i * 7) % 256);

/** Calls that read a caller's array on the job thread. */
const calls: [string, Numbers, (given: Numbers) => Promise<unknown>][] = [
  ["flashAttention", values(size), (x) => flashAttention(tensor(shape, x), tensor(shape, x), tensor(shape, x), spec)],
  [
    "flashAttentionBackward",
    values(size),
    (x) => {
      const t = tensor(shape, x);
      return flashAttentionBackward(t, t, t, t, t, tensor([2, 40], values(80)), spec);
    },
  ],
  [
    "sequenceLogProbs",
    values(12 * 32),
    (x) =>
      sequenceLogProbs(
        tensor([12, 32], x),
        tensor([12, 32], x),
        Int32Array.from({ length: 12 }, (_, i) => i),
      ),
  ],
  [
    "preprocessFrames",
    frame,
    (x) =>
      preprocessFrames(
        { data: x as Uint8Array, frames: 2, width: 48, height: 40 },
        { type: "clip", size: 32, crop: 32 },
      ),
  ],
];

for (const [name, from, call] of calls)
  for (const [way, make] of ways)
    test(`${name}: memory that is lost right after the call: ${way}`, async () => {
      const want = await call(from.slice());
      const [given, lose] = make(from);
      const running = call(given);
      lose();
      if (way === "memory that is written") given.fill(77);
      assert.equal(await running, want, `${name}: ${way}`);
    });

for (const [way, make] of ways)
  test(`media: memory that is lost is a typed error or the result, and the model lives: ${way}`, async () => {
    const dir = fileURLToPath(new URL("./golden/llava_hound/policy", import.meta.url));
    await using model = await loadModel(dir);
    const bytes = Uint8Array.from({ length: 32 * 32 * 3 * 8 }, (_, i) => (i * 11) % 256);
    const want = await model.preprocess({ frames: bytes.slice(), width: 32, height: 32 });
    const [given, lose] = make(bytes);
    const media = { frames: given as Uint8Array, width: 32, height: 32 };
    const running = [model.preprocess(media), model.encode(media)];
    lose();
    const [pixels, features] = await Promise.allSettled(running);
    assert.is(pixels!.status, "fulfilled", way);
    assert.equal((pixels as PromiseFulfilledResult<unknown>).value, want, way);
    if (features!.status === "rejected") isError(features!.reason, undefined, way);
    assert.equal(await model.preprocess({ frames: bytes.slice(), width: 32, height: 32 }), want, "the model lives");
  });

test("events that nobody takes wait in the engine, not in memory, and dispose ends the wait", async () => {
  const host = new Host("a model");
  await host.call("load", { dir: folder("text_llama"), device: "cpu", dtype: "auto", threads: 1 });
  const request = {
    ids: Int32Array.of(5, 6, 7),
    ...{ copies: 8, temperature: 1, topP: 1, topK: 0, maxTokens: 400, minTokens: 400 },
    ...{ suppress: new Int32Array(), stopIds: new Int32Array(), seed: 1n, stream: "" },
  };
  let events = 0;
  let most = 0;
  const inOneGo = () => {
    events = 0;
    return new Promise((next) => setImmediate(next)).then(() => {
      most = Math.max(most, events);
    });
  };
  const blocked = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
  const args = { requests: [request], session: 0, maxBytes: 0, stream: true };
  const running = host.call("generate", args, { event: () => events++ }).catch((e) => e.code);
  for (let i = 0; i < 4; i++) {
    blocked();
    await inOneGo();
  }
  assert.ok(most > 0 && most <= 2 * 256, `${most} events at once`); // one outbox, and one that filled meanwhile
  await running;
  const waiting = host.call("generate", args, { event: () => events++ }).catch((e) => e.code);
  blocked(); // the job waits for room
  await host.dispose();
  assert.is(await waiting, "DISPOSED");
});

const rows = 3000;
const jobs: [string, () => object][] = [
  ["hash", () => ({})],
  ["towerHash", () => ({})],
  ["parameter", () => ({ name: "model.embed_tokens.weight" })],
  [
    "attentionForward",
    () => ({
      ...{ rows, heads: 4, kvHeads: 4, headSize: 64, scale: 0.1, dtype: "f32", causal: true, device: "reference" },
      ...{ threads: 1, spans: Int32Array.of(0, rows, -1), lse: new Float32Array(rows * 4) },
      ...Object.fromEntries(["q", "k", "v", "out"].map((key) => [key, new Float32Array(rows * 256)])),
    }),
  ],
];
for (const [job, args] of jobs)
  test(`dispose stops what is running: ${job}`, async () => {
    const host = new Host("a model");
    await host.call("load", { dir: folder("text_llama"), device: "cpu", dtype: "auto", threads: 1 });
    const running = host.call(job as "hash", args()).then(
      () => "done",
      (e) => e.code,
    );
    await new Promise((next) => setTimeout(next, 5));
    await host.dispose();
    assert.ok(["done", "DISPOSED"].includes(await running), job);
    if (job === "attentionForward") assert.is(await running, "DISPOSED", "half a minute of work was waited for");
  });

test.run();
