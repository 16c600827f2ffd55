// Options of train(), checked once. Options of the trainer and the loader are checked there.
import { choice, object, options, path, refuse, signal } from "../base/check.js";
import { filePath, oneOf, resolved, type Rule, whole } from "../base/option-rows.js";
import { onBadRow } from "../data/bad-rows.js";
import type { LoadOptions, TrainItem } from "../base/types.js";
import type { Communicator } from "./ranks/communicator.js";
import { communicatorOf, type TrainerOptions, type TrainerSettings, trainerSettings } from "./trainer-options.js";

export const saveEverySteps = whole(
  "Steps between checkpoints of the training state; default: about ten checkpoints per run.",
  1,
);

/** Options of train() that a configuration file has, too; `data` may be items there. */
export const trainRows = {
  model: filePath("Folder of the checkpoint to start from, which is also the reference.").required(),
  videos: filePath(
    "Folder that media paths of rows are relative to and may not lead out of; default: the folder of data.",
  ),
  runDir: filePath(
    "Folder of the run: missing, empty, or the folder of a run, which the same call resumes.",
  ).required(),
  evalData: filePath(
    "File of rows to measure loss, accuracy and margin on; it changes no bit of the training. Default: none.",
  ),
  evalEvery: whole("Steps between evaluations; default: only before the first and after the last step.", 1),
  epochs: whole("Number of times that each row is trained on.", 1).or(1),
  itemsPerStep: whole("Rows per optimizer step.", 1).or(8),
  onBadRow: onBadRow.meaning(
    "What a row that cannot be used does: it ends the run before anything is computed, or is left out and counted.",
  ),
  onLong: oneOf(
    "What happens to an item that is longer than the model's context: it is a bad row, or its answers are cut and it is counted; prompts and visual tokens are never cut.",
    "fail",
    "truncate",
  ).or("fail"),
  onEnd: oneOf(
    "What happens to an answer without exactly one end token, or to a prompt that the template has rendered already: it is corrected and counted, or it is a bad row.",
    "repair",
    "fail",
  ).or("repair"),
  turns: oneOf(
    "Supervised training on rows of several turns: everything that the assistant says is scored (default), or only the last turn.",
    "all",
    "last",
  ),
  saveEverySteps,
  onRanks: oneOf(
    "What a run does that is resumed by another number of ranks: it is refused, or goes on and says so, for its bits are then those of neither.",
    "fail",
    "warn",
  ).or("fail"),
};

export const trainRules: readonly Rule[] = [
  ({ evalEvery, evalData }) =>
    evalEvery !== undefined && evalData === undefined
      ? { key: "evalEvery", expected: "evalData beside it" }
      : undefined,
];

const otherKeys = ["kind", "data", "trainer", "load", "signal", "finish"];

/** Keys of the options of train(). */
export const trainKeys: readonly string[] = [...Object.keys(trainRows), ...otherKeys];

const never = new AbortController().signal;

/** `finish` of a run's options; one that never aborts where there is none. */
export const finishOf = (value: unknown): AbortSignal => signal("options.finish", value) ?? never;

/** TrainOptions with their defaults. */
export interface TrainSettings {
  kind: "sft" | "dpo";
  model: string;
  data: string | AsyncIterable<TrainItem>;
  evalData?: string | undefined;
  /** 0: before the first and after the last step. */
  evalEvery: number;
  videos?: string | undefined;
  runDir: string;
  epochs: number;
  itemsPerStep: number;
  trainer: TrainerSettings;
  /** The trainer's options as they were given: what the folder records. */
  givenTrainer: TrainerOptions;
  seed: bigint;
  onBadRow: "fail" | "skip";
  onLong: "fail" | "truncate";
  onEnd: "fail" | "repair";
  turns: "last" | "all";
  /** 0: about ten a run. */
  saveEverySteps: number;
  onRanks: "fail" | "warn";
  /** The ranks that train together, where they are several. */
  ranks: Communicator | undefined;
  load: LoadOptions;
  finish: AbortSignal;
}

function dataOf(value: unknown): TrainSettings["data"] {
  if (typeof value === "string") return path("options.data", value);
  const items = value as Partial<AsyncIterable<TrainItem> & Iterable<TrainItem>> | null | undefined;
  if (typeof items === "object" && items !== null) {
    if (typeof items[Symbol.asyncIterator] === "function") return items as AsyncIterable<TrainItem>;
    if (typeof items[Symbol.iterator] === "function")
      return {
        async *[Symbol.asyncIterator]() {
          yield* items as Iterable<TrainItem>;
        },
      };
  }
  return refuse("options.data", "a path, or items (an iterable)", value);
}

/** The options of a run's trainer: those that were given, with the loss of a supervised run. */
export function givenTrainer(kind: TrainSettings["kind"], value: unknown): TrainerOptions {
  const o = value === undefined ? {} : object("options.trainer", value);
  if (kind === "sft" && o.loss !== undefined && o.loss !== "sft")
    refuse("options.trainer.loss", "'sft' for a supervised run", o.loss);
  if (kind === "dpo" && o.loss === "sft")
    refuse("options.trainer.loss", "a loss of preferences in a run on pairs", o.loss);
  return { ...o, ...(kind === "sft" ? { loss: "sft" } : {}) };
}

/** What is scored of several turns: of examples alone, for a pair has one answer a side. */
function turnsOf(kind: TrainSettings["kind"], turns: "all" | "last" | undefined): TrainSettings["turns"] {
  if (kind === "dpo" && turns === "all")
    refuse("options.turns", "'last' for pairs, which have one answer a side", turns);
  return turns ?? (kind === "sft" ? "all" : "last");
}

export function trainSettings(value: unknown): TrainSettings {
  if (value === undefined) refuse("options", "an object", value);
  const { kind: given, data, trainer, load, signal: cancel, finish, ...rest } = options("options", value, trainKeys);
  signal("options.signal", cancel); // it is the run's
  const kind = choice("options.kind", given, ["sft", "dpo"]);
  const o = resolved("options", rest, trainRows, trainRules);
  const asked = givenTrainer(kind, trainer);
  const settings = trainerSettings("options.trainer", asked, "later");
  const ranks = communicatorOf("options.trainer", asked);
  return {
    ...o,
    kind,
    data: dataOf(data),
    evalEvery: o.evalEvery ?? 0,
    trainer: settings,
    givenTrainer: asked,
    seed: settings.seed,
    turns: turnsOf(kind, o.turns),
    saveEverySteps: o.saveEverySteps ?? 0,
    load: load === undefined ? {} : (object("options.load", load) as LoadOptions),
    finish: finishOf(finish),
    ranks: ranks && ranks.size > 1 ? ranks : undefined,
  };
}
