// isr-dpo/native: the engine's kernels on raw tensors, and the losses as functions of log-probs.
import { sharedHost } from "./base/addon.js";
import { chooseDevice } from "./base/device.js";
import { array, boolean, choice, integer, number, object, options, refuse } from "./base/check.js";
import { IsrDpoError } from "./base/errors.js";
import { owned } from "./base/owned-arrays.js";
import type { Tensor } from "./base/types.js";

export type { Communicator, CommunicatorOptions } from "./train/ranks/communicator.js";
export { createCommunicator } from "./train/ranks/communicator.js";
export type { PairLoss } from "./train/preference-loss.js";
export { dpoLoss, preferenceLoss } from "./train/preference-loss.js";
export type { Tensor } from "./base/types.js";

/** Options of attention: which rows attend to which. */
export interface AttentionSpec {
  /**
   * Triples [begin, end, parent], one per span. Spans are disjoint, ordered, and cover all rows; the parent is the index of an
   * earlier span, or -1. A row attends to its own span and to the spans of its ancestors.
   */
  spans: Int32Array;
  /** Whether a row attends only to itself and earlier rows of its own span; ancestors are always seen whole. */
  causal: boolean;
  /** Factor of the dot products, above 0; default 1 / sqrt(D). */
  scale?: number;
  /** Implementation; default "cpu". "cuda" computes on the first card; "reference" is a plain float64 implementation for checking. */
  backend?: "cpu" | "cuda" | "reference";
  /** Largest number of threads, 1 to 256; default: all that the machine allows. */
  threads?: number;
}

type Float = Float32Array | Uint16Array;

/** A float tensor of the given number of dimensions, copied: its data stay the caller's. */
function floatTensor(
  field: string,
  value: unknown,
  rank: number,
): { dtype: "f32" | "bf16"; shape: number[]; data: Float } {
  const t = object(field, value);
  const dtype = choice(`${field}.dtype`, t.dtype, ["f32", "bf16"]);
  const shape = array(`${field}.shape`, t.shape).map((n, i) => integer(`${field}.shape[${i}]`, n, 1, 2 ** 31 - 1));
  if (shape.length !== rank) refuse(`${field}.shape`, `${rank} dimensions`, t.shape);
  const kind = dtype === "f32" ? Float32Array : Uint16Array;
  const size = shape.reduce((a, b) => a * b, 1);
  if (!(t.data instanceof kind) || t.data.length !== size) refuse(`${field}.data`, `a ${kind.name} of ${size}`, t.data);
  return { dtype, shape, data: owned(t.data as Float) };
}

function sameShape(field: string, shape: readonly number[], expected: readonly number[]): void {
  if (shape.length !== expected.length || shape.some((n, i) => n !== expected[i]))
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `${field}.shape: expected [${expected.join(", ")}], got [${shape.join(", ")}]`,
    );
}

function sameType(field: string, dtype: string, expected: string): void {
  if (dtype !== expected) refuse(`${field}.dtype`, `'${expected}', as of the other tensors`, dtype);
}

function threadCount(field: string, value: unknown): number {
  return value === undefined ? 0 : integer(field, value, 1, 256);
}

function checkSpans(value: unknown, rows: number): Int32Array {
  if (!(value instanceof Int32Array) || value.length === 0 || value.length % 3 !== 0)
    refuse("spec.spans", "an Int32Array of [begin, end, parent] triples", value);
  const spans = value as Int32Array;
  let next = 0;
  for (let s = 0; s * 3 < spans.length; s++) {
    const [begin, end, parent] = [spans[3 * s]!, spans[3 * s + 1]!, spans[3 * s + 2]!];
    if (begin !== next || end <= begin || end > rows)
      throw new IsrDpoError(
        "INVALID_ARGUMENT",
        `spec.spans[${s}]: expected [${next}, more, ...] inside ${rows} rows, got [${begin}, ${end}, ${parent}]`,
      );
    if (parent < -1 || parent >= s) refuse(`spec.spans[${s}].parent`, "an earlier span or -1", parent);
    next = end;
  }
  if (next !== rows) refuse("spec.spans", `spans that cover all ${rows} rows`, `${next} rows`);
  return owned(spans);
}

