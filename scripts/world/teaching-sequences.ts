// Examples of the world as sequences for training: ids, and targets with weights. A clip's examples begin alike, which the
// engine finds and computes once.
import type { Sequence, Tensor } from "../../src/base/types.js";
import { colours, framesOfShot, motions, type Shot, shapes, size, type Thing } from "../../src/synthetic/clip.js";
import type { WorldExample } from "../../src/synthetic/teaching-examples.js";
import { nothing, patchMarks, worldWords } from "../../src/synthetic/vocabulary.js";
import { begin, end, vocabularyOf } from "../../src/synthetic/word-tokenizer.js";

const idOf = new Map(vocabularyOf(worldWords).map((word, id) => [word, id]));

/** Ids of known words. */
export const idsOf = (text: string): number[] =>
  text
    .split(" ")
    .filter((word) => word !== "")
    .map((word) => idOf.get(word)!);

const mean = [0.48145466, 0.4578275, 0.40821073];
const deviation = [0.26862954, 0.26130258, 0.27577711];
const levels = mean.map((m, c) => Float32Array.from({ length: 256 }, (_, v) => (v / 255 - m) / deviation[c]!));

/** A shot as the tower takes it: (3, 4, 32, 32), normalised. */
export function pixelsOf({ pixels }: Pick<Shot, "pixels">): Tensor {
  const plane = framesOfShot * size * size;
  const data = new Float32Array(3 * plane);
  for (let c = 0; c < 3; c++) for (let p = 0; p < plane; p++) data[c * plane + p] = levels[c]![pixels[3 * p + c]!]!;
  return { dtype: "f32", shape: [3, framesOfShot, size, size], data };
}

const side = size / 8;
/** Rows of a shot in the decoder: one a patch, frame by frame. */
export const rowsOfShot = framesOfShot * side * side;
const videoId = -201;

/** Prompts and targets behind a shot, or behind nothing. The words stand as the chat template puts them. */
export function sequenceOf(e: WorldExample, pixels: Tensor | null): Sequence {
  const head = [idOf.get(begin)!, idOf.get("USER:")!, ...(pixels ? [videoId] : [])];
  const prompt = idsOf(e.prompt);
  const answer = [...idsOf(e.target), ...(e.ends ? [idOf.get(end)!] : [])];
  const ids = [...head, ...prompt, idOf.get("ASSISTANT:")!, ...answer];
  const ahead = pixels ? rowsOfShot - 1 : 0; // rows before the prompt that are more than its ids
  const rows = ids.length + ahead;
  const targets = new Int32Array(rows).fill(-1);
  const weights = new Float32Array(rows);
  const from = ahead + head.length;
  const set = (row: number, id: number, weight: number) => {
    targets[row] = id;
    weights[row] = weight;
  };
  for (const { at, word } of e.notes) set(from + at, idOf.get(word)!, 0.5);
  for (const [i, id] of answer.entries()) set(from + prompt.length + i, id, e.weight);
  return { ids, targets, weights, ...(pixels ? { media: [{ pixels }] } : {}) };
}

const least = 6; // pixels of a patch that a thing must cover to be its label

/** The thing of each patch, in the order of the decoder's rows; -1: none. */
export function patchThings({ cover }: Pick<Shot, "cover">): Int32Array {
  const patch = size / side;
  return Int32Array.from({ length: rowsOfShot }, (_, row) => {
    const [frame, y, x] = [Math.floor(row / side ** 2), Math.floor(row / side) % side, row % side];
    const counts = new Map<number, number>();
    for (let dy = 0; dy < patch; dy++)
      for (let dx = 0; dx < patch; dx++) {
        const thing = cover[(frame * size + y * patch + dy) * size + x * patch + dx]!;
        if (thing !== 255) counts.set(thing, (counts.get(thing) ?? 0) + 1);
      }
    let best = -1;
    for (const [thing, n] of counts) if (n >= least && (best < 0 || n > counts.get(best)!)) best = thing;
    return best;
  });
}

/** One sequence an attribute: its mark, the shot, and the attribute's word at every patch that shows a thing. */
export function patchSequences(shot: Shot, things: readonly Thing[]): Sequence[] {
  const pixels = pixelsOf(shot);
  const patches = patchThings(shot);
  const words = [
    (t: Thing) => colours[t.colour]!,
    (t: Thing) => shapes[t.shape]!,
    (t: Thing) => motions[t.motion]!,
  ] as const;
  return patchMarks.map((mark, k) => {
    const targets = new Int32Array(2 + rowsOfShot).fill(-1);
    patches.forEach((thing, row) => {
      if (thing >= 0) targets[2 + row] = idOf.get(words[k]!(things[thing]!))!;
      else if (k === 0) targets[2 + row] = idOf.get(nothing)!;
    });
    return { ids: [idOf.get(begin)!, idOf.get(mark)!, videoId], media: [{ pixels }], targets };
  });
}
