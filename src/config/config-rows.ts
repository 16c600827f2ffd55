// Every key of a configuration file with its type, range, default and meaning. Checking, JSON Schema, docs/configuration.md, the
// flags of the command line and the public types are made from these rows. Rows of functions stand beside the functions.
import {
  either,
  filePath,
  fileSeed,
  group,
  oneOf,
  only,
  real,
  type Row,
  type Rows,
  type Rule,
  share,
  textLike,
  whole,
  words,
} from "../base/option-rows.js";
import { endpointRows, judgeRows } from "../judge/judge-options.js";
import { loadRows } from "../model/load-options.js";
import { samplingRows } from "../model/sampling-options.js";
import { lossRows } from "../train/loss-options.js";
import { saveEverySteps, trainRows, trainRules } from "../train/train-options.js";
import { optimizerRows, trainerRules } from "../train/trainer-options.js";
import { frameRows } from "../video/frame-sampling.js";

const load = group("Options for loading the model.", loadRows);

// An iteration's model is all that passes on to the next one: an adapter is merged before.
const { adapter: _, ...mergedRows } = loadRows;
const loadOfRun = group("Options for loading the models.", mergedRows);

const features = either(
  "Cache of the vision tower's features on disk; false: none.",
  "false, or an object with dir and maxBytes",
  only(false),
  group("", {
    dir: filePath("Folder of the cache; default: features/ in the folder of the run."),
    maxBytes: whole("Largest size of the cache in bytes; default: no bound.", 1, Number.MAX_SAFE_INTEGER),
  }),
).or({});

const preset = oneOf(
  "Named values for keys that this file leaves out; paper: the schedule of LLaVA-Hound-DPO.",
  "paper",
);

const mediaBounds = {
  timeoutS: real("Longest time in seconds to open and decode a video.", { above: 0, max: 86_400 }).or(300),
  maxLost: share(
    "Share of the examined frames that may be lost or damaged; above it the video counts as unreadable.",
  ).or(0),
};

const trainer = {
  ...lossRows,
  ...optimizerRows,
  totalSteps: optimizerRows.totalSteps.meaning(
    "Length of the schedule in steps; default: the number of steps of the run.",
  ),
};

const seed = fileSeed(
  "Seed of every draw and of the order of the data: a whole number, above 2^53 - 1 as a string of digits.",
);

const { model, ...trainKeys } = trainRows;

/** A configuration of isr-dpo train. */
export const trainConfig = group(
  "",
  {
    preset,
    model,
    data: filePath("File of rows to train on: .jsonl, .json or .parquet.").required(),
    ...trainKeys,
    trainer: group("Loss, optimizer and schedule.", { ...trainer, seed }, ...trainerRules),
    video: group("Bounds for reading videos.", mediaBounds),
    load,
    features,
  },
  ...trainRules,
);

const drop = (about: string) => oneOf(about, "drop", "fail").or("drop");

const endpoint = group("The judge endpoint, for kind openai. Questions, contexts and answers are sent to it.", {
  url: endpointRows.url,
  model: words("Name of the model at the endpoint.").required(),
  keyEnv: endpointRows.keyEnv,
  maxCalls: endpointRows.maxCalls.meaning(
    "Budget of requests; when it is spent the run ends, and can be resumed. Default: no bound.",
  ),
  concurrency: endpointRows.concurrency,
  perMinute: endpointRows.perMinute,
  timeoutS: endpointRows.timeoutS,
}).optional();

const endpointRules: readonly Rule[] = [
  ({ kind, endpoint: given }) =>
    kind === "openai" && !given ? { key: "endpoint", expected: "an endpoint for kind openai" } : undefined,
  ({ kind, endpoint: given }) =>
    kind === "self" && given ? { key: "kind", expected: "kind openai beside an endpoint" } : undefined,
];

const sampling = (tokens: string) => ({
  maxTokens: samplingRows.maxTokens.meaning(tokens).or(512),
  temperature: real(samplingRows.temperature.about, { min: 0, max: 100 }).or(0.7), // in a file 70 is a slip for 0.7
  topP: samplingRows.topP.or(0.9),
});

const context = group("The description of the video that the judge is given.", {
  design: oneOf("Design of the judge's context (docs/method.md).", "none", "fixed", "renew", "retrospective").or(
    "retrospective",
  ),
  ...sampling("Longest context in tokens."),
});

const response = group("The two answers to each question.", sampling("Longest answer in tokens."));

const judge = group(
  "The judge of the two answers, and its policies.",
  {
    kind: oneOf("The judge: the model itself, or an endpoint.", "self", "openai").or("self"),
    method: judgeRows.method.or("text"),
    orders: judgeRows.orders
      .or("one")
      .meaning("Whether each pair is judged in one order of its answers, as in the paper, or in both (see disagree)."),
    tie: drop("What happens to a pair with equal log-probs: the sample is left out, or the run ends."),
    disagree: oneOf(
      "What happens if the choice differs between the orders: the sample is left out, the run ends, or (average) the mean margin decides, which needs a judge that gives margins.",
      "drop",
      "fail",
      "average",
    ).or("drop"),
    identical: drop("What happens to two answers with the same words: the sample is left out, or the run ends."),
    unparsed: drop("What happens if a choice cannot be read: the sample is left out, or the run ends."),
    truncated: oneOf(
      "What happens if an answer was cut by its length: the sample is left out, kept, or both answers are sampled once more.",
      "drop",
      "keep",
      "resample",
    ).or("drop"),
    endpoint,
  },
  ...endpointRules,
);

