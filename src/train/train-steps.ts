// The steps of a run, with a trainer and a set of items: order, references, metrics, evaluation, checkpoints. However it ends,
// the next start resumes from the newest valid checkpoint, and ends with the same bits.
import { join } from "node:path";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { newestStep, removeOthers, saveStep } from "../runfolder/checkpoints.js";
import { makeFolders, readText } from "../base/atomic-files.js";
import { MetricsWriter } from "../runfolder/metrics.js";
import { internalsOf } from "../model/model.js";
import type { VideoLM } from "../model/video-lm.js";
import type { RankFigures, StepMetrics, Trainer } from "./trainer.js";
import type { TrainItem } from "../base/types.js";
import type { RunStepMetrics } from "./run-events.js";
import type { Evaluator } from "./evaluate-set.js";
import type { ItemSet } from "./item-store.js";
import { MediaAhead, type OpenMedia } from "./media-ahead.js";
import { Order, type StepPlan } from "./item-order.js";
import { type Emit, Progress } from "./progress.js";
import { agreed, byFirst, portionOf, toldToStop } from "./ranks/agree.js";
import type { Communicator } from "./ranks/group.js";
import type { ReferenceStore } from "./reference-logprobs.js";

export interface Steps {
  trainer: Trainer;
  items: ItemSet;
  open: OpenMedia;
  /** null: supervised. */
  references: ReferenceStore | null;
  plan: StepPlan;
  seed: bigint;
  /** Folder of metrics and checkpoints. */
  dir: string;
  tensorboard?: string;
  saveEverySteps: number;
  evaluator: Evaluator | null;
  iteration: number;
  /** FLOP/s that the machine's multiply-add loops reach; 0: not known. */
  peak: number;
  emit: Emit;
  signal: AbortSignal;
  /** Aborted: end in order, once the step at hand is done. */
  finish: AbortSignal;
  /** The ranks that make the steps together; rank 0 alone writes into `dir`. */
  ranks?: Communicator | undefined;
}

/** FLOP/s that this machine's multiply-add loops reach in the model's type, at its level, with its threads; takes 50 ms. */
export const peakOf = (model: VideoLM): Promise<number> => internalsOf(model).inputs.call("peak", {});

/** The newest checkpoint that holds, if any, with the metrics cut off behind it. What does not hold is told. */
async function newestOf(s: Steps): Promise<string | null> {
  const { newest, bad } = await newestStep(s.dir);
  for (const { path, reason } of bad)
    s.emit({
      type: "warning",
      code: "BAD_CHECKPOINT",
      message: `${path} is passed over: ${reason}`,
      detail: { path, reason },
    });
  const metrics = await MetricsWriter.open({ dir: s.dir });
  try {
    if (newest && newest.state.pairsHash !== s.items.hash)
      throw new IsrDpoError(
        "RUN_MISMATCH",
        `${newest.path}: expected a checkpoint of this run's items, got another's`,
        {
          hint: "the folder's items were changed: restore them, or start in a new folder",
          path: newest.path,
        },
      );
    if (newest) await removeOthers(s.dir, newest.step); // a process that ended inside saveStep() may have left them
    await metrics.truncateTo(newest?.state.metricsBytes ?? 0);
    return newest?.path ?? null;
  } finally {
    await metrics.close();
  }
}

async function resume(s: Steps): Promise<void> {
  const newest = await byFirst(s.ranks, () => newestOf(s));
  if (newest !== null) await s.trainer.load(newest, { signal: s.signal });
}

/** Saves a checkpoint of all ranks: each writes its shard into the folder that rank 0 makes, and that appears when all are there. */
async function saveTogether(s: Steps, save: (fill: (folder: string) => Promise<void>) => Promise<void>): Promise<void> {
  const { ranks, trainer } = s;
  if (!ranks) return save((folder) => trainer.save(folder));
  await agreed(ranks, async () => {
    if (ranks.rank > 0) {
      const [folder] = await ranks.gather<string | null>(null);
      return folder == null ? undefined : trainer.save(folder);
    }
    let told = false;
    try {
      await save(async (folder) => {
        told = true;
        await ranks.gather<string | null>(folder);
        await trainer.save(folder);
      });
    } finally {
      if (!told) await ranks.gather<string | null>(null); // the step is there already, or its folder could not be made
    }
  });
}

async function withReferences(s: Steps, indices: readonly number[]): Promise<TrainItem[]> {
  const items = await s.items.items(indices);
  const { references } = s;
  if (!references) return items;
  const found = await Promise.all(indices.map((i) => references.get(i)));
  return items.map((item, k) => ({ ...item, reference: found[k]! }) as TrainItem);
}

