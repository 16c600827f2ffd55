// The frames that a stage sees. `same`: one sampling for everything, as in the paper. `varied`, which is ours: a video is
// divided into stretches of equal length, and each purpose looks at one of them. Contexts and judgements of each iteration
// look at another stretch, the answers to a prompt always at the same one. A look depends on seed, video, purpose and
// iteration alone.
import { createHash } from "node:crypto";
import type { FrameSampling } from "../base/types.js";
import type { RunSettings } from "./iteration-settings.js";

export type Purpose = "response" | "context" | "judge";

export interface LookRule {
  looks: "same" | "varied";
  /** Stretches of a video, with `varied`. */
  stretches: number;
  seed: bigint;
  sample: FrameSampling | undefined;
}

/** Which stretch: from 0 to stretches - 1. Answers keep theirs over the iterations; the design has no part in it. */
export function stretchOf(rule: LookRule, key: string, purpose: Purpose, iteration: number): number {
  const when = purpose === "response" ? "" : String(iteration);
  const digest = createHash("sha256")
    .update(JSON.stringify(["look", String(rule.seed), purpose, when, key]))
    .digest();
  return Number((digest.readBigUInt64LE(0) * BigInt(rule.stretches)) >> 64n);
}

/** The frames of a look; undefined: the sampling of the run, or the family's. */
export function lookOf(rule: LookRule, key: string, purpose: Purpose, iteration: number): FrameSampling | undefined {
  if (rule.looks === "same") return rule.sample;
  const frames = rule.sample?.frames;
  return {
    ...(frames === undefined ? {} : { frames }),
    part: [stretchOf(rule, key, purpose, iteration), rule.stretches],
  };
}

/** The rule of a run. */
export function lookRuleOf({ video, seed }: RunSettings): LookRule {
  const { frames, window, fps, looks, stretches } = video;
  const sample = { ...(frames && { frames }), ...(window && { window }), ...(fps && { fps }) };
  return { looks, stretches, seed, sample: Object.keys(sample).length > 0 ? sample : undefined };
}
