// isr-dpo/native: kernels on raw tensors against plain float64 code, and gradients of losses against differences.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Tensor } from "../src/index.js";
import { dpoLoss, flashAttention, flashAttentionBackward, preferenceLoss, sequenceLogProbs } from "../src/native.js";
import { close, direction, every, maxAbs, near, ordered, rejects, sameBits } from "./helpers/assert.js";
import { memoized } from "./helpers/memoized.js";

const test = suite("native");

let state = 1;
const uniform = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 31 - 1;
};
const random = (...shape: number[]): Tensor => ({
  ...{ dtype: "f32" as const, shape },
  data: Float32Array.from({ length: shape.reduce((a, b) => a * b) }, uniform),
});
const toBf16 = (t: Tensor): Tensor => ({
  ...{ dtype: "bf16" as const, shape: t.shape },
  data: Uint16Array.from(
    new Uint32Array((t.data as Float32Array).slice().buffer),
    (u) => (u + 0x7fff + ((u >>> 16) & 1)) >>> 16,
  ),
});
const toF32 = (t: Tensor): Float32Array =>
  t.dtype === "f32" ? (t.data as Float32Array) : new Float32Array(Uint32Array.from(t.data, (u) => u << 16).buffer);

const spans = (...triples: number[]) => Int32Array.from(triples);
const shapes: [what: string, T: number, H: number, K: number, D: number, spans: Int32Array, causal: boolean][] = [
  ["one causal sequence", 70, 2, 2, 12, spans(0, 70, -1), true],
  ["grouped heads, D 64", 130, 4, 2, 64, spans(0, 130, -1), true],
  ["a prefix with two branches", 100, 6, 2, 16, spans(0, 65, -1, 65, 80, 0, 80, 100, 0), true],
  [
    "branches of branches, two trees",
    90,
    2,
    1,
    10,
    spans(0, 20, -1, 20, 31, 0, 31, 50, 1, 50, 60, 1, 60, 90, -1),
    true,
  ],
  ["not causal", 66, 3, 3, 32, spans(0, 33, -1, 33, 66, -1), false],
  ["a row each", 5, 1, 1, 256, spans(0, 1, -1, 1, 2, 0, 2, 3, 1, 3, 4, 0, 4, 5, -1), true],
];

for (const [what, T, H, K, D, spanList, causal] of shapes)
  for (const dtype of ["f32", "bf16"] as const)
    test(`attention: ${what} (${dtype})`, async () => {
      const cast = dtype === "bf16" ? toBf16 : (t: Tensor) => t;
      const [q, k, v, dOut] = [random(T, H, D), random(T, K, D), random(T, K, D), random(T, H, D)].map(cast) as [
        Tensor,
        Tensor,
        Tensor,
        Tensor,
      ];
      const spec = { spans: spanList, causal };
      const cpu = await flashAttention(q, k, v, spec);
      const plain = await flashAttention(q, k, v, { ...spec, backend: "reference" });
      assert.equal(cpu.lse.shape, [H, T]);
      near(cpu.lse.data, plain.lse.data, dtype === "f32" ? 2e-5 : 2e-2, "lse");
      near(toF32(cpu.out), toF32(plain.out), (dtype === "f32" ? 1e-5 : 2e-2) * maxAbs(toF32(plain.out)), "out");
      const grads = await flashAttentionBackward(dOut, q, k, v, cpu.out, cpu.lse, spec);
      const expected = await flashAttentionBackward(dOut, q, k, v, plain.out, plain.lse, {
        ...spec,
        backend: "reference",
      });
      for (const name of ["dq", "dk", "dv"] as const) {
        const [a, b] = [toF32(grads[name]), toF32(expected[name])];
        if (dtype === "f32") near(a, b, 2e-5 * maxAbs(b) + 1e-7, name);
        else ordered(direction(new Map([[name, a]]), new Map([[name, b]])).distance, "<", 0.03, name);
      }
      const other = await flashAttention(q, k, v, { ...spec, threads: 3 });
      sameBits(other.out.data, cpu.out.data, "out with 3 threads");
    });

