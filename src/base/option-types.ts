// Public types of options. This file is made from the rows of the options by `node --import tsx scripts/option-types.mjs`:
// change the rows (src/config/config-rows.ts and what it imports), not this file.

/** The loss and its parameters. A parameter that the loss does not have is INVALID_ARGUMENT. */
export interface LossOptions {
  /** The preference loss. Default: "sigmoid". */
  loss?:
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
    | "discopop";
  /** Strength of the reference in the loss. Above 0. Default: 0.1. */
  beta?: number;
  /** Share of pairs that are assumed to be swapped; only some losses have it. At least 0 and below 0.5. Default: 0. */
  labelSmoothing?: number;
  /** Weight of the tokens beyond the length of the shorter answer (LD-DPO); default: 1. At least 0 and at most 1. */
  ldAlpha?: number;
  /** Weight of the cross-entropy of the chosen answers beside the loss (TRL's rpo_alpha). At least 0. Default: 0. */
  sftWeight?: number;
  /** @deprecated Use `sftWeight`; removed in 0.3. */
  gamma?: number;
  /** Divergence from the reference; all but reverse_kl need loss sigmoid. Default: "reverse_kl". */
  divergence?: "reverse_kl" | "forward_kl" | "js_divergence";
}

/** Options of the optimizer (AdamW), the schedule and the computation, and which parts are trained. */
export interface OptimizerOptions {
  /** Peak learning rate. At least 0. Default: 5e-7. */
  learningRate?: number;
  /** Course of the learning rate after the warm-up. Default: "constant". */
  schedule?: "constant" | "linear" | "cosine";
  /**
   * Share of all steps in which the rate rises, rounded up to whole steps; the first step of a warm-up has rate 0. At least 0
   * and at most 1.
   */
  warmupRatio?: number;
  /** Number of steps in which the rate rises, in place of warmupRatio. At least 0. */
  warmupSteps?: number;
  /** Length of the schedule in steps; every schedule but constant needs it, and so does warmupRatio. At least 1. */
  totalSteps?: number;
  /** AdamW's decay rates of the two moments. At least 0 and below 1. Default: [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** AdamW's epsilon. Above 0. Default: 1e-8. */
  eps?: number;
  /** Decoupled weight decay. At least 0. Default: 0. */
  weightDecay?: number;
  /** Whether weight decay also applies to norms and biases. Default: true. */
  decayNorms?: boolean;
  /** Global gradient norm above which gradients are scaled down; null: never. Above 0. Default: null. */
  clipNorm?: number | null;
  /** Parts of the model that are trained. */
  train?: {
    /** The vision tower. Default: false. */
    vision?: boolean;
    /** The projector, which maps the tower's features to tokens. Default: false. */
    projector?: boolean;
    /** The language model. Default: true. */
    decoder?: boolean;
  };
  /**
   * Low-rank adapters of the language model's matrices (LoRA), which are trained in place of its parameters; default: all
   * parameters are trained.
   */
  lora?: {
    /** Rank of the products. At least 1 and at most 16384. Default: 16. */
    rank?: number;
    /** What the products count for: alpha / rank times. Above 0. Default: 32. */
    alpha?: number;
    /** Whether they count alpha / sqrt(rank) times instead (rsLoRA). Default: false. */
    rslora?: boolean;
    /**
     * Names of matrices that get an adapter, or the last parts of their names, such as q_proj; default: all of the language
     * model's blocks.
     */
    targets?: readonly string[];
    /** Other ranks, by names of matrices or their last parts. */
    rankPattern?: Readonly<Record<string, number>>;
  };
  /** Number of tokens that are computed at once, which bounds the memory of activations. At least 1. Default: 4096. */
  microBatchTokens?: number;
  /** Whether activations are recomputed in the backward pass instead of kept; default: if they would not fit. */
  checkpointing?: boolean;
  /** Whether a common prefix of prompts is computed once. Default: true. */
  sharePrefix?: boolean;
  /**
   * Whether ranks share out masters and moments, so that each keeps its part; false: each keeps all. Both give the same bits.
   * Default: true.
   */
  shard?: boolean;
  /**
   * Whether ranks also share out the gradients of the language model's blocks, which then cross after every micro-batch instead
   * of once a step; needs shard. Default: false.
   */
  shardGradients?: boolean;
  /** Seed of the order of items in train(), and of what an adapter begins with. Default: 0. */
  seed?: bigint | number;
}

