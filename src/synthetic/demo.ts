// The whole method on the synthetic world with the model that is part of the package: the context designs side by side, each
// model measured on clips that no training saw. The demo writes a comparison folder that the report reads. Designs that share
// an iteration share its files.
import type { IterationConfig } from "../base/config-types.js";
import { existsSync } from "node:fs";
import { cp } from "node:fs/promises";
import { join } from "node:path";
import { wilson } from "../base/statistics.js";
import { asyncDispose, worldModel } from "../base/addon.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { RunFolder } from "../iterate/iteration-folder.js";
import { runIterations } from "../iterate/run-iterations.js";
import type { ContextDesign } from "../iterate/iteration-settings.js";
import { loadModel } from "../model/model.js";
import { type Run, startRun } from "../base/run.js";
import { Claim, type Owner } from "../runfolder/folder-claim.js";
import { AtomicDir, makeFolders, readState, writeAtomic } from "../base/atomic-files.js";
import { Journal } from "../runfolder/journal.js";
import { finished } from "../runfolder/journal-records.js";
import { canonicalJson } from "../runfolder/run-json.js";
import type { IterationEvent, Stop } from "../train/run-events.js";
import { finishOf } from "../train/train-options.js";
import { motions, shapes } from "./clip.js";
import { measureAnswers } from "./measure-model.js";
import { worldPrompts } from "./world-prompts.js";
import { clipFrames, videoName, type WorldSample, type WorldSet, worldSamples } from "./world-samples.js";
import { type Summary, truthValue } from "./truth-score.js";
import { writeFrames, writeStrip } from "./clip-stills.js";
import { writeClip } from "./clip-video.js";

export const demoDesigns = ["none", "fixed", "renew", "retrospective"] as const;

export interface DemoOptions extends Stop {
  /** Folder of the comparison; the same call goes on with what is there. */
  dir: string;
  /** Default 1: of clips, questions and draws. */
  seed?: number;
  /** Clips that are asked about, one question each; default 160. */
  clips?: number;
  /** Clips that models are measured on, two questions each; default 100. */
  heldOut?: number;
  /** Default 3. */
  iterations?: number;
  /** Default: the model that ships. */
  model?: string;
}

export type DemoEvent =
  | { type: "clips"; done: number; total: number }
  | { type: "note"; message: string }
  | { type: "iteration"; design: ContextDesign; event: IterationEvent }
  | {
      type: "measured";
      design: ContextDesign | "start";
      model: number;
      summary: { greedy: Summary; sampled: Summary };
    };

export interface DemoResult {
  dir: string;
  /** Accuracy by chance: an answer that knows which things are shown and guesses the rest. */
  chance: number;
  /** Accuracy of answers sampled at temperature 0.7, by design and model; index 0 is the start model. */
  accuracy: Readonly<Record<ContextDesign, readonly Measured[]>>;
  /** How often the judge preferred the truer answer, by design and iteration. */
  alignment: Readonly<Record<ContextDesign, readonly Share[]>>;
}

export interface Share {
  agree: number;
  of: number;
}

export interface Measured {
  sampled: Summary;
  greedy: Summary;
  /** 95 % of sampled accuracy. */
  interval: readonly [number, number];
}

const guess = 1 / (shapes.length * motions.length);

const chanceOf = (samples: readonly WorldSample[]): number =>
  samples.reduce((sum, s) => sum + guess ** (s.asked.colour === null ? s.look.length : 1), 0) / samples.length;

/** The configuration of a run of the demo; `dir`: where videos/ is. */
export const demoConfig = (design: ContextDesign, { seed, dir }: { seed: number; dir: string }) =>
  ({
    videos: join(dir, "videos"),
    seed,
    context: design === "none" ? { design } : { design, maxTokens: 50, temperature: 0 },
    response: { maxTokens: 50, temperature: 0.7, topP: 1 },
    judge: { method: "logprob", orders: "both", disagree: "average" },
    train: {
      ...{ learningRate: 1.5e-4, schedule: "linear", warmupRatio: 0, beta: 0.3, clipNorm: 1 },
      ...{ epochs: 1, pairsPerStep: 24 },
    },
    video: { looks: "varied", stretches: 4, frames: 4 },
    features: { dir: join(dir, "features") },
    groupVideos: 64,
    keep: "all",
  }) satisfies IterationConfig;

const first = 1; // index of the start model

const mark = "demo.json";

const owner = (asked: Record<"seed" | "clips" | "heldOut", number>): Owner<Record<string, unknown>> => ({
  mark,
  what: "the folder of a demo",
  read(path, found) {
    if (found.format !== 1 || !Object.keys(asked).every((key) => typeof found[key] === "number")) return null;
    const differing = Object.entries(asked).filter(([key, value]) => found[key] !== value);
    if (differing.length === 0) return found;
    const said = differing.map(([key, value]) => `${key}: expected ${String(found[key])}, got ${value}`).join("; ");
    throw new IsrDpoError("RUN_MISMATCH", `${path}: the demo was begun with other values: ${said}`, {
      hint: "give the values that it was begun with, or another folder",
      path,
      detail: { differences: differing.map(([key, now]) => ({ key, before: found[key], now })) },
    });
  },
});

