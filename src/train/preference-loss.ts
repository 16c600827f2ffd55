// A preference loss as a function of log-probs.
import { dpoLossNative, sharedHost } from "../base/addon.js";
import { array, choice, object, refuse } from "../base/check.js";
import { chooseDevice } from "../base/device.js";
import { owned } from "../base/owned-arrays.js";
import { type LossOptions, lossOptions, nativeLoss } from "./loss-options.js";

function lists(field: string, value: unknown, like?: readonly Float32Array[]): Float32Array[] {
  const all = array(field, value);
  if (like && all.length !== like.length) refuse(field, `${like.length} arrays, as of \`chosen\``, value);
  return all.map((x, i) => {
    if (!(x instanceof Float32Array) || x.length === 0) refuse(`${field}[${i}]`, "a Float32Array that is not empty", x);
    const bad = (x as Float32Array).findIndex((n) => !Number.isFinite(n));
    if (bad >= 0) refuse(`${field}[${i}][${bad}]`, "a finite number", (x as Float32Array)[bad]);
    return owned(x as Float32Array);
  });
}

function sameLengths(field: string, a: readonly Float32Array[], b: readonly Float32Array[]): void {
  a.forEach((x, i) => {
    if (x.length !== b[i]!.length) refuse(`${field}[${i}]`, `a Float32Array of ${b[i]!.length}, as of the policy`, x);
  });
}

/** A loss over preference pairs, and its slopes. */
export interface PairLoss {
  /** The mean loss over the pairs. */
  loss: number;
  /** Gradient of the loss for each log-prob of `chosen`. */
  dChosen: Float32Array[];
  /** Gradient of the loss for each log-prob of `rejected`. */
  dRejected: Float32Array[];
}

type Lists = readonly Float32Array[];

function pairArgs(chosen: Lists, rejected: Lists, refChosen: Lists, refRejected: Lists, o: LossOptions | undefined) {
  const options = nativeLoss(lossOptions("options", o));
  const c = lists("chosen", chosen);
  if (c.length === 0) refuse("chosen", "at least one pair", chosen);
  const r = lists("rejected", rejected, c);
  const rc = lists("refChosen", refChosen, c);
  const rr = lists("refRejected", refRejected, c);
  sameLengths("refChosen", rc, c);
  sameLengths("refRejected", rr, r);
  return { chosen: c, rejected: r, refChosen: rc, refRejected: rr, options };
}

/**
 * A preference loss as a function of log-probs. Entry i of each list holds the log-probs, in nats, of the scored tokens of one answer
 * of pair i.
 * @param chosen - the preferred answers under the model
 * @param rejected - the other answers under the model
 * @param refChosen - the preferred answers under the reference
 * @param refRejected - the other answers under the reference
 * @param o - the loss and its parameters; default: sigmoid with beta 0.1
 * @throws IsrDpoError INVALID_ARGUMENT: lists of different lengths, a log-prob that is not finite, wrong options
 */
export function dpoLoss(
  chosen: readonly Float32Array[],
  rejected: readonly Float32Array[],
  refChosen: readonly Float32Array[],
  refRejected: readonly Float32Array[],
  o?: LossOptions,
): PairLoss {
  return dpoLossNative(pairArgs(chosen, rejected, refChosen, refRejected, o));
}

/**
 * The same loss by one kernel of a device, as a training step computes it: from log-probs and stored references to the gradient of every
 * log-prob. Not for losses that couple the pairs of a step ("aot", "aot_unpaired").
 * @param chosen - the preferred answers under the model
 * @param rejected - the other answers under the model
 * @param refChosen - the preferred answers under the reference
 * @param refRejected - the other answers under the reference
 * @param o - the loss and its parameters, and `backend`: "cpu" (default) or "cuda", the first card
 * @throws IsrDpoError INVALID_ARGUMENT: as dpoLoss(), and a loss that couples pairs; DEVICE_UNAVAILABLE; OUT_OF_MEMORY
 */
export async function preferenceLoss(
  chosen: readonly Float32Array[],
  rejected: readonly Float32Array[],
  refChosen: readonly Float32Array[],
  refRejected: readonly Float32Array[],
  o: LossOptions & { backend?: "cpu" | "cuda" } = {},
): Promise<PairLoss> {
  const { backend, ...loss } = object("options", o) as typeof o;
  const wanted = backend === undefined ? "cpu" : choice("options.backend", backend, ["cpu", "cuda"]);
  const args = pairArgs(chosen, rejected, refChosen, refRejected, loss);
  const device = wanted === "cuda" ? await chooseDevice("options.backend", wanted) : wanted;
  return (await sharedHost().call("preferenceLoss", { ...args, device })) as PairLoss;
}
