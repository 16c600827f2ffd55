// Every key of a configuration file with its type, range, default and meaning. This one table serves checking, JSON Schema
// and docs/configuration.md. The defaults are those of the functions that take the options.
import { z } from "zod";
import { fromHome } from "../base/check.js";
import { lossNames } from "../train/loss-options.js";

const text = (about: string) => z.string().min(1).describe(about);
const path = (about: string) =>
  text(about)
    .refine((s) => !s.includes("\0"), "a path without zero bytes")
    .refine((s) => fromHome(s) !== null, "a path with ~/ for your home folder, or ./~name for a folder of that name")
    .meta({ path: true, description: about });
const whole = (about: string, min: number, max = 2 ** 31 - 1) => z.int().min(min).max(max).describe(about);
const positive = (about: string) => z.number().gt(0).describe(about);
const share = (about: string) => z.number().min(0).max(1).describe(about);
const flag = (about: string) => z.boolean().describe(about);
const one = <const T extends readonly string[]>(about: string, ...of: T) => z.enum(of).describe(about);

const digits = /^\d{1,20}$/;
const seed = z
  .union([z.int().min(0), z.string().regex(digits)], {
    error: "a whole number from 0 to 2^53 - 1, or up to 2^64 - 1 as a string of digits",
  })
  .refine((s) => !digits.test(String(s)) || BigInt(s) < 1n << 64n, "a whole number from 0 to 2^64 - 1")
  .describe("Seed of every draw and of the order of the data: a whole number, above 2^53 - 1 as a string of digits.");

const sampling = {
  temperature: z
    .number()
    .min(0)
    .max(100)
    .describe("Temperature of sampling; 0 takes the most probable token each time."),
  topP: z
    .number()
    .gt(0)
    .max(1)
    .describe("Samples from the most probable tokens whose probabilities sum to this share."),
};

const load = z
  .strictObject({
    device: z
      .string()
      .regex(/^(auto|cpu|cuda(:\d+)?)$/)
      .default("auto")
      .describe("Device: auto, cpu, cuda or cuda:N."),
    dtype: one("Type of the weights in memory; auto: the type of the file.", "auto", "f32", "bf16").default("auto"),
    threads: whole("Largest number of threads; default: all that the machine allows.", 1, 256).optional(),
    visionTower: path("Folder of the vision tower, if the checkpoint does not contain it.").optional(),
  })
  .describe("Options for loading the model.");

const features = z
  .union(
    [
      z.literal(false),
      z.strictObject({
        dir: path("Folder of the cache; default: features/ in the folder of the run.").optional(),
        maxBytes: whole(
          "Largest size of the cache in bytes; default: no bound.",
          1,
          Number.MAX_SAFE_INTEGER,
        ).optional(),
      }),
    ],
    { error: "false, or an object with dir and maxBytes" },
  )
  .describe("Cache of the vision tower's features on disk; false: none.");

const trainer = {
  loss: one("The preference loss.", ...lossNames).default("sigmoid"),
  beta: positive("Strength of the reference in the loss.").default(0.1),
  labelSmoothing: z
    .number()
    .min(0)
    .lt(0.5)
    .default(0)
    .describe("Share of pairs that are assumed to be swapped; only some losses have it."),
  ldAlpha: share("Weight of the tokens beyond the length of the shorter answer (LD-DPO); default: 1.").optional(),
  gamma: z.number().min(0).default(0).describe("Weight of the cross-entropy of the chosen answers beside the loss."),
  divergence: one(
    "Divergence from the reference; all but reverse_kl need loss sigmoid.",
    "reverse_kl",
    "forward_kl",
    "js_divergence",
  ).default("reverse_kl"),
  learningRate: z.number().min(0).default(5e-7).describe("Peak learning rate."),
  schedule: one("Course of the learning rate after the warm-up.", "constant", "linear", "cosine").default("constant"),
  warmupRatio: share(
    "Share of all steps in which the rate rises, rounded up to whole steps; the first step of a warm-up has rate 0.",
  ).optional(),
  warmupSteps: whole("Number of steps in which the rate rises, in place of warmupRatio.", 0).optional(),
  totalSteps: whole("Length of the schedule in steps; default: the number of steps of the run.", 1).optional(),
  betas: z
    .tuple([z.number().min(0).lt(1), z.number().min(0).lt(1)])
    .default([0.9, 0.999])
    .describe("AdamW's decay rates of the two moments."),
  eps: positive("AdamW's epsilon.").default(1e-8),
  weightDecay: z.number().min(0).default(0).describe("Decoupled weight decay."),
  decayNorms: flag("Whether weight decay also applies to norms and biases.").default(true),
  clipNorm: z
    .union([z.number().gt(0), z.null()], { error: "a number greater than 0, or null" })
    .default(null)
    .describe("Global gradient norm above which gradients are scaled down; null: never."),
  train: z
    .strictObject({
      vision: flag("The vision tower.").default(false),
      projector: flag("The projector, which maps the tower's features to tokens.").default(false),
      decoder: flag("The language model.").default(true),
    })
    .prefault({})
    .describe("Parts of the model that are trained."),
  microBatchTokens: whole(
    "Number of tokens that are computed at once, which bounds the memory of activations.",
    1,
  ).default(4096),
  checkpointing: flag(
    "Whether activations are recomputed in the backward pass instead of kept; default: if they would not fit.",
  ).optional(),
  sharePrefix: flag("Whether a common prefix of prompts is computed once.").default(true),
};

