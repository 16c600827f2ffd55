// One iteration: generate -> score -> train -> save -> done. Each stage reads what the one before has left on disk. The same
// call resumes after a killed process, and ends with the same bytes.
import { rm } from "node:fs/promises";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { asyncDispose } from "../base/addon.js";
import { percent } from "../base/counts.js";
import { deviceKind } from "../base/device.js";
import { IsrDpoError } from "../base/errors.js";
import type { Judge } from "../judge/judge.js";
import { internalsOf, loadModel } from "../model/model.js";
import type { VideoLM } from "../model/video-lm.js";
import { newestStep } from "../runfolder/checkpoints.js";
import { modelContents } from "../runfolder/content-digest.js";
import { makeFolders, readState } from "../base/atomic-files.js";
import { guarded } from "../base/file-errors.js";
import { Journal } from "../runfolder/journal.js";
import { checkMade, madeFiles } from "../runfolder/made-model.js";
import { samePlace } from "../runfolder/path-overlap.js";
import { GroupReader } from "../runfolder/journal-records.js";
import { moveStage, readStage, type StageFile } from "../runfolder/stage-file.js";
import { openTrainer, type Trainer } from "../train/trainer.js";
import { FolderWork } from "../train/open-resources.js";
import type { IterationResult } from "../train/run-events.js";
import { ItemSet, type StoredItem } from "../train/item-store.js";
import { stepPlan } from "../train/item-order.js";
import { type Emit, Progress, staged } from "../train/progress.js";
import { proveRate } from "../train/learning-rate.js";
import { ReferenceStore } from "../train/reference-logprobs.js";
import { scoreReferences } from "../train/score-references.js";
import { mediaOpener } from "../train/media-ahead.js";
import { metricsOf, peakOf, trainSteps } from "../train/train-steps.js";
import { remarksOf } from "../model/media-registry.js";
import type { LoadOptions, Media, MediaReport } from "../base/types.js";
import {
  type Censored,
  censoredOf,
  type ChosenPair,
  countsOf,
  guard,
  pairsOf,
  type Records,
  writeExports,
} from "./iteration-exports.js";
import { evaluateSlice, unasked } from "./evaluate-models.js";
import type { RunFolder } from "./iteration-folder.js";
import { type Damage, type Generation, type Outcome, runGroup } from "./generate-group.js";
import { type Group, groupsOf } from "./video-groups.js";
import { lookOf, type LookRule, lookRuleOf } from "./frame-policy.js";
import { plainPrompt, type Prompts, promptsHash, responsePrompt } from "./method-prompts.js";
import { type Before, contextsOf, said } from "./previous-contexts.js";
import { preflight, proveWindow } from "./preflight.js";
import { settleStart } from "./iteration-start.js";
import { StoredRecords } from "./iteration-records.js";
import { loadingOf, type RunSettings } from "./iteration-settings.js";

const stages = ["generate", "score", "train", "save", "done"] as const;
type IterationStage = (typeof stages)[number];

export interface IterationInput {
  folder: RunFolder;
  settings: RunSettings;
  prompts: Prompts;
  judge: "self" | Judge;
  /** Index of the model that is used. */
  iteration: number;
  /** Folder of that model. */
  model: string;
  load: LoadOptions;
  emit: Emit;
  signal: AbortSignal;
  /** Aborted: end in order, once the group or the step at hand is done. */
  finish: AbortSignal;
}

type Counts = Record<string, number>;

export class Iteration extends FolderWork<IterationResult> {
  readonly #o: IterationInput;
  #resumed = false;
  #judgeCalls = 0;
  readonly #damage = new Map<string, Damage>(); // by path
  #files: Record<string, string> = {}; // hashes of the model's files, without its weights

  constructor(o: IterationInput) {
    super(o.folder.iteration(o.iteration));
    this.#o = o;
  }

