// Options, events and results of training runs and iterations.
import type { PairStatus } from "../judge/judge.js";
import type { CounterName } from "../model/video-lm.js";
import type { StepMetrics } from "./trainer.js";
import type { TrainerOptions } from "./trainer-options.js";
import type { TrainRunOptions } from "../base/option-types.js";
import type { Cancel, LoadOptions, TrainItem } from "../base/types.js";

/** A stage of a run. The stages come in this order; a run has only those that it needs. */
export type Stage = "features" | "generate" | "score" | "train" | "save";

/** Metrics of one step of a run: the trainer's own, and those below. */
export interface RunStepMetrics extends StepMetrics {
  /** Index of the epoch, from 0. */
  epoch: number;
  /** Number of items of the step whose prompt or answer was cut to fit. */
  truncated: number;
  /** Computed tokens per second. */
  tokensPerSecond: number;
  /** FLOPs per second of the step, as a share of what multiply-add loops reach on this machine; 0 if that is not known. */
  shareOfPeak: number;
  /** Resident memory of the process in bytes. */
  memoryBytes: number;
}

/** An event of a run. `iteration` is the index of the model that is used, 0 in a run without iterations. Times are in seconds. */
export type IterationEvent =
  | {
      /** A stage begins, ends, or is resumed. */
      type: "stage";
      /** Index of the model that is used. */
      iteration: number;
      /** The stage. */
      stage: Stage;
      /** What happens to the stage. */
      state: "begin" | "end" | "resumed";
    }
  | {
      /** Progress of a stage, at most four times per second. */
      type: "progress";
      /** Index of the model that is used. */
      iteration: number;
      /** The stage. */
      stage: Stage;
      /** Number of finished units: samples, items or steps. */
      done: number;
      /** Number of all units. */
      total: number;
      /** Finished units per second. */
      perSecond: number;
      /** Estimated seconds until the stage ends. */
      secondsLeft: number;
    }
  | {
      /** A sample was decided. */
      type: "pair";
      /** Index of the model that is used. */
      iteration: number;
      /** Id of the sample. */
      sample: string;
      /** The status of the sample; docs/judging.md explains each. */
      status: PairStatus;
      /** The preferred answer of a pair. */
      chosen?: string;
      /** The other answer of a pair. */
      rejected?: string;
      /** Margin of the chosen answer in nats, if the judge gives margins. */
      margin?: number;
      /** The description that the judge was given. */
      context?: string;
    }
  | {
      /** An optimizer step was made. */
      type: "step";
      /** Index of the model that is used. */
      iteration: number;
      /** Metrics of the step. */
      metrics: RunStepMetrics;
    }
  | {
      /** The evaluation set was scored, before step `step`. */
      type: "evaluation";
      /** Index of the model that is used. */
      iteration: number;
      /** Number of steps that were made before. */
      step: number;
      /** Mean loss over the set. */
      loss: number;
      /** Share of pairs whose chosen answer has the greater reward. */
      accuracy: number;
      /** Mean margin of the rewards. */
      margin: number;
    }
  | {
      /** An answer to a question of the evaluation; a few for each model. */
      type: "answer";
      /** Index of the model that is used. */
      iteration: number;
      /** Index of the model that answers. */
      model: number;
      /** Id of the sample. */
      sample: string;
      /** The question. */
      question: string;
      /** The answer. */
      text: string;
    }
  | {
      /** A warning; the run goes on. */
      type: "warning";
      /** Stable code of the warning; docs/training.md and docs/judging.md explain each. */
      code: string;
      /** The warning in words. */
      message: string;
      /** Facts for programs, which depend on the code. */
      detail: unknown;
    };

/** Result of a run. */
export interface IterationResult {
  /** Index of the model that was used; 0 for a run without iterations. */
  iteration: number;
  /** Folder of the trained model. */
  model: string;
  /** Hash of the trained model; see {@link VideoLM.hash}. */
  hash: string;
  /** Number of items that were trained on. */
  pairs: number;
  /** Numbers of samples or rows by status; docs/judging.md and docs/training.md explain the names. */
  counts: Readonly<Record<string, number>>;
  /** Work of the models, as in their `counters`. */
  work: Readonly<Record<CounterName, number>>;
  /** Whether the run resumed what an earlier process had left. */
  resumed: boolean;
  /** Metrics of every step, in order. */
  metrics: readonly StepMetrics[];
}

/** Two ways to end a run early. After either, the same call resumes. */
export interface Stop extends Cancel {
  /**
   * Ends the run in order: the current group of videos or training step is finished first, and the run keeps what was computed.
   * Then it rejects with this signal's reason. `signal` ends the run at once. Default: the run cannot be ended in order.
   */
  finish?: AbortSignal;
}

/** Options of a training run. */
export interface TrainOptions extends TrainRunOptions, Stop {
  /** "dpo" trains on pairs, "sft" on examples. */
  kind: "sft" | "dpo";
  /** Path of a .jsonl, .json or .parquet file of rows (docs/data.md), or the items themselves. */
  data: string | AsyncIterable<TrainItem> | Iterable<TrainItem>;
  /** Loss, optimizer and schedule; `totalSteps` defaults to the number of steps of the run. */
  trainer?: TrainerOptions;
  /** How the model is loaded. */
  load?: LoadOptions;
}
