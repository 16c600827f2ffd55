// Public types of options. This file is made from the rows of the options by `node --import tsx scripts/option-types.mjs`:
// change the rows (src/config/config-rows.ts and what it imports), not this file.

/**
 * Keys of a configuration file of `isr-dpo train`
 * ([docs/configuration.md](https://github.com/isr-dpo/isr-dpo/blob/main/docs/configuration.md)).
 */
export interface TrainConfig {
  /** Named values for keys that this file leaves out; paper: the schedule of LLaVA-Hound-DPO. */
  readonly preset?: "paper" | undefined;
  /** Folder of the checkpoint to start from, which is also the reference. */
  readonly model: string;
  /** File of rows to train on: .jsonl, .json or .parquet. */
  readonly data: string;
  /** Folder that media paths of rows are relative to and may not lead out of; default: the folder of data. */
  readonly videos?: string | undefined;
  /** Folder of the run: missing, empty, or the folder of a run, which the same call resumes. */
  readonly runDir: string;
  /** File of rows to measure loss, accuracy and margin on; it changes no bit of the training. Default: none. */
  readonly evalData?: string | undefined;
  /** Steps between evaluations; default: only before the first and after the last step. At least 1. */
  readonly evalEvery?: number | undefined;
  /** Number of times that each row is trained on. At least 1. Default: 1. */
  readonly epochs?: number | undefined;
  /** Rows per optimizer step. At least 1. Default: 8. */
  readonly itemsPerStep?: number | undefined;
  /**
   * What a row that cannot be used does: it ends the run before anything is computed, or is left out and counted. Default:
   * "fail".
   */
  readonly onBadRow?: "fail" | "skip" | undefined;
  /**
   * What happens to an item that is longer than the model's context: it is a bad row, or its answers are cut and it is counted;
   * prompts and visual tokens are never cut. Default: "fail".
   */
  readonly onLong?: "fail" | "truncate" | undefined;
  /**
   * What happens to an answer without exactly one end token, or to a prompt that the template has rendered already: it is
   * corrected and counted, or it is a bad row. Default: "repair".
   */
  readonly onEnd?: "repair" | "fail" | undefined;
  /**
   * Supervised training on rows of several turns: everything that the assistant says is scored (default), or only the last
   * turn.
   */
  readonly turns?: "all" | "last" | undefined;
  /** Steps between checkpoints of the training state; default: about ten checkpoints per run. At least 1. */
  readonly saveEverySteps?: number | undefined;
  /**
   * What a run does that is resumed by another number of ranks: it is refused, or goes on and says so, for its bits are then
   * those of neither. Default: "fail".
   */
  readonly onRanks?: "fail" | "warn" | undefined;
  /** Loss, optimizer and schedule. */
  readonly trainer?:
    | {
        /** The preference loss. Default: "sigmoid". */
        readonly loss?:
          | "sigmoid"
          | "ipo"
          | "hinge"
          | "robust"
          | "cdpo"
          | "sigmoid_norm"
          | "exo_pair"
          | "nca_pair"
          | "bco_pair"
          | "sppo_hard"
          | "aot"
          | "aot_unpaired"
          | "apo_zero"
          | "apo_down"
          | "discopop"
          | undefined;
        /** Strength of the reference in the loss. Above 0. Default: 0.1. */
        readonly beta?: number | undefined;
        /** Share of pairs that are assumed to be swapped; only some losses have it. At least 0 and below 0.5. Default: 0. */
        readonly labelSmoothing?: number | undefined;
        /** Weight of the tokens beyond the length of the shorter answer (LD-DPO); default: 1. At least 0 and at most 1. */
        readonly ldAlpha?: number | undefined;
        /** Weight of the cross-entropy of the chosen answers beside the loss (TRL's rpo_alpha). At least 0. Default: 0. */
        readonly sftWeight?: number | undefined;
        /** @deprecated Use `sftWeight`; removed in 0.3. */
        readonly gamma?: number | undefined;
        /** Divergence from the reference; all but reverse_kl need loss sigmoid. Default: "reverse_kl". */
        readonly divergence?: "reverse_kl" | "forward_kl" | "js_divergence" | undefined;
        /** Peak learning rate. At least 0. Default: 5e-7. */
        readonly learningRate?: number | undefined;
        /** Course of the learning rate after the warm-up. Default: "constant". */
        readonly schedule?: "constant" | "linear" | "cosine" | undefined;
        /**
         * Share of all steps in which the rate rises, rounded up to whole steps; the first step of a warm-up has rate 0. At least 0
         * and at most 1.
         */
        readonly warmupRatio?: number | undefined;
        /** Number of steps in which the rate rises, in place of warmupRatio. At least 0. */
        readonly warmupSteps?: number | undefined;
        /** Length of the schedule in steps; default: the number of steps of the run. At least 1. */
        readonly totalSteps?: number | undefined;
        /** AdamW's decay rates of the two moments. At least 0 and below 1. Default: [0.9, 0.999]. */
        readonly betas?: readonly [number, number] | undefined;
        /** AdamW's epsilon. Above 0. Default: 1e-8. */
        readonly eps?: number | undefined;
        /** Decoupled weight decay. At least 0. Default: 0. */
        readonly weightDecay?: number | undefined;
        /** Whether weight decay also applies to norms and biases. Default: true. */
        readonly decayNorms?: boolean | undefined;
        /** Global gradient norm above which gradients are scaled down; null: never. Above 0. Default: null. */
        readonly clipNorm?: number | null | undefined;
        /** Parts of the model that are trained. */
        readonly train?:
          | {
              /** The vision tower. Default: false. */
              readonly vision?: boolean | undefined;
              /** The projector, which maps the tower's features to tokens. Default: false. */
              readonly projector?: boolean | undefined;
              /** The language model. Default: true. */
              readonly decoder?: boolean | undefined;
            }
          | undefined;
        /**
         * Low-rank adapters of the language model's matrices (LoRA), which are trained in place of its parameters; default: all
         * parameters are trained.
         */
        readonly lora?:
          | {
              /** Rank of the products. At least 1 and at most 16384. Default: 16. */
              readonly rank?: number | undefined;
              /** What the products count for: alpha / rank times. Above 0. Default: 32. */
              readonly alpha?: number | undefined;
              /** Whether they count alpha / sqrt(rank) times instead (rsLoRA). Default: false. */
              readonly rslora?: boolean | undefined;
              /**
               * Names of matrices that get an adapter, or the last parts of their names, such as q_proj; default: all of the language
               * model's blocks.
               */
              readonly targets?: readonly string[] | undefined;
              /** Other ranks, by names of matrices or their last parts. */
              readonly rankPattern?: Readonly<Record<string, number>> | undefined;
            }
          | undefined;
        /** Number of tokens that are computed at once, which bounds the memory of activations. At least 1. Default: 4096. */
        readonly microBatchTokens?: number | undefined;
        /** Whether activations are recomputed in the backward pass instead of kept; default: if they would not fit. */
        readonly checkpointing?: boolean | undefined;
        /** Whether a common prefix of prompts is computed once. Default: true. */
        readonly sharePrefix?: boolean | undefined;
        /**
         * Whether ranks share out masters and moments, so that each keeps its part; false: each keeps all. Both give the same bits.
         * Default: true.
         */
        readonly shard?: boolean | undefined;
        /**
         * Whether ranks also share out the gradients of the language model's blocks, which then cross after every micro-batch
         * instead of once a step; needs shard. Default: false.
         */
        readonly shardGradients?: boolean | undefined;
        /** Seed of every draw and of the order of the data: a whole number, above 2^53 - 1 as a string of digits. Default: 0. */
        readonly seed?: number | string | undefined;
      }
    | undefined;
  /** Bounds for reading videos. */
  readonly video?:
    | {
        /** Longest time in seconds to open and decode a video. Above 0 and at most 86400. Default: 300. */
        readonly timeoutS?: number | undefined;
        /**
         * Share of the examined frames that may be lost or damaged; above it the video counts as unreadable. At least 0 and at most
         * 1. Default: 0.
         */
        readonly maxLost?: number | undefined;
      }
    | undefined;
  /** Options for loading the model. */
  readonly load?:
    | {
        /** Device: cpu, cuda (the first card), cuda:N, or auto: the first card that can be used, else the CPU. Default: "auto". */
        readonly device?: "auto" | "cpu" | "cuda" | `cuda:${number}` | undefined;
        /** Type of the weights in memory; auto: the type of the file, where float16 becomes f32. Default: "auto". */
        readonly dtype?: "auto" | "f32" | "bf16" | undefined;
        /** Largest number of threads of the process's pool; default: all that the machine allows. At least 1 and at most 256. */
        readonly threads?: number | undefined;
        /**
         * Folder of the vision tower, for checkpoints that only name it; default: the tower that the checkpoint contains or names.
         */
        readonly visionTower?: string | undefined;
        /** Folder of a LoRA adapter in PEFT's format, which the model computes with. */
        readonly adapter?: string | undefined;
      }
    | undefined;
  /** Cache of the vision tower's features on disk; false: none. */
  readonly features?:
    | false
    | {
        /** Folder of the cache; default: features/ in the folder of the run. */
        readonly dir?: string | undefined;
        /** Largest size of the cache in bytes; default: no bound. At least 1. */
        readonly maxBytes?: number | undefined;
      }
    | undefined;
}