  protected override async work(): Promise<IterationResult> {
    await makeFolders(this.dir);
    const found = await readStage<IterationStage>(this.dir, stages);
    this.#resumed = found !== null;
    if (found?.stage === "done") {
      const later = await readState(join(this.#o.folder.iteration(this.#o.iteration + 1), "stage.json"));
      if (later === null) await checkMade(this.at("model")); // nothing more is computed from earlier models
      await this.#forgetOptimizer(); // an earlier process may have ended before it removed it
      await this.#evaluateFinished();
      return this.#result(found, null);
    }
    const model = await this.#load();
    const before = await this.#before();
    const groups = groupsOf(this.#o.folder.samples, this.#o.settings.groupVideos ?? 1);
    if ((found?.stage ?? "generate") === "generate") await proveWindow({ model, ...this.#preflight });
    await this.#enter(model);
    await this.#start(model, groups, before);
    await this.#evaluate(model, this.#o.iteration); // does nothing if the iteration before has evaluated this model
    let at: IterationStage = found?.stage ?? "generate";
    let facts: Counts = (found?.counts as Counts | undefined) ?? {};
    if (found === null) await moveStage(this.dir, stages, "generate");
    if (at === "generate") {
      facts = await this.#generate(model, groups, before);
      at = await this.#move("score", facts);
    }
    const hash = await this.#learn(model, before, at, facts);
    await this.#evaluate(model, this.#o.iteration + 1);
    const files = await madeFiles(this.at("model"));
    await moveStage(this.dir, stages, "done", { counts: facts, hash, ...files });
    await this.#forgetOptimizer();
    return this.#result({ stage: "done", counts: facts, hash }, model);
  }

  async #move(to: IterationStage, counts: Counts): Promise<IterationStage> {
    await moveStage(this.dir, stages, to, { counts });
    return to;
  }

  async #load(dir = this.#o.model): Promise<VideoLM> {
    const { settings, load, folder, iteration, signal } = this.#o;
    const { templateDate } = folder;
    for (const own of [this.at("model"), join(folder.iteration(iteration - 1), "model")])
      if (await samePlace(dir, own)) await checkMade(dir);
    const contents = await modelContents(dir);
    const loading = { ...loadingOf(settings, folder.dir, load), templateDate, signal };
    const model = await loadModel(dir, { ...loading, onMedia: (report) => this.#media(report) });
    this.closing.keep(model, () => model[asyncDispose]());
    internalsOf(model).inputs.told.add("endOpen"); // with judge.truncated "keep", the run itself makes such answers
    for (const content of contents.values()) await content.unchanged();
    this.#files = Object.fromEntries([...contents].map(([name, { sha256 }]) => [name, sha256]));
    return model;
  }

  /** What has not been asked because `evaluate` came, or was changed, when the iteration was done. */
  async #evaluateFinished(): Promise<void> {
    const { iteration, settings, folder } = this.#o;
    const first = (await folder.iterations())[0] === iteration;
    const models = new Map([
      ...(first ? [[iteration, this.#o.model] as const] : []),
      [iteration + 1, this.at("model")],
    ]);
    for (const index of unasked(folder.dir, settings.evaluate, [...models.keys()])) {
      const dir = models.get(index)!;
      if (existsSync(join(dir, "config.json"))) {
        const model = await this.#load(dir);
        if (index === iteration) await this.#sameModel(model, dir);
        await this.#evaluate(model, index);
      } else
        this.#warn(
          "NOT_EVALUATED",
          `model ${index} cannot be asked evaluate.samples: it is no longer on disk (keep: ${settings.keep})`,
          { model: index },
        );
    }
  }

  /** RUN_MISMATCH for a model that is not the one which the iteration began with. */
  async #sameModel(model: VideoLM, dir: string): Promise<void> {
    const start = await readState(this.at("start.json"));
    const same = (name: string) => ((start?.files ?? {}) as Record<string, string>)[name] === this.#files[name];
    const names = Object.keys({ ...(start?.files as object | undefined), ...this.#files }).filter((n) => !same(n));
    if (start === null || (names.length === 0 && start.model === (await model.hash()))) return;
    throw new IsrDpoError(
      "RUN_MISMATCH",
      `${dir}: expected the model that iteration ${this.#o.iteration} began with, got other content of its ${names.join(", ") || "weights"}`,
      { hint: "give the model that the run began with, or evaluate this one in a run of its own", path: dir },
    );
  }

  /** Notes what a file lost; tells what is unusual, to the caller's own handler where there is one. */
  async #media(report: MediaReport): Promise<void> {
    const { path, lost, damaged = 0, count } = report;
    if (lost + damaged > 0) this.#damage.set(path, { lost, damaged, frames: count + lost });
    const { onMedia } = this.#o.load;
    if (onMedia) return await onMedia(report);
    const remarks = remarksOf(report);
    if (remarks.length > 0) this.#warn("MEDIA", `${path}: ${remarks.join("; ")}`, { path });
  }

  async #evaluate(model: VideoLM, index: number): Promise<void> {
    const { settings, prompts, folder, iteration, emit, signal } = this.#o;
    await evaluateSlice({ model, index, iteration, settings, prompts, dir: folder.dir, emit, signal });
  }

  /** A new folder becomes a run only when what can be tried before it has been: until then everything may be changed. */
  async #enter(model: VideoLM): Promise<void> {
    const { folder } = this.#o;
    if (folder.fresh) await preflight({ model, ...this.#preflight });
    const { isa, device, dtype, family } = model.info;
    const before = await folder.begin({ isa, device: deviceKind(device), dtype, family });
    if (before !== isa)
      this.#warn(
        "ISA_CHANGED",
        `the run was started at level ${before} and goes on at ${isa}: its bits are those of neither`,
        { before, now: isa },
      );
  }

  #warn(code: string, message: string, detail: unknown = {}): void {
    this.#o.emit({ type: "warning", code, message, detail });
  }

  async #before(): Promise<Before> {
    const { folder, settings, iteration } = this.#o;
    const { design } = settings.context;
    if (design === "none") return { writes: false, previous: new Map(), sha256: null };
    const earlier = (await folder.iterations()).filter((t) => t < iteration);
    const found = design === "renew" ? null : await folder.contexts(iteration - 1);
    if (!found && design !== "renew" && earlier.length > 0)
      this.#warn(
        "NO_PREVIOUS_CONTEXTS",
        `iteration ${iteration}: iteration ${iteration - 1} of this folder left no contexts: they are written from nothing`,
        { iteration },
      );
    return {
      writes: design !== "fixed" || !found,
      previous: found?.byVideo ?? new Map(),
      sha256: found?.sha256 ?? null,
    };
  }

  /** start.json: what the iteration starts from. On a later start it must be the same. */
  async #start(model: VideoLM, groups: readonly Group[], before: Before): Promise<void> {
    const { iteration, settings } = this.#o;
    const start = {
      iteration,
      model: await model.hash(),
      files: this.#files,
      context: settings.context.design,
      groups: groups.map((g) => g.videos.map((v) => v.video)),
      previousContexts: before.sha256,
      seed: String(settings.seed),
    };
    await settleStart(this.at("start.json"), start);
  }

  get #looks(): LookRule {
    return lookRuleOf(this.#o.settings);
  }

  get #preflight() {
    const { folder, settings, prompts, signal } = this.#o;
    return { samples: folder.samples, settings, prompts, looks: this.#looks, signal };
  }

  #generation(model: VideoLM, before: Before): Generation {
    const { settings, prompts, iteration, judge, signal } = this.#o;
    const renew = settings.context.design === "renew";
    return {
      model,
      settings,
      prompts,
      looks: this.#looks,
      iteration,
      writes: before.writes,
      previous: (video) => (renew ? null : said(before.previous.get(video))),
      judge,
      damageOf: (path) => this.#damage.get(path),
      signal,
    };
  }

