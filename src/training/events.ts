// What a training run and an iteration are asked for, tell on their way, and give in the end.
import type { PairStatus } from "../judge/judge.js";
import type { CounterName } from "../model.js";
import type { StepMetrics, TrainerOptions } from "../trainer.js";
import type { Cancel, LoadOptions, TrainItem } from "../types.js";

/** A part of a run, in this order; runs have those that they need. */
export type Stage = "features" | "generate" | "score" | "train" | "save";

/** What a step of a run says beside the trainer's own metrics. */
export interface RunStepMetrics extends StepMetrics {
  /** From 0. */
  epoch: number;
  /** Items of the step whose prompt or answer was cut to fit. */
  truncated: number;
  /** Computed tokens a second. */
  tokensPerSecond: number;
  /** FLOPs of the step by its time, as a share of what this machine's multiply-add loops reach; 0 where that is not known. */
  shareOfPeak: number;
  /** Resident memory of the process. */
  memoryBytes: number;
}

/** What a run tells on its way. Times are in seconds. */
export type IterationEvent =
  | { type: "stage"; iteration: number; stage: Stage; state: "begin" | "end" | "resumed" }
  /** At most four a second. */
  | {
      type: "progress";
      iteration: number;
      stage: Stage;
      done: number;
      total: number;
      perSecond: number;
      secondsLeft: number;
    }
  | {
      type: "pair";
      iteration: number;
      sample: string;
      status: PairStatus;
      chosen?: string;
      rejected?: string;
      /** In nats, of the chosen answer. */
      margin?: number;
      context?: string;
    }
  | { type: "step"; iteration: number; metrics: RunStepMetrics }
  /** On the fixed evaluation set, before step `step`. */
  | { type: "evaluation"; iteration: number; step: number; loss: number; accuracy: number; margin: number }
  /** Of the model of that index, to a question of the evaluation; a few of each model. */
  | { type: "answer"; iteration: number; model: number; sample: string; question: string; text: string }
  | { type: "warning"; code: string; message: string; detail: unknown };

/** What a run gives. */
export interface IterationResult {
  /** Index of the model that was used; 0 for a run without iterations. */
  iteration: number;
  /** Folder of the trained model. */
  model: string;
  /** Of the trained model. */
  hash: string;
  /** Items that were trained on. */
  pairs: number;
  /** What became of samples or rows, by name; docs/run-folder.md has the names. */
  counts: Readonly<Record<string, number>>;
  /** Work of the models, as their `counters`. */
  work: Readonly<Record<CounterName, number>>;
  /** Whether the run went on from what an earlier process had left. */
  resumed: boolean;
  /** Of every step, in order. */
  metrics: readonly StepMetrics[];
}

/** Two ways to end a run early; after either the same call goes on from there. */
export interface Stop extends Cancel {
  /**
   * Aborted: the group of videos or the step at hand is done first, and what was computed is kept; then the run rejects with
   * this signal's reason. `signal` ends at once.
   */
  finish?: AbortSignal;
}

/** What a training run is made of. */
export interface TrainOptions extends Stop {
  /** "dpo": pairs. "sft": examples. */
  kind: "sft" | "dpo";
  /** Folder of the checkpoint to start from. */
  model: string;
  /** A .jsonl, .json or .parquet file, or the items themselves. */
  data: string | AsyncIterable<TrainItem> | Iterable<TrainItem>;
  /** A fixed set to measure loss, accuracy and margin on; it changes no bit of the training. */
  evalData?: string;
  /** In steps; default: before the first and after the last. */
  evalEvery?: number;
  /** Folder that media paths are relative to and may not leave; default: that of `data`. */
  videos?: string;
  /** Folder of the run: missing, empty, or that of a run which goes on; else INVALID_ARGUMENT. */
  runDir: string;
  /** Default 1. */
  epochs?: number;
  /** Default 8. */
  itemsPerStep?: number;
  /** Loss, optimizer and schedule; totalSteps defaults to the steps of the run. */
  trainer?: TrainerOptions;
  /** Default "fail". */
  onBadRow?: "fail" | "skip";
  /**
   * What to do with an item that is longer than the model's context. "fail" (default): it is a bad row. "truncate": its
   * answers are cut, and counted; prompts and visual tokens never are, so that a prompt without room is a bad row still.
   */
  onLong?: "fail" | "truncate";
  /**
   * What to do with an answer that does not end with one end token (none, or several), and with a prompt that the chat template
   * has rendered already. "repair" (default): one end token is scored and such a prompt is taken as it stands, both counted.
   * "fail": it is a bad row.
   */
  onEnd?: "repair" | "fail";
  /** Supervised: what is scored of a row of several turns. Default "all": what the assistant says in each. "last": the answer. */
  turns?: "last" | "all";
  /** Default: about 10 a run, and after the last step. */
  saveEverySteps?: number;
  /** How the model is loaded. */
  load?: LoadOptions;
}
