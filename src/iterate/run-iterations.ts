// trainIteration() and runIterations(): the paper's loop over a run folder.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { asyncDispose } from "../base/addon.js";
import type { IterationConfig } from "../base/config-types.js";
import {
  options as checkOptions,
  integer,
  object,
  path,
  refuse,
  signal as checkSignal,
  signalOf,
} from "../base/check.js";
import type { Sample } from "../data/read-samples.js";
import type { Judge } from "../judge/judge.js";
import { loadModel } from "../model/model.js";
import { type Run, startRun } from "../base/run.js";
import { removeFolder } from "../base/atomic-files.js";
import { agreed, byFirst, leads } from "../train/ranks/agree.js";
import type { Communicator } from "../train/ranks/communicator.js";
import { endTogether, shareOfMachine } from "../train/ranks/one-run.js";
import { type Voices, voicesOf } from "../train/ranks/share-out.js";
import type { IterationEvent, IterationResult, Stop } from "../train/run-events.js";
import { communicatorOf } from "../train/trainer-options.js";
import { runName } from "../runfolder/run-json.js";
import { finishOf } from "../train/train-options.js";
import { coalesceProgress, type Emit, published } from "../train/progress.js";
import { train } from "../train/train.js";
import type { EndpointOptions } from "../base/option-types.js";
import type { LoadOptions } from "../base/types.js";
import { proveSameQuestions, unasked } from "./evaluate-models.js";
import { checkPlaces, linesOf, RunFolder, verdictsIn, verdictsName } from "./iteration-folder.js";
import { Iteration } from "./iteration.js";
import { lookRuleOf } from "./frame-policy.js";
import { preflight, proveWindow } from "./preflight.js";
import { proveEvaluation, proveInputs } from "./check-inputs.js";
import { builtIn, endpointWords, type Prompts, promptsOf, readPrompts, unusedPrompts } from "./method-prompts.js";
import { type ContextDesign, loadingOf, type RunSettings, settingsOf, unusedSettings } from "./iteration-settings.js";

/** Options of one iteration. */
export interface IterationOptions extends Stop {
  /** Folder of the run: missing, empty, or the folder of a run to resume. Any other is INVALID_ARGUMENT. */
  runDir: string;
  /** Folder of the checkpoint of model `iteration`. */
  model: string;
  /** The questions about videos; they are read once, to the end. */
  samples: AsyncIterable<Sample> | Iterable<Sample>;
  /** Index of the model that is used; the iteration makes the next one. */
  iteration: number;
  /** The judge's context; default "retrospective". */
  context?: ContextDesign;
  /** "paper": keys that `config` leaves out have the values of LLaVA-Hound-DPO. Default: the values of this package. */
  preset?: "paper";
  /** The judge; default: that of `config` (judge.kind), which is "self" by default. */
  judge?: "self" | Judge;
  /** Keys of the configuration file (docs/configuration.md). */
  config?: IterationConfig;
  /** Prompts in place of those of `config` (a file), or of the built-in ones. */
  prompts?: Partial<Prompts>;
  /** How the models are loaded. */
  load?: LoadOptions;
  /** The ranks that run it together, each with the same options, in a folder that all of them see. Default: this process alone. */
  communicator?: Communicator;
}

/** Options of several iterations. */
export interface RunIterationsOptions extends Omit<IterationOptions, "iteration"> {
  /** Index of the first model that is used; default 1. `model` is its folder, or with `seedData` the folder of model 0. */
  from?: number;
  /** Index of the last model that is made, above `from`. */
  to: number;
}

const keys = [
  "runDir",
  "model",
  "samples",
  "context",
  "preset",
  "judge",
  "config",
  "prompts",
  "load",
  "signal",
  "finish",
  "communicator",
];

interface Checked {
  runDir: string;
  model: string;
  samples: IterationOptions["samples"];
  config: Record<string, unknown>;
  /** undefined: those of the configuration. */
  prompts: Partial<Prompts> | undefined;
  /** undefined: that of the configuration. */
  judge: "self" | Judge | undefined;
  /** Keys of the configuration in whose place an option of the call stands, and that option. */
  replaced: readonly (readonly [key: string, option: string])[];
  load: LoadOptions;
  finish: AbortSignal;
  /** The ranks that run it together, where they are several. */
  ranks: Communicator | undefined;
}

interface Settled extends Checked {
  settings: RunSettings;
  prompts: Prompts;
  judge: "self" | Judge;
  voices: Voices<IterationEvent>;
  signal: AbortSignal;
}

/** A rank's part of a number, at least 1: the parts add up to the whole where it is large enough. */
const partOf = ({ rank, size }: Communicator, whole: number): number =>
  Math.max(1, Math.floor((whole * (rank + 1)) / size) - Math.floor((whole * rank) / size));

