// One iteration: generate -> score -> train -> save -> done. Each stage reads what the one before has left on disk. The same
// call resumes after a killed process, and ends with the same bytes. Ranks go through it together; rank 0 keeps its folder.
import { rm } from "node:fs/promises";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { asyncDispose } from "../base/addon.js";
import { plural } from "../base/counts.js";
import { deviceKind } from "../base/device.js";
import { IsrDpoError } from "../base/errors.js";
import { internalsOf, loadModel } from "../model/model.js";
import type { VideoLM } from "../model/video-lm.js";
import { newestStep } from "../runfolder/checkpoints.js";
import { modelContents } from "../runfolder/content-digest.js";
import { makeFolders, readState } from "../base/atomic-files.js";
import { guarded } from "../base/file-errors.js";
import { checkMade, madeFiles } from "../runfolder/made-model.js";
import { samePlace } from "../runfolder/path-overlap.js";
import { moveStage, readStage, type StageFile } from "../runfolder/stage-file.js";
import { FolderWork } from "../train/open-resources.js";
import { agreed, byFirst, summed } from "../train/ranks/agree.js";
import { atStage } from "../train/ranks/group.js";
import { proveAlike, shareOfMachine } from "../train/ranks/one-run.js";
import type { IterationResult } from "../train/run-events.js";
import { metricsOf } from "../train/train-steps.js";
import { remarksOf } from "../model/media-registry.js";
import type { MediaReport } from "../base/types.js";
import { evaluateSlice, unasked } from "./evaluate-models.js";
import type { Damage, Generation } from "./generate-group.js";
import { type Counts, GenerateStage } from "./generate-stage.js";
import type { IterationInput } from "./iteration-input.js";
import { LearnStage, type LearnStep } from "./learn-stage.js";
import { type Group, groupsOf } from "./video-groups.js";
import { type LookRule, lookRuleOf } from "./frame-policy.js";
import { type Before, said } from "./previous-contexts.js";
import { preflight, proveWindow } from "./preflight.js";
import { settleStart } from "./iteration-start.js";
import { loadingOf } from "./iteration-settings.js";

