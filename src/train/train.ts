// train(): supervised training or preference optimisation on a file of rows, in a folder that can be resumed after the process
// is killed. Files: run.json, items.jsonl, refs.f32, train/, model/, stage.json (docs/training.md).
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { asyncDispose, packageVersion } from "../base/addon.js";
import { deviceKind } from "../base/device.js";
import { signalOf } from "../base/check.js";
import type { DataNote } from "../data/bad-rows.js";
import type { SkippedRow } from "../data/bad-rows.js";
import { IsrDpoError } from "../base/errors.js";
import { internalsOf, loadModel } from "../model/model.js";
import type { VideoLM } from "../model/video-lm.js";
import { type Run, startRun } from "../base/run.js";
import { Claim } from "../runfolder/folder-claim.js";
import { Content, modelContents } from "../runfolder/content-digest.js";
import { plural } from "../base/counts.js";
import { makeFolders, readText } from "../base/atomic-files.js";
import { checkMade, madeFiles } from "../runfolder/made-model.js";
import { checkInputs, type Inputs, openRun, type RunFile, templateDateOf } from "../runfolder/run-json.js";
import { moveStage, readStage, type StageFile } from "../runfolder/stage-file.js";
import { openTrainer, type Trainer } from "./trainer.js";
import type { TrainerSettings } from "./trainer-options.js";
import { FolderWork } from "./open-resources.js";
import { type Digested, digested } from "./item-digest.js";
import { Evaluator } from "./evaluate-set.js";
import type { IterationEvent, IterationResult, TrainOptions } from "./run-events.js";
import { gather, type GatherCounts, mediaFiles, noCounts } from "./load-dataset.js";
import type { ItemSet } from "./item-store.js";
import { mediaOpener } from "./media-ahead.js";
import { type TrainSettings, trainSettings } from "./train-options.js";
import { unusedOfTextModel, unusedOptions } from "./unused-options.js";
import { agreed, byFirst, inTurn, leads, summed } from "./ranks/agree.js";
import { atStage } from "./ranks/group.js";
import { endTogether, proveSameFolder, shareOfMachine } from "./ranks/one-run.js";
import { checkPlaces, configOf, freeOf, ownerOf } from "./train-folder.js";
import { type StepPlan, stepPlan } from "./item-order.js";
import { coalesceProgress, type Emit, published, staged } from "./progress.js";
import { proveRate } from "./learning-rate.js";
import { RunReferences } from "./run-references.js";
import { lastStep, metricsOf, peakOf, trainSteps } from "./train-steps.js";

const stages = ["score", "train", "save", "done"] as const;
type TrainStage = (typeof stages)[number];
type TrainStageFile = StageFile<TrainStage>;

/** What is known of the data once it has been read; kept in stage.json. */
interface DataFacts {
  items: number;
  itemsSha256: string;
  skippedRows: number;
  truncated: number;
  /** What was put right or left out, where it was not 0. */
  counts: Readonly<Partial<GatherCounts>>;
}

/** The facts about the data in a stage file, without its other keys, so that they are written again unchanged. */
const factsOf = ({ items, itemsSha256, skippedRows, truncated, counts }: Record<string, unknown>): DataFacts =>
  ({ items, itemsSha256, skippedRows, truncated, counts: counts ?? {} }) as DataFacts;

const iteration = 0; // the number in the events of a run without iterations

class TrainRun extends FolderWork<IterationResult> {
  readonly #s: TrainSettings;
  readonly #signal: AbortSignal;
  readonly #emit: Emit;
  #begun: TrainStage | null = null; // the stage that an earlier process had reached
  #claim!: Claim<RunFile>;
  #watched: Content[] = []; // files that must stay as they are until they have been read
  #inputs: Inputs = {};
  readonly #items: Digested | null; // data that a program gave
  #templateDate = "";
  readonly #references: RunReferences;

