// One group of videos: two responses per sample, one context per video, then the judge, in this order. Each phase is one call,
// so that what is computed together depends on the group alone. The result is the group's records; nothing is written here.
import type { IterationEvent } from "../train/run-events.js";
import { join } from "node:path";
import type { Sample } from "../data/read-samples.js";
import { asyncDispose } from "../base/addon.js";
import { type IsrDpoError, isIsrDpoError } from "../base/errors.js";
import {
  compareBoth,
  compareOnce,
  decide,
  enforce,
  type Judge,
  type JudgeItem,
  swapped,
  type Verdict,
} from "../judge/judge.js";
import { selfJudge } from "../judge/self-judge.js";
import type { VideoLM } from "../model/video-lm.js";
import type { Session } from "../model/session.js";
import type { GroupEnd, JournalRecord } from "../runfolder/journal-records.js";
import type { Completion, GenerateRequest, Media } from "../base/types.js";
import {
  type FittedPrompt,
  fitContextPrompt,
  fitJudgePrompt,
  fitResponsePrompt,
  mediaFaults,
  verdictTokens,
} from "./prompt-budget.js";
import type { Group, VideoSamples } from "./video-groups.js";
import { lookOf, type LookRule, type Purpose } from "./frame-policy.js";
import { type Prompts, responsePrompt } from "./method-prompts.js";
import type { RunSettings } from "./iteration-settings.js";

export type GroupRecord = Exclude<JournalRecord, GroupEnd>;

export interface Generation {
  model: VideoLM;
  settings: RunSettings;
  prompts: Prompts;
  looks: LookRule;
  iteration: number;
  /** Contexts are written in this iteration. */
  writes: boolean;
  /** The description of a video that its next context starts from, or with `fixed` the context itself; null: none. */
  previous(video: string): string | null;
  /** "self", or somebody else. */
  judge: "self" | Judge;
  /** What was lost or damaged of a file that was opened; undefined: nothing. */
  damageOf(path: string): Damage | undefined;
  signal: AbortSignal;
}

/** Lost and damaged frames of a video, among those that were examined. */
export interface Damage {
  lost: number;
  damaged: number;
  frames: number;
}

/** What became of a sample, for events. */
export type Outcome = Omit<Extract<IterationEvent, { type: "pair" }>, "type" | "iteration">;

export interface GroupResult {
  records: GroupRecord[];
  outcomes: Outcome[];
  /** Comparisons that the judge was asked for, each order counted. */
  judgeCalls: number;
}

/** What tells one judgement of a group from another. */
const shownKey = ({ sample, responses }: JudgeItem): string => JSON.stringify([sample.id, responses[0]]);

class GroupRun {
  readonly #g: Generation;
  readonly #session: Session;
  readonly #records: GroupRecord[] = [];
  readonly #outcomes: Outcome[] = [];
  readonly #cutContexts = new Set<string>();
  /** The judge's prompts by sample and the answer that they show first. */
  readonly #judgements = new Map<string, FittedPrompt>();
  #judgeCalls = 0;

  constructor(g: Generation, session: Session) {
    this.#g = g;
    this.#session = session;
  }