/** The judge that the configuration names; verdicts of an endpoint are kept in the run folder, so that none is paid twice. */
async function configuredJudge(
  { kind, endpoint }: RunSettings["judge"],
  prompts: Prompts,
  runDir: string,
  ranks: Communicator | undefined,
): Promise<"self" | Judge> {
  if (kind === "self") return "self";
  const { endpointJudge } = await import("../judge/openai-judge.js");
  const own = verdictsName(ranks?.rank ?? 0);
  const bounds = ranks ? boundsOf(ranks, endpoint!) : {};
  const asked = { ...endpoint!, ...bounds, ...endpointWords(prompts), answers: join(runDir, own) };
  return endpointJudge(asked, async () => (await verdictsIn(runDir)).filter((path) => path !== join(runDir, own)));
}

/** The bounds of an endpoint are those of the run: each rank has its part of them. */
function boundsOf(ranks: Communicator, endpoint: EndpointOptions): Partial<EndpointOptions> {
  const names = ["maxCalls", "concurrency", "perMinute"] as const;
  const given = names.flatMap((name) => {
    const whole = endpoint[name];
    return whole === undefined ? [] : [[name, partOf(ranks, whole)] as const];
  });
  return Object.fromEntries(given);
}

function judgeOf(value: unknown): "self" | Judge | undefined {
  if (value === undefined || value === "self") return value;
  const judge = value as Partial<Judge> | null;
  if (
    typeof judge !== "object" ||
    judge === null ||
    typeof judge.compare !== "function" ||
    typeof judge.id !== "string"
  )
    refuse("options.judge", "'self', or an object with id and compare()", value);
  return judge as Judge;
}

/** Checked at once, and filled up when the preset is known. */
function checkedPrompts(value: unknown): Partial<Prompts> {
  promptsOf(value);
  return value as Partial<Prompts>;
}

function samplesOf(value: unknown): Checked["samples"] {
  const items = value as Partial<AsyncIterable<Sample> & Iterable<Sample>> | null | undefined;
  const iterable =
    typeof items === "object" && items !== null && (items[Symbol.asyncIterator] || items[Symbol.iterator]);
  if (!iterable) refuse("options.samples", "an iterable of samples", value);
  return items as Checked["samples"];
}

/** What stands in `config` with another value than in the option that replaces it. */
function replacedKeys(o: Record<string, unknown>, config: Record<string, unknown>): Checked["replaced"] {
  const plain = (x: unknown) => (typeof x === "object" && x !== null ? (x as Record<string, unknown>) : {});
  const differs = (given: unknown, kept: unknown) => given !== undefined && kept !== undefined && given !== kept;
  const judge = plain(config.judge);
  const asked = o.judge === "self" ? ["kind", "endpoint"] : ["kind", "method", "endpoint"];
  const load = plain(o.load);
  return [
    ...(differs(o.context, plain(config.context).design) ? [["context.design", "context"] as const] : []),
    ...(differs(o.preset, config.preset) ? [["preset", "preset"] as const] : []),
    ...(differs(o.prompts, config.prompts) ? [["prompts", "prompts"] as const] : []),
    ...asked
      .filter((key) => o.judge !== undefined && judge[key] !== undefined && judge[key] !== o.judge)
      .map((key) => [`judge.${key}`, "judge"] as const),
    ...Object.entries(plain(config.load))
      .filter(([key, kept]) => differs(load[key], kept))
      .map(([key]) => [`load.${key}`, `load.${key}`] as const),
  ];
}

function checked(value: unknown, more: readonly string[], from: number, to: number): Checked {
  const o = checkOptions("options", value, [...keys, ...more]);
  checkSignal("options.signal", o.signal);
  const { adapter } = (o.load ?? {}) as LoadOptions;
  if (adapter !== undefined)
    refuse("options.load.adapter", "nothing: a run starts from a model (isr-dpo merge makes one)", adapter);
  const config = o.config === undefined ? {} : object("options.config", o.config);
  const context = {
    ...(config.context as object | undefined),
    ...(o.context === undefined ? {} : { design: o.context }),
  };
  const [runDir, model] = [path("options.runDir", o.runDir), path("options.model", o.model)];
  return {
    runDir,
    model,
    samples: samplesOf(o.samples),
    config: {
      ...config,
      ...(o.preset === undefined ? {} : { preset: o.preset }),
      context,
      ...{ runDir, model, from, to },
    },
    prompts: o.prompts === undefined ? undefined : checkedPrompts(o.prompts),
    judge: judgeOf(o.judge),
    replaced: replacedKeys(o, config),
    load: o.load === undefined ? {} : (object("options.load", o.load) as LoadOptions),
    finish: finishOf(o.finish),
    ranks: several(communicatorOf("options", o)),
  };
}

const several = (ranks: Communicator | undefined) => (ranks && ranks.size > 1 ? ranks : undefined);

