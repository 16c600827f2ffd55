// The later stages of an iteration: its pairs are scored by the model that they come from, train it, and the next model is saved.
import { join } from "node:path";
import { asyncDispose } from "../base/addon.js";
import { makeFolders } from "../base/atomic-files.js";
import { IsrDpoError } from "../base/errors.js";
import type { Media } from "../base/types.js";
import type { VideoLM } from "../model/video-lm.js";
import { type StepPlan, stepPlan } from "../train/item-order.js";
import { ItemSet, type StoredItem } from "../train/item-store.js";
import { proveRate } from "../train/learning-rate.js";
import { mediaOpener } from "../train/media-ahead.js";
import type { Closing } from "../train/open-resources.js";
import { staged } from "../train/progress.js";
import { agreed, byFirst, inTurn, summed } from "../train/ranks/agree.js";
import { RunReferences } from "../train/run-references.js";
import { openTrainer, type Trainer } from "../train/trainer.js";
import { lastStep, peakOf, trainSteps } from "../train/train-steps.js";
import { lookOf, type LookRule } from "./frame-policy.js";
import { recordsOf } from "./generate-stage.js";
import { type ChosenPair, countsOf, pairsOf } from "./iteration-exports.js";
import type { IterationInput } from "./iteration-input.js";
import { plainPrompt, responsePrompt } from "./method-prompts.js";
import { type Before, contextsOf } from "./previous-contexts.js";

export type LearnStep = "score" | "train" | "save";

export interface Learning {
  input: IterationInput;
  /** Folder of the iteration. */
  dir: string;
  closing: Closing;
  model: VideoLM;
  before: Before;
  looks: LookRule;
  /** An earlier process had begun the iteration. */
  resumed: boolean;
  /** Notes on disk that this is reached. */
  move(to: LearnStep): Promise<void>;
}

const batch = 8; // pairs of one call of scoring and rank

export class LearnStage {
  readonly #l: Learning;

  constructor(l: Learning) {
    this.#l = l;
  }

  #at(name: string): string {
    return join(this.#l.dir, name);
  }

  /** From where the folder stands to the saved model; its hash. */
  async run(from: LearnStep): Promise<string> {
    const { input, model, resumed, move } = this.#l;
    const { iteration, settings, ranks, voices } = input;
    const set = await this.#items();
    const plan = stepPlan(set.length, settings.train.pairsPerStep, settings.train.epochs);
    this.#proveRate(plan.totalSteps);
    const trainer = await this.#trainer(plan);
    const references = this.#references();
    if (from === "score") {
      await references.score(model, trainer, set, resumed);
      await move("train");
    }
    if (from !== "save") {
      await staged(voices.common, iteration, "train", resumed && from === "train", () =>
        this.#train(trainer, set, plan, references),
      );
      await move("save");
    } else {
      const newest = await byFirst(ranks, () => lastStep(this.#at("train"), plan.totalSteps));
      await trainer.load(newest, { signal: input.signal });
    }
    const made = this.#at("model");
    const { hash } = await staged(voices.common, iteration, "save", from === "save", async () => {
      if (settings.trainer.lora) await trainer.saveAdapter(this.#at("adapter"));
      return ranks ? await trainer.saveModel(made) : await model.save(made); // merged
    });
    return hash;
  }

  async #trainer(plan: StepPlan): Promise<Trainer> {
    const { input, model, closing } = this.#l;
    const { trainer: options } = input.settings;
    const seed = input.settings.seed + BigInt(input.iteration);
    const all = { ...options, seed, totalSteps: options.totalSteps ?? plan.totalSteps };
    const trainer = await openTrainer(model, all, input.ranks);
    return closing.keep(trainer, () => trainer[asyncDispose]());
  }

  #references(): RunReferences {
    const { input, closing } = this.#l;
    const { iteration, signal, finish, ranks, voices } = input;
    const at = (name: string) => this.#at(name);
    return new RunReferences({ at, closing, emit: voices.common, iteration, batch, signal, finish, ranks });
  }

  async #train(trainer: Trainer, set: ItemSet, plan: StepPlan, references: RunReferences): Promise<void> {
    const { input, model } = this.#l;
    const { iteration, settings, folder, signal, finish, ranks, voices } = input;
    const { peak } = await summed(ranks, { peak: await agreed(ranks, () => peakOf(model)) });
    await trainSteps({
      trainer,
      items: set,
      open: mediaOpener(model),
      references: await references.ofItems(model, trainer, set),
      plan,
      seed: settings.seed + BigInt(iteration),
      dir: this.#at("train"),
      tensorboard: join(folder.dir, "tensorboard", String(iteration)),
      saveEverySteps: settings.train.saveEverySteps ?? Math.ceil(plan.totalSteps / 10),
      evaluator: null,
      iteration,
      peak,
      emit: voices.common,
      signal,
      finish,
      ranks,
    });
  }

