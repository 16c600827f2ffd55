// The time at which each frame of a clip is shown, and the frames within a range of seconds.

export interface Timeline {
  /** Frames of the clip. */
  count: number;
  /** Average number of frames per second according to the container; undefined: it does not say. */
  fps: number | undefined;
  /** Seconds from the first frame, ascending; undefined: frames of one rate. */
  times: Float64Array | undefined;
}

/** Frames of a constant rate, or without times. */
export const evenly = (count: number, fps: number | undefined): Timeline => ({ count, fps, times: undefined });

/** Whether every frame is where the average rate says, to half a frame. */
function isEven(times: Float64Array, fps: number): boolean {
  for (let i = 0; i < times.length; i++) if (Math.abs(times[i]! * fps - i) >= 0.5) return false;
  return true;
}

/** From timestamps in ticks of `tick` seconds, in the order in which frames are shown. */
export function timelineOf(stamps: ArrayLike<number>, tick: number, fps: number | undefined): Timeline {
  const count = stamps.length;
  const times = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    times[i] = (stamps[i]! - stamps[0]!) * tick;
    if (!Number.isFinite(times[i]!) || (i > 0 && times[i]! < times[i - 1]!)) return evenly(count, fps);
  }
  const rate = fps ?? (count > 1 && times[count - 1]! > 0 ? (count - 1) / times[count - 1]! : undefined);
  if (rate === undefined || isEven(times, rate)) return evenly(count, rate);
  return { count, fps: rate, times };
}

/** The number of frames that begin at `seconds` or before: the frame on the screen then is the one before that number. */
export function begunBy(times: Float64Array, seconds: number): number {
  let [low, high] = [0, times.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle]! <= seconds) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Seconds from the first frame to the end of the last one, which is taken to last as long as one of the average rate. */
export function durationOf({ count, fps, times }: Timeline): number {
  if (!times) return fps === undefined ? 0 : count / fps;
  return times[count - 1]! + (fps ? 1 / fps : 0);
}