const guards = group("Bounds outside of which an iteration ends before it trains; 1 and 0 switch the first two off.", {
  maxPosition: share("Largest share of verdicts that may prefer one position.").or(0.9),
  minUsable: share("Smallest share of samples that must become pairs.").or(0.1),
  zeroRate: oneOf(
    "What happens if every training step has learning rate 0: the iteration ends, or a warning is given and it goes on.",
    "fail",
    "warn",
  ).or("fail"),
});

const train = group(
  "DPO of each iteration; optimizer and schedule start anew in each.",
  {
    ...trainer,
    schedule: trainer.schedule.or("linear"),
    warmupRatio: trainer.warmupRatio.or(0.1),
    epochs: whole("Number of times that each pair is trained on.", 1).or(3),
    pairsPerStep: whole("Pairs per optimizer step.", 1).or(128),
    saveEverySteps,
    trainPrompt: oneOf(
      "Whether training uses the prompt that was sampled from, or the question alone.",
      "sampled",
      "plain",
    ).or("sampled"),
  },
  ...trainerRules,
);

const video = group("The frames that the model sees, and bounds for reading videos.", {
  frames: frameRows.frames,
  window: frameRows.window,
  fps: frameRows.fps,
  timeoutS: mediaBounds.timeoutS,
  onError: oneOf(
    "What happens if a video cannot be read: its samples are skipped and counted, or the run ends.",
    "skip",
    "fail",
  ).or("fail"),
  maxLost: mediaBounds.maxLost,
  looks: oneOf("Whether contexts and judgements see the same frames each time, or varied ones.", "same", "varied").or(
    "same",
  ),
  stretches: whole("With varied looks: number of stretches of a video; each look sees one.", 1, 4096).or(4),
});

const evaluate = group("A fixed set of questions, which the first model and the model of each iteration answer.", {
  samples: filePath(
    "File of questions about videos that every model answers, greedily: .jsonl, .json or .parquet.",
  ).required(),
  videos: filePath("Folder that the video paths of these questions are relative to; default: `videos`."),
  count: whole("Number of questions that are asked, from the first one of the file.", 1).or(64),
  name: textLike(
    "Name of the result files: evaluation/NAME.MODEL.json and NAME.MODEL.answers.jsonl.",
    /^[\w-]{1,64}$/,
    "letters, digits, _ and -",
  ).or("slice"),
}).optional();

const runRules: readonly Rule[] = [
  ({ from, to }) => (Number(from) >= Number(to) ? { key: "to", expected: `more than from (${from})` } : undefined),
  ({ response: { temperature } }) =>
    temperature === 0
      ? { key: "response.temperature", expected: "a number above 0 (at 0 both answers to a question are the same)" }
      : undefined,
];

/** A configuration of isr-dpo run: what trainIteration() and runIterations() take as `config`. */
export const runConfig = group(
  "",
  {
    preset,
    model: filePath("Folder of the checkpoint that the run starts from.").required(),
    samples: filePath("File of questions about videos: .jsonl, .json or .parquet.").required(),
    videos: filePath(
      "Folder that video paths are relative to and may not lead out of; default: the folder of samples.",
    ),
    runDir: filePath("Folder of the run; the same command resumes it.").required(),
    seedData: filePath("File of preference rows that first train model 1 from `model` (seed DPO)."),
    from: whole("Index of the first model that is used.", 0).or(1),
    to: whole("Index of the last model that is made.", 1).or(9),
    seed,
    context,
    response,
    judge,
    guards,
    prompts: filePath("File of prompts that replace the built-in ones."),
    train,
    video,
    features,
    load: loadOfRun,
    groupVideos: whole("Number of videos that are processed together; default: 1 on a CPU.", 1),
    evaluate,
    keep: either(
      "Number of models that stay on disk.",
      "all, last, or a number of models",
      oneOf("", "all", "last"),
      whole("", 1, Number.MAX_SAFE_INTEGER),
    ).or(2),
    onRanks: trainRows.onRanks,
  },
  ...runRules,
);

/** Kinds of configuration files: of isr-dpo train, and of isr-dpo run. */
export type ConfigKind = "train" | "run";

export const configs = { train: trainConfig, run: runConfig } as const;

type Values<G> = G extends Row<infer T> ? T : never;

/** A resolved configuration of isr-dpo train. */
export type TrainValues = Values<typeof trainConfig>;

/** A resolved configuration of isr-dpo run. */
export type RunValues = Values<typeof runConfig>;

/** The options below a key: of a group, also where it is one of several shapes. */
export function rowsBelow({ shape }: Row): Rows | undefined {
  if (shape.kind === "group") return shape.rows;
  if (shape.kind !== "either") return undefined;
  const below = shape.of.find((s) => s.kind === "group");
  return below?.kind === "group" ? below.rows : undefined;
}

/** The row of a dotted key. */
export function rowAt(kind: ConfigKind, key: string): Row | undefined {
  let row: Row | undefined = configs[kind];
  for (const name of key.split(".")) {
    const rows: Rows | undefined = row && rowsBelow(row);
    row = rows && Object.hasOwn(rows, name) ? rows[name] : undefined;
  }
  return row;
}