const idOf = (item: TrainItem | undefined, index: number): string => (item as { id?: string })?.id ?? `item ${index}`;

/** A failure of a step with the items that it is about by their ids; the engine's own words, with its numbers, are the cause. */
async function named(s: Steps, e: unknown, step: number, indices: readonly number[]): Promise<unknown> {
  const about = isIsrDpoError(e, "NUMERIC") ? (e.detail?.items as readonly number[] | undefined) : undefined;
  if (!about) return e;
  const { hint } = e as IsrDpoError;
  const items = await s.items.items(indices); // of all ranks
  const ids = about.map((i) => idOf(items[i], indices[i]!));
  const some = ids.slice(0, 8).join(", ") + (ids.length > 8 ? `, and ${ids.length - 8} more` : "");
  return new IsrDpoError("NUMERIC", `step ${step}: loss or gradient norm is not finite; of ${some}`, {
    ...(hint === undefined ? {} : { hint }),
    detail: { samples: ids },
    cause: e,
  });
}

/** Of a step among ranks: seconds that rank 0 spent with the others, and which of them computed the longest. */
function waiting(ranks: readonly RankFigures[] | undefined): Record<string, number> {
  if (!ranks) return {};
  const slowest = ranks.reduce((s, r, i) => (r.computeSeconds > ranks[s]!.computeSeconds ? i : s), 0);
  return { communicationSeconds: ranks[0]!.communicationSeconds, slowestRank: slowest };
}

class Stepper {
  readonly #s: Steps;
  readonly #metrics: MetricsWriter | null; // rank 0's
  readonly #order: Order;
  readonly #ahead: MediaAhead;
  #saved: number;
  #recorded: number; // steps whose metrics are written

  constructor(s: Steps, metrics: MetricsWriter | null) {
    this.#s = s;
    this.#metrics = metrics;
    this.#order = new Order(s.items.length, s.seed, s.plan, (i) => s.items.group(i));
    this.#ahead = new MediaAhead(s.open, s.signal);
    this.#saved = this.#recorded = s.trainer.step;
  }

  /** Of a step that will be computed; else none. */
  async #itemsOf(step: number): Promise<TrainItem[]> {
    const { items, plan, finish } = this.#s;
    return step < plan.totalSteps && !finish.aborted ? items.items(this.#mine(step)) : [];
  }

  /** This rank's items of a step. */
  #mine(step: number): readonly number[] {
    return portionOf(this.#s.ranks, this.#order.step(step));
  }