/** Losses that take labelSmoothing; exo_pair needs it above 0. */
const smoothed: readonly string[] = ["cdpo", "robust", "exo_pair", "aot", "aot_unpaired"];

interface TrainerValues {
  loss: string;
  labelSmoothing: number;
  divergence: string;
  warmupRatio?: number | undefined;
  warmupSteps?: number | undefined;
  train: { vision: boolean; projector: boolean; decoder: boolean };
}
type Refuse = (expected: string, ...path: string[]) => void;

/** Checks that concern several keys; the message of each says what was expected. */
const together =
  <T>(check: (value: T, refuse: Refuse) => void) =>
  (value: T, { addIssue }: { addIssue: (issue: { code: "custom"; message: string; path: string[] }) => void }) =>
    check(value, (message, ...path) => addIssue({ code: "custom", message, path }));

const trainerTogether = together<TrainerValues>((t, refuse) => {
  if ((t.warmupSteps ?? 0) > 0 && (t.warmupRatio ?? 0) > 0) refuse("one of warmupSteps and warmupRatio", "warmupSteps");
  if (t.labelSmoothing > 0 && !smoothed.includes(t.loss))
    refuse(`0 beside loss ${t.loss} (others go with ${smoothed.join(", ")})`, "labelSmoothing");
  if (t.labelSmoothing === 0 && t.loss === "exo_pair")
    refuse("a number above 0 beside loss exo_pair", "labelSmoothing");
  if (t.divergence !== "reverse_kl" && t.loss !== "sigmoid")
    refuse(`reverse_kl beside loss ${t.loss} (others go with sigmoid only)`, "divergence");
  if (!Object.values(t.train).includes(true)) refuse("a part that is trained", "train");
});

const badRows = one(
  "What a row that cannot be used does: it ends the run, or is left out and counted.",
  "fail",
  "skip",
).default("fail");
const preset = one(
  "Named values for keys that this file leaves out; paper: the schedule of LLaVA-Hound-DPO.",
  "paper",
).optional();
const saveEverySteps = whole(
  "Steps between checkpoints of the training state; default: about ten checkpoints per run.",
  1,
).optional();

const mediaBounds = {
  timeoutS: positive("Longest time in seconds to open and decode a video.").max(86_400).default(300),
  maxLost: z
    .number()
    .min(0)
    .max(1)
    .default(0)
    .describe("Share of the examined frames that may be lost or damaged; above it the video counts as unreadable."),
};

export const trainSchema = z
  .strictObject({
    preset,
    model: path("Folder of the checkpoint to start from."),
    data: path("File of rows to train on: .jsonl, .json or .parquet."),
    videos: path(
      "Folder that media paths of rows are relative to and may not lead out of; default: the folder of data.",
    ).optional(),
    runDir: path("Folder of the run; the same command resumes it."),
    evalData: path("File of rows to measure loss, accuracy and margin on; it does not change the training.").optional(),
    evalEvery: whole("Steps between evaluations; default: before the first and after the last step.", 1).optional(),
    epochs: whole("Number of times that each row is trained on.", 1).default(1),
    itemsPerStep: whole("Rows per optimizer step.", 1).default(8),
    onBadRow: badRows,
    onLong: one(
      "What happens to an item that is longer than the context: it is a bad row, or its answers are cut and it is counted.",
      "fail",
      "truncate",
    ).default("fail"),
    onEnd: one(
      "What happens to an answer without exactly one end token, or to a prompt that the template has rendered already: it is corrected and counted, or it is a bad row.",
      "repair",
      "fail",
    ).default("repair"),
    turns: one(
      "Supervised training: everything that the assistant says in a row is scored (default), or only the last turn.",
      "all",
      "last",
    ).optional(),
    saveEverySteps,
    trainer: z
      .strictObject({ ...trainer, seed: seed.default(0) })
      .superRefine(trainerTogether)
      .prefault({})
      .describe("Loss, optimizer and schedule."),
    video: z.strictObject(mediaBounds).prefault({}).describe("Bounds for reading videos."),
    load: load.prefault({}),
    features: features.prefault({}),
  })
  .superRefine(
    together<{ evalEvery?: number | undefined; evalData?: string | undefined }>((c, refuse) => {
      if (c.evalEvery !== undefined && c.evalData === undefined) refuse("evalData beside it", "evalEvery");
    }),
  );