const plainAttention = memoized(async () => {
  const [T, H, K, D] = [9, 2, 1, 4];
  const [q, k, v, dOut] = [random(T, H, D), random(T, K, D), random(T, K, D), random(T, H, D)];
  const spec = { spans: spans(0, 4, -1, 4, 6, 0, 6, 9, 0), causal: true, backend: "reference" as const };
  const forward = await flashAttention(q, k, v, spec);
  const grads = await flashAttentionBackward(dOut, q, k, v, forward.out, forward.lse, spec);
  const loss = async () => {
    const { out } = await flashAttention(q, k, v, spec);
    return toF32(out).reduce((sum, x, i) => sum + x * toF32(dOut)[i]!, 0);
  };
  return { q, k, v, grads, loss };
});
for (const [name, of] of [
  ["dq", "q"],
  ["dk", "k"],
  ["dv", "v"],
] as const)
  test(`the plain attention's gradient is that of its forward: ${name}`, async () => {
    const { grads, loss, ...given } = await plainAttention();
    const h = 2 ** -7;
    const data = given[of].data as Float32Array;
    for (const i of [0, 7, 17, data.length - 1]) {
      const at = data[i]!;
      data[i] = at + h;
      const up = await loss();
      data[i] = at - h;
      const down = await loss();
      data[i] = at;
      close(toF32(grads[name])[i]!, (up - down) / (2 * h), 2e-3, `${name}[${i}]`);
    }
  });

/** The definition: log-softmax of hidden head^T at the target, and its gradient. */
function plainLogProbs(h: Float32Array, w: Float32Array, C: number, targets: Int32Array, dlogp: Float32Array) {
  const V = w.length / C;
  const [logProbs, dHidden, dHead] = [
    new Float64Array(targets.length),
    new Float64Array(h.length),
    new Float64Array(w.length),
  ];
  targets.forEach((target, t) => {
    if (target < 0) return;
    const z = Float64Array.from({ length: V }, (_, j) => {
      let dot = 0;
      for (let c = 0; c < C; c++) dot += h[t * C + c]! * w[j * C + c]!;
      return dot;
    });
    const top = Math.max(...z);
    const lse = top + Math.log(z.reduce((sum, x) => sum + Math.exp(x - top), 0));
    logProbs[t] = z[target]! - lse;
    for (let j = 0; j < V; j++) {
      const dz = dlogp[t]! * ((j === target ? 1 : 0) - Math.exp(z[j]! - lse));
      for (let c = 0; c < C; c++) {
        dHidden[t * C + c]! += dz * w[j * C + c]!;
        dHead[j * C + c]! += dz * h[t * C + c]!;
      }
    }
  });
  return { logProbs, dHidden, dHead };
}

for (const dtype of ["f32", "bf16"] as const)
  test(`sequenceLogProbs, forward and backward (${dtype})`, async () => {
    const [T, C, V] = [37, 20, 301];
    const cast = dtype === "bf16" ? toBf16 : (t: Tensor) => t;
    const [hidden, head] = [cast(random(T, C)), cast(random(V, C))];
    const targets = Int32Array.from({ length: T }, (_, t) => (t % 5 === 2 ? -1 : (t * 53) % V));
    const backward = Float32Array.from({ length: T }, uniform);
    const got = await sequenceLogProbs(hidden, head, targets, { backward, threads: 2 });
    const want = plainLogProbs(toF32(hidden), toF32(head), C, targets, backward);
    near(got.logProbs, want.logProbs, dtype === "f32" ? 1e-5 : 3e-2, "log-probs");
    every(got.logProbs, (x, t) => (targets[t]! < 0 ? x === 0 : x < 0));
    assert.is(got.dHidden!.dtype, dtype);
    const tolerance = dtype === "f32" ? 1e-5 : 3e-2;
    near(toF32(got.dHidden!), want.dHidden, tolerance * maxAbs(want.dHidden), "dHidden");
    near(toF32(got.dHead!), want.dHead, tolerance * maxAbs(want.dHead), "dHead");
    const only = await sequenceLogProbs(hidden, head, targets);
    sameBits(only.logProbs, got.logProbs, "log-probs without backward");
    assert.equal(only.dHead, undefined);
  });