/** Options of train() that a configuration file has, too. */
export interface TrainRunOptions {
  /** Folder of the checkpoint to start from, which is also the reference. */
  model: string;
  /** Folder that media paths of rows are relative to and may not lead out of; default: the folder of data. */
  videos?: string;
  /** Folder of the run: missing, empty, or the folder of a run, which the same call resumes. */
  runDir: string;
  /** File of rows to measure loss, accuracy and margin on; it changes no bit of the training. Default: none. */
  evalData?: string;
  /** Steps between evaluations; default: only before the first and after the last step. At least 1. */
  evalEvery?: number;
  /** Number of times that each row is trained on. At least 1. Default: 1. */
  epochs?: number;
  /** Rows per optimizer step. At least 1. Default: 8. */
  itemsPerStep?: number;
  /**
   * What a row that cannot be used does: it ends the run before anything is computed, or is left out and counted. Default:
   * "fail".
   */
  onBadRow?: "fail" | "skip";
  /**
   * What happens to an item that is longer than the model's context: it is a bad row, or its answers are cut and it is counted;
   * prompts and visual tokens are never cut. Default: "fail".
   */
  onLong?: "fail" | "truncate";
  /**
   * What happens to an answer without exactly one end token, or to a prompt that the template has rendered already: it is
   * corrected and counted, or it is a bad row. Default: "repair".
   */
  onEnd?: "repair" | "fail";
  /**
   * Supervised training on rows of several turns: everything that the assistant says is scored (default), or only the last
   * turn.
   */
  turns?: "all" | "last";
  /** Steps between checkpoints of the training state; default: about ten checkpoints per run. At least 1. */
  saveEverySteps?: number;
  /**
   * What a run does that is resumed by another number of ranks: it is refused, or goes on and says so, for its bits are then
   * those of neither. Default: "fail".
   */
  onRanks?: "fail" | "warn";
}

/** How the weights of a model are loaded, and how media are read. */
export interface WeightOptions {
  /** Device: cpu, cuda (the first card), cuda:N, or auto: the first card that can be used, else the CPU. Default: "auto". */
  device?: "auto" | "cpu" | "cuda" | `cuda:${number}`;
  /** Type of the weights in memory; auto: the type of the file, where float16 becomes f32. Default: "auto". */
  dtype?: "auto" | "f32" | "bf16";
  /** Largest number of threads of the process's pool; default: all that the machine allows. At least 1 and at most 256. */
  threads?: number;
  /**
   * Folder of the vision tower, for checkpoints that only name it; default: the tower that the checkpoint contains or names.
   */
  visionTower?: string;
  /** Folder of a LoRA adapter in PEFT's format, which the model computes with. */
  adapter?: string;
  /** Milliseconds that opening and decoding one file may take. At least 1. Default: 300000. */
  mediaTimeoutMs?: number;
  /**
   * Share of the examined frames of a video that may be lost or damaged; above it the video is MEDIA_UNREADABLE. With 1,
   * everything that can be decoded is used and losses are reported; in train() the default is 0. At least 0 and at most 1.
   * Default: 1.
   */
  mediaMaxLost?: number;
}

/** A cache of the vision tower's features on disk. */
export interface FeatureCacheOptions {
  /** Folder of the cache, which processes may share; it is made if it does not exist. */
  dir: string;
  /** Bound of its size in bytes; the oldest entries are deleted. Default: no bound. At least 1. */
  maxBytes?: number;
}

/**
 * Which frames of a video the model sees. Default: as many as in the model's own recipe, evenly spread over the whole video.
 */