type Backend = "cpu" | "cuda" | "reference";
const backendOf = (field: string, value: unknown, known: readonly Backend[]): Backend =>
  value === undefined ? "cpu" : choice(field, value, known);

/** The device of a kernel's call, asked for once its arrays have been copied; "reference" is none. */
const deviceOf = async (field: string, backend: Backend): Promise<string> =>
  backend === "cuda" ? await chooseDevice(field, backend) : backend;

function attentionArgs(q: unknown, k: unknown, v: unknown, spec: unknown) {
  const o = options("spec", spec, ["spans", "causal", "scale", "backend", "threads"]);
  const backend = backendOf("spec.backend", o.backend, ["cpu", "cuda", "reference"]);
  const Q = floatTensor("q", q, 3);
  const K = floatTensor("k", k, 3);
  const V = floatTensor("v", v, 3);
  const [rows, heads, headSize] = Q.shape as [number, number, number];
  const kvHeads = K.shape[1]!;
  sameType("k", K.dtype, Q.dtype);
  sameType("v", V.dtype, Q.dtype);
  sameShape("k", K.shape, [rows, kvHeads, headSize]);
  sameShape("v", V.shape, [rows, kvHeads, headSize]);
  if (heads % kvHeads !== 0) refuse("k.shape[1]", `a divisor of the ${heads} heads of q`, kvHeads);
  if (headSize > 256) refuse("q.shape[2]", "a head size of at most 256", headSize);
  const spans = checkSpans(o.spans, rows);
  return {
    ...{ rows, heads, kvHeads, headSize, spans, backend, dtype: Q.dtype, q: Q.data, k: K.data, v: V.data },
    causal: boolean("spec.causal", o.causal),
    scale: o.scale === undefined ? 1 / Math.sqrt(headSize) : number("spec.scale", o.scale, { above: 0 }),
    threads: threadCount("spec.threads", o.threads),
  };
}

const zeros = (dtype: "f32" | "bf16", shape: readonly number[]): Tensor => {
  const size = shape.reduce((a, b) => a * b, 1);
  return { dtype, shape, data: dtype === "f32" ? new Float32Array(size) : new Uint16Array(size) };
};

/**
 * Attention over spans of T rows, with H heads of size D and K heads of keys and values.
 * @param q - queries, (T, H, D), f32 or bf16
 * @param k - keys, (T, K, D), of the same type; K divides H
 * @param v - values, (T, K, D), of the same type
 * @param spec - spans and options
 * @throws IsrDpoError INVALID_ARGUMENT: shapes, types or spans that do not fit, D above 256; DEVICE_UNAVAILABLE; OUT_OF_MEMORY
 */
export async function flashAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  spec: AttentionSpec,
): Promise<{
  /** (T, H, D), in the type of the inputs. */
  out: Tensor;
  /** f32 (H, T): natural logarithm of the sum of exponentials, which the backward pass needs. */
  lse: Tensor;
}> {
  const args = attentionArgs(q, k, v, spec);
  const out = zeros(args.dtype, q.shape);
  const lse = zeros("f32", [args.heads, args.rows]);
  const device = await deviceOf("spec.backend", args.backend);
  await sharedHost().call("attentionForward", { ...args, device, out: out.data, lse: lse.data });
  return { out, lse };
}

/**
 * Gradient of {@link flashAttention}.
 * @param dOut - gradient of the output, (T, H, D)
 * @param q - queries of the forward pass
 * @param k - keys of the forward pass
 * @param v - values of the forward pass
 * @param out - output of the forward pass
 * @param lse - `lse` of the forward pass
 * @param spec - spans and options of the forward pass
 * @throws IsrDpoError as {@link flashAttention}
 */