/**
 * Keys of a configuration file of `isr-dpo run`
 * ([docs/configuration.md](https://github.com/isr-dpo/isr-dpo/blob/main/docs/configuration.md)).
 */
export interface RunConfig {
  /** Named values for keys that this file leaves out; paper: the schedule of LLaVA-Hound-DPO. */
  readonly preset?: "paper" | undefined;
  /** Folder of the checkpoint that the run starts from. */
  readonly model: string;
  /** File of questions about videos: .jsonl, .json or .parquet. */
  readonly samples: string;
  /** Folder that video paths are relative to and may not lead out of; default: the folder of samples. */
  readonly videos?: string | undefined;
  /** Folder of the run; the same command resumes it. */
  readonly runDir: string;
  /** File of preference rows that first train model 1 from `model` (seed DPO). */
  readonly seedData?: string | undefined;
  /** Index of the first model that is used. At least 0. Default: 1. */
  readonly from?: number | undefined;
  /** Index of the last model that is made. At least 1. Default: 9. */
  readonly to?: number | undefined;
  /** Seed of every draw and of the order of the data: a whole number, above 2^53 - 1 as a string of digits. Default: 0. */
  readonly seed?: number | string | undefined;
  /** The description of the video that the judge is given. */
  readonly context?:
    | {
        /** Design of the judge's context (docs/method.md). Default: "retrospective". */
        readonly design?: "none" | "fixed" | "renew" | "retrospective" | undefined;
        /** Longest context in tokens. At least 1. Default: 512. */
        readonly maxTokens?: number | undefined;
        /**
         * Temperature of sampling, which divides the logits; at 0 the most probable token is taken each time. At least 0 and at
         * most 100. Default: 0.7.
         */
        readonly temperature?: number | undefined;
        /**
         * Samples from the fewest tokens whose probabilities sum to this share; at 1 from all. Above 0 and at most 1. Default: 0.9.
         */
        readonly topP?: number | undefined;
      }
    | undefined;
  /** The two answers to each question. */
  readonly response?:
    | {
        /** Longest answer in tokens. At least 1. Default: 512. */
        readonly maxTokens?: number | undefined;
        /**
         * Temperature of sampling, which divides the logits; at 0 the most probable token is taken each time. At least 0 and at
         * most 100. Default: 0.7.
         */
        readonly temperature?: number | undefined;
        /**
         * Samples from the fewest tokens whose probabilities sum to this share; at 1 from all. Above 0 and at most 1. Default: 0.9.
         */
        readonly topP?: number | undefined;
      }
    | undefined;
  /** The judge of the two answers, and its policies. */
  readonly judge?:
    | {
        /** The judge: the model itself, or an endpoint. Default: "self". */
        readonly kind?: "self" | "openai" | undefined;
        /** How a model's choice is read: from its text, or as the label with the higher log-prob. Default: "text". */
        readonly method?: "text" | "logprob" | undefined;
        /** Whether each pair is judged in one order of its answers, as in the paper, or in both (see disagree). Default: "one". */
        readonly orders?: "one" | "both" | undefined;
        /** What happens to a pair with equal log-probs: the sample is left out, or the run ends. Default: "drop". */
        readonly tie?: "drop" | "fail" | undefined;
        /**
         * What happens if the choice differs between the orders: the sample is left out, the run ends, or (average) the mean margin
         * decides, which needs a judge that gives margins. Default: "drop".
         */
        readonly disagree?: "drop" | "fail" | "average" | undefined;
        /** What happens to two answers with the same words: the sample is left out, or the run ends. Default: "drop". */
        readonly identical?: "drop" | "fail" | undefined;
        /** What happens if a choice cannot be read: the sample is left out, or the run ends. Default: "drop". */
        readonly unparsed?: "drop" | "fail" | undefined;
        /**
         * What happens if an answer was cut by its length: the sample is left out, kept, or both answers are sampled once more.
         * Default: "drop".
         */
        readonly truncated?: "drop" | "keep" | "resample" | undefined;
        /** The judge endpoint, for kind openai. Questions, contexts and answers are sent to it. */
        readonly endpoint?:
          | {
              /** Base address of an OpenAI-compatible API, up to and without /chat/completions. */
              readonly url: string;
              /** Name of the model at the endpoint. */
              readonly model: string;
              /** Name of the environment variable that holds the key; default: no key is sent. */
              readonly keyEnv?: string | undefined;
              /** Budget of requests; when it is spent the run ends, and can be resumed. Default: no bound. At least 1. */
              readonly maxCalls?: number | undefined;
              /** Number of concurrent requests. At least 1 and at most 256. Default: 4. */
              readonly concurrency?: number | undefined;
              /** Largest number of requests per minute, evenly spaced; default: no bound. At least 1. */
              readonly perMinute?: number | undefined;
              /** Longest time of a request in seconds. Above 0 and at most 86400. Default: 60. */
              readonly timeoutS?: number | undefined;
            }
          | undefined;
      }
    | undefined;
  /** Bounds outside of which an iteration ends before it trains; 1 and 0 switch the first two off. */
  readonly guards?:
    | {
        /** Largest share of verdicts that may prefer one position. At least 0 and at most 1. Default: 0.9. */
        readonly maxPosition?: number | undefined;
        /** Smallest share of samples that must become pairs. At least 0 and at most 1. Default: 0.1. */
        readonly minUsable?: number | undefined;
        /**
         * What happens if every training step has learning rate 0: the iteration ends, or a warning is given and it goes on.
         * Default: "fail".
         */
        readonly zeroRate?: "fail" | "warn" | undefined;
      }
    | undefined;
  /** File of prompts that replace the built-in ones. */
  readonly prompts?: string | undefined;
  /** DPO of each iteration; optimizer and schedule start anew in each. */
  readonly train?:
    | {
        /** The preference loss. Default: "sigmoid". */
        readonly loss?:
          | "sigmoid"
          | "ipo"
          | "hinge"
          | "robust"
          | "cdpo"
          | "sigmoid_norm"
          | "exo_pair"
          | "nca_pair"
          | "bco_pair"
          | "sppo_hard"
          | "aot"
          | "aot_unpaired"
          | "apo_zero"
          | "apo_down"
          | "discopop"
          | undefined;
        /** Strength of the reference in the loss. Above 0. Default: 0.1. */
        readonly beta?: number | undefined;
        /** Share of pairs that are assumed to be swapped; only some losses have it. At least 0 and below 0.5. Default: 0. */
        readonly labelSmoothing?: number | undefined;
        /** Weight of the tokens beyond the length of the shorter answer (LD-DPO); default: 1. At least 0 and at most 1. */
        readonly ldAlpha?: number | undefined;
        /** Weight of the cross-entropy of the chosen answers beside the loss (TRL's rpo_alpha). At least 0. Default: 0. */
        readonly sftWeight?: number | undefined;
        /** @deprecated Use `sftWeight`; removed in 0.3. */
        readonly gamma?: number | undefined;
        /** Divergence from the reference; all but reverse_kl need loss sigmoid. Default: "reverse_kl". */
        readonly divergence?: "reverse_kl" | "forward_kl" | "js_divergence" | undefined;
        /** Peak learning rate. At least 0. Default: 5e-7. */
        readonly learningRate?: number | undefined;
        /** Course of the learning rate after the warm-up. Default: "linear". */
        readonly schedule?: "constant" | "linear" | "cosine" | undefined;
        /**
         * Share of all steps in which the rate rises, rounded up to whole steps; the first step of a warm-up has rate 0. At least 0
         * and at most 1. Default: 0.1.
         */
        readonly warmupRatio?: number | undefined;
        /** Number of steps in which the rate rises, in place of warmupRatio. At least 0. */
        readonly warmupSteps?: number | undefined;
        /** Length of the schedule in steps; default: the number of steps of the run. At least 1. */
        readonly totalSteps?: number | undefined;
        /** AdamW's decay rates of the two moments. At least 0 and below 1. Default: [0.9, 0.999]. */
        readonly betas?: readonly [number, number] | undefined;
        /** AdamW's epsilon. Above 0. Default: 1e-8. */
        readonly eps?: number | undefined;
        /** Decoupled weight decay. At least 0. Default: 0. */
        readonly weightDecay?: number | undefined;
        /** Whether weight decay also applies to norms and biases. Default: true. */
        readonly decayNorms?: boolean | undefined;
        /** Global gradient norm above which gradients are scaled down; null: never. Above 0. Default: null. */
        readonly clipNorm?: number | null | undefined;
        /** Parts of the model that are trained. */
        readonly train?:
          | {
              /** The vision tower. Default: false. */
              readonly vision?: boolean | undefined;
              /** The projector, which maps the tower's features to tokens. Default: false. */
              readonly projector?: boolean | undefined;
              /** The language model. Default: true. */
              readonly decoder?: boolean | undefined;
            }
          | undefined;
        /**
         * Low-rank adapters of the language model's matrices (LoRA), which are trained in place of its parameters; default: all
         * parameters are trained.
         */
        readonly lora?:
          | {
              /** Rank of the products. At least 1 and at most 16384. Default: 16. */
              readonly rank?: number | undefined;
              /** What the products count for: alpha / rank times. Above 0. Default: 32. */
              readonly alpha?: number | undefined;
              /** Whether they count alpha / sqrt(rank) times instead (rsLoRA). Default: false. */
              readonly rslora?: boolean | undefined;
              /**
               * Names of matrices that get an adapter, or the last parts of their names, such as q_proj; default: all of the language
               * model's blocks.
               */
              readonly targets?: readonly string[] | undefined;
              /** Other ranks, by names of matrices or their last parts. */
              readonly rankPattern?: Readonly<Record<string, number>> | undefined;
            }
          | undefined;
        /** Number of tokens that are computed at once, which bounds the memory of activations. At least 1. Default: 4096. */
        readonly microBatchTokens?: number | undefined;
        /** Whether activations are recomputed in the backward pass instead of kept; default: if they would not fit. */
        readonly checkpointing?: boolean | undefined;
        /** Whether a common prefix of prompts is computed once. Default: true. */
        readonly sharePrefix?: boolean | undefined;
        /**
         * Whether ranks share out masters and moments, so that each keeps its part; false: each keeps all. Both give the same bits.
         * Default: true.
         */
        readonly shard?: boolean | undefined;
        /**
         * Whether ranks also share out the gradients of the language model's blocks, which then cross after every micro-batch
         * instead of once a step; needs shard. Default: false.
         */
        readonly shardGradients?: boolean | undefined;
        /** Number of times that each pair is trained on. At least 1. Default: 3. */
        readonly epochs?: number | undefined;
        /** Pairs per optimizer step. At least 1. Default: 128. */
        readonly pairsPerStep?: number | undefined;
        /** Steps between checkpoints of the training state; default: about ten checkpoints per run. At least 1. */
        readonly saveEverySteps?: number | undefined;
        /** Whether training uses the prompt that was sampled from, or the question alone. Default: "sampled". */
        readonly trainPrompt?: "sampled" | "plain" | undefined;
      }
    | undefined;
  /** The frames that the model sees, and bounds for reading videos. */
  readonly video?:
    | {
        /** Number of frames; default: as in the model's recipe. At least 1 and at most 4096. */
        readonly frames?: number | undefined;
        /**
         * Begin and end, in seconds from the first frame, of the part that frames are taken from; default: as in the model's
         * recipe. At least 0.
         */
        readonly window?: readonly [number, number] | undefined;
        /** Frames per second to choose among; default: every frame of the file. Above 0 and at most 1000. */
        readonly fps?: number | undefined;
        /** Longest time in seconds to open and decode a video. Above 0 and at most 86400. Default: 300. */
        readonly timeoutS?: number | undefined;
        /** What happens if a video cannot be read: its samples are skipped and counted, or the run ends. Default: "fail". */
        readonly onError?: "skip" | "fail" | undefined;
        /**
         * Share of the examined frames that may be lost or damaged; above it the video counts as unreadable. At least 0 and at most
         * 1. Default: 0.
         */
        readonly maxLost?: number | undefined;
        /** Whether contexts and judgements see the same frames each time, or varied ones. Default: "same". */
        readonly looks?: "same" | "varied" | undefined;
        /** With varied looks: number of stretches of a video; each look sees one. At least 1 and at most 4096. Default: 4. */
        readonly stretches?: number | undefined;
      }
    | undefined;
  /** Cache of the vision tower's features on disk; false: none. */
  readonly features?:
    | false
    | {
        /** Folder of the cache; default: features/ in the folder of the run. */
        readonly dir?: string | undefined;
        /** Largest size of the cache in bytes; default: no bound. At least 1. */
        readonly maxBytes?: number | undefined;
      }
    | undefined;
  /** Options for loading the models. */
  readonly load?:
    | {
        /** Device: cpu, cuda (the first card), cuda:N, or auto: the first card that can be used, else the CPU. Default: "auto". */
        readonly device?: "auto" | "cpu" | "cuda" | `cuda:${number}` | undefined;
        /** Type of the weights in memory; auto: the type of the file, where float16 becomes f32. Default: "auto". */
        readonly dtype?: "auto" | "f32" | "bf16" | undefined;
        /** Largest number of threads of the process's pool; default: all that the machine allows. At least 1 and at most 256. */
        readonly threads?: number | undefined;
        /**
         * Folder of the vision tower, for checkpoints that only name it; default: the tower that the checkpoint contains or names.
         */
        readonly visionTower?: string | undefined;
      }
    | undefined;
  /** Number of videos that are processed together; default: 1 on a CPU. At least 1. */
  readonly groupVideos?: number | undefined;
  /** A fixed set of questions, which the first model and the model of each iteration answer. */
  readonly evaluate?:
    | {
        /** File of questions about videos that every model answers, greedily: .jsonl, .json or .parquet. */
        readonly samples: string;
        /** Folder that the video paths of these questions are relative to; default: `videos`. */
        readonly videos?: string | undefined;
        /** Number of questions that are asked, from the first one of the file. At least 1. Default: 64. */
        readonly count?: number | undefined;
        /** Name of the result files: evaluation/NAME.MODEL.json and NAME.MODEL.answers.jsonl. Default: "slice". */
        readonly name?: string | undefined;
      }
    | undefined;
  /** Number of models that stay on disk. At least 1. Default: 2. */
  readonly keep?: "all" | "last" | number | undefined;
  /**
   * What a run does that is resumed by another number of ranks: it is refused, or goes on and says so, for its bits are then
   * those of neither. Default: "fail".
   */
  readonly onRanks?: "fail" | "warn" | undefined;
}

/**
 * Options of iterations: the keys of a configuration of a run. `model`, `runDir`, `from` and `to` come from the options beside
 * `config`.
 */
export type IterationConfig = Partial<RunConfig>;