  #media(video: string, key: string, purpose: Purpose): Media {
    const { settings, looks, iteration } = this.#g;
    const sample = lookOf(looks, key, purpose, iteration);
    return { kind: "video", path: join(settings.videos, video), ...(sample === undefined ? {} : { sample }) };
  }

  /** All looks at a video that this group needs. */
  #looks({ video, samples }: VideoSamples): Media[] {
    const all = [
      ...samples.map((s) => this.#media(video, s.id, "response")),
      ...(this.#g.writes ? [this.#media(video, video, "context")] : []),
      ...(this.#g.judge === "self" ? samples.map((s) => this.#media(video, s.id, "judge")) : []),
    ];
    return [...new Map(all.map((m) => [JSON.stringify(m), m])).values()];
  }

  /** Opens what will be looked at; a video that cannot be read is skipped with its samples, or ends the run. */
  async #readable(videos: readonly VideoSamples[]): Promise<VideoSamples[]> {
    const good: VideoSamples[] = [];
    for (const each of videos) {
      try {
        for (const media of this.#looks(each)) await this.#g.model.encode(media, { signal: this.#g.signal });
        const damage = this.#g.damageOf(join(this.#g.settings.videos, each.video));
        if (damage) this.#records.push({ type: "damage", video: each.video, ...damage });
        good.push(each);
      } catch (e) {
        const fault = isIsrDpoError(e) && mediaFaults.includes(e.code);
        if (!fault || this.#g.settings.video.onError === "fail") throw e;
        this.#skipVideo(each, e as IsrDpoError);
      }
    }
    return good;
  }

  #skipVideo({ video, samples }: VideoSamples, e: IsrDpoError): void {
    const message = e.message.replaceAll(join(this.#g.settings.videos, video), video); // the journal holds no path of this machine
    this.#records.push({ type: "skip", video, code: e.code, message });
    for (const { id } of samples) this.#conclude(id, { sample: id, status: "skipped" });
  }

  /** Whether the sample's question fits where `prove` looks; one that does not is skipped and counted. */
  async #fits({ id }: Sample, prove: () => Promise<unknown>): Promise<boolean> {
    try {
      await prove();
      return true;
    } catch (e) {
      if (!isIsrDpoError(e, "CONTEXT_OVERFLOW")) throw e;
      this.#records.push({ type: "skip", sample: id, code: e.code, message: e.message });
      this.#conclude(id, { sample: id, status: "skipped" });
      return false;
    }
  }

  /** Leaves out questions that do not fit into the answering prompt. */
  async #answerable(videos: readonly VideoSamples[]): Promise<VideoSamples[]> {
    const { model, prompts, settings } = this.#g;
    const limit = model.info.contextLength - settings.response.maxTokens;
    const left: VideoSamples[] = [];
    for (const { video, samples } of videos) {
      const fitting: Sample[] = [];
      for (const s of samples) {
        const media = this.#media(video, s.id, "response");
        if (await this.#fits(s, () => fitResponsePrompt(model, prompts, media, s.question, limit))) fitting.push(s);
      }
      left.push({ video, samples: fitting });
    }
    return left;
  }

  #conclude(sample: string, outcome: Outcome, chosen?: 0 | 1): void {
    enforce(sample, outcome.status, this.#g.settings.judge);
    this.#records.push({ type: "pair", sample, status: outcome.status, ...(chosen === undefined ? {} : { chosen }) });
    this.#outcomes.push(outcome);
  }

  #draw(kind: "rsp" | "ctx", name: string, again = false): Pick<GenerateRequest, "id" | "seed" | "randomStream"> {
    const { settings, iteration } = this.#g;
    return {
      id: `${kind}/${name}${again ? "/again" : ""}`,
      seed: settings.seed,
      randomStream: `${iteration}/${kind}/${name}${again ? "/again" : ""}`,
    };
  }

  #responseRequest(sample: Sample, again: boolean): GenerateRequest {
    const { settings, prompts } = this.#g;
    return {
      ...this.#draw("rsp", sample.id, again),
      ...settings.response,
      prompt: responsePrompt(prompts, this.#media(sample.video, sample.id, "response"), sample.question),
      n: 2,
    };
  }

  async #contextRequest(video: string): Promise<GenerateRequest> {
    const { model, settings, prompts } = this.#g;
    const limit = model.info.contextLength - settings.context.maxTokens;
    const media = this.#media(video, video, "context");
    const { messages, cut } = await fitContextPrompt(model, prompts, media, this.#g.previous(video), limit);
    if (cut) this.#cutContexts.add(video);
    const { maxTokens, temperature, topP } = settings.context;
    return { ...this.#draw("ctx", video), maxTokens, temperature, topP, prompt: messages };
  }

  /** Phase A: all responses and contexts of the group. */
  async #sample(videos: readonly VideoSamples[]): Promise<Map<string, Completion[]>> {
    const samples = videos.flatMap((v) => v.samples);
    const contexts = this.#g.writes ? await Promise.all(videos.map((v) => this.#contextRequest(v.video))) : [];
    const requests = [...samples.map((s) => this.#responseRequest(s, false)), ...contexts];
    const found = await this.#ask(requests);
    if (this.#g.settings.judge.truncated !== "resample") return found;
    const cutOff = samples.filter((s) => found.get(`rsp/${s.id}`)!.some((c) => c.finishReason === "length"));
    const again = await this.#ask(cutOff.map((s) => this.#responseRequest(s, true)));
    for (const s of cutOff) found.set(`rsp/${s.id}`, again.get(`rsp/${s.id}/again`)!);
    return found;
  }

  async #ask(requests: readonly GenerateRequest[]): Promise<Map<string, Completion[]>> {
    const found = new Map<string, Completion[]>();
    if (requests.length === 0) return found;
    for (const c of await this.#session.generate(requests, { signal: this.#g.signal }))
      found.set(c.request, [...(found.get(c.request) ?? []), c]);
    return found;
  }

  #judge(): Judge {
    const { judge, model, settings, prompts } = this.#g;
    if (judge !== "self") return judge;
    return selfJudge({
      model,
      generator: this.#session,
      method: settings.judge.method,
      labels: prompts.judge.labels,
      maxTokens: verdictTokens,
      prompt: async (item) => this.#judgements.get(shownKey(item))!.messages,
    });
  }

  /** The prompts of an item in the orders that are asked, for the model as judge. */
  async #fitJudgements(item: JudgeItem): Promise<void> {
    const { model, prompts, settings, judge } = this.#g;
    if (judge !== "self") return;
    const limit = model.info.contextLength - verdictTokens;
    for (const shown of settings.judge.orders === "both" ? [item, swapped(item)] : [item]) {
      const { sample, context, responses } = shown;
      const media = this.#media(sample.video, sample.id, "judge");
      const parts = { context, question: sample.question, first: responses[0], second: responses[1] };
      this.#judgements.set(shownKey(shown), await fitJudgePrompt(model, prompts, media, parts, limit));
    }
  }

  /** Phase B: verdicts of what can be judged, and the status of every sample. */
  async #settle(videos: readonly VideoSamples[], found: ReadonlyMap<string, Completion[]>): Promise<void> {
    const { settings } = this.#g;
    const items: JudgeItem[] = [];
    for (const { video, samples } of videos) {
      const context = this.#context(video, found);
      for (const sample of samples) {
        const completions = found.get(`rsp/${sample.id}`)!;
        const [a, b] = completions as [Completion, Completion];
        const cutOff = settings.judge.truncated !== "keep" && completions.some((c) => c.finishReason === "length");
        const same = a.text === b.text; // between the same words there is nothing to prefer, whatever their tokens
        const bare = { sample: sample.id, ...(context === null ? {} : { context }) };
        if (cutOff) this.#conclude(sample.id, { ...bare, status: "truncated" });
        else if (same) this.#conclude(sample.id, { ...bare, status: "identical" });
        else {
          const item: JudgeItem = { sample, context, responses: [a.text, b.text] };
          if (await this.#fits(sample, () => this.#fitJudgements(item))) items.push(item);
        }
      }
    }
    const o = { signal: this.#g.signal };
    const judge = this.#judge();
    this.#judgeCalls += items.length * (settings.judge.orders === "both" ? 2 : 1);
    const verdicts: Verdict[][] =
      items.length === 0
        ? []
        : settings.judge.orders === "both"
          ? await compareBoth(judge, items, o)
          : (await compareOnce(judge, items, o)).map((v) => [v]);
    items.forEach((item, i) => {
      this.#verdict(item, verdicts[i]!);
    });
  }

  #context(video: string, found: ReadonlyMap<string, Completion[]>): string | null {
    const text = this.#g.writes ? found.get(`ctx/${video}`)![0]!.text : this.#g.previous(video);
    return text?.trim() || null; // trimmed, so that it is the same text whether it is new or read back
  }

  #verdict(item: JudgeItem, verdicts: readonly Verdict[]): void {
    const { sample, context, responses } = item;
    verdicts.forEach(({ prefer, margin, raw }, order) => {
      const shown = order === 0 ? item : swapped(item);
      this.#records.push({
        type: "verdict",
        sample: sample.id,
        order,
        choice: prefer === null ? "none" : String(prefer),
        ...(margin === undefined ? {} : { margin }),
        ...(raw === undefined ? {} : { raw }),
        ...(this.#judgements.get(shownKey(shown))?.cut ? { cut: true } : {}),
      });
    });
    const decision = decide(verdicts, this.#g.settings.judge);
    const { status, chosen, margin } = decision;
    const texts = chosen === undefined ? {} : { chosen: responses[chosen], rejected: responses[1 - chosen]! };
    const about = { ...(margin === undefined ? {} : { margin }), ...(context === null ? {} : { context }) };
    this.#conclude(sample.id, { sample: sample.id, status, ...texts, ...about }, chosen);
  }

  #note(videos: readonly VideoSamples[], found: ReadonlyMap<string, Completion[]>): void {
    for (const { video, samples } of videos) {
      const [context] = found.get(`ctx/${video}`) ?? [];
      const cut = this.#cutContexts.has(video) ? ({ cut: true } as const) : {};
      if (context) this.#records.push({ type: "ctx", video, ids: Array.from(context.ids), text: context.text, ...cut });
      for (const { id } of samples)
        for (const { copy, ids, text, finishReason: end } of found.get(`rsp/${id}`)!)
          this.#records.push({ type: "rsp", sample: id, copy, ids: Array.from(ids), text, end });
    }
  }

  async run(group: Group): Promise<GroupResult> {
    const videos = await this.#answerable(await this.#readable(group.videos));
    const found = await this.#sample(videos);
    this.#note(videos, found);
    await this.#settle(videos, found);
    return { records: this.#records, outcomes: this.#outcomes, judgeCalls: this.#judgeCalls };
  }
}

/** Samples, describes and judges one group. Its session, and with it the prefixes, ends with it. */
export async function runGroup(group: Group, g: Generation): Promise<GroupResult> {
  const session = g.model.session();
  try {
    return await new GroupRun(g, session).run(group);
  } finally {
    await session[asyncDispose]();
  }
}