  async #one(step: number): Promise<void> {
    const s = this.#s;
    const indices = this.#order.step(step);
    const items = await agreed(s.ranks, () => withReferences(s, this.#mine(step)));
    let done: StepMetrics;
    try {
      const work = s.trainer.trainStep(items, { signal: s.signal });
      done = await this.#ahead.during(work, () => this.#itemsOf(step + 1));
    } catch (e) {
      throw await named(s, e, step, indices);
    }
    const { seconds, ranks, ...values } = done;
    const metrics: RunStepMetrics = {
      ...done,
      epoch: Math.floor(step / s.plan.stepsPerEpoch),
      truncated: indices.filter((i) => s.items.cut(i)).length,
      tokensPerSecond: done.tokensComputed / seconds,
      shareOfPeak: s.peak > 0 ? done.flops / seconds / s.peak : 0,
      memoryBytes: process.memoryUsage.rss(),
    };
    const { tokensPerSecond, shareOfPeak, memoryBytes, epoch, truncated } = metrics;
    const { step: _, ...line } = values;
    const clocks = { seconds, tokensPerSecond, shareOfPeak, memoryBytes, ...waiting(ranks), at: Date.now() / 1e3 };
    await agreed(s.ranks, async () => this.#metrics?.add(step, { ...line, epoch, truncated }, clocks));
    this.#recorded = step + 1;
    s.emit({ type: "step", iteration: s.iteration, metrics });
  }

  async #save(): Promise<void> {
    const { trainer, dir, items } = this.#s;
    const metrics = this.#metrics;
    if (trainer.step === this.#saved) return;
    await saveTogether(this.#s, async (fill) => {
      await metrics!.sync();
      const facts = { cursor: trainer.step, metricsBytes: metrics!.bytes, pairsHash: items.hash };
      await saveStep(dir, trainer.step, fill, facts);
    });
    this.#saved = trainer.step;
  }

  async run(): Promise<void> {
    const s = this.#s;
    const total = s.plan.totalSteps;
    const progress = new Progress(s.emit, s.iteration, "train", total, s.trainer.step);
    try {
      for (let step = s.trainer.step; step < total; step++) {
        const stop = await toldToStop(s.ranks, s.finish);
        if (stop) {
          await this.#save().catch(() => {}); // what was computed is kept; why it ends says more than that it was not
          throw stop.reason;
        }
        await s.evaluator?.at(step, s.signal);
        await this.#one(step);
        progress.tell(step + 1);
        if ((step + 1) % s.saveEverySteps === 0 || step + 1 === total) await this.#save();
      }
      await s.evaluator?.at(total, s.signal);
    } catch (e) {
      // A run that is ended at once keeps what was computed, too. After a failure the last checkpoint stays the newest. Ranks are not
      // ended at the same step.
      if (!s.ranks && s.signal.aborted && s.trainer.step === this.#recorded) await this.#save().catch(() => {});
      throw e;
    } finally {
      this.#ahead.end();
    }
  }
}

/** The step of the first epoch with the most tokens is computed once without an update: what does not fit fails now. */
async function fullSizeStep(s: Steps): Promise<void> {
  const order = new Order(s.items.length, s.seed, s.plan, (i) => s.items.group(i));
  let most: { tokens: number; indices: number[] } = { tokens: -1, indices: [] };
  for (let step = 0; step < s.plan.stepsPerEpoch; step++) {
    const indices = order.step(step);
    const tokens = indices.reduce((sum, i) => sum + s.items.tokens(i), 0);
    if (tokens > most.tokens) most = { tokens, indices };
  }
  const items = await agreed(s.ranks, () => withReferences(s, portionOf(s.ranks, most.indices)));
  try {
    await s.trainer.tryStep(items, { signal: s.signal });
  } catch (e) {
    throw await named(s, e, 0, most.indices);
  }
}

export const longRun = 100; // steps from which the largest one is tried first

/** Trains to the last step, from where the folder stands. */
export async function trainSteps(s: Steps): Promise<void> {
  await byFirst(s.ranks, async () => {
    await makeFolders(s.dir);
    return null;
  });
  await resume(s);
  if (s.trainer.step === 0 && s.plan.totalSteps >= longRun) await fullSizeStep(s);
  const { dir, tensorboard } = s;
  const writes = !s.ranks || s.ranks.rank === 0;
  const open = () => MetricsWriter.open({ dir, ...(tensorboard === undefined ? {} : { tensorboard }) });
  const metrics = await agreed(s.ranks, async () => (writes ? await open() : null));
  try {
    await new Stepper(s, metrics).run();
  } finally {
    await metrics?.close();
  }
}

/** The folder of the last step. JOURNAL_CORRUPT where it does not hold. */
export async function lastStep(dir: string, step: number): Promise<string> {
  const { newest, bad } = await newestStep(dir);
  if (newest?.step === step) return newest.path;
  throw new IsrDpoError("JOURNAL_CORRUPT", `${dir}: expected the last step's checkpoint, got none that holds`, {
    hint: "delete stage.json, train/ and refs.f32 beside it and start again: it trains anew",
    path: bad[0]?.path ?? dir,
  });
}

async function jsonLines(path: string, onBad: (line: number) => void): Promise<Record<string, number>[]> {
  const text = await readText(path);
  const found: Record<string, number>[] = [];
  for (const [i, line] of text.split("\n").slice(0, -1).entries()) {
    try {
      found.push(JSON.parse(line));
    } catch {
      onBad(i + 1);
    }
  }
  return found;
}

/** The metrics of all steps of a folder, with the seconds that each took when it was last computed. */
export async function metricsOf(dir: string): Promise<StepMetrics[]> {
  const seconds = new Map<number, number>();
  const all: StepMetrics[] = [];
  const path = join(dir, "metrics.jsonl");
  const corrupt = (line: number) => {
    throw new IsrDpoError("JOURNAL_CORRUPT", `${path}: line ${line}: expected the metrics of a step, got other text`, {
      hint: "the file was changed or damaged: restore it, or train again in a new folder",
      path,
    });
  };
  // A line of timings that a full disk cut off is ignored: times are no result.
  for (const { step, seconds: s } of await jsonLines(join(dir, "timings.jsonl"), () => {})) seconds.set(step!, s!);
  for (const { epoch: _, truncated: __, ...values } of await jsonLines(path, corrupt))
    all.push({ ...values, seconds: seconds.get(values.step!) ?? 0 } as unknown as StepMetrics);
  return all;
}
