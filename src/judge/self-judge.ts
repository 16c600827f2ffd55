// The model as its own judge: it writes its choice, or the log-probs of the two labels are compared.
import { sum } from "../base/statistics.js";
import { IsrDpoError } from "../base/errors.js";
import type { VideoLM } from "../model/video-lm.js";
import type { Generator } from "../model/session.js";
import type { Cancel, Message, Sequence } from "../base/types.js";
import type { Judge, JudgeItem, Verdict } from "./judge.js";

/** Options of a model that judges. */
export interface SelfJudgeOptions {
  /** The model that judges. */
  model: VideoLM;
  /** The model, or a session of it that keeps the prefixes of the videos. */
  generator: Generator;
  /** "text": the model writes a label. "logprob": the label with the higher log-prob is its choice, and the difference its margin. */
  method: "text" | "logprob";
  /** The replies in favour of the first and of the second response. */
  labels: readonly [string, string];
  /** Makes the prompt of an item, which must fit into the context window. */
  prompt(item: JudgeItem): Promise<readonly Message[]>;
  /** Longest reply in tokens, for method "text"; default 8. */
  maxTokens?: number;
}

const quoted = (label: string) => label.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const asWord = (label: string) => `(?<![\\p{L}\\p{N}])${quoted(label)}(?![\\p{L}\\p{N}])`;

/**
 * The label that a text chooses: the only one in it, as a word of its own, or the one that it begins with as a sentence
 * ("2.", "Answer 2 is better than answer 1"). null: none, or both without such a beginning ("1 or 2").
 */
export function parseChoice(text: string, labels: readonly [string, string]): 0 | 1 | null {
  const holds = labels.map((label) => new RegExp(asWord(label), "u").test(text));
  if (holds[0] !== holds[1]) return holds[0] ? 0 : 1;
  if (!holds[0]) return null;
  const lead = "[^\\p{L}\\p{N}]*([Tt]he )?(([Aa]nswer|[Rr]esponse|[Oo]ption):? )?";
  const begins = (label: string) => new RegExp(`^${lead}${asWord(label)}["'*)\\]]*(\\s+is\\b|\\s*[.:;!\\n])`, "u");
  const found = labels.map((label) => begins(label).test(text));
  return found[0] === found[1] ? null : found[0] ? 0 : 1;
}

/** Each label behind the prompt: the ids after what both have in common are scored, the end token is not. */
async function labelled(
  model: VideoLM,
  messages: readonly Message[],
  labels: readonly [string, string],
): Promise<[Sequence, Sequence]> {
  const [a, b] = await Promise.all(labels.map((label) => model.sequence(messages, label)));
  const ends = [a!, b!].map((s) => s.lossMask!.lastIndexOf(1)); // the end token
  let common = 0;
  while (common < Math.min(...ends) && a!.ids[common] === b!.ids[common]) common++;
  return [a!, b!].map((s, i): Sequence => {
    const from = Math.max(common, s.lossMask!.indexOf(1));
    if (from >= ends[i]!)
      throw new IsrDpoError("TOKENIZER", `the label ${JSON.stringify(labels[i])} has no token that the other has not`, {
        hint: "choose other labels (judge.labels of the prompts)",
      });
    const ids = Int32Array.from(s.ids).slice(0, ends[i]);
    return { ...s, ids, lossMask: new Uint8Array(ids.length).fill(1, from) };
  }) as [Sequence, Sequence];
}

async function byLogProb(
  o: SelfJudgeOptions,
  prompts: readonly (readonly Message[])[],
  cancel: Cancel,
): Promise<Verdict[]> {
  const sequences = await Promise.all(prompts.map((m) => labelled(o.model, m, o.labels)));
  const found = await o.generator.logProbs(sequences.flat(), cancel);
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