const stages = ["generate", "score", "train", "save", "done"] as const;
type IterationStage = (typeof stages)[number];

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

  /** What rank 0 does for all: whatever reads or writes the folder's own files. */
  #first<T>(work: () => Promise<T>): Promise<T> {
    return byFirst(this.#o.ranks, work);
  }

  protected override async work(): Promise<IterationResult> {
    const { ranks, folder, settings, iteration } = this.#o;
    const found = await this.#first(async () => {
      await makeFolders(this.dir);
      return readStage<IterationStage>(this.dir, stages);
    });
    this.#resumed = found !== null;
    if (found?.stage === "done") return await this.#finished(found);
    const model = await this.#load();
    const before = await agreed(ranks, () => this.#before());
    const groups = groupsOf(folder.samples, settings.groupVideos ?? 1);
    if ((found?.stage ?? "generate") === "generate")
      await agreed(ranks, () => proveWindow({ model, ...this.#preflight }));
    await this.#enter(model);
    await this.#start(model, groups, before);
    await this.#evaluate(model, iteration); // does nothing if the iteration before has evaluated this model
    let at: IterationStage = found?.stage ?? "generate";
    let facts: Counts = (found?.counts as Counts | undefined) ?? {};
    if (found === null) await this.#move("generate");
    atStage(ranks, at);
    if (at === "generate") {
      facts = await this.#generate(model, groups, before);
      at = "score";
      await this.#move(at, facts);
    }
    const hash = await this.#learn(model, before, at as LearnStep, facts);
    await this.#evaluate(model, iteration + 1);
    await this.#first(async () => {
      const files = await madeFiles(this.at("model"));
      await moveStage(this.dir, stages, "done", { counts: facts, hash, ...files });
      await this.#forgetOptimizer();
      return null;
    });
    return await this.#result({ stage: "done", counts: facts, hash }, model);
  }

  async #finished(found: StageFile<IterationStage>): Promise<IterationResult> {
    const { folder, iteration } = this.#o;
    await this.#first(async () => {
      const later = await readState(join(folder.iteration(iteration + 1), "stage.json"));
      if (later === null) await checkMade(this.at("model")); // nothing more is computed from earlier models
      await this.#forgetOptimizer(); // an earlier process may have ended before it removed it
      return null;
    });
    await this.#evaluateFinished();
    return await this.#result(found, null);
  }

  async #move(to: IterationStage, counts?: Counts): Promise<void> {
    atStage(this.#o.ranks, to);
    await this.#first(async () => {
      await moveStage(this.dir, stages, to, counts && { counts });
      return null;
    });
  }

  #generate(model: VideoLM, groups: readonly Group[], before: Before): Promise<Counts> {
    const generation = this.#generation(model, before);
    const { dir, closing } = this;
    const stage = new GenerateStage({ input: this.#o, dir, closing, model, before, generation });
    return stage.run(groups).finally(() => {
      this.#judgeCalls = stage.judgeCalls;
    });
  }

  #learn(model: VideoLM, before: Before, from: LearnStep, counts: Counts): Promise<string> {
    const [input, looks, resumed] = [this.#o, this.#looks, this.#resumed];
    const { dir, closing } = this;
    const move = (to: LearnStep) => this.#move(to, counts);
    return new LearnStage({ input, dir, closing, model, before, looks, resumed, move }).run(from);
  }

  /** Every rank loads the model; rank 0 watches its files meanwhile. */
  async #load(dir = this.#o.model): Promise<VideoLM> {
    const { settings, load, folder, iteration, signal, ranks } = this.#o;
    const { templateDate } = folder;
    const contents = await this.#first(async () => {
      for (const own of [this.at("model"), join(folder.iteration(iteration - 1), "model")])
        if (await samePlace(dir, own)) await checkMade(dir);
      return await modelContents(dir);
    });
    const loading = { ...loadingOf(settings, folder.dir, load), templateDate, signal };
    const model = await agreed(ranks, () =>
      loadModel(dir, { ...loading, ...shareOfMachine(ranks, loading), onMedia: (report) => this.#media(report) }),
    );
    this.closing.keep(model, () => model[asyncDispose]());
    internalsOf(model).inputs.told.add("endOpen"); // with judge.truncated "keep", the run itself makes such answers
    await proveAlike(ranks, "model", await agreed(ranks, () => model.hash()));
    this.#files = await this.#first(async () => {
      for (const content of contents.values()) await content.unchanged();
      return Object.fromEntries([...contents].map(([name, { sha256 }]) => [name, sha256]));
    });
    return model;
  }

  /** What has not been asked because `evaluate` came, or was changed, when the iteration was done. */
  async #evaluateFinished(): Promise<void> {
    const { iteration, settings, folder, ranks } = this.#o;
    const left = await this.#first(async () => {
      const first = (await folder.iterations())[0] === iteration;
      const models = new Map([
        ...(first ? [[iteration, this.#o.model] as const] : []),
        [iteration + 1, this.at("model")],
      ]);
      return unasked(folder.dir, settings.evaluate, [...models.keys()]).map((index) => {
        const dir = models.get(index)!;
        return { index, dir, there: existsSync(join(dir, "config.json")) };
      });
    });
    for (const { index, dir, there } of left) {
      if (there) {
        const model = await this.#load(dir);
        if (index === iteration) await agreed(ranks, () => this.#sameModel(model, dir));
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
    const message = `${path}: ${remarks.join("; ")}`;
    if (remarks.length > 0) this.#o.voices.own({ type: "warning", code: "MEDIA", message, detail: { path } });
  }

  async #evaluate(model: VideoLM, index: number): Promise<void> {
    const { settings, prompts, folder, iteration, voices, signal, ranks } = this.#o;
    const emit = voices.common;
    await evaluateSlice({ model, index, iteration, settings, prompts, dir: folder.dir, emit, signal, ranks });
  }

  /** A new folder becomes a run only when what can be tried before it has been: until then everything may be changed. */
  async #enter(model: VideoLM): Promise<void> {
    const { folder } = this.#o;
    if (folder.fresh) await preflight({ model, ...this.#preflight });
    const { isa, device, dtype, family } = model.info;
    const begun = { isa, device: deviceKind(device), dtype, family };
    const { isa: before, ranks } = await this.#first(() => folder.begin(begun));
    const now = this.#o.ranks?.size ?? 1;
    if (ranks !== now)
      this.#warn(
        "RANKS_CHANGED",
        `the run was started by ${plural(ranks, "rank")} and goes on with ${now}: its bits are those of neither`,
        { before: ranks, now },
      );
    if (before !== isa)
      this.#warn(
        "ISA_CHANGED",
        `the run was started at level ${before} and goes on at ${isa}: its bits are those of neither`,
        { before, now: isa },
      );
  }

  #warn(code: string, message: string, detail: unknown = {}): void {
    this.#o.voices.common({ type: "warning", code, message, detail });
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
    const hash = await model.hash();
    const start = {
      iteration,
      model: hash,
      files: this.#files,
      context: settings.context.design,
      groups: groups.map((g) => g.videos.map((v) => v.video)),
      previousContexts: before.sha256,
      seed: String(settings.seed),
    };
    await this.#first(async () => {
      await settleStart(this.at("start.json"), start);
      return null;
    });
  }

  get #looks(): LookRule {
    return lookRuleOf(this.#o.settings);
  }

  get #preflight() {
    const { folder, settings, prompts, signal, ranks } = this.#o;
    return { samples: folder.samples, settings, prompts, looks: this.#looks, signal, ranks };
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

  /** The next iteration starts from the saved model alone. */
  async #forgetOptimizer(): Promise<void> {
    const train = this.at("train");
    const { newest, bad } = await newestStep(train);
    for (const { path } of [...(newest ? [newest] : []), ...bad])
      await guarded(path, "remove", () => rm(path, { recursive: true, force: true }));
    if (newest) await this.#forgetOptimizer();
  }

  async #result(done: StageFile<IterationStage>, model: VideoLM | null): Promise<IterationResult> {
    const { ranks, iteration } = this.#o;
    const work = model ? { ...model.counters, judgeCalls: this.#judgeCalls } : noWork;
    const all = await summed(ranks, work);
    const counts = done.counts as Counts;
    return await this.#first(async () => ({
      iteration,
      model: this.at("model"),
      hash: String(done.hash),
      pairs: counts.pair ?? 0,
      counts,
      work: all,
      resumed: this.#resumed,
      metrics: await metricsOf(this.at("train")),
    }));
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
