// Types of the flags that commands share, after they are read.
import type { LoadOptions, Sampling } from "../index.js";

export interface LoadFlags {
  dtype?: LoadOptions["dtype"];
  threads?: number;
  visionTower?: string;
  adapter?: string;
  featureCache?: string;
}
export type SamplingFlags = Pick<Sampling, "maxTokens" | "temperature" | "topP" | "topK" | "seed"> & {
  stop?: string[];
};