type Work<T> = (c: Settled, folder: RunFolder) => Promise<T>;

async function settled(given: Checked, signal: AbortSignal, voices: Voices<IterationEvent>): Promise<Settled> {
  const settings = await settingsOf(given.config);
  const own = builtIn(settings.preset);
  const file = async () => (settings.prompts === undefined ? own : await readPrompts(settings.prompts, own));
  const prompts = given.prompts === undefined ? await file() : promptsOf(given.prompts, own);
  const judge = given.judge ?? (await configuredJudge(settings.judge, prompts, given.runDir, given.ranks));
  return { ...given, settings, prompts, judge, signal, voices };
}

async function withFolder<T>(given: Checked, signal: AbortSignal, emit: Emit, work: Work<T>): Promise<T> {
  const { ranks } = given;
  const together = endTogether(ranks, signal);
  try {
    const c = await agreed(ranks, () => settled(given, together.signal, voicesOf(ranks, emit)));
    const folder = await openFolder(c);
    try {
      const result = await work(c, folder);
      await c.voices.settle();
      return result;
    } finally {
      await folder.close(); // a refused start leaves no folder behind
    }
  } catch (e) {
    together.signal.throwIfAborted(); // then the ranks are lost, too
    throw e;
  } finally {
    together.off();
  }
}

async function openFolder(c: Settled): Promise<RunFolder> {
  const { settings, prompts, load, ranks } = c;
  const { from, to } = settings;
  const iterations = Array.from({ length: to - from }, (_, i) => from + i);
  await byFirst(ranks, async () => {
    await checkPlaces(c.runDir, { settings, load, iterations, ranks });
    return null;
  });
  const { list: samples } = await agreed(ranks, () => linesOf(c.samples));
  await tellUnused(c);
  await byFirst(ranks, async () => {
    if (existsSync(join(c.runDir, runName))) await proveLeft(c);
    else await proveInputs({ settings, emit: c.voices.common, signal: c.signal }, samples); // before there is a folder
    return null;
  });
  const judge = c.judge === "self" ? `self/${settings.judge.method}` : c.judge.id;
  return await RunFolder.open(c.runDir, { settings, prompts, judge, samples, load, iterations, ranks });
}

/** Warns of what is given and has no effect: keys beside others, and prompts that nobody will be asked. */
async function tellUnused({ settings, prompts, judge, replaced, ranks, voices }: Settled): Promise<void> {
  const { unusedText } = await import("../config/unused-keys.js");
  const tell = (message: string) => voices.common({ type: "warning", code: "NO_EFFECT", message, detail: {} });
  for (const [key, option] of replaced) tell(`config.${key} has no effect: options.${option} stands in its place`);
  const foreign = judge !== "self" && settings.judge.kind === "self"; // the caller's own judge
  for (const unused of await unusedSettings(settings)) {
    const used = (foreign && unused.key.startsWith("judge.")) || (ranks && unused.key.startsWith("train.shard"));
    if (!used) tell(unusedText(unused));
  }
  for (const line of unusedPrompts(prompts, builtIn(settings.preset), settings.context.design === "none", foreign))
    tell(line);
}

/** For a run that resumes: checks the questions of the evaluation that are still to be asked, and that they are the same as before. */
async function proveLeft({ settings, runDir, voices, signal }: Settled): Promise<void> {
  const { evaluate, from, to } = settings;
  if (!evaluate) return;
  const indices = Array.from({ length: to - from + 1 }, (_, i) => from + i);
  await proveSameQuestions(runDir, evaluate, indices);
  if (unasked(runDir, evaluate, indices).length > 0) await proveEvaluation({ settings, emit: voices.common, signal });
}

/** Loads the start model once before a stage of seed data, to try all that the iterations will need. */
async function proveStart(c: Settled, { samples, dir, templateDate }: RunFolder): Promise<void> {
  const { settings, prompts, ranks, signal } = c;
  const loading = { ...loadingOf(settings, dir, c.load), templateDate, signal };
  const model = await agreed(ranks, () => loadModel(c.model, { ...loading, ...shareOfMachine(ranks, loading) }));
  try {
    const all = { model, samples, settings, prompts, looks: lookRuleOf(settings), signal, ranks };
    await agreed(ranks, () => proveWindow(all));
    await preflight(all);
  } finally {
    await model[asyncDispose]();
  }
}

function iterate(c: Settled, folder: RunFolder, iteration: number, model: string) {
  const { settings, prompts, judge, load, finish, ranks, voices, signal } = c;
  return new Iteration({
    ...{ folder, settings, prompts, judge, iteration, model, load },
    ...{ voices, signal, finish, ranks },
  }).run();
}

