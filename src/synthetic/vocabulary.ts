// The words of the synthetic world, and the specs of the tiny models that use them.
import { colours, framesOfShot, motions, shapes, size } from "./clip.js";
import { labels, marks } from "./teaching-examples.js";
import type { InitSpec } from "./init-checkpoint.js";

/** Words that a patch of the tower is asked for in its first stage. */
export const patchMarks = ["<colour>", "<shape>", "<motion>"] as const;
export const nothing = "nothing";

export const worldWords: readonly string[] = [
  ...["USER:", "ASSISTANT:", ".", "?"],
  ...new Set(Object.values(marks).flat()),
  ...[...labels, "yes", "no"],
  ...["moves", "stays", "what", "happens", "does", "do"],
  ...[...colours, ...shapes, ...motions],
  ...[...patchMarks, nothing],
];

const tower = { width: 96, layers: 2, heads: 3, mlpWidth: 288, image: size, patch: 8, frames: framesOfShot };

/** The model that ships: about 1.1 million parameters. */
export const worldSpec: InitSpec = {
  words: worldWords,
  decoder: { width: 128, layers: 4, heads: 4, mlpWidth: 352, context: 512 },
  tower,
  dtype: "bf16",
};

/** The same tower under a decoder of one thin layer, which reads patches off it. */
export const towerSpec: InitSpec = {
  words: worldWords,
  decoder: { width: 128, layers: 1, heads: 4, mlpWidth: 64, context: 512 },
  tower,
  dtype: "bf16",
};
