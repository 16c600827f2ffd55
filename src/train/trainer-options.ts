// Options of a trainer: their rows, and what the engine takes.
import type { Communicator } from "./ranks/communicator.js";
import { isCommunicator } from "./ranks/group.js";
import { options, refuse } from "../base/check.js";
import {
  either,
  flag,
  group,
  listOf,
  oldNames,
  oneOf,
  pairOf,
  randomSeed,
  only,
  real,
  recordOf,
  type Resolved,
  resolved,
  type Rule,
  share,
  whole,
  words,
} from "../base/option-rows.js";
import { renamed } from "../base/renamed.js";
import type { OptimizerOptions } from "../base/option-types.js";
import { type LossOptions, lossNames, lossRows, lossRules, nativeLoss } from "./loss-options.js";
import type { ModelInfo } from "../base/types.js";

/** Options of the loss, the optimizer (AdamW) and the schedule, and which parts are trained. */
export interface TrainerOptions extends Omit<LossOptions, "loss">, OptimizerOptions {
  /** The preference loss; "sft" is the cross-entropy of answers, without pairs. Default: "sigmoid". */
  loss?: LossOptions["loss"] | "sft";
  /** The ranks that train together, each of which makes a trainer of an equal model with equal options. Default: this process alone. */
  communicator?: Communicator;
}

const loraRows = {
  rank: whole("Rank of the products.", 1, 1 << 14).or(16),
  alpha: real("What the products count for: alpha / rank times.", { above: 0 }).or(32),
  rslora: flag("Whether they count alpha / sqrt(rank) times instead (rsLoRA).").or(false),
  targets: listOf(
    "Names of matrices that get an adapter, or the last parts of their names, such as q_proj; default: all of the language model's blocks.",
    words(""),
  ),
  rankPattern: recordOf("Other ranks, by names of matrices or their last parts.", whole("", 1, 1 << 14)),
};

/** The rows of the optimizer, the schedule and the work; those of the loss stand in loss-options.ts. */
export const optimizerRows = {
  learningRate: real("Peak learning rate.", { min: 0 }).or(5e-7),
  schedule: oneOf("Course of the learning rate after the warm-up.", "constant", "linear", "cosine").or("constant"),
  warmupRatio: share(
    "Share of all steps in which the rate rises, rounded up to whole steps; the first step of a warm-up has rate 0.",
  ),
  warmupSteps: whole("Number of steps in which the rate rises, in place of warmupRatio.", 0),
  totalSteps: whole(
    "Length of the schedule in steps; every schedule but constant needs it, and so does warmupRatio.",
    1,
  ),
  betas: pairOf("AdamW's decay rates of the two moments.", { min: 0, below: 1 }, { min: 0, below: 1 }).or([0.9, 0.999]),
  eps: real("AdamW's epsilon.", { above: 0 }).or(1e-8),
  weightDecay: real("Decoupled weight decay.", { min: 0 }).or(0),
  decayNorms: flag("Whether weight decay also applies to norms and biases.").or(true),
  clipNorm: either(
    "Global gradient norm above which gradients are scaled down; null: never.",
    "a number greater than 0, or null",
    real("", { above: 0 }),
    only(null),
  ).or(null),
  train: group("Parts of the model that are trained.", {
    vision: flag("The vision tower.").or(false),
    projector: flag("The projector, which maps the tower's features to tokens.").or(false),
    decoder: flag("The language model.").or(true),
  }),
  lora: group(
    "Low-rank adapters of the language model's matrices (LoRA), which are trained in place of its parameters; default: all parameters are trained.",
    loraRows,
  ).optional(),
  microBatchTokens: whole("Number of tokens that are computed at once, which bounds the memory of activations.", 1).or(
    4096,
  ),
  checkpointing: flag(
    "Whether activations are recomputed in the backward pass instead of kept; default: if they would not fit.",
  ),
  sharePrefix: flag("Whether a common prefix of prompts is computed once.").or(true),
  shard: flag(
    "Whether ranks share out masters and moments, so that each keeps its part; false: each keeps all. Both give the same bits.",
  ).or(true),
  shardGradients: flag(
    "Whether ranks also share out the gradients of the language model's blocks, which then cross after every micro-batch instead of once a step; needs shard.",
  ).or(false),
};

export const trainerRows = {
  ...lossRows,
  loss: oneOf("The preference loss, or sft.", ...lossNames, "sft").or("sigmoid"),
  ...optimizerRows,
  seed: randomSeed("Seed of the order of items in train(), and of what an adapter begins with."),
};

/** Names of a trainer's options, without its ranks. */
const trainerKeys: readonly string[] = Object.keys(trainerRows);

