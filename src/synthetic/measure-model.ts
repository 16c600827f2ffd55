// Measures a model on the synthetic world: its answers against the truth, and its judgement under contexts of known quality.
import { wordCount } from "../base/counts.js";
import { contextPrompt, judgePrompt, responsePrompt } from "../iterate/method-prompts.js";
import { selfJudge } from "../judge/self-judge.js";
import type { Judge } from "../judge/judge.js";
import type { VideoLM } from "../model/video-lm.js";
import type { Cancel, Media } from "../base/types.js";
import { shots } from "./clip.js";
import { worldPrompts } from "./world-prompts.js";
import { Random } from "./seeded-draws.js";
import {
  shotMedia,
  trueCaption,
  type WorldSample,
  type WorldSet,
  worldSamples,
  wrongCaptions,
} from "./world-samples.js";
import { type Score, type Summary, scoreAnswer, summarise, truthValue } from "./truth-score.js";
import { readable, textOf } from "./clip-words.js";

/** Longest texts of the world, in words: answers, and contexts. */
export const answerTokens = 50;

export interface MeasureOptions extends Cancel {
  /** Default 0. */
  seed?: number | bigint;
  /** Temperature of sampled answers; default 0.7. */
  temperature?: number;
}

type Ask = { sample: WorldSample; shot: number };

class Measure {
  readonly samples: readonly WorldSample[];
  readonly #media = new Map<string, Media>();

  constructor(
    readonly model: VideoLM,
    readonly set: WorldSet,
    readonly o: MeasureOptions,
  ) {
    this.samples = worldSamples(set);
  }

  get cancel(): Cancel {
    return this.o.signal ? { signal: this.o.signal } : {};
  }

  /** One object a shot, so that the engine keeps its features. */
  look({ sample, shot }: Ask): Media {
    const key = `${sample.index}/${shot}`;
    const media = this.#media.get(key) ?? shotMedia(this.set, sample.index, shot);
    this.#media.set(key, media);
    return media;
  }

  /** A shot of each sample's clip, drawn for one purpose. */
  shotsFor(purpose: string): number[] {
    return this.samples.map((s) => new Random("look", this.o.seed ?? 0, purpose, s.id).below(shots));
  }

  async answers(temperature: number, n: number, randomStream: string): Promise<string[][]> {
    const done = await this.model.generate(
      this.samples.map((sample) => ({
        id: sample.id,
        prompt: responsePrompt(worldPrompts, this.look({ sample, shot: sample.shot }), sample.question),
        maxTokens: answerTokens,
        ...{ temperature, n, seed: this.o.seed ?? 0, randomStream: `${randomStream}/${sample.id}` },
      })),
      this.cancel,
    );
    return this.samples.map((_, i) => done.slice(i * n, (i + 1) * n).map((c) => c.text));
  }

  /** A greedy look at each clip over the context before; unreadable sentences are left out. */
  async contexts(before: readonly (string | null)[], purpose: string): Promise<(string | null)[]> {
    const looks = this.shotsFor(purpose);
    const done = await this.model.generate(
      this.samples.map((sample, i) => ({
        id: sample.id,
        prompt: contextPrompt(worldPrompts, this.look({ sample, shot: looks[i]! }), before[i]!),
        maxTokens: answerTokens,
      })),
      this.cancel,
    );
    return done.map((c) => textOf(readable(c.text)) || null);
  }

  scores(texts: readonly string[]): Score[] {
    return texts.map((text, i) => {
      const { clip, look, asked } = this.samples[i]!;
      return scoreAnswer(text, clip.things, look, asked.colour);
    });
  }
}

/** Greedy and sampled answers to the questions of a set, against the truth. */
export async function measureAnswers(
  model: VideoLM,
  set: WorldSet,
  o: MeasureOptions = {},
): Promise<{ greedy: Summary; sampled: Summary }> {
  const m = new Measure(model, set, o);
  const of = async (temperature: number, randomStream: string) =>
    summarise(m.scores((await m.answers(temperature, 1, randomStream)).map(([text]) => text!)));
  return { greedy: await of(0, "greedy"), sampled: await of(o.temperature ?? 0.7, "sampled") };
}

export interface Alignment {
  /** Pairs of answers of unequal truth. */
  pairs: number;
  /** Share in which the judge prefers the truer one, orders averaged; and in the order shown first alone. */
  both: number;
  one: number;
  /** Share of pairs in which both orders agree. */
  swap: number;
  /** Share of pairs of unequal length in which it prefers the longer one; and the truth does. */
  longer: number;
  truthLonger: number;
  /** Facts of the contexts against the whole clip; of the true captions 1. */
  contextPrecision: number | null;
  contextRecall: number | null;
}