  constructor(s: TrainSettings, signal: AbortSignal, emit: Emit) {
    super(s.runDir);
    this.#items = typeof s.data === "string" ? null : digested(s.data);
    this.#s = this.#items ? { ...s, data: this.#items } : s;
    const together = endTogether(s.ranks, signal);
    this.#signal = together.signal;
    this.closing.keep(null, together.off);
    this.#emit = leads(s.ranks) ? emit : () => {}; // rank 0 tells what all of them do
    const { itemsPerStep: batch, finish, ranks } = s;
    const at = (name: string) => this.at(name);
    this.#references = new RunReferences({
      at,
      closing: this.closing,
      emit: this.#emit,
      iteration,
      batch,
      signal: this.#signal,
      finish,
      ranks,
    });
  }

  /** What rank 0 does for all: whatever reads or writes the folder's own files. */
  #first<T>(work: () => Promise<T>): Promise<T> {
    return byFirst(this.#s.ranks, work);
  }

  /** Rank 0 takes the folder; all hear how far its run has come, and see that they see the same folder. */
  async #enterTogether(): Promise<{ known: boolean; stage: TrainStageFile | null }> {
    const entered = await this.#first(async () => {
      const stage = await this.#enter();
      const lock = this.#s.ranks ? await readText(this.at("lock")) : "";
      return { known: this.#claim.found !== null, stage, templateDate: this.#templateDate, lock };
    });
    await proveSameFolder(this.#s.ranks, this.dir, this.at("lock"), entered.lock);
    this.#begun = entered.stage?.stage ?? null;
    this.#templateDate = entered.templateDate;
    return entered;
  }

  /** Takes the folder, and says how far its run has come. */
  async #enter(): Promise<TrainStageFile | null> {
    await checkPlaces(this.#s);
    this.#claim = await Claim.take(this.dir, ownerOf(this.#s.kind));
    this.closing.keep(this.#claim, () => this.#claim.end());
    const { found } = this.#claim;
    this.#templateDate = templateDateOf(this.dir, found, this.#s.load.templateDate);
    await this.#lookAtInputs();
    if (found) checkInputs(this.dir, found, this.#inputs);
    await this.#claim.tidy([".", "train"]);
    const stage = found && (await readStage<TrainStage>(this.dir, stages));
    this.#begun = stage?.stage ?? null;
    return stage;
  }

  /** What the files hold that results depend on. */
  async #lookAtInputs(): Promise<void> {
    const { model, data, evalData } = this.#s;
    const inputs: Record<string, { sha256: string; path: string }> = {};
    const look = async (name: string, path: string) => {
      const place = await stat(path).catch(() => null);
      if (place && !place.isFile() && !this.#claim.found) return; // the reader of such a file refuses it in its own words
      this.#watch(inputs, name, await Content.of(path));
    };
    if (typeof data === "string") await look("data", data);
    if (evalData !== undefined) await look("evalData", evalData);
    for (const [name, content] of await modelContents(model)) this.#watch(inputs, `model/${name}`, content);
    this.#inputs = inputs;
  }

  #watch(inputs: Record<string, { sha256: string; path: string }>, name: string, content: Content): void {
    this.#watched.push(content);
    inputs[name] = { sha256: content.sha256, path: content.path };
  }

  async #unchanged(): Promise<void> {
    for (const content of this.#watched) await content.unchanged();
  }

  /** A finished run: the same data give its result. */
  async #finished(model: VideoLM, stage: Record<string, unknown>): Promise<IterationResult> {
    if (this.#items) checkInputs(this.dir, this.#claim.found!, { data: await this.#items.sum() });
    const made = this.at("model");
    const there = await stat(join(made, "config.json")).catch(() => null);
    if (!there)
      throw new IsrDpoError("NOT_FOUND", `${made}: expected the model that this finished run made, got none`, {
        hint: "put it back, or train again in a new folder",
        path: made,
      });
    await checkMade(made);
    return this.#result({ ...model.counters }, factsOf(stage), String(stage.hash));
  }

  protected override async work(): Promise<IterationResult> {
    try {
      return await this.#work();
    } catch (e) {
      if (this.#s.ranks) this.#signal.throwIfAborted(); // then the ranks are lost, too
      throw e;
    }
  }

  async #work(): Promise<IterationResult> {
    const s = this.#s;
    const { known, stage } = await this.#enterTogether();
    this.#tellUnused(unusedOptions(s));
    const model = await agreed(s.ranks, () => this.#load());
    if (model.info.media.length === 0) this.#tellUnused(unusedOfTextModel(s));
    if (known) await this.#first(() => this.#openRun(model));
    if (stage?.stage === "done") return await this.#first(() => this.#finished(model, stage));
    this.#tellEnds(model);
    const { set, facts } = await this.#gatherTogether(model, stage && factsOf(stage));
    const plan = stepPlan(set.length, s.itemsPerStep, s.epochs);
    if (stage === null) proveRate(s.trainer, plan.totalSteps, "trainer");
    const options = { ...s.trainer, totalSteps: s.trainer.totalSteps ?? plan.totalSteps };
    const evalSet = await inTurn(s.ranks, () => this.#gatherEvaluation(model));
    await this.#first(async () => {
      await this.#unchanged();
      if (stage === null) for (const some of [set, evalSet]) if (some) await this.#preflight(model, some);
    });
    const trainer = await openTrainer(model, options, s.ranks);
    this.closing.keep(trainer, () => trainer[asyncDispose]());
    if (!known) await this.#first(() => this.#openRun(model)); // only now: after a refusal up to here, the options may still be corrected
    let at: TrainStage = stage?.stage ?? (s.kind === "dpo" ? "score" : "train");
    if (stage === null) await this.#move(at, facts);
    if (at === "score") {
      await this.#references.score(model, trainer, set, this.#begun === "score");
      at = await this.#move("train", facts);
    }
    if (at === "train") {
      const evaluator = evalSet && (await this.#evaluator(model, trainer, evalSet, plan, options));
      await this.#train(model, trainer, set, plan, evaluator);
      at = await this.#move("save", facts);
    } else
      await trainer.load(await this.#first(() => lastStep(this.at("train"), plan.totalSteps)), {
        signal: this.#signal,
      });
    const saved = await staged(this.#emit, iteration, "save", this.#begun === "save", async () => {
      if (s.trainer.lora) await trainer.saveAdapter(this.at("adapter"));
      return s.ranks ? await trainer.saveModel(this.at("model")) : await model.save(this.at("model")); // merged
    });
    const work = await summed(s.ranks, model.counters);
    return await this.#first(async () => {
      const files = await madeFiles(this.at("model"));
      await moveStage(this.dir, stages, "done", { ...facts, hash: saved.hash, ...files });
      return await this.#result(work, facts, saved.hash);
    });
  }

  #move(to: TrainStage, facts: DataFacts): Promise<TrainStage> {
    atStage(this.#s.ranks, to);
    return this.#first(async () => {
      await moveStage(this.dir, stages, to, { ...facts });
      return to;
    });
  }

  async #load(): Promise<VideoLM> {
    const { load, model: dir } = this.#s;
    const cache = load.featureCache === undefined ? { dir: this.at("features") } : load.featureCache;
    const given = {
      mediaMaxLost: 0,
      ...load,
      ...shareOfMachine(this.#s.ranks, load),
      templateDate: this.#templateDate,
      featureCache: cache,
      signal: this.#signal,
    };
    const model = await loadModel(dir, given);
    return this.closing.keep(model, () => model[asyncDispose]());
  }

  async #openRun(model: VideoLM): Promise<void> {
    const { isa, device, dtype, family } = model.info;
    const facts = {
      engine: packageVersion(),
      isa,
      device: deviceKind(device),
      dtype,
      family,
      ranks: this.#s.ranks?.size ?? 1,
      modelSha256: await model.hash(),
    };
    const { run } = await openRun(this.dir, {
      ...{ kind: this.#s.kind, config: configOf(this.#s), facts, mayDiffer: freeOf(this.#s) },
      ...{ inputs: this.#inputs, templateDate: this.#templateDate },
    });
    await this.#claim.settled();
    if (run.facts.isa !== isa)
      this.#emit({
        type: "warning",
        code: "ISA_CHANGED",
        message: `the run was started at level ${String(run.facts.isa)} and goes on at ${isa}: its bits are those of neither`,
        detail: { before: run.facts.isa, now: isa },
      });
    if (run.facts.ranks !== facts.ranks)
      this.#emit({
        type: "warning",
        code: "RANKS_CHANGED",
        message: `the run was started by ${plural(Number(run.facts.ranks), "rank")} and goes on with ${facts.ranks}: its bits are those of neither`,
        detail: { before: run.facts.ranks, now: facts.ranks },
      });
  }

  #gatherOptions(model: VideoLM, data: TrainSettings["data"], skipped: string[]) {
    const { kind, videos, onBadRow, onLong, onEnd, turns } = this.#s;
    const onSkip = ({ path, line, message }: SkippedRow) => {
      skipped.push(message);
      this.#emit({ type: "warning", code: "BAD_ROW", message, detail: { path, line, count: skipped.length } });
    };
    const onNote = ({ code, message, ...detail }: DataNote) => this.#emit({ type: "warning", code, message, detail });
    const onCount = (code: string, count: number, message: string) =>
      this.#emit({ type: "warning", code, message, detail: { count } });
    const policies = { onBadRow, onLong, onEnd, turns };
    return { kind, model, data, videos, ...policies, onSkip, onNote, onCount, signal: this.#signal };
  }

  /** Warns of options that are given and change nothing. */
  #tellUnused(lines: readonly string[]): void {
    for (const message of lines) this.#emit({ type: "warning", code: "NO_EFFECT", message, detail: {} });
  }

  /** Told before the rows are read: it is the model's, not a row's. */
  #tellEnds(model: VideoLM): void {
    const { notes, ids } = internalsOf(model).inputs.ends;
    for (const message of notes)
      this.#emit({ type: "warning", code: "ANSWER_END", message, detail: { endTokenIds: ids } });
  }

  /** Rank 0 reads the data into the folder, the others what it has read. */
  async #gatherTogether(model: VideoLM, before: DataFacts | null): Promise<{ set: ItemSet; facts: DataFacts }> {
    const { set, facts } = await inTurn(this.#s.ranks, async (leading) =>
      leading ? await this.#gather(model, before) : { set: await this.#reread(model), facts: null },
    );
    return { set, facts: await this.#first(async () => facts!) };
  }

  async #reread(model: VideoLM): Promise<ItemSet> {
    const { set } = await gather(this.at("items.jsonl"), true, this.#gatherOptions(model, this.#s.data, []));
    return this.closing.keep(set, () => set.close());
  }

  async #gather(model: VideoLM, before: DataFacts | null): Promise<{ set: ItemSet; facts: DataFacts }> {
    const skipped: string[] = [];
    const path = this.at("items.jsonl");
    let media = false;
    const onMedia = () => {
      media = true;
    };
    const options = { ...this.#gatherOptions(model, this.#s.data, skipped), onMedia };
    const { set, counts } = await gather(path, before !== null, options);
    this.closing.keep(set, () => set.close());
    if (before === null && !media && this.#s.videos !== undefined)
      this.#tellUnused(["videos has no effect: no row has a video or an image"]);
    await this.#knowItems();
    if (before && before.itemsSha256 !== set.hash)
      throw new IsrDpoError("RUN_MISMATCH", `${path}: expected the items that the run began with, got others`, {
        hint: "the file was changed: restore it, or start in a new folder",
        path,
      });
    const some = Object.fromEntries(Object.entries(counts).filter(([, n]) => n > 0));
    const read = { items: set.length, itemsSha256: set.hash, skippedRows: skipped.length, truncated: set.cutCount };
    return { set, facts: before ?? { ...read, counts: some } };
  }

  /** Data of a program are known by what it has given. */
  async #knowItems(): Promise<void> {
    if (!this.#items) return;
    const data = await this.#items.sum();
    if (this.#claim.found) checkInputs(this.dir, this.#claim.found, { data });
    this.#inputs = { ...this.#inputs, data };
  }

  async #gatherEvaluation(model: VideoLM): Promise<ItemSet | null> {
    const { evalData } = this.#s;
    if (evalData === undefined) return null;
    const options = this.#gatherOptions(model, evalData, []);
    const there = this.#begun !== null || !leads(this.#s.ranks);
    const { set } = await gather(this.at("eval-items.jsonl"), there, options);
    return this.closing.keep(set, () => set.close());
  }

  /** Reads the media of a few items, spread over the set, so that a wrong kind of file fails before anything is computed. */
  async #preflight(model: VideoLM, set: ItemSet): Promise<void> {
    if (model.info.media.length === 0) return;
    const some = [...new Set([0, set.length >> 1, set.length - 1])];
    const media = (await set.items(some)).flatMap((item) => mediaFiles(item).slice(0, 1));
    for (const m of media) await model.encode(m, { stage: "tower", signal: this.#signal }); // the features stay cached for the steps
  }

  /** The references of the start model are scored before the first step. */
  async #evaluator(
    model: VideoLM,
    trainer: Trainer,
    set: ItemSet,
    plan: StepPlan,
    options: TrainerSettings,
  ): Promise<Evaluator> {
    const { ranks, kind } = this.#s;
    await this.#makeTrainFolder();
    const references = kind === "dpo" ? await this.#references.ofEvaluation(model, trainer, set) : null;
    return Evaluator.open({
      model,
      trainer,
      set,
      references,
      options,
      every: this.#s.evalEvery,
      totalSteps: plan.totalSteps,
      path: this.at("train/evaluation.jsonl"),
      iteration,
      emit: this.#emit,
      ranks,
    });
  }

  #makeTrainFolder(): Promise<null> {
    return this.#first(async () => {
      await makeFolders(this.at("train"));
      return null;
    });
  }

  async #train(
    model: VideoLM,
    trainer: Trainer,
    set: ItemSet,
    plan: StepPlan,
    evaluator: Evaluator | null,
  ): Promise<void> {
    const s = this.#s;
    await this.#makeTrainFolder();
    const references = s.kind === "dpo" ? await this.#references.ofItems(model, trainer, set) : null;
    const { peak } = await summed(s.ranks, { peak: await agreed(s.ranks, () => peakOf(model)) });
    const work = () =>
      trainSteps({
        trainer,
        items: set,
        open: mediaOpener(model),
        references,
        plan,
        seed: s.seed,
        dir: this.at("train"),
        tensorboard: this.at("tensorboard"),
        saveEverySteps: s.saveEverySteps || Math.ceil(plan.totalSteps / 10),
        evaluator,
        iteration,
        peak,
        emit: this.#emit,
        signal: this.#signal,
        finish: s.finish,
        ranks: s.ranks,
      });
    await staged(this.#emit, iteration, "train", this.#begun === "train", work);
  }

  async #result(work: IterationResult["work"], facts: DataFacts, hash: string): Promise<IterationResult> {
    const { items, skippedRows, truncated, counts } = facts;
    const metrics = await metricsOf(this.at("train"));
    const tokensComputed = metrics.reduce((sum, m) => sum + m.tokensComputed, 0);
    return {
      iteration,
      model: this.at("model"),
      hash,
      pairs: items,
      counts: { items, skippedRows, truncated, ...noCounts(), ...counts, steps: metrics.length, tokensComputed },
      work,
      resumed: this.#begun !== null,
      metrics,
    };
  }
}

