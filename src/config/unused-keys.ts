// Keys that have no effect beside others: a value that differs from the default and that nothing would use is reported by
// name.
import { isDeepStrictEqual } from "node:util";
import { trainerEffects } from "../train/trainer-options.js";
import { type ConfigKind, rowAt } from "./config-rows.js";

type Plain = Readonly<Record<string, unknown>>;

/** The value at a dotted key. */
const at = (config: unknown, key: string): unknown =>
  key.split(".").reduce<unknown>((o, k) => (typeof o === "object" && o !== null ? (o as Plain)[k] : undefined), config);

/** Why the key has no effect in a configuration; false where it has one. */
type Reason = (config: Plain) => string | false;

const when =
  (key: string, value: unknown, why: string): Reason =>
  (config) =>
    isDeepStrictEqual(at(config, key), value) && why;

const either =
  (...reasons: readonly Reason[]): Reason =>
  (config) =>
    reasons.map((r) => r(config)).find((r) => r !== false) ?? false;

const oneRank = "one rank keeps everything";
const none = when("context.design", "none", "context.design none writes no context");
const greedy = (key: string) => when(`${key}.temperature`, 0, `${key}.temperature 0 takes the likeliest token`);
const endpoint = when("judge.kind", "openai", "an endpoint is asked in words, judge.kind openai");
const self = when("judge.kind", "self", "judge.kind self asks the model");
const method =
  (value: string, why: string): Reason =>
  (config) =>
    self(config) !== false && at(config, "judge.method") === value && why;
const varied = when("video.looks", "varied", "video.looks varied takes stretches of the whole video");

/** The reasons of the trainer's options, below the trainer's own key. */
const trainer = (under: "train" | "trainer"): [key: string, Reason][] =>
  Object.entries(trainerEffects).map(([key, reason]) => [
    `${under}.${key}`,
    (config) => reason((at(config, under) ?? {}) as Plain, `${under}.`),
  ]);

const effects: Readonly<Record<ConfigKind, readonly (readonly [key: string, Reason])[]>> = {
  train: trainer("trainer"),
  run: [
    ["context.maxTokens", none],
    ["context.temperature", none],
    ["context.topP", either(none, greedy("context"))],
    ["response.topP", greedy("response")],
    ["judge.method", endpoint],
    ["judge.tie", method("text", "a judge that answers in text (judge.method text) says no ties")],
    [
      "judge.disagree",
      either(
        when("judge.orders", "one", "judge.orders one asks once"),
        (config) =>
          at(config, "judge.disagree") === "average" &&
          either(endpoint, method("text", "a judge that answers in text (judge.method text) gives no margins"))(config),
      ),
    ],
    ["judge.unparsed", method("logprob", "judge.method logprob reads labels, and is never unparsed")],
    [
      "guards.maxPosition",
      (config) =>
        at(config, "guards.maxPosition") !== 1 &&
        when("judge.orders", "both", "with judge.orders both a liking for a place is in no pair")(config),
    ],
    ...trainer("train").filter(([key]) => key !== "train.shardGradients"),
    ["train.shardGradients", (config) => at(config, "train.shardGradients") === true && oneRank],
    ["train.shard", (config) => at(config, "train.shard") === false && oneRank],
    ["video.window", varied],
    ["video.fps", varied],
    ["video.stretches", when("video.looks", "same", "video.looks same has one look")],
    ["video.looks", when("video.stretches", 1, "video.stretches 1 leaves one look")],
  ],
};

export interface Unused {
  key: string;
  why: string;
}

/** Keys of a resolved configuration that differ from their default and have no effect beside the others. */
export function unusedKeys(kind: ConfigKind, config: Plain): Unused[] {
  return effects[kind].flatMap(([key, reason]) => {
    const value = at(config, key);
    if (value === undefined || isDeepStrictEqual(value, rowAt(kind, key)?.fallback)) return [];
    const why = reason(config);
    return why === false ? [] : [{ key, why }];
  });
}

export const unusedText = ({ key, why }: Unused): string => `${key} has no effect: ${why}`;

/** Keys that the table knows. */
export const conditionalKeys = (kind: ConfigKind): string[] => effects[kind].map(([key]) => key);
