// The grid of a medium's patches, for towers that take pictures of any size.
import { array, integer, number, refuse } from "../base/check.js";

/** Patches of a medium along time, height and width, and seconds per step of time. */
export interface MediaGrid {
  gridThw: readonly [number, number, number];
  secondsPerGrid: number;
}

const maxPatches = 1 << 20;
const usualSeconds = 1; // two frames a step, at Qwen's own two frames a second

/** gridThw and secondsPerGrid of a medium; `merge`: edge, in patches, of the squares that become one row. */
export function gridOf(field: string, m: object, merge: number): MediaGrid {
  const { gridThw, secondsPerGrid } = m as { gridThw?: unknown; secondsPerGrid?: unknown };
  const list = array(`${field}.gridThw`, gridThw);
  if (list.length !== 3) refuse(`${field}.gridThw`, "patches along time, height and width", gridThw);
  const [t, h, w] = list.map((n, i) => integer(`${field}.gridThw[${i}]`, n, 1, maxPatches)) as [number, number, number];
  if (h % merge !== 0 || w % merge !== 0 || t * h * w > maxPatches)
    refuse(`${field}.gridThw`, `height and width in multiples of ${merge}, ${maxPatches} patches at most`, gridThw);
  const seconds =
    secondsPerGrid === undefined
      ? usualSeconds
      : number(`${field}.secondsPerGrid`, secondsPerGrid, { above: 0, max: 1e6 });
  return { gridThw: [t, h, w], secondsPerGrid: seconds };
}