/** Deletes the models of the folder that are older than the newest ones that stay. */
async function dropModels(folder: RunFolder, keep: RunSettings["keep"]): Promise<void> {
  if (keep === "all") return;
  const stay = keep === "last" ? 1 : keep;
  const made = (await folder.iterations())
    .map((t) => join(folder.iteration(t), "model"))
    .filter((dir) => existsSync(dir));
  for (const dir of made.slice(0, -stay)) await removeFolder(dir);
}

/**
 * Runs one iteration in `runDir`. For each question model t writes two answers, and for each video one context; then it judges its
 * own answers, and DPO trains it on these preferences. Model t + 1 is in iterations/<t>/model. The same call resumes the iteration.
 *
 * @param options - the model, the samples, and where and how to run
 * @throws {@link IsrDpoError} INVALID_ARGUMENT; RUN_MISMATCH, RUN_LOCKED; INVALID_CONFIG: prompts that cannot fit, with the numbers;
 * DEGENERATE: a guard or a policy ended the iteration; JUDGE_FAILED; MEDIA_UNREADABLE, MEDIA_EMPTY, FFMPEG_MISSING; NUMERIC,
 * NONDETERMINISM, JOURNAL_CORRUPT; DISK_FULL, IO; and the errors of {@link loadModel}
 *
 * @example
 * ```ts
 * import { readSamples, trainIteration } from "isr-dpo";
 *
 * const samples = readSamples("samples.jsonl");
 * const config = { videos: "videos", seed: 1 };
 * const run = trainIteration({ runDir: "runs/one", model: "checkpoint", samples, iteration: 1, config });
 * process.once("SIGINT", () => run.abort()); // the same call resumes
 * console.log((await run).model);
 * ```
 */
export function trainIteration(options: IterationOptions): Run<IterationEvent, IterationResult> {
  return startRun<IterationEvent, IterationResult>(
    signalOf(options),
    async (signal, emit) => {
      const iteration = integer("options.iteration", options?.iteration, 0);
      const given = checked(options, ["iteration"], iteration, iteration + 1);
      return withFolder(given, signal, published(given.runDir, emit), (c, folder) =>
        iterate(c, folder, iteration, c.model),
      );
    },
    { coalesce: coalesceProgress },
  );
}

/** Model 1 by DPO on a seed preference set, in seed/ of the run folder. */
async function seedModel(c: Settled, seedData: string, emit: Emit): Promise<string> {
  const { settings, model, ranks, signal } = c;
  const { epochs, pairsPerStep, saveEverySteps } = settings.train;
  const running = train({
    kind: "dpo",
    model,
    data: seedData,
    videos: settings.videos,
    runDir: join(c.runDir, "seed"),
    epochs,
    itemsPerStep: pairsPerStep,
    ...(saveEverySteps === undefined ? {} : { saveEverySteps }),
    trainer: { ...settings.trainer, seed: settings.seed, ...(ranks ? { communicator: ranks } : {}) },
    onRanks: settings.onRanks,
    load: loadingOf(settings, c.runDir, c.load),
    signal,
    finish: c.finish,
  });
  for await (const event of running) if (event.type !== "warning" || event.code !== "NO_EFFECT") emit(event); // the run has reported its own
  return (await running.result).model;
}

/**
 * Runs several iterations, each with the model that the one before has made. The same call resumes; finished iterations are not
 * repeated. Resolves to the results of all iterations.
 *
 * @param options - as for {@link trainIteration}, with the first and the last model
 * @throws {@link IsrDpoError} as {@link trainIteration}
 *
 * @example
 * ```ts
 * import { readSamples, runIterations } from "isr-dpo";
 *
 * const samples = readSamples("samples.jsonl");
 * const run = runIterations({ runDir: "runs/isr", model: "checkpoint", samples, from: 1, to: 3, config: { videos: "videos" } });
 * for await (const e of run) if (e.type === "stage") console.log(e.iteration, e.stage, e.state);
 * ```
 */
export function runIterations(options: RunIterationsOptions): Run<IterationEvent, IterationResult[]> {
  return startRun<IterationEvent, IterationResult[]>(
    signalOf(options),
    async (signal, told) => {
      const from = options?.from === undefined ? 1 : integer("options.from", options.from, 0);
      const to = integer("options.to", options?.to, from + 1);
      const given = checked(options, ["from", "to"], from, to);
      return withFolder(given, signal, published(given.runDir, told), async (c, folder) => {
        const { seedData, keep } = c.settings;
        if (folder.fresh && seedData !== undefined) await proveStart(c, folder);
        let model = seedData === undefined ? c.model : await seedModel(c, seedData, told); // published by train()
        const results: IterationResult[] = [];
        for (let t = from; t < to; t++) {
          const result = await iterate(c, folder, t, model);
          results.push(result);
          model = result.model;
          if (leads(c.ranks)) await dropModels(folder, keep);
        }
        return results;
      });
    },
    { coalesce: coalesceProgress },
  );
}
