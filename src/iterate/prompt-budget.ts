// Whether prompts fit into the context window. The budgets prove it before a run; for long questions and replaced prompts
// there is a rule: the context loses sentences from its end first, then both responses are cut to the same length. The
// question and the visual tokens are never cut.
import { type ErrorCode, IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { build } from "../model/inputs.js";
import { internalsOf } from "../model/model.js";
import type { VideoLM } from "../model/video-lm.js";
import type { Media, Message } from "../base/types.js";
import { contextPrompt, judgePrompt, type Prompts, responsePrompt } from "./method-prompts.js";

/** Tokens of a prompt as it is given to the model, visual ones among them, also beyond its context; nothing is opened. */
export async function promptTokens(model: VideoLM, messages: readonly Message[]): Promise<number> {
  const counted = internalsOf(model).inputs.run([], async (call) => {
    call.counting = true;
    const { ids } = await build(call, "prompt", messages, { generate: true });
    return { result: Promise.resolve(ids.length) };
  });
  return counted.catch((e) => {
    if (isIsrDpoError(e, "CONTEXT_OVERFLOW")) return e.detail!.tokens as number;
    throw e;
  });
}

const sentencesOf = (text: string): string[] => text.match(/[^.!?\n]+[.!?\n]*\s*|[.!?\n]+\s*/g) ?? [];

/** The largest n in [0, most] for which `fits` holds; it holds for less whenever it holds for more. -1: not even for 0. */
async function largest(most: number, fits: (n: number) => Promise<boolean>): Promise<number> {
  let [low, high] = [-1, most];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (await fits(middle)) low = middle;
    else high = middle - 1;
  }
  return low;
}

export interface JudgeParts {
  context: string | null;
  question: string;
  first: string;
  second: string;
}

export interface FittedPrompt {
  messages: Message[];
  /** Something was cut away. */
  cut: boolean;
}

/** The first n tokens of a text, as text. */
function head(model: VideoLM, text: string, n: number): string {
  const ids = model.tokenizer.encode(text, { special: false });
  return ids.length <= n ? text : model.tokenizer.decode(ids.subarray(0, n), { skipSpecial: true });
}

/** Codes of a video that cannot be used. */
export const mediaFaults: readonly ErrorCode[] = ["MEDIA_UNREADABLE", "MEDIA_EMPTY", "NOT_FOUND"];

/** Tokens of the judge's answer. */
export const verdictTokens = 8;

/** The answering prompt. CONTEXT_OVERFLOW where it has more than `limit` tokens: a question is never cut. */
export async function fitResponsePrompt(
  model: VideoLM,
  prompts: Prompts,
  media: Media,
  question: string,
  limit: number,
): Promise<void> {
  const tokens = await promptTokens(model, responsePrompt(prompts, media, question));
  if (tokens <= limit) return;
  throw new IsrDpoError(
    "CONTEXT_OVERFLOW",
    `the prompt of ${JSON.stringify(question.slice(0, 60))} has ${tokens} tokens, more than the ${limit} beside an answer`,
    { hint: "leave the question out, or shorten it", detail: { tokens, limit } },
  );
}

/** A judge's prompt within `limit` tokens. CONTEXT_OVERFLOW where not even question and video fit. */
export async function fitJudgePrompt(
  model: VideoLM,
  prompts: Prompts,
  media: Media,
  parts: JudgeParts,
  limit: number,
): Promise<FittedPrompt> {
  const make = (p: JudgeParts) => judgePrompt(prompts, media, p);
  const fits = async (p: JudgeParts) => (await promptTokens(model, make(p))) <= limit;
  if (await fits(parts)) return { messages: make(parts), cut: false };
  const sentences = sentencesOf(parts.context ?? "");
  const within = (n: number): JudgeParts => ({
    ...parts,
    context: n > 0 ? sentences.slice(0, n).join("").trimEnd() : null,
  });
  const kept = await largest(sentences.length, (n) => fits(within(n)));
  if (kept >= 0) return { messages: make(within(kept)), cut: true };
  const most = Math.max(
    ...[parts.first, parts.second].map((t) => model.tokenizer.encode(t, { special: false }).length),
  );
  const short = (n: number): JudgeParts => ({
    context: null,
    question: parts.question,
    first: head(model, parts.first, n),
    second: head(model, parts.second, n),
  });
  const length = await largest(most, (n) => fits(short(n)));
  if (length < 1)
    throw new IsrDpoError(
      "CONTEXT_OVERFLOW",
      `the judge's prompt of ${JSON.stringify(parts.question.slice(0, 60))} does not fit into ${limit} tokens, even without answers`,
      {
        hint: "leave the question out, or shorten the judge's prompt",
      },
    );
  return { messages: make(short(length)), cut: true };
}

/** A prompt for the next context within `limit` tokens: the previous one loses its tail at a sentence. */
export async function fitContextPrompt(
  model: VideoLM,
  prompts: Prompts,
  media: Media,
  previous: string | null,
  limit: number,
): Promise<FittedPrompt> {
  const whole = contextPrompt(prompts, media, previous);
  if (previous === null || (await promptTokens(model, whole)) <= limit) return { messages: whole, cut: false };
  const sentences = sentencesOf(previous);
  const make = (n: number) => contextPrompt(prompts, media, n > 0 ? sentences.slice(0, n).join("").trimEnd() : null);
  const kept = await largest(sentences.length, async (n) => (await promptTokens(model, make(n))) <= limit);
  return { messages: make(Math.max(0, kept)), cut: true };
}

/** Tokens that any question of a run may have without anything being cut. */
export const provenQuestion = 64;

export interface Budgets {
  context: number;
  response: number;
  /** Longest reply of the judge in tokens. */
  verdict: number;
  /** Tokens that a question may have without anything being cut. */
  question: number;
}

/**
 * Proves that prompts of full length fit: visual tokens, template, instruction, question, context and both responses, and the
 * answer. INVALID_CONFIG with the numbers where a sum is above the context window.
 */
export async function proveBudgets(
  model: VideoLM,
  prompts: Prompts,
  b: Budgets,
  withContext: boolean,
  media: Media = "budget", // described, never opened
): Promise<void> {
  const window = model.info.contextLength;
  const bare = { context: withContext ? "" : null, question: "", first: "", second: "" };
  const sums: [string, number, number[]][] = [
    ["response", await promptTokens(model, responsePrompt(prompts, media, "")), [b.question, b.response]],
    [
      "judge",
      await promptTokens(model, judgePrompt(prompts, media, bare)),
      [b.question, withContext ? b.context : 0, b.response, b.response, b.verdict],
    ],
  ];
  if (withContext)
    sums.push(["context", await promptTokens(model, contextPrompt(prompts, media, "")), [b.context, b.context]]);
  for (const [name, fixed, parts] of sums) {
    const sum = parts.reduce((a, x) => a + x, fixed);
    if (sum <= window) continue;
    throw new IsrDpoError(
      "INVALID_CONFIG",
      `the ${name} prompt needs ${fixed} + ${parts.join(" + ")} = ${sum} tokens, and the context window has ${window}`,
      { hint: "lower context.maxTokens or response.maxTokens", detail: { prompt: name, fixed, parts, window } },
    );
  }
}
