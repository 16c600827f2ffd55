// Flags that have no effect beside the others: each is reported by name with the reason, before or after the work.
import type { FrameSampling } from "../index.js";
import type { LoadFlags, SamplingFlags } from "./flag-types.js";
import { requestRows } from "../model/sampling-options.js";
import { say } from "./terminal.js";

/** Flags whose effect depends on what else is given. */
type Flags = SamplingFlags & FrameSampling & LoadFlags & { n?: number; raw?: boolean };
export type Flag = keyof Flags;

/** What a flag is without being given; of others, undefined. */
const defaults: Partial<Record<Flag, unknown>> = {
  topP: requestRows.topP.fallback,
  topK: requestRows.topK.fallback,
  n: requestRows.n.fallback,
};

export const dashed = (flag: string): string => `--${flag.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;

const frames: readonly Flag[] = ["frames", "window", "fps"];
const draws: readonly Flag[] = ["topP", "topK", "seed"];

/** Warns of each flag that is given, is not what it is by itself, and has no effect. */
function tell(flags: Flags, names: readonly Flag[], why: string): void {
  for (const name of names)
    if (flags[name] !== undefined && flags[name] !== defaults[name])
      say(`warning (NO_EFFECT): ${dashed(name)} has no effect: ${why}`);
}

export interface ChatUse {
  media: readonly { kind: "video" | "image" }[];
  /** A conversation: media may come with any of its turns. */
  open: boolean;
  /** The folder is that of a run with prompts of its own. */
  hasPrompts: boolean;
}

/** Reports flags of `chat` that have no effect, before anything is loaded. */
export function tellUnusedOfChat(flags: Flags, { media, open, hasPrompts }: ChatUse): void {
  if (!flags.temperature) tell(flags, draws, "--temperature 0 takes the likeliest token");
  if (!open && !media.some(({ kind }) => kind === "video")) tell(flags, frames, "no video is given");
  if (!open && media.length === 0) tell(flags, ["featureCache"], "no video and no image is given");
  if (!hasPrompts) tell(flags, ["raw"], "the folder is not that of a run with prompts of its own");
}

/** Reports flags about media, which have no effect with a text model. */
export const tellUnusedOfTextModel = (flags: Flags): void =>
  tell(flags, [...frames, "visionTower", "featureCache"], "the model takes no videos and no images");

/** Reports flags of `generate` that have no effect, after all rows were read; `used` names what the rows have taken. */
export function tellUnusedOfGenerate(flags: Flags, used: readonly string[]): void {
  const left = (names: readonly Flag[]) => names.filter((name) => !used.includes(name));
  tell(flags, left(draws), "no row that goes by it is drawn at a temperature above 0");
  tell(flags, left(["temperature", "maxTokens", "stop", "n"]), "each row has its own");
  tell(flags, left(frames), "no row has a video without frames of its own");
  tell(flags, left(["featureCache"]), "no row has a video or an image");
}
