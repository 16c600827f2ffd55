// What an iteration is given.
import type { Judge } from "../judge/judge.js";
import type { LoadOptions } from "../base/types.js";
import type { Communicator } from "../train/ranks/communicator.js";
import type { Voices } from "../train/ranks/share-out.js";
import type { IterationEvent } from "../train/run-events.js";
import type { RunFolder } from "./iteration-folder.js";
import type { RunSettings } from "./iteration-settings.js";
import type { Prompts } from "./method-prompts.js";

export interface IterationInput {
  folder: RunFolder;
  settings: RunSettings;
  prompts: Prompts;
  judge: "self" | Judge;
  /** Index of the model that is used. */
  iteration: number;
  /** Folder of that model. */
  model: string;
  load: LoadOptions;
  voices: Voices<IterationEvent>;
  signal: AbortSignal;
  /** Aborted: end in order, once the group or the step at hand is done. */
  finish: AbortSignal;
  /** The ranks that compute the iteration together, where they are several. */
  ranks: Communicator | undefined;
}