export interface FrameSampling {
  /** Number of frames; default: as in the model's recipe. At least 1 and at most 4096. */
  frames?: number;
  /**
   * Begin and end, in seconds from the first frame, of the part that frames are taken from; default: as in the model's recipe.
   * At least 0.
   */
  window?: readonly [number, number];
  /** Frames per second to choose among; default: every frame of the file. Above 0 and at most 1000. */
  fps?: number;
  /**
   * `[index, of]`: divides the video into `of` stretches of equal length and uses the one with this index, from 0. It stands
   * alone or beside `frames`. At least 0.
   */
  part?: readonly [number, number];
}

/** How tokens are sampled. */
export interface Sampling {
  /**
   * Temperature of sampling, which divides the logits; at 0 the most probable token is taken each time. At least 0. Default: 0.
   */
  temperature?: number;
  /** Samples from the fewest tokens whose probabilities sum to this share; at 1 from all. Above 0 and at most 1. Default: 1. */
  topP?: number;
  /** Samples from this number of most probable tokens; at 0 from all. At least 0. Default: 0. */
  topK?: number;
  /** Longest answer in tokens; default: 256, or less where the context has less room. At least 1. */
  maxTokens?: number;
  /** Texts that end an answer; they are not part of its text. Default: none. */
  stop?: readonly string[];
  /** Ids that are never sampled; default: none. */
  suppress?: Int32Array | readonly number[];
  /**
   * Shortest answer in tokens. End tokens and `stopIds` are not sampled among the first `minTokens` tokens, and a stop string
   * counts only if a later token completes it. At least 0. Default: 0.
   */
  minTokens?: number;
  /** Ids that end an answer, in addition to the model's end tokens; default: none. */
  stopIds?: Int32Array | readonly number[];
  /** Seed of the draws. A draw depends on the seed, the random stream, the copy and the position alone. Default: 0. */
  seed?: bigint | number;
  /** Name of the random stream: with the same seed, other names give other draws. Default: "". */
  randomStream?: string;
  /** @deprecated Use `randomStream`; removed in 0.3. */
  stream?: string;
  /** How special tokens in a prompt's text are read; default: "parse", in chat() "text". */
  specialTokens?: "parse" | "text";
}

/** How the rows of a file are judged. */
export interface JudgeFileSettings {
  /**
   * Whether each pair is judged in one order of its answers, as in the paper, or in both; orders that disagree prefer none.
   * Default: "both".
   */
  orders?: "one" | "both";
  /** Rows that are judged at the same time. At least 1 and at most 4096. Default: 16. */
  batch?: number;
}

/** The address of an endpoint, and bounds of the requests to it. */
export interface EndpointOptions {
  /** Base address of an OpenAI-compatible API, up to and without /chat/completions. */
  url: string;
  /** Name of the environment variable that holds the key; default: no key is sent. */
  keyEnv?: string;
  /** Largest number of requests, repeated ones included; default: no bound. At least 1. */
  maxCalls?: number;
  /** Number of concurrent requests. At least 1 and at most 256. Default: 4. */
  concurrency?: number;
  /** Largest number of requests per minute, evenly spaced; default: no bound. At least 1. */
  perMinute?: number;
  /** Longest time of a request in seconds. Above 0 and at most 86400. Default: 60. */
  timeoutS?: number;
  /** Longest pause inside an answer that has begun, in seconds. Above 0 and at most 86400. Default: 15. */
  idleS?: number;
  /** Largest number of requests for one answer. At least 1 and at most 100. Default: 6. */
  attempts?: number;
  /**
   * First wait between them, in seconds, doubled each time. A Retry-After of the server's wins over it. Above 0 and at most
   * 86400. Default: 1.
   */
  backoffS?: number;
  /** Longest wait, in seconds. A server that asks for more is not waited for. Above 0 and at most 86400. Default: 120. */
  maxWaitS?: number;
  /** Longest answer in bytes. At least 1. Default: 1048576. */
  maxBytes?: number;
}