  // ---- generate

  async #generate(model: VideoLM, groups: readonly Group[], before: Before): Promise<Counts> {
    const reader = new GroupReader<undefined>();
    const { journal } = await Journal.open(this.at("journal.0.log"), (record) => void reader.push(record, undefined));
    const done = reader.whole;
    try {
      await staged(this.#o.emit, this.#o.iteration, "generate", done.size > 0, async () => {
        const generation = this.#generation(model, before);
        const samplesOf = (g: Group) => g.videos.reduce((n, v) => n + v.samples.length, 0);
        const finishedSamples = groups.filter((g) => done.has(g.name)).reduce((n, g) => n + samplesOf(g), 0);
        const progress = new Progress(
          this.#o.emit,
          this.#o.iteration,
          "generate",
          this.#o.folder.samples.length,
          finishedSamples,
        );
        let count = finishedSamples;
        for (const group of groups) {
          if (done.has(group.name)) continue;
          this.#o.signal.throwIfAborted();
          this.#o.finish.throwIfAborted();
          const result = await runGroup(group, generation);
          for (const record of result.records) void journal.append(record).catch(() => {}); // endGroup() throws the same failure
          await journal.endGroup(group.name);
          this.#judgeCalls += result.judgeCalls;
          this.#tell(result.outcomes);
          count += samplesOf(group);
          progress.tell(count);
        }
      });
      await journal.sync();
    } finally {
      await journal.close();
    }
    const records = await this.#records();
    const counts = await this.#concluded(model, records, before, records.promptsCut);
    return records.damagedVideos > 0 ? { ...counts, damagedVideos: records.damagedVideos } : counts;
  }

  async #records(): Promise<StoredRecords> {
    const records = await StoredRecords.open(this.at("journal.0.log"));
    return this.closing.keep(records, () => records.close());
  }

  #tell(outcomes: readonly Outcome[]): void {
    for (const outcome of outcomes) this.#o.emit({ type: "pair", iteration: this.#o.iteration, ...outcome });
  }

  /** Counts, guards and the files that are made from the journal. */
  async #concluded(model: VideoLM, records: Records, before: Before, cut: number): Promise<Counts> {
    const { folder, settings, prompts, iteration } = this.#o;
    const counts = countsOf(folder.samples, records);
    const { contexts, of } = contextsOf(records, before);
    const censored = censoredOf(records);
    if (censored) this.#tellCensored(counts.truncated, censored);
    guard(records, folder.samples.length, settings.guards, settings.judge);
    const pairs = () => pairsOf(folder.samples, records, of, settings.judge);
    const left = await writeExports(this.dir, contexts, pairs, {
      iteration,
      seed: settings.seed,
      promptHash: promptsHash(prompts),
      modelHash: await model.hash(),
    });
    if (left > 0)
      this.#warn(
        "NOT_EXPORTED",
        `${left} of the pairs are in pairs.jsonl alone: a text without words, or with half a surrogate pair`,
      );
    if (cut > 0) this.#warn("PROMPTS_CUT", `${cut} prompts were cut to fit into the context window`);
    return { samples: folder.samples.length, ...counts, promptsCut: cut, ...censored };
  }

  #tellCensored(count: number, { truncatedTokens, keptTokens }: Censored): void {
    const all = this.#o.folder.samples.length;
    const { maxTokens } = this.#o.settings.response;
    this.#warn(
      "ANSWERS_DROPPED",
      `${count} of ${all} samples (${percent(count / all)}) were left out because an answer was cut at response.maxTokens ${maxTokens}: ` +
        `their answers have ${truncatedTokens.toFixed(1)} tokens on average, those of the others ${keptTokens.toFixed(1)}`,
      { count, samples: all, truncatedTokens, keptTokens },
    );
  }

  // ---- score, train, save

  async #learn(model: VideoLM, before: Before, from: IterationStage, counts: Counts): Promise<string> {
    const { emit, iteration, signal, finish, settings } = this.#o;
    let at = from;
    await makeFolders(this.at("train"));
    const set = await this.#items(before);
    const plan = stepPlan(set.length, settings.train.pairsPerStep, settings.train.epochs);
    this.#proveRate(plan.totalSteps);
    const trainer = await openTrainer(model, {
      ...settings.trainer,
      totalSteps: settings.trainer.totalSteps ?? plan.totalSteps,
    });
    this.closing.keep(trainer, () => trainer[asyncDispose]());
    const references = await ReferenceStore.open(this.at("refs.f32"));
    this.closing.keep(references, () => references.close());
    const open = mediaOpener(model);
    if (at === "score") {
      const scoring = { trainer, items: set, open, references, batch: 8, iteration, emit, signal, finish };
      await staged(emit, iteration, "score", references.count > 0, () => scoreReferences(scoring));
      at = await this.#move("train", counts);
    }
    if (at === "train") {
      const peak = await peakOf(model);
      await staged(emit, iteration, "train", this.#resumed && from === "train", () =>
        trainSteps({
          ...{ trainer, open, items: set, references, plan },
          seed: settings.seed + BigInt(iteration),
          dir: this.at("train"),
          tensorboard: join(this.#o.folder.dir, "tensorboard", String(iteration)),
          saveEverySteps: settings.train.saveEverySteps ?? Math.ceil(plan.totalSteps / 10),
          evaluator: null,
          iteration,
          peak,
          emit,
          signal,
          finish,
        }),
      );
      at = await this.#move("save", counts);
    } else await this.#reload(trainer, plan.totalSteps);
    const resumed = from === "save";
    const { hash } = await staged(emit, iteration, "save", resumed, () => model.save(this.at("model")));
    return hash;
  }

  /** The pairs may be so few that their only step is one of rate 0. */
  #proveRate(steps: number): void {
    const { trainer, guards } = this.#o.settings;
    try {
      proveRate(trainer, steps, "train");
    } catch (e) {
      const { message, detail } = e as IsrDpoError;
      if (guards.zeroRate === "warn")
        this.#warn("ZERO_RATE", `${message}: model ${this.#o.iteration + 1} is model ${this.#o.iteration}`, detail);
      else
        throw new IsrDpoError("DEGENERATE", `iteration ${this.#o.iteration}: ${message}`, {
          hint: 'the pairs make too few steps for the warm-up: start in a new folder with train.warmupSteps: 0, more epochs or a smaller pairsPerStep; or set guards.zeroRate to "warn" to go on with an unchanged model',
          ...(detail ? { detail } : {}),
        });
    }
  }

  async #reload(trainer: Trainer, step: number): Promise<void> {
    const { newest } = await newestStep(this.at("train"));
    if (newest?.step !== step)
      throw new IsrDpoError(
        "JOURNAL_CORRUPT",
        `${this.at("train")}: expected the checkpoint of step ${step}, got none that holds`,
        {
          hint: "delete stage.json, train/ and refs.f32 of the iteration: it trains again from its journal",
          path: this.at("train"),
        },
      );
    await trainer.load(newest.path, { signal: this.#o.signal });
  }

  /** The pairs as items: sampled ids behind the prompt that they were sampled from, or the question alone. */
  async #items(before: Before): Promise<ItemSet> {
    const all = await this.#records();
    const { folder, settings } = this.#o;
    if ((countsOf(folder.samples, all).pair ?? 0) === 0)
      throw new IsrDpoError("DEGENERATE", "no sample became a pair: there is nothing to train on", {
        hint: "look at the counts of the samples",
      });
    const pairs = pairsOf(folder.samples, all, contextsOf(all, before).of, settings.judge);
    const source = () => this.#trainItems(pairs);
    const set = await ItemSet.gather(source(), this.at("train/items.jsonl"));
    return this.closing.keep(set, () => set.close());
  }

  async *#trainItems(pairs: Iterable<ChosenPair>): AsyncGenerator<StoredItem> {
    const { prompts, settings, iteration } = this.#o;
    const make = settings.train.trainPrompt === "plain" ? plainPrompt : responsePrompt;
    for (const { sample, chosen, rejected } of pairs) {
      const look = lookOf(this.#looks, sample.id, "response", iteration);
      const media: Media = { kind: "video", path: join(settings.videos, sample.video), ...(look && { sample: look }) };
      const [a, b] = [chosen, rejected].map((r) => Int32Array.from(r.ids)) as [Int32Array, Int32Array];
      const item = { id: sample.id, prompt: make(prompts, media, sample.question), chosen: a, rejected: b };
      yield { item, tokens: [a.length, b.length], cut: false };
    }
  }

  /** The next iteration starts from the saved model alone. */
  async #forgetOptimizer(): Promise<void> {
    const train = this.at("train");
    const { newest, bad } = await newestStep(train);
    for (const { path } of [...(newest ? [newest] : []), ...bad])
      await guarded(path, "remove", () => rm(path, { recursive: true, force: true }));
    if (newest) await this.#forgetOptimizer();
  }

  async #result(done: StageFile<IterationStage>, model: VideoLM | null): Promise<IterationResult> {
    const counts = done.counts as Counts;
    return {
      iteration: this.#o.iteration,
      model: this.at("model"),
      hash: String(done.hash),
      pairs: counts.pair ?? 0,
      counts,
      work: model ? { ...model.counters, judgeCalls: this.#judgeCalls } : noWork,
      resumed: this.#resumed,
      metrics: await metricsOf(this.at("train")),
    };
  }
}

const noWork: IterationResult["work"] = {
  decodes: 0,
  towerPasses: 0,
  featureHits: 0,
  featureMisses: 0,
  prefillTokens: 0,
  decodeTokens: 0,
  trainTokens: 0,
  judgeCalls: 0,
};
