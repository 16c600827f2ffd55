// The public surface. Importing it loads no binary and starts no thread: both happen at first use.
export { worldModel } from "./addon.js";
export * from "./communicator.js";
export type { ErrorCode, ErrorFacts } from "./errors.js";
export { IsrDpoError, isIsrDpoError } from "./errors.js";
export type { IterationConfig } from "./config/schema.js";
export * from "./inspect.js";
export { type Prompts, defaultPrompts } from "./isr/prompts.js";
export { type IterationOptions, type RunIterationsOptions, runIterations, trainIteration } from "./isr/run.js";
export type { Judge, JudgeItem, PairStatus, Verdict } from "./judge/judge.js";
export {
  type OpenAIJudge,
  type OpenAIJudgeOptions,
  type OpenAIJudgePrompts,
  openaiJudge,
  openAIJudgePrompts,
} from "./judge/openai.js";
export { type SelfJudgeOptions, selfJudge } from "./judge/self.js";
export { type ReadOptions, readPairs } from "./data/pairs.js";
export { readExamples } from "./data/examples.js";
export type { BadRowOptions, SkippedRow } from "./data/rows.js";
export { readSamples, type Sample } from "./data/samples.js";
export { type PairRecord, type WriteOptions, writePairs } from "./data/write.js";
export type { LossName, LossOptions } from "./loss.js";
export type { CounterName, ModelLoad, VideoLM } from "./model.js";
export type { Generator, Session } from "./session.js";
export { loadModel } from "./model.js";
export { type Plan, type PlanIteration, type PlanOptions, plan, type ScoredTokens } from "./plan.js";
export { report } from "./report/report.js";
export type { Run } from "./run.js";
export type { StepMetrics, Trainer, TrainerOptions } from "./trainer.js";
export { createTrainer } from "./trainer.js";
export type {
  IterationEvent,
  IterationResult,
  RunStepMetrics,
  Stage,
  TrainOptions,
} from "./training/events.js";
export { train } from "./training/train.js";
export type * from "./types.js";
export { type Frame, type PreprocessConfig, type Preprocessed, preprocessFrames } from "./video/preprocess.js";
export { type DecoderSpec, type InitSpec, initCheckpoint, type TowerSpec } from "./world/init.js";
export { type WorldSet, writeWorld, writeWorldExamples } from "./world/samples.js";
export { worldSpec } from "./world/vocabulary.js";
export type { DataNote, NoteCode } from "./data/notes.js";
export type { Rows } from "./data/write.js";
export type { OpenAIJudgeCounters } from "./judge/openai.js";
export type { FfmpegReport } from "./video/tools.js";
export type { WrittenWorld } from "./world/samples.js";
