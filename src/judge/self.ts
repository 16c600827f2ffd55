// The model as its own judge: its choice as text, or the log-probs of the two labels.
import { IsrDpoError } from "../errors.js";
import type { Generator, VideoLM } from "../model.js";
import type { Cancel, Message, Sequence } from "../types.js";
import type { Judge, JudgeItem, Verdict } from "./judge.js";

export interface SelfJudgeOptions {
  model: VideoLM;
  /** The model, or a session of it that holds the videos' prefixes. */
  generator: Generator;
  method: "text" | "logprob";
  labels: readonly [string, string];
  /** The prompt of an item, within the context window. */
  prompt(item: JudgeItem): Promise<readonly Message[]>;
  /** Of the answer, for method text; default 8. */
  maxTokens?: number;
}

/** The label that stands first in a text, as a word of its own; null: none does. */
export function parseChoice(text: string, labels: readonly [string, string]): 0 | 1 | null {
  const at = labels.map((label) => {
    const quoted = label.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    return text.search(new RegExp(`(?<![\\p{L}\\p{N}])${quoted}(?![\\p{L}\\p{N}])`, "u"));
  });
  const [a, b] = at as [number, number];
  if (a < 0 && b < 0) return null;
  return b < 0 || (a >= 0 && a < b) ? 0 : 1;
}

/** A prompt with a label behind it, of which the label's ids are scored and the end token is not. */
async function labelled(model: VideoLM, messages: readonly Message[], label: string): Promise<Sequence> {
  const s = await model.sequence(messages, label);
  const scored = s.scored!.slice();
  const last = scored.lastIndexOf(1);
  scored[last] = 0;
  if (!scored.includes(1))
    throw new IsrDpoError("TOKENIZER", `the label ${JSON.stringify(label)} has no token of its own`, {
      hint: "choose other labels (judge.labels of the prompts)",
    });
  const length = scored.lastIndexOf(1) + 1;
  return { ...s, ids: Int32Array.from(s.ids).slice(0, length), scored: scored.slice(0, length) };
}

const sum = (x: Float32Array) => x.reduce((a, b) => a + b, 0);

async function byLogProb(
  o: SelfJudgeOptions,
  prompts: readonly (readonly Message[])[],
  cancel: Cancel,
): Promise<Verdict[]> {
  const sequences = await Promise.all(prompts.flatMap((m) => o.labels.map((label) => labelled(o.model, m, label))));
  const found = await o.generator.logProbs(sequences, cancel);
  return prompts.map((_, i) => {
    const margin = sum(found[2 * i]!) - sum(found[2 * i + 1]!);
    return { prefer: margin > 0 ? 0 : margin < 0 ? 1 : null, margin };
  });
}

async function byText(
  o: SelfJudgeOptions,
  prompts: readonly (readonly Message[])[],
  cancel: Cancel,
): Promise<Verdict[]> {
  const requests = prompts.map((prompt) => ({ prompt, maxTokens: o.maxTokens ?? 8 }));
  const completions = await o.generator.generate(requests, cancel);
  return completions.map(({ text }) => ({ prefer: parseChoice(text, o.labels), raw: text }));
}

/** The model as judge. Its verdicts do not depend on which items are asked together. */
export function selfJudge(o: SelfJudgeOptions): Judge {
  return {
    id: `self/${o.method}`,
    async compare(items, cancel = {}) {
      if (items.length === 0) return [];
      const prompts = await Promise.all(items.map((item) => o.prompt(item)));
      return o.method === "logprob" ? byLogProb(o, prompts, cancel) : byText(o, prompts, cancel);
    },
  };
}