/**
 * Trains by DPO on pairs, or supervised on examples, and keeps the run in `runDir`. The same call resumes a run that was stopped or
 * killed, and ends with the same bits. Its events are stages (score for DPO, train, save), steps, progress, evaluations and warnings.
 *
 * @param options - the model, the data, and where and how to train
 * @throws {@link IsrDpoError} DATA_INVALID: the first bad row, with file, row and field; RUN_MISMATCH: the folder was started with other
 * options or other content; INVALID_ARGUMENT: a wrong option, a folder that is not a run's, or inputs where the run writes;
 * RUN_LOCKED; NUMERIC: the loss is not finite, with the samples; DEGENERATE; MEDIA_UNREADABLE, MEDIA_EMPTY, FFMPEG_MISSING; DISK_FULL,
 * IO; and the errors of {@link loadModel}
 *
 * @example
 * ```ts
 * import { train } from "isr-dpo";
 *
 * const run = train({ kind: "dpo", model: "checkpoint", data: "pairs.jsonl", runDir: "runs/dpo" });
 * for await (const e of run) if (e.type === "step") console.log(e.metrics.step, e.metrics.loss);
 * console.log((await run.result).model);
 * ```
 */
export function train(options: TrainOptions): Run<IterationEvent, IterationResult> {
  return startRun<IterationEvent, IterationResult>(
    signalOf(options),
    async (signal, emit) => {
      const settings = trainSettings(options);
      return new TrainRun(settings, signal, published(settings.runDir, emit)).run();
    },
    { coalesce: coalesceProgress },
  );
}
