// The result of plan().
import type { ScoredTokens } from "./scored-tokens.js";

/** The memory, disk and time that a run will need. */
export interface Plan {
  /**
   * Whether memory and disk stay within `limit`. Memory is the sum of `bytes` without disk, where only the larger of kvCache and
   * gradients + optimizer counts, because they never exist together. Disk includes one more checkpoint, which exists while it is
   * written.
   */
  fits: boolean;
  /** Estimated duration of the run on this machine when it does nothing else; null if the plan is for another machine. */
  seconds: {
    /** Shortest estimate in seconds. */
    from: number;
    /** Longest estimate in seconds. */
    to: number;
  } | null;
  /**
   * Bytes of one rank; `disk` is that of the run folder, which ranks share. `weights` are those of the decoder. `vision` holds
   * towers, projector, and the media of a step and of the next one. `activations` are those of the largest micro-batch, with the kernels' scratch
   * memory. `runtime` is the process itself.
   */
  bytes: Readonly<
    Record<"weights" | "gradients" | "optimizer" | "activations" | "kvCache" | "vision" | "runtime" | "disk", number>
  >;
  /** The limits that `fits` refers to. */
  limit: {
    /** Bytes of memory that one rank may use. */
    memory: number;
    /** Bytes that are free where the run folder will be. */
    disk: number;
  };
  /** Number of scored tokens in the first 1,000 rows that would be trained on; null if no rows of training data were read. */
  scored: ScoredTokens | null;
  /** Changes that would help if the run does not fit, with their effect; and what the plan had to leave out. */
  advice: readonly string[];
}