const drop = (about: string) => one(about, "drop", "fail").default("drop");

const endpoint = z
  .strictObject({
    url: z.url().describe("Base address of an OpenAI-compatible API, up to and without /chat/completions."),
    model: text("Name of the model at the endpoint."),
    keyEnv: text("Name of the environment variable that holds the key; default: no key is sent.").optional(),
    maxCalls: whole(
      "Budget of calls; when it is spent the run ends, and can be resumed. Default: no bound.",
      1,
    ).optional(),
    concurrency: whole("Number of concurrent calls.", 1, 256).default(4),
    perMinute: whole("Largest number of calls per minute; default: no bound.", 1).optional(),
    timeoutS: positive("Longest time of a call in seconds.").default(60),
  })
  .describe("The judge endpoint, for kind openai. Questions, contexts and answers are sent to it.");

export const runSchema = z
  .strictObject({
    preset,
    model: path("Folder of the checkpoint that the run starts from."),
    samples: path("File of questions about videos: .jsonl, .json or .parquet."),
    videos: path(
      "Folder that video paths are relative to and may not lead out of; default: the folder of samples.",
    ).optional(),
    runDir: path("Folder of the run; the same command resumes it."),
    seedData: path("File of preference rows that first train model 1 from `model` (seed DPO).").optional(),
    from: whole("Index of the first model that is used.", 0).default(1),
    to: whole("Index of the last model that is made.", 1).default(9),
    seed: seed.default(0),
    context: z
      .strictObject({
        design: one(
          "Design of the judge's context (docs/method.md).",
          "none",
          "fixed",
          "renew",
          "retrospective",
        ).default("retrospective"),
        maxTokens: whole("Longest context in tokens.", 1).default(512),
        temperature: sampling.temperature.default(0.7),
        topP: sampling.topP.default(0.9),
      })
      .prefault({})
      .describe("The description of the video that the judge is given."),
    response: z
      .strictObject({
        maxTokens: whole("Longest answer in tokens.", 1).default(512),
        temperature: sampling.temperature.default(0.7),
        topP: sampling.topP.default(0.9),
      })
      .prefault({})
      .describe("The two answers to each question."),
    judge: z
      .strictObject({
        kind: one("The judge: the model itself, or an endpoint.", "self", "openai").default("self"),
        method: one(
          "How the model's choice is read: from its text, or from the log-probs of the two labels.",
          "text",
          "logprob",
        ).default("text"),
        orders: one("Whether answers are shown in one order (the paper) or in both.", "one", "both").default("one"),
        tie: drop("What happens to a pair with equal log-probs: the sample is left out, or the run ends."),
        disagree: one(
          "What happens if the choice differs between the orders: the sample is left out, the run ends, or (average) the mean margin decides, which needs a judge that gives margins.",
          "drop",
          "fail",
          "average",
        ).default("drop"),
        identical: drop("What happens to two answers with the same words: the sample is left out, or the run ends."),
        unparsed: drop("What happens if a choice cannot be read: the sample is left out, or the run ends."),
        truncated: one(
          "What happens if an answer was cut by its length: the sample is left out, kept, or both answers are sampled once more.",
          "drop",
          "keep",
          "resample",
        ).default("drop"),
        endpoint: endpoint.optional(),
      })
      .superRefine(
        together<{ kind: string; endpoint?: object | undefined }>((j, refuse) => {
          if (j.kind === "openai" && !j.endpoint) refuse("an endpoint for kind openai", "endpoint");
          if (j.kind === "self" && j.endpoint) refuse("kind openai beside an endpoint", "kind");
        }),
      )
      .prefault({})
      .describe("The judge of the two answers, and its policies."),
    guards: z
      .strictObject({
        maxPosition: share("Largest share of verdicts that may prefer one position.").default(0.9),
        minUsable: share("Smallest share of samples that must become pairs.").default(0.1),
        zeroRate: one(
          "What happens if every training step has learning rate 0: the iteration ends, or a warning is given and it goes on.",
          "fail",
          "warn",
        ).default("fail"),
      })
      .prefault({})
      .describe("Bounds outside of which an iteration ends before it trains; 1 and 0 switch the first two off."),
    prompts: path("File of prompts that replace the built-in ones.").optional(),
    train: z
      .strictObject({
        ...trainer,
        schedule: trainer.schedule.unwrap().default("linear"),
        warmupRatio: share(
          "Share of all steps in which the rate rises, rounded up to whole steps; the first step of a warm-up has rate 0.",
        ).default(0.1),
        epochs: whole("Number of times that each pair is trained on.", 1).default(3),
        pairsPerStep: whole("Pairs per optimizer step.", 1).default(128),
        saveEverySteps,
        trainPrompt: one(
          "Whether training uses the prompt that was sampled from, or the question alone.",
          "sampled",
          "plain",
        ).default("sampled"),
      })
      .superRefine(trainerTogether)
      .prefault({})
      .describe("DPO of each iteration; optimizer and schedule start anew in each."),
    video: z
      .strictObject({
        frames: whole("Number of frames per video; default: as in the model's family.", 1, 4096).optional(),
        window: z
          .tuple([z.number().min(0), z.number().gt(0)])
          .refine(([from, to]) => from < to, "a begin before its end")
          .optional()
          .describe(
            "Begin and end, in seconds, of the part that frames are taken from; default: as in the model's family.",
          ),
        fps: positive("Frames per second to choose among; default: all frames.").optional(),
        timeoutS: mediaBounds.timeoutS,
        onError: one(
          "What happens if a video cannot be read: its samples are skipped and counted, or the run ends.",
          "skip",
          "fail",
        ).default("fail"),
        maxLost: mediaBounds.maxLost,
        looks: one(
          "Whether contexts and judgements see the same frames each time, or varied ones.",
          "same",
          "varied",
        ).default("same"),
        stretches: whole("With varied looks: number of stretches of a video; each look sees one.", 1, 4096).default(4),
      })
      .prefault({})
      .describe("The frames that the model sees, and bounds for reading videos."),
    features: features.prefault({}),
    load: load.prefault({}),
    groupVideos: whole("Number of videos that are processed together; default: 1 on a CPU.", 1).optional(),
    evaluate: z
      .strictObject({
        samples: path("File of questions about videos that every model answers, greedily: .jsonl, .json or .parquet."),
        videos: path("Folder that the video paths of these questions are relative to; default: `videos`.").optional(),
        count: whole("Number of questions that are asked, from the first one of the file.", 1).default(64),
        name: z
          .string()
          .regex(/^[\w-]{1,64}$/, "letters, digits, _ and -")
          .default("slice")
          .describe("Name of the result files: evaluation/NAME.MODEL.json and NAME.MODEL.answers.jsonl."),
      })
      .describe("A fixed set of questions, which the first model and the model of each iteration answer.")
      .optional(),
    keep: z
      .union([z.enum(["all", "last"]), z.int().min(1)], { error: "all, last, or a number of models" })
      .default(2)
      .describe("Number of models that stay on disk."),
  })
  .superRefine(
    together<{ from: number; to: number; response: { temperature: number } }>((c, refuse) => {
      if (c.from >= c.to) refuse(`more than from (${c.from})`, "to");
      if (c.response.temperature === 0)
        refuse("a number above 0 (at 0 both answers to a question are the same)", "response", "temperature");
    }),
  );