interface Settled extends Required<DemoOptions> {
  emit(event: DemoEvent): void;
}

class Demo {
  readonly #o: Settled;
  readonly #train: WorldSet;
  readonly #samples: readonly WorldSample[];
  readonly #heldOut: WorldSet;
  readonly #measured = new Map<string, Measured>();

  constructor(o: Settled) {
    this.#o = o;
    this.#train = { name: "train", seed: o.seed, clips: o.clips };
    this.#samples = worldSamples(this.#train);
    this.#heldOut = { name: "held-out", seed: o.seed, clips: o.heldOut, questions: "both" };
  }

  #dir(design: ContextDesign, ...more: string[]): string {
    return join(this.#o.dir, design, ...more);
  }

  /** Clips as video files, or where there is no ffmpeg as folders of frames; what an earlier call has written stays. */
  async #clips(): Promise<void> {
    const { dir, clips, emit, signal, finish } = this.#o;
    const videos = join(dir, "videos");
    await makeFolders(videos);
    const strips: Record<string, string> = {};
    let files = true;
    for (let i = 0; i < clips; i++) {
      signal.throwIfAborted();
      finish.throwIfAborted();
      const name = videoName(this.#train, i);
      const frames = clipFrames(this.#train, i);
      strips[name] = await writeStrip(frames);
      const path = join(videos, name);
      const there = existsSync(path);
      try {
        if (files && !there) await writeClip(path, frames, { signal });
      } catch (e) {
        if (!isIsrDpoError(e, "FFMPEG_MISSING")) throw e;
        files = false;
        emit({ type: "note", message: "there is no ffmpeg: clips are folders of frames, not video files" });
      }
      if (!files && !there) await writeFrames(path, frames);
      emit({ type: "clips", done: i + 1, total: clips });
    }
    await writeAtomic(join(dir, "thumbnails.json"), JSON.stringify(strips));
  }

  /** Iterations up to model `to` of one design. */
  async #iterate(design: ContextDesign, to: number): Promise<void> {
    const { model, emit, signal, finish } = this.#o;
    const run = runIterations({
      runDir: this.#dir(design),
      model,
      samples: this.#samples.map(({ id, video, question }) => ({ id, video, question })),
      from: first,
      to,
      context: design,
      prompts: worldPrompts,
      config: demoConfig(design, this.#o),
      load: { threads: 1 },
      ...{ signal, finish },
    });
    for await (const event of run)
      if (event.type !== "warning" || event.code !== "NO_EFFECT") emit({ type: "iteration", design, event }); // one set of prompts for all designs
    await run.result;
  }

  /** The first iteration is the same computation in all designs with a context. */
  async #share(from: ContextDesign, to: ContextDesign): Promise<void> {
    const [source, target] = [from, to].map((d) => this.#dir(d, "iterations", String(first))) as [string, string];
    if (await readState(join(target, "stage.json"))) return;
    const start = await readState(join(source, "start.json"));
    await RunFolder.plant(this.#dir(to), [first], async () => {
      await makeFolders(this.#dir(to, "iterations"));
      const folder = await AtomicDir.create(target);
      await cp(source, folder.path, { recursive: true });
      await writeAtomic(join(folder.path, "start.json"), `${canonicalJson({ ...start, context: to })}\n`);
      await folder.commit();
    });
  }

  /** Answers of a model on held-out clips; a model of several designs is measured once. */
  async #measure(design: ContextDesign | "start", dir: string, index: number): Promise<Measured> {
    const { signal, finish, seed, emit } = this.#o;
    finish.throwIfAborted();
    const model = await loadModel(dir, { threads: 1, signal });
    try {
      const hash = await model.hash();
      const known = this.#measured.get(hash);
      if (known) return known;
      const summary = await measureAnswers(model, this.#heldOut, { seed, signal });
      const { exact, count } = summary.sampled;
      const measured = { ...summary, interval: wilson(exact, count) };
      this.#measured.set(hash, measured);
      emit({ type: "measured", design, model: index, summary });
      return measured;
    } finally {
      await model[asyncDispose]();
    }
  }

  async #evaluate(design: ContextDesign, index: number, chance: number): Promise<Measured> {
    const dir = index === first ? this.#o.model : this.#dir(design, "iterations", String(index - 1), "model");
    const found = await this.#measure(index === first ? "start" : design, dir, index);
    const { sampled, greedy, interval } = found;
    const row = {
      ...{ name: "world", title: "Held-out clips", kind: "exact", model: index, domain: "world" },
      ...{ count: sampled.count, accuracy: sampled.exact, interval, chance, words: sampled.words },
      extra: {
        "accuracy, greedy": greedy.exact,
        precision: sampled.precision,
        recall: sampled.recall,
        invented: sampled.invented,
      },
    };
    await RunFolder.plant(this.#dir(design), [first], async () => {
      await makeFolders(this.#dir(design, "evaluation"));
      await writeAtomic(this.#dir(design, "evaluation", `world.${index}.json`), `${JSON.stringify(row)}\n`);
    });
    return found;
  }

  /** Verdicts of an iteration against the truth, where the two answers differ in it. */
  async #alignment(design: ContextDesign, t: number): Promise<Share> {
    const { journal, records } = await Journal.open(this.#dir(design, "iterations", String(t), "journal.0.log"));
    await journal.close();
    const texts = new Map<string, string[]>();
    const margins = new Map<string, number>();
    for (const r of finished(records)) {
      if (r.type === "rsp") {
        const list = texts.get(r.sample) ?? [];
        list[r.copy] = r.text;
        texts.set(r.sample, list);
      } else if (r.type === "verdict") margins.set(r.sample, (margins.get(r.sample) ?? 0) + (r.margin ?? 0));
    }
    const share = { agree: 0, of: 0 };
    for (const { id, clip, asked } of this.#samples) {
      const margin = margins.get(id);
      const [a, b] = (texts.get(id) ?? []).map((t) => truthValue(t, clip.things, asked.colour));
      if (margin === undefined || a === undefined || b === undefined || a === b) continue;
      share.of += 1;
      if (Math.sign(margin) === Math.sign(a - b)) share.agree += 1;
    }
    return share;
  }

  /** In a folder that is a demo's, or becomes one: demo.json says with what. */
  async run(): Promise<DemoResult> {
    const { dir, seed, clips, heldOut } = this.#o;
    const claim = await Claim.take(dir, owner({ seed, clips, heldOut }));
    try {
      if (!claim.found) await writeAtomic(join(dir, mark), `${canonicalJson({ format: 1, seed, clips, heldOut })}\n`);
      await claim.settled();
      await claim.tidy([".", "videos"]);
      return await this.#work();
    } finally {
      await claim.end();
    }
  }

  async #work(): Promise<DemoResult> {
    const { iterations } = this.#o;
    const last = first + iterations;
    await this.#clips();
    const chance = chanceOf(worldSamples(this.#heldOut));
    const accuracy = {} as Record<ContextDesign, Measured[]>;
    const finish = async (design: ContextDesign) => {
      await this.#iterate(design, last);
      accuracy[design] = [];
      for (let t = first; t <= last; t++) accuracy[design].push(await this.#evaluate(design, t, chance));
    };
    const others = async () => {
      await this.#iterate("retrospective", first + 1);
      for (const design of ["fixed", "renew"] as const) await this.#share("retrospective", design);
      return ["retrospective", "fixed", "renew"] as const;
    };
    await this.#evaluate("none", first, chance); // the start model, before anything is trained
    const waiting: ContextDesign[] = [];
    const work = async () => {
      for (let next = waiting.shift(); next; next = waiting.shift()) await finish(next);
    };
    const contexts = others().then((list) => {
      waiting.push(...list);
      return work();
    });
    const lanes = await Promise.allSettled([finish("none").then(work), contexts]); // each is waited for, also when the other fails
    for (const lane of lanes) if (lane.status === "rejected") throw lane.reason;
    return this.#conclude(chance, accuracy);
  }

  async #conclude(chance: number, accuracy: Record<ContextDesign, Measured[]>): Promise<DemoResult> {
    const { iterations, dir, seed, clips, heldOut } = this.#o;
    const alignment = {} as Record<ContextDesign, Share[]>;
    for (const design of demoDesigns) {
      alignment[design] = [];
      for (let t = first; t < first + iterations; t++) alignment[design].push(await this.#alignment(design, t));
    }
    const judge = Object.fromEntries(
      demoDesigns.map((d) => [d, Object.fromEntries(alignment[d].map((share, i) => [first + i, share]))]),
    );
    const comparison = {
      title: "ISR-DPO on the synthetic world",
      runs: demoDesigns.map((name) => ({ name, dir: name })),
      chance,
      truth: { judgeAlignment: judge },
      notes: [
        `Seed ${seed}: ${clips} clips with a question each, ${heldOut} other clips with two questions each to measure on.`,
        "The start model was taught noisy answers on purpose, and judging on clean labels: that gap is what the method closes.",
        "One seed is one draw: differences within the intervals mean nothing.",
      ],
    };
    await writeAtomic(join(dir, "comparison.json"), `${JSON.stringify(comparison, null, 2)}\n`);
    return { dir, chance, accuracy, alignment };
  }
}

/** The method on the world: clips, all designs, measures, and the files of the report. Called again it goes on. */
export function demo(options: DemoOptions): Run<DemoEvent, DemoResult> {
  const { dir, seed = 1, clips = 160, heldOut = 100, iterations = 3, model = worldModel } = options;
  for (const [name, n] of Object.entries({ clips, heldOut, iterations }))
    if (!Number.isSafeInteger(n) || n < 1)
      throw new IsrDpoError("INVALID_ARGUMENT", `options.${name}: expected a whole number of at least 1, got ${n}`);
  const finish = finishOf(options.finish);
  return startRun<DemoEvent, DemoResult>(options.signal, (signal, emit) =>
    new Demo({ dir, seed, clips, heldOut, iterations, model, signal, finish, emit }).run(),
  );
}
