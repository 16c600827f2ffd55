// The public surface. Importing it loads no binary and starts no thread: both happen at first use.
export { worldModel } from "./base/addon.js";
export * from "./train/ranks/communicator.js";
export type { CudaCard } from "./base/device.js";
export type { ErrorCode, ErrorFacts } from "./base/errors.js";
export { IsrDpoError, isIsrDpoError } from "./base/errors.js";
export type { IterationConfig, RunConfig, TrainConfig } from "./base/config-types.js";
export type {
  EndpointOptions,
  FeatureCacheOptions,
  JudgeFileSettings,
  OptimizerOptions,
  TrainRunOptions,
  WeightOptions,
} from "./base/option-types.js";
export * from "./model/inspect.js";
export { type Prompts, defaultPrompts } from "./iterate/method-prompts.js";
export {
  type IterationOptions,
  type RunIterationsOptions,
  runIterations,
  trainIteration,
} from "./iterate/run-iterations.js";
export type { Judge, JudgeItem, PairStatus, Verdict } from "./judge/judge.js";
export {
  type OpenAIJudge,
  type OpenAIJudgeOptions,
  type OpenAIJudgePrompts,
  openaiJudge,
  openAIJudgePrompts,
} from "./judge/openai-judge.js";
export { type SelfJudgeOptions, selfJudge } from "./judge/self-judge.js";
export { type ReadOptions, readPairs } from "./data/read-pairs.js";
export { readExamples } from "./data/read-examples.js";
export type { BadRowOptions, SkippedRow } from "./data/bad-rows.js";
export { readSamples, type Sample } from "./data/read-samples.js";
export { type PairRecord, type WriteOptions, writePairs } from "./data/write-pairs.js";
export type { LossName, LossOptions } from "./train/loss-options.js";
export type { CounterName, ModelLoad, VideoLM } from "./model/video-lm.js";
export type { Generator, Session } from "./model/session.js";
export { loadModel } from "./model/model.js";
export { type GenerateFileOptions, type GenerateFileResult, generateFile } from "./model/generate-file.js";
export { type JudgeFileOptions, type JudgeFileResult, judgeFile } from "./judge/judge-file.js";
export { type ModelJudgeOptions, modelJudge } from "./iterate/model-judge.js";
export type { RowSink, RowSource, RowWorkOptions } from "./data/row-work.js";
export { type Plan, type PlanIteration, type PlanOptions, plan, type ScoredTokens } from "./plan/plan.js";
export { report } from "./report/report.js";
export type { Run } from "./base/run.js";
export type { RankFigures, StepMetrics, Trainer } from "./train/trainer.js";
export type { TrainerOptions } from "./train/trainer-options.js";
export { createTrainer } from "./train/trainer.js";
export type {
  IterationEvent,
  IterationResult,
  RunStepMetrics,
  Stage,
  TrainOptions,
} from "./train/run-events.js";
export { train } from "./train/train.js";
export type * from "./base/types.js";
export { type Frame, type PreprocessConfig, type Preprocessed, preprocessFrames } from "./video/preprocess.js";
export type { DataNote, NoteCode } from "./data/bad-rows.js";
export type { Rows } from "./data/write-pairs.js";
export type { OpenAIJudgeCounters } from "./judge/openai-judge.js";
export type { FfmpegReport } from "./video/ffmpeg-tools.js";
// What has moved to isr-dpo/synthetic, for one minor version.
export {
  /** @deprecated Import it from "isr-dpo/synthetic". */
  type DecoderSpec,
  /** @deprecated Import it from "isr-dpo/synthetic". */
  type InitSpec,
  /** @deprecated Import it from "isr-dpo/synthetic". */
  initCheckpoint,
  /** @deprecated Import it from "isr-dpo/synthetic". */
  type TowerSpec,
  /** @deprecated Import it from "isr-dpo/synthetic". */
  type WorldSet,
  /** @deprecated Import it from "isr-dpo/synthetic". */
  type WrittenWorld,
  /** @deprecated Import it from "isr-dpo/synthetic". */
  worldSpec,
  /** @deprecated Import it from "isr-dpo/synthetic". */
  writeWorld,
  /** @deprecated Import it from "isr-dpo/synthetic". */
  writeWorldExamples,
} from "./synthetic/index.js";