export async function flashAttentionBackward(
  dOut: Tensor,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  out: Tensor,
  lse: Tensor,
  spec: AttentionSpec,
): Promise<{
  /** Gradient of the queries, (T, H, D). */
  dq: Tensor;
  /** Gradient of the keys, (T, K, D). */
  dk: Tensor;
  /** Gradient of the values, (T, K, D). */
  dv: Tensor;
}> {
  const args = attentionArgs(q, k, v, spec);
  const grad = floatTensor("dOut", dOut, 3);
  const saved = floatTensor("out", out, 3);
  const stat = floatTensor("lse", lse, 2);
  for (const [field, t] of [
    ["dOut", grad],
    ["out", saved],
  ] as const) {
    sameType(field, t.dtype, args.dtype);
    sameShape(field, t.shape, q.shape);
  }
  sameType("lse", stat.dtype, "f32");
  sameShape("lse", stat.shape, [args.heads, args.rows]);
  const [dq, dk, dv] = [zeros(args.dtype, q.shape), zeros(args.dtype, k.shape), zeros(args.dtype, k.shape)];
  const outputs = { dq: dq.data, dk: dk.data, dv: dv.data };
  await sharedHost().call("attentionBackward", {
    ...args,
    device: await deviceOf("spec.backend", args.backend),
    dOut: grad.data,
    out: saved.data,
    lse: stat.data,
    ...outputs,
  });
  return { dq, dk, dv };
}

/**
 * Log-probs of target tokens under an output head, for T rows of width C and a vocabulary of V tokens. The logits are never stored
 * whole.
 * @param hidden - hidden states, (T, C), f32 or bf16
 * @param head - rows of the output head, (V, C), of the same type
 * @param targets - T target ids; -1: no target, and the log-prob is 0
 * @param o - `backward` (T): gradient of a loss for each log-prob; with it the gradients are computed too. `threads`: 1 to 256.
 * `backend`: "cpu" (default) or "cuda", the first card
 * @throws IsrDpoError INVALID_ARGUMENT: shapes, types or ids that do not fit; DEVICE_UNAVAILABLE; OUT_OF_MEMORY
 */
export async function sequenceLogProbs(
  hidden: Tensor,
  head: Tensor,
  targets: Int32Array,
  o?: { backward?: Float32Array; threads?: number; backend?: "cpu" | "cuda" },
): Promise<{
  /** T log-probs in nats. */
  logProbs: Float32Array;
  /** Gradient of `hidden`, in its shape and type; only with `backward`. */
  dHidden?: Tensor;
  /** f32 gradient of `head`, in its shape; only with `backward`. */
  dHead?: Tensor;
}> {
  const given = options("options", o, ["backward", "threads", "backend"]);
  const backend = backendOf("options.backend", given.backend, ["cpu", "cuda"]);
  const h = floatTensor("hidden", hidden, 2);
  const w = floatTensor("head", head, 2);
  const [rows, width] = h.shape as [number, number];
  const vocab = w.shape[0]!;
  sameType("head", w.dtype, h.dtype);
  sameShape("head", w.shape, [vocab, width]);
  if (!(targets instanceof Int32Array) || targets.length !== rows)
    refuse("targets", `an Int32Array of ${rows}`, targets);
  for (let t = 0; t < rows; t++)
    if (targets[t]! < -1 || targets[t]! >= vocab) refuse(`targets[${t}]`, `an integer in [-1, ${vocab})`, targets[t]);
  const logProbs = new Float32Array(rows);
  const args = {
    ...{ rows, width, vocab, logProbs, dtype: h.dtype, hidden: h.data, head: w.data, targets: owned(targets) },
    threads: threadCount("options.threads", given.threads),
  };
  if (given.backward === undefined) {
    await sharedHost().call("sequenceLogProbs", { ...args, device: await deviceOf("options.backend", backend) });
    return { logProbs };
  }
  if (!(given.backward instanceof Float32Array) || given.backward.length !== rows)
    refuse("options.backward", `a Float32Array of ${rows}`, given.backward);
  const dHidden = zeros(h.dtype, h.shape);
  const dHead = zeros("f32", w.shape);
  const extra = { backward: owned(given.backward as Float32Array), dHidden: dHidden.data, dHead: dHead.data };
  const device = await deviceOf("options.backend", backend);
  await sharedHost().call("sequenceLogProbs", { ...args, ...extra, device });
  return { logProbs, dHidden, dHead };
}
