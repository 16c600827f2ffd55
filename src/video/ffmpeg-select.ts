// The frames that ffmpeg's select filter passes, as an expression of bounded depth; and for a long file the parts that hold
// these frames, so that the rest need not be decoded.
import type { Stamps } from "./video-stream.js";

const leaf = 16; // terms of a sum; ffmpeg refuses expressions that are nested deeper than 100

/**
 * True for the values of `wanted` (ascending, each once) alone, where `variable` goes through them: a binary search, its
 * depth the logarithm of their number. Ranges that have no gap are one term.
 */
export function selection(variable: "n" | "pts", wanted: readonly number[]): string {
  const ranges: [from: number, to: number][] = [];
  for (const value of wanted) {
    const last = ranges.at(-1);
    if (last && variable === "n" && last[1] + 1 === value) last[1] = value;
    else ranges.push([value, value]);
  }
  const term = ([from, to]: [number, number]) =>
    from === to ? `eq(${variable},${from})` : `between(${variable},${from},${to})`;
  const search = (from: number, to: number): string => {
    if (to - from <= leaf) return ranges.slice(from, to).map(term).join("+") || "0";
    const middle = (from + to) >> 1;
    return `if(lt(${variable},${ranges[middle]![0]}),${search(from, middle)},${search(middle, to)})`;
  };
  return search(0, ranges.length);
}

/** A stretch of frames to decode for some that are wanted, by their places in the order of showing. */
export interface Part {
  /** Where decoding begins: a key frame, or 0 for the beginning of the file. */
  begin: number;
  /** From here on every frame must come, without a fault. */
  sure: number;
  /** Those wanted, ascending. */
  wanted: number[];
}

const warmUp = 48; // frames decoded before the key frame of a wanted one: those of an open group refer back
const gap = 40; // frames that are decoded sooner than a new process starts
const maxParts = 64;
const longEnough = 300; // frames; what is shorter is decoded whole
const worthwhile = 0.75;

/** The last key frame at or before a place, by binary search; 0 where there is none. */
function keyAt(keys: Int32Array, place: number): number {
  let [low, high] = [0, keys.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (keys[middle]! <= place) low = middle + 1;
    else high = middle;
  }
  return low === 0 ? 0 : keys[low - 1]!;
}

/** The parts to decode for `wanted` (ascending, each once), or undefined where decoding all of the file costs no more. */
export function partsOf({ pts, keys }: Stamps, wanted: readonly number[]): Part[] | undefined {
  if (pts.length < longEnough) return undefined;
  const every = keys.length === pts.length; // each frame stands alone
  const parts: Part[] = [];
  for (const place of wanted) {
    const key = keyAt(keys, place);
    const begin = keyAt(keys, Math.max(key - (every ? 2 : warmUp), 0));
    const last = parts.at(-1);
    if (last && begin <= last.wanted.at(-1)! + gap) last.wanted.push(place);
    else parts.push({ begin, sure: begin === 0 ? 0 : key, wanted: [place] });
  }
  const cost = parts.reduce((sum, { begin, wanted: own }) => sum + own.at(-1)! - begin + 1 + gap, 0);
  return parts.length > maxParts || cost > worthwhile * pts.length ? undefined : parts;
}