/** What concerns several options of a trainer, in configuration files and in calls alike. */
export const trainerRules: readonly Rule[] = [
  ({ warmupSteps, warmupRatio }) =>
    Number(warmupSteps ?? 0) > 0 && Number(warmupRatio ?? 0) > 0
      ? { key: "warmupSteps", expected: "one of warmupSteps and warmupRatio" }
      : undefined,
  ...lossRules,
  ({ shard, shardGradients }) =>
    shardGradients === true && shard === false
      ? { key: "shardGradients", expected: "false without shard: gradients are shared out as masters are" }
      : undefined,
  ({ lora, train }) =>
    lora !== undefined && (train.vision || train.projector || !train.decoder)
      ? { key: "train", expected: "the decoder alone beside lora, whose adapters are the decoder's" }
      : undefined,
  ({ lora }) =>
    lora?.targets?.length === 0
      ? { key: "lora.targets", expected: "a name of a matrix, or nothing for all of them" }
      : undefined,
  ({ train }) =>
    Object.values(train as object).includes(true) ? undefined : { key: "train", expected: "a part that is trained" },
];

/** What a schedule needs; a run finds out its number of steps by itself. */
const lengthRules: readonly Rule[] = [
  ({ schedule, totalSteps }) =>
    schedule !== "constant" && totalSteps === undefined
      ? { key: "totalSteps", expected: `a number of steps for schedule '${schedule}'` }
      : undefined,
  ({ warmupRatio, totalSteps }) =>
    Number(warmupRatio ?? 0) > 0 && totalSteps === undefined
      ? { key: "totalSteps", expected: "a number of steps for warmupRatio" }
      : undefined,
];

/** A trainer's options, checked and filled up with their defaults. */
export type TrainerSettings = Resolved<typeof trainerRows>;

/** The ranks that are given with a trainer's options, if any. */
export function communicatorOf(field: string, value: unknown): Communicator | undefined {
  const given = (value as { communicator?: unknown } | undefined)?.communicator;
  if (given !== undefined && !isCommunicator(given))
    refuse(`${field}.communicator`, "a communicator that createCommunicator() made", given);
  return given as Communicator | undefined;
}

/**
 * Checks a trainer's options; with `length` the schedule has to know its number of steps.
 * @throws IsrDpoError INVALID_ARGUMENT
 */
export function trainerSettings(field: string, value: unknown, length: "given" | "later"): TrainerSettings {
  const given = renamed(field, value, ...oldNames(trainerRows));
  const { communicator: _, ...o } = options(field, given, [...trainerKeys, "communicator"]);
  communicatorOf(field, given);
  return resolved(field, o, trainerRows, length === "given" ? [...trainerRules, ...lengthRules] : trainerRules);
}

/** INVALID_ARGUMENT for a part that is to be trained and that the model has not. */
export function checkParts({ train }: Pick<TrainerSettings, "train">, info: ModelInfo): void {
  for (const key of ["vision", "projector"] as const)
    if (train[key] && info.media.length === 0)
      refuse(`options.train.${key}`, `false, for ${info.family} is a text model and has no ${key} to train`, true);
}

/** A trainer's options as the engine takes them. */
export function nativeTrainer(o: TrainerSettings) {
  const { learningRate, eps, weightDecay, decayNorms, microBatchTokens, sharePrefix, schedule, train } = o;
  return {
    ...nativeLoss(o),
    ...{ schedule, totalSteps: o.totalSteps ?? 0, warmupSteps: o.warmupSteps ?? 0, warmupRatio: o.warmupRatio ?? 0 },
    ...{ learningRate, beta1: o.betas[0], beta2: o.betas[1], eps, weightDecay, decayNorms, clipNorm: o.clipNorm ?? 0 },
    ...{ trainVision: train.vision, trainProjector: train.projector, trainDecoder: train.decoder },
    ...{
      microBatchTokens,
      checkpointing: o.checkpointing === undefined ? -1 : o.checkpointing ? 1 : 0,
      sharePrefix,
      shard: o.shard,
      shardGradients: o.shardGradients,
    },
    ...(o.lora && { lora: nativeLora(o.lora, o.seed) }),
  };
}

/** An adapter of the defaults, as the engine takes it. */
export const usualAdapter = nativeLora(resolved("lora", {}, loraRows), 0n);

function nativeLora({ targets = [], rankPattern = {}, ...lora }: NonNullable<TrainerSettings["lora"]>, seed: bigint) {
  return {
    ...lora,
    ...{ seed, targets: [...targets], patterns: Object.keys(rankPattern) },
    patternRanks: Int32Array.from(Object.values(rankPattern)),
  };
}

/** Options that have no effect beside others: why, with the options' names below `under`; false where they have one. */
export const trainerEffects: Readonly<
  Record<
    "totalSteps" | "decayNorms" | "shardGradients",
    (o: Readonly<Record<string, unknown>>, under: string) => string | false
  >
> = {
  totalSteps: (o, under) =>
    (o.schedule ?? "constant") === "constant" &&
    !o.warmupRatio &&
    `a constant ${under}schedule without warmupRatio has no length`,
  decayNorms: (o, under) =>
    o.decayNorms === false &&
    (o.lora !== undefined
      ? `${under}lora trains no norms and biases`
      : !o.weightDecay && `${under}weightDecay 0 lets nothing decay`),
  shardGradients: (o, under) =>
    o.shardGradients === true &&
    (o.train as { decoder?: boolean } | undefined)?.decoder === false &&
    `${under}train.decoder false leaves the language model's blocks without gradients`,
};
