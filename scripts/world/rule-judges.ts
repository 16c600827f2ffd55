// Judges that go by a rule: bounds and controls beside the model's own judgement.
import { IsrDpoError } from "../../src/base/errors.js";
import { judgePrompt } from "../../src/iterate/method-prompts.js";
import type { Judge, JudgeItem, Verdict } from "../../src/judge/judge.js";
import { selfJudge } from "../../src/judge/self-judge.js";
import type { VideoLM } from "../../src/model/video-lm.js";
import type { Media } from "../../src/base/types.js";
import { worldPrompts } from "../../src/synthetic/world-prompts.js";
import { Random } from "../../src/synthetic/seeded-draws.js";
import type { WorldSample } from "../../src/synthetic/world-samples.js";
import { truthValue } from "../../src/synthetic/truth-score.js";

type Rule = (item: JudgeItem) => number;

/** A margin decides; equal is a tie. */
function judgeBy(id: string, rule: Rule): Judge {
  return {
    id,
    async compare(items) {
      return items.map((item): Verdict => {
        const margin = rule(item);
        return { prefer: margin > 0 ? 0 : margin < 0 ? 1 : null, margin };
      });
    },
  };
}

/** Knows what is on screen: prefers the answer of higher truth value. INVALID_ARGUMENT for samples that it does not know. */
export function truthJudge(samples: readonly WorldSample[]): Judge {
  const known = new Map(samples.map((s) => [s.id, s]));
  return judgeBy("world/truth", ({ sample, responses }) => {
    const s = known.get(sample.id);
    if (!s)
      throw new IsrDpoError("INVALID_ARGUMENT", `sample ${sample.id}: expected one whose truth is known, got another`);
    const [first, second] = responses.map((r) => truthValue(r, s.clip.things, s.asked.colour)) as [number, number];
    return first - second;
  });
}

/** Blind: a draw from seed, sample and the two answers, the same for either order of them. */
export function randomJudge(seed: number | bigint = 0): Judge {
  return judgeBy(`world/random/${seed}`, ({ sample, responses: [first, second] }) => {
    if (first === second) return 0;
    const swapped = first > second;
    const [a, b] = swapped ? [second, first] : [first, second];
    const prefersA = new Random("judge", seed, sample.id, JSON.stringify([a, b])).chance(0.5);
    return prefersA === swapped ? -1 : 1;
  });
}

const words = (text: string): number => text.split(/\s+/).filter((w) => w !== "" && w !== ".").length;

/** Always the answer of fewer words. */
export const shorterJudge: Judge = judgeBy(
  "world/shorter",
  ({ responses: [first, second] }) => words(second) - words(first),
);

/** What a model is shown when it judges a sample by a caption of the caller's. */
export interface CaptionSource {
  caption(sample: string): string;
  media(sample: string): Media;
}

/** The model as judge, by log-probs, with given captions in place of the contexts of the run. */
export const captionJudge = (id: string, model: VideoLM, { caption, media }: CaptionSource): Judge => {
  const { compare } = selfJudge({
    ...{ model, generator: model, method: "logprob", labels: worldPrompts.judge.labels },
    prompt: async ({ sample, responses: [first, second] }) =>
      judgePrompt(worldPrompts, media(sample.id), {
        ...{ context: caption(sample.id), question: sample.question, first, second },
      }),
  });
  return { id, compare };
};