  /** The pairs may be so few that their only step is one of rate 0. */
  #proveRate(steps: number): void {
    const { settings, iteration, voices } = this.#l.input;
    try {
      proveRate(settings.trainer, steps, "train");
    } catch (e) {
      const { message, detail } = e as IsrDpoError;
      if (settings.guards.zeroRate !== "warn")
        throw new IsrDpoError("DEGENERATE", `iteration ${iteration}: ${message}`, {
          hint: 'the pairs make too few steps for the warm-up: start in a new folder with train.warmupSteps: 0, more epochs or a smaller pairsPerStep; or set guards.zeroRate to "warn" to go on with an unchanged model',
          ...(detail ? { detail } : {}),
        });
      const said = `${message}: model ${iteration + 1} is model ${iteration}`;
      voices.common({ type: "warning", code: "ZERO_RATE", message: said, detail: detail ?? {} });
    }
  }

  /** The pairs as items, which rank 0 makes of the journals: sampled ids behind the prompt that they were sampled from, or the question alone. */
  async #items(): Promise<ItemSet> {
    const { input, closing } = this.#l;
    const path = this.#at("train/items.jsonl");
    const set = await inTurn(input.ranks, async (leading) => {
      if (leading) return await this.#gather(path);
      const found = await ItemSet.reopen(path, nothing);
      if (found) return found;
      throw new IsrDpoError("IO", `${path}: expected the items that rank 0 has written, got no file`, {
        hint: "ranks read what rank 0 writes: see whether the file system shows it to all machines at once; the same command resumes",
        path,
      });
    });
    return closing.keep(set, () => set.close());
  }

  async #gather(path: string): Promise<ItemSet> {
    const { input, dir, closing, before } = this.#l;
    const { folder, settings } = input;
    await makeFolders(this.#at("train"));
    const all = await recordsOf(dir, closing);
    if ((countsOf(folder.samples, all).pair ?? 0) === 0)
      throw new IsrDpoError("DEGENERATE", "no sample became a pair: there is nothing to train on", {
        hint: "look at the counts of the samples",
      });
    const pairs = pairsOf(folder.samples, all, contextsOf(all, before).of, settings.judge);
    return await ItemSet.gather(this.#trainItems(pairs), path);
  }

  async *#trainItems(pairs: Iterable<ChosenPair>): AsyncGenerator<StoredItem> {
    const { input, looks } = this.#l;
    const { prompts, settings, iteration } = input;
    const make = settings.train.trainPrompt === "plain" ? plainPrompt : responsePrompt;
    for (const { sample, chosen, rejected } of pairs) {
      const look = lookOf(looks, sample.id, "response", iteration);
      const media: Media = { kind: "video", path: join(settings.videos, sample.video), ...(look && { sample: look }) };
      const [a, b] = [chosen, rejected].map((r) => Int32Array.from(r.ids)) as [Int32Array, Int32Array];
      const item = { id: sample.id, prompt: make(prompts, media, sample.question), chosen: a, rejected: b };
      yield { item, tokens: [a.length, b.length], cut: false };
    }
  }
}

async function* nothing(): AsyncGenerator<StoredItem> {}