const rowsOfLosses = memoized(() => {
  const list = (...lengths: number[]) =>
    lengths.map((n) => Float32Array.from({ length: n }, () => -1 + 0.5 * uniform()));
  const [chosen, rejected] = [list(4, 6, 3), list(5, 2, 3)];
  const [refChosen, refRejected] = [list(4, 6, 3), list(5, 2, 3)];
  return { chosen, rejected, refChosen, refRejected };
});
const losses: NonNullable<Parameters<typeof dpoLoss>[4]>[] = [
  ...(["sigmoid", "ipo", "hinge", "robust", "cdpo", "sigmoid_norm", "nca_pair", "bco_pair", "sppo_hard"] as const).map(
    (loss) => ({ loss }),
  ),
  ...(["aot", "aot_unpaired", "apo_zero", "apo_down", "discopop"] as const).map((loss) => ({ loss, beta: 0.5 })),
  { loss: "robust", labelSmoothing: 0.2 },
  { loss: "aot", labelSmoothing: 0.1 },
  { ldAlpha: 0.5 },
  { sftWeight: 0.3 },
  { divergence: "forward_kl" },
  { divergence: "js_divergence" },
  { loss: "exo_pair", labelSmoothing: 0.1 },
];
for (const o of losses)
  for (const [side, gradient] of [
    ["chosen", "dChosen"],
    ["rejected", "dRejected"],
  ] as const)
    test(`dpoLoss: the gradient against differences: ${JSON.stringify(o)}, ${side}`, () => {
      const given = rowsOfLosses();
      const value = () => dpoLoss(given.chosen, given.rejected, given.refChosen, given.refRejected, o);
      const dx = value()[gradient];
      given[side].forEach((row, i) => {
        const t = row.length - 1;
        const at = row[t]!;
        const h = 2 ** -9;
        row[t] = at + h;
        const up = value().loss;
        row[t] = at - h;
        const down = value().loss;
        row[t] = at;
        const difference = (up - down) / (2 * h);
        close(dx[i]![t]!, difference, 2e-4 * Math.max(1, Math.abs(difference)), `${JSON.stringify(o)} ${side}[${i}]`);
      });
    });

for (const o of losses)
  test(`preferenceLoss: a device's kernel gives what dpoLoss gives: ${JSON.stringify(o)}`, async () => {
    const { chosen, rejected, refChosen, refRejected } = rowsOfLosses();
    const one = () => preferenceLoss(chosen, rejected, refChosen, refRejected, o);
    if (o.loss?.startsWith("aot")) return await rejects(one, "INVALID_ARGUMENT", /couples the pairs/, o.loss);
    const [got, want] = [await one(), dpoLoss(chosen, rejected, refChosen, refRejected, o)];
    close(got.loss, want.loss, 1e-6 * Math.max(1, Math.abs(want.loss)), "loss");
    for (const side of ["dChosen", "dRejected"] as const)
      for (const [i, row] of got[side].entries()) near(row, want[side][i]!, 1e-6, `${side}[${i}]`);
  });

test("dpoLoss: the log-ratio of equals is ln 2, and a swap mirrors it", () => {
  const same = [Float32Array.of(-1, -2)];
  close(dpoLoss(same, same, same, same).loss, Math.LN2, 1e-12, "equal sides");
  const [a, b, zero] = [[Float32Array.of(-1)], [Float32Array.of(-3)], [Float32Array.of(-2)]];
  const [forth, back] = [dpoLoss(a, b, zero, zero), dpoLoss(b, a, zero, zero)];
  close(back.loss - forth.loss, 0.2, 1e-6, "sigmoid(-x) against sigmoid(x): beta times the margin");
  ordered(forth.dChosen[0]![0]!, "<", 0);
  ordered(forth.dRejected[0]![0]!, ">", 0);
});

test.run();
