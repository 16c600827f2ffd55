// Every key of a configuration file with its type, range, default and meaning: one table for checking, for JSON Schema and
// for docs/configuration.md. Defaults are those of the functions that take the options.
import { z } from "zod";
import { fromHome } from "../check.js";
import { lossNames } from "../loss.js";

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
  .describe("Of every draw and of the order of the data; a whole number, above 2^53 - 1 as a string of digits.");

const sampling = {
  temperature: z.number().min(0).max(100).describe("0 takes the likeliest token each time."),
  topP: z.number().gt(0).max(1).describe("Draw among the likeliest tokens that make up this share."),
};

const load = z
  .strictObject({
    device: z
      .string()
      .regex(/^(auto|cpu|cuda(:\d+)?)$/)
      .default("auto")
      .describe("auto, cpu, cuda or cuda:N."),
    dtype: one("Numbers to compute in; auto: those of the file.", "auto", "f32", "bf16").default("auto"),
    threads: whole("At most this many threads; default: all that the machine allows.", 1, 256).optional(),
    visionTower: path("Folder of the vision tower, where the checkpoint has none.").optional(),
  })
  .describe("How the model is loaded.");

const features = z
  .union(
    [
      z.literal(false),
      z.strictObject({
        dir: path("Folder of the cache; default: features/ of the run.").optional(),
        maxBytes: whole("Bound of the cache in bytes.", 1, Number.MAX_SAFE_INTEGER).optional(),
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
    .describe("Share of pairs taken for swapped; for losses that have it."),
  ldAlpha: share("Weight of the tokens beyond the shorter answer's length (LD-DPO); left out: 1.").optional(),
  gamma: z.number().min(0).default(0).describe("Weight of the cross-entropy of the chosen answers beside the loss."),
  divergence: one(
    "Divergence from the reference; others than reverse_kl with loss sigmoid only.",
    "reverse_kl",
    "forward_kl",
    "js_divergence",
  ).default("reverse_kl"),
  learningRate: z.number().min(0).default(5e-7).describe("Peak learning rate."),
  schedule: one("Course of the learning rate after warm-up.", "constant", "linear", "cosine").default("constant"),
  warmupRatio: share("Share of all steps that warm up, rounded up; the first step of a warm-up has rate 0.").optional(),
  warmupSteps: whole("Steps that warm up, in place of warmupRatio.", 0).optional(),
  totalSteps: whole("Length of the schedule in steps; default: the steps of the run.", 1).optional(),
  betas: z
    .tuple([z.number().min(0).lt(1), z.number().min(0).lt(1)])
    .default([0.9, 0.999])
    .describe("AdamW's decay rates of the moments."),
  eps: positive("AdamW's epsilon.").default(1e-8),
  weightDecay: z.number().min(0).default(0).describe("Decoupled weight decay."),
  decayNorms: flag("Whether norms and biases decay too.").default(true),
  clipNorm: z
    .union([z.number().gt(0), z.null()], { error: "a number greater than 0, or null" })
    .default(null)
    .describe("Global gradient norm above which gradients are scaled down; null: never."),
  train: z
    .strictObject({
      vision: flag("The vision tower.").default(false),
      projector: flag("What maps its features to tokens.").default(false),
      decoder: flag("The language model.").default(true),
    })
    .prefault({})
    .describe("Which parts are trained."),
  microBatchTokens: whole("Tokens computed at once; bounds the memory of activations.", 1).default(4096),
  checkpointing: flag(
    "Recompute activations in the backward pass instead of keeping them; left out: where they would not fit.",
  ).optional(),
  sharePrefix: flag("Compute what prompts have in common once.").default(true),
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

/** Checks of several keys: what each says is what was expected. */
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

const badRows = one("A row that cannot be used: end the run, or leave it out and count it.", "fail", "skip").default(
  "fail",
);
const preset = one(
  "Named values below those of this file; paper: the schedule of LLaVA-Hound-DPO.",
  "paper",
).optional();
const saveEverySteps = whole(
  "Steps between checkpoints of the training state; default: about ten a run.",
  1,
).optional();

const mediaBounds = {
  timeoutS: positive("Seconds that opening and decoding a video may take.").max(86_400).default(300),
  maxLost: z
    .number()
    .min(0)
    .max(1)
    .default(0)
    .describe("Share of the frames looked at that may be lost or damaged; above it the video cannot be read."),
};

export const trainSchema = z
  .strictObject({
    preset,
    model: path("Folder of the checkpoint to start from."),
    data: path("File of rows to train on: .jsonl, .json or .parquet."),
    videos: path(
      "Folder that media paths of rows are relative to and may not leave; default: that of data.",
    ).optional(),
    runDir: path("Folder of the run; the same command resumes it."),
    evalData: path("File of rows to measure loss, accuracy and margin on; training is the same without it.").optional(),
    evalEvery: whole("Steps between evaluations; default: before the first and after the last step.", 1).optional(),
    epochs: whole("How often each row is trained on.", 1).default(1),
    itemsPerStep: whole("Rows of an optimizer step.", 1).default(8),
    onBadRow: badRows,
    onLong: one(
      "An item longer than the context: a bad row, or its answers are cut and counted.",
      "fail",
      "truncate",
    ).default("fail"),
    onEnd: one(
      "An answer without exactly one end token, or a prompt that the template has rendered: put right and counted, or a bad row.",
      "repair",
      "fail",
    ).default("repair"),
    turns: one(
      "Supervised: score what the assistant says in all turns of a row (default), or in the last.",
      "all",
      "last",
    ).optional(),
    saveEverySteps,
    trainer: z
      .strictObject({ ...trainer, seed: seed.default(0) })
      .superRefine(trainerTogether)
      .prefault({})
      .describe("Loss, optimizer and schedule."),
    video: z.strictObject(mediaBounds).prefault({}).describe("Which videos can be read."),
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
    model: text("Name of the model there."),
    keyEnv: text("Environment variable that holds the key; left out: none is sent.").optional(),
    maxCalls: whole("Budget of calls; the run ends resumable when it is spent.", 1).optional(),
    concurrency: whole("Calls at once.", 1, 256).default(4),
    perMinute: whole("Most calls a minute.", 1).optional(),
    timeoutS: positive("Seconds a call may take.").default(60),
  })
  .describe("The judge endpoint, for kind openai. Questions, contexts and answers are sent to it.");

export const runSchema = z
  .strictObject({
    preset,
    model: path("Folder of the checkpoint that the run starts from."),
    samples: path("File of questions about videos: .jsonl, .json or .parquet."),
    videos: path("Folder that video paths are relative to and may not leave; default: that of samples.").optional(),
    runDir: path("Folder of the run; the same command resumes it."),
    seedData: path("Preference rows that train model 1 from `model` first (seed DPO).").optional(),
    from: whole("Index of the first model that is used.", 0).default(1),
    to: whole("Index of the last model that is made.", 1).default(9),
    seed: seed.default(0),
    context: z
      .strictObject({
        design: one("Visual context of the judge.", "none", "fixed", "renew", "retrospective").default("retrospective"),
        maxTokens: whole("Longest context.", 1).default(512),
        temperature: sampling.temperature.default(0.7),
        topP: sampling.topP.default(0.9),
      })
      .prefault({})
      .describe("The visual context that the judge is given."),
    response: z
      .strictObject({
        maxTokens: whole("Longest answer.", 1).default(512),
        temperature: sampling.temperature.default(0.7),
        topP: sampling.topP.default(0.9),
      })
      .prefault({})
      .describe("The two answers to each question."),
    judge: z
      .strictObject({
        kind: one("The model itself, or an endpoint.", "self", "openai").default("self"),
        method: one(
          "How the model's choice is read: its text, or the log-probs of the two labels.",
          "text",
          "logprob",
        ).default("text"),
        orders: one("Whether answers are shown in one order (the paper) or in both.", "one", "both").default("one"),
        tie: drop("Equal log-probs."),
        disagree: one(
          "Another choice in the other order; average: the mean margin decides, where the judge gives margins.",
          "drop",
          "fail",
          "average",
        ).default("drop"),
        identical: drop("Two answers of the same words."),
        unparsed: drop("A choice that cannot be read."),
        truncated: one(
          "An answer cut by its length: left out, kept, or drawn once more.",
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
      .describe("Who prefers which answer."),
    guards: z
      .strictObject({
        maxPosition: share("Largest share of verdicts for one position.").default(0.9),
        minUsable: share("Smallest share of samples that become pairs.").default(0.1),
        zeroRate: one(
          "Training whose every step has learning rate 0: end the iteration, or warn and go on.",
          "fail",
          "warn",
        ).default("fail"),
      })
      .prefault({})
      .describe("Bounds beyond which an iteration ends before it trains; 1 and 0 switch them off."),
    prompts: path("File of prompts in place of the built-in ones.").optional(),
    train: z
      .strictObject({
        ...trainer,
        schedule: trainer.schedule.unwrap().default("linear"),
        warmupRatio: share(
          "Share of all steps that warm up, rounded up; the first step of a warm-up has rate 0.",
        ).default(0.1),
        epochs: whole("How often each pair is trained on.", 1).default(3),
        pairsPerStep: whole("Pairs of an optimizer step.", 1).default(128),
        saveEverySteps,
        trainPrompt: one(
          "Train on the prompt that was sampled from, or on the question alone.",
          "sampled",
          "plain",
        ).default("sampled"),
      })
      .superRefine(trainerTogether)
      .prefault({})
      .describe("DPO of each iteration; optimizer and schedule start anew."),
    video: z
      .strictObject({
        frames: whole("Frames of a video; default: the family's.", 1, 4096).optional(),
        window: z
          .tuple([z.number().min(0), z.number().gt(0)])
          .refine(([from, to]) => from < to, "a begin before its end")
          .optional()
          .describe("Seconds that frames come from."),
        fps: positive("Frames a second to choose among; default: all.").optional(),
        timeoutS: mediaBounds.timeoutS,
        onError: one(
          "A video that cannot be read: end the run, or skip and count its samples.",
          "skip",
          "fail",
        ).default("fail"),
        maxLost: mediaBounds.maxLost,
        looks: one("Whether contexts and judgements see other frames each time.", "same", "varied").default("same"),
        stretches: whole("With varied looks: stretches of a video, of which a look sees one.", 1, 4096).default(4),
      })
      .prefault({})
      .describe("Which frames are seen."),
    features: features.prefault({}),
    load: load.prefault({}),
    groupVideos: whole("Videos that are worked on together; default: 1 on a CPU.", 1).optional(),
    evaluate: z
      .strictObject({
        samples: path("File of questions about videos that every model answers, greedily: .jsonl, .json or .parquet."),
        videos: path("Folder that their video paths are relative to; default: `videos`.").optional(),
        count: whole("How many of them, from the first.", 1).default(64),
        name: z
          .string()
          .regex(/^[\w-]{1,64}$/, "letters, digits, _ and -")
          .default("slice")
          .describe("Of the files: evaluation/NAME.MODEL.json and .answers.jsonl."),
      })
      .describe("A fixed set of questions that is asked of the first model and after each iteration.")
      .optional(),
    keep: z
      .union([z.enum(["all", "last"]), z.int().min(1)], { error: "all, last, or a number of models" })
      .default(2)
      .describe("Models that stay on disk."),
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
 * What a program may say of a run of iterations: the keys of its configuration file, with their types
 * ([docs/configuration.md](https://github.com/isr-dpo/isr-dpo/blob/main/docs/configuration.md) has their meaning and defaults).
 * Each may be left out; `model`, `runDir`, `from` and `to` come from the options beside `config`.
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
