// The public surface. Importing it loads no binary and starts no thread: both happen at first use.
export * from "./communicator.js";
export type { ErrorCode, ErrorFacts } from "./errors.js";
export { IsrDpoError, isIsrDpoError } from "./errors.js";
export * from "./inspect.js";
export type { LossName, LossOptions } from "./loss.js";
export type { CounterName, Generator, Session, VideoLM } from "./model.js";
export { loadModel } from "./model.js";
export type { Run } from "./run.js";
export type { StepMetrics, Trainer, TrainerOptions } from "./trainer.js";
export { createTrainer } from "./trainer.js";
export type {
  IterationEvent,
  IterationResult,
  PairStatus,
  RunStepMetrics,
  Stage,
  TrainOptions,
} from "./training/events.js";
export { train } from "./training/train.js";
export type * from "./types.js";
export { type Frame, type PreprocessConfig, type Preprocessed, preprocessFrames } from "./video/preprocess.js";
