// modelJudge(): a model that judges in the prompts of an iteration, outside of one.
import { object, options } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";
import { resolved } from "../base/option-rows.js";
import type { FrameSampling } from "../base/types.js";
import type { Judge } from "../judge/judge.js";
import { judgeRows } from "../judge/judge-options.js";
import { selfJudge } from "../judge/self-judge.js";
import type { VideoLM } from "../model/video-lm.js";
import { type Prompts, promptsOf } from "./method-prompts.js";
import { fitJudgePrompt, verdictTokens } from "./prompt-budget.js";

/** Options of {@link modelJudge}. */
export interface ModelJudgeOptions {
  /** "logprob" (default): the label with the higher log-prob is the choice. "text": the model writes a label. */
  method?: "text" | "logprob";
  /** Prompts; default: {@link defaultPrompts}. */
  prompts?: Prompts;
  /** Frames of the videos; default: the family's. */
  sample?: FrameSampling;
}

/**
 * A model as judge of two answers about a video, in the prompts of an iteration: the context is shortened, then both responses, when
 * they do not fit into the context window. Every item needs a video.
 * @param model - the model that judges
 * @param o - see {@link ModelJudgeOptions}
 * @throws {@link IsrDpoError} INVALID_ARGUMENT for bad options; its verdicts reject with DATA_INVALID for an item without a video
 * @example
 * ```ts
 * import { judgeFile, loadModel, modelJudge } from "isr-dpo";
 *
 * const model = await loadModel("checkpoint");
 * await judgeFile(modelJudge(model), "pairs.jsonl", "verdicts.jsonl", { folder: "videos" });
 * await model.dispose();
 * ```
 */
export function modelJudge(model: VideoLM, o: ModelJudgeOptions = {}): Judge {
  const given = options("options", o, ["method", "prompts", "sample"]);
  const { method } = resolved("options", { method: given.method }, { method: judgeRows.method.or("logprob") });
  const prompts = promptsOf(given.prompts);
  const sample = given.sample === undefined ? undefined : (object("options.sample", given.sample) as FrameSampling);
  return selfJudge({
    ...{ model, generator: model, method, labels: prompts.judge.labels },
    prompt: async ({ sample: { video, question }, context, responses: [first, second] }) => {
      if (video === "")
        throw new IsrDpoError("DATA_INVALID", `${question}: expected a video for the model to look at, got none`);
      const media = { kind: "video" as const, path: video, ...(sample ? { sample } : {}) };
      const limit = model.info.contextLength - verdictTokens;
      const { messages } = await fitJudgePrompt(model, prompts, media, { context, question, first, second }, limit);
      return messages;
    },
  });
}