export type ContextKind = "none" | "one look" | "two looks" | "three looks" | "four looks" | "truth" | "another clip's";

async function contextsOf(m: Measure): Promise<Map<ContextKind, (string | null)[]>> {
  const kinds = new Map<ContextKind, (string | null)[]>([["none", m.samples.map(() => null)]]);
  let before = kinds.get("none")!;
  for (const kind of ["one look", "two looks", "three looks", "four looks"] as const) {
    before = await m.contexts(before, kind);
    kinds.set(kind, before);
  }
  kinds.set("truth", m.samples.map(trueCaption));
  return kinds.set("another clip's", wrongCaptions(m.samples));
}

const share = (list: readonly boolean[]): number => list.filter(Boolean).length / Math.max(1, list.length);

/**
 * How often the model's judgement of its own sampled answers agrees with the truth, by what it is given as context. The
 * judge looks at one drawn shot of the clip, the same under every context.
 */
export async function measureJudge(
  model: VideoLM,
  set: WorldSet,
  o: MeasureOptions = {},
): Promise<Map<ContextKind, Alignment>> {
  const m = new Measure(model, set, o);
  const pairs = (await m.answers(o.temperature ?? 0.7, 2, "pair")) as [string, string][];
  const truth = pairs.map((pair, i) => {
    const [a, b] = pair.map((t) => truthValue(t, m.samples[i]!.clip.things, m.samples[i]!.asked.colour)) as [
      number,
      number,
    ];
    return a - b;
  });
  const decided = m.samples.map((_, i) => i).filter((i) => truth[i] !== 0);
  const looks = m.shotsFor("judge");
  const indexOf = new Map(m.samples.map((s, i) => [s.id, i]));
  const judge = selfJudge({
    model,
    generator: model,
    method: "logprob",
    labels: worldPrompts.judge.labels,
    prompt: async ({ sample, context, responses: [first, second] }) => {
      const i = indexOf.get(sample.id)!;
      const media = m.look({ sample: m.samples[i]!, shot: looks[i]! });
      return judgePrompt(worldPrompts, media, { context, question: sample.question, first, second });
    },
  });
  const found = new Map<ContextKind, Alignment>();
  for (const [kind, contexts] of await contextsOf(m))
    found.set(kind, await alignment(m, judge, { pairs, contexts, truth, decided }));
  return found;
}

interface Asked {
  pairs: readonly (readonly [string, string])[];
  contexts: readonly (string | null)[];
  truth: readonly number[];
  decided: readonly number[];
}

async function alignment(m: Measure, judge: Judge, { pairs, contexts, truth, decided }: Asked): Promise<Alignment> {
  const margins = async (swap: boolean) => {
    const items = decided.map((i) => {
      const [a, b] = pairs[i]!;
      return { sample: m.samples[i]!, context: contexts[i]!, responses: (swap ? [b, a] : [a, b]) as [string, string] };
    });
    return (await judge.compare(items, m.cancel)).map((v) => v.margin!);
  };
  const [shown, swapped] = [await margins(false), (await margins(true)).map((x) => -x)];
  const mean = shown.map((x, k) => (x + swapped[k]!) / 2);
  const agrees = (list: readonly number[]) =>
    share(list.map((x, k) => Math.sign(x) === Math.sign(truth[decided[k]!]!)));
  const lengths = decided.map((i) => wordCount(pairs[i]![0]) - wordCount(pairs[i]![1]));
  const unequal = decided.map((_, k) => k).filter((k) => lengths[k] !== 0);
  const longer = (value: (k: number) => number) =>
    share(unequal.map((k) => Math.sign(value(k)) === Math.sign(lengths[k]!)));
  const texts = decided.map((i) => contexts[i] ?? "");
  const facts = summarise(
    texts.map((text, k) => {
      const { things } = m.samples[decided[k]!]!.clip;
      return scoreAnswer(text, things, things, null);
    }),
  );
  const any = texts.some((text) => text !== "");
  return {
    pairs: decided.length,
    ...{ both: agrees(mean), one: agrees(shown) },
    swap: share(shown.map((x, k) => Math.sign(x) === Math.sign(swapped[k]!))),
    ...{ longer: longer((k) => mean[k]!), truthLonger: longer((k) => truth[decided[k]!]!) },
    ...{ contextPrecision: any ? facts.precision : null, contextRecall: any ? facts.recall : null },
  };
}
