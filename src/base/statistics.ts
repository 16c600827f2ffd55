// Sums and intervals of what was measured.

export const sum = (values: ArrayLike<number>): number => {
  let all = 0;
  for (let i = 0; i < values.length; i++) all += values[i]!;
  return all;
};

/** NaN of none. */
export const mean = (values: ArrayLike<number>): number => sum(values) / values.length;

/** Wilson's 95 % interval of a share of n. */
export function wilson(share: number, n: number): [low: number, high: number] {
  const z = 1.959964;
  const middle = (share + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}