export type TrainConfig = z.output<typeof trainSchema>;
export type RunConfig = z.output<typeof runSchema>;
export type ConfigKind = "train" | "run";

type Given<T> = T extends object ? { readonly [K in keyof T]: Given<T[K]> } : T;

/**
 * Options of iterations: the keys of the configuration file, with their types
 * ([docs/configuration.md](https://github.com/isr-dpo/isr-dpo/blob/main/docs/configuration.md) has their meaning and defaults).
 * All are optional; `model`, `runDir`, `from` and `to` come from the options beside `config`.
 */
export type IterationConfig = Given<Partial<z.input<typeof runSchema>>>;

export const schemas = { train: trainSchema, run: runSchema } as const;

const paperDpo = {
  loss: "sigmoid",
  beta: 0.1,
  learningRate: 5e-7,
  schedule: "linear",
  warmupRatio: 0.1,
  betas: [0.9, 0.999],
  eps: 1e-8,
  weightDecay: 0,
  clipNorm: null,
  train: { vision: false, projector: false, decoder: true },
} as const;

/** LLaVA-Hound-DPO's values; the paper and its code leave most of them out. */
export const presets = {
  paper: {
    train: {
      trainer: paperDpo,
      epochs: 3,
      itemsPerStep: 128,
      load: { dtype: "bf16" },
    },
    run: {
      from: 1,
      to: 9,
      context: { maxTokens: 512, temperature: 0.7, topP: 0.9 },
      response: { maxTokens: 512, temperature: 0.7, topP: 0.9 },
      judge: { kind: "self", method: "text", orders: "one" },
      train: {
        ...paperDpo,
        epochs: 3,
        pairsPerStep: 128,
      },
      video: { frames: 8, looks: "same" },
      load: { dtype: "bf16" },
    },
  },
} as const;

/** JSON Schema of a kind, for editors. */
export const jsonSchema = (kind: ConfigKind): object => z.toJSONSchema(schemas[kind], { io: "input" });
