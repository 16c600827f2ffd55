// The frames of a clip that are used: a truncating linspace over the frames of a window. Windows and rates are in seconds as
// shown: in a file of varying rate the times of its frames count.
import { refuse } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";
import { interval, real, resolved, type Rule, whole } from "../base/option-rows.js";
import { begunBy, durationOf, type Timeline } from "./timeline.js";

export interface SamplingRule {
  /** Frames to take. */
  frames: number;
  /** Seconds from the start; absent: the whole clip. */
  window?: readonly [fromS: number, toS: number];
  /** Frames per second to choose among; absent: every frame. */
  fps?: number;
  /** Divides the clip into `of` stretches of equal length (in seconds, or in frames where the rate is constant) and uses the one with this index. */
  part?: readonly [index: number, of: number];
}

/** Which frames of a video are used. */
export const frameRows = {
  frames: whole("Number of frames; default: as in the model's recipe.", 1, 4096),
  window: interval(
    "Begin and end, in seconds from the first frame, of the part that frames are taken from; default: as in the model's recipe.",
    { min: 0 },
    { above: 0 },
  ),
  fps: real("Frames per second to choose among; default: every frame of the file.", { above: 0, max: 1000 }),
  part: interval(
    "`[index, of]`: divides the video into `of` stretches of equal length and uses the one with this index, from 0. It stands alone or beside `frames`.",
    { integer: true, min: 0 },
    { integer: true, min: 1, max: 4096 },
  ),
};

const frameRules: readonly Rule[] = [
  ({ part, window, fps }) =>
    part !== undefined && (window !== undefined || fps !== undefined)
      ? { key: "part", expected: "nothing beside window or fps" }
      : undefined,
];

/** The caller's wishes over the family's rule. */
export function readSampling(field: string, value: unknown, family: SamplingRule): SamplingRule {
  const wishes = resolved(field, value, frameRows, frameRules);
  const rule: SamplingRule = { ...family, ...(wishes as Partial<SamplingRule>) };
  if (wishes.part === undefined) return rule;
  const { window: _, ...without } = rule; // a family's own
  if (without.fps !== undefined) refuse(`${field}.part`, "nothing beside window or fps", wishes.part);
  return without;
}

/** `count` whole numbers from 0 to last: evenly spaced, fractions cut off, with the roundings of NumPy's linspace. */
export function linspace(last: number, count: number): Int32Array {
  const step = count > 1 ? last / (count - 1) : 0;
  return Int32Array.from({ length: count }, (_, i) => (count > 1 && i === count - 1 ? last : Math.trunc(i * step)));
}

function beyond(where: string, window: readonly [number, number], seconds: number): never {
  throw new IsrDpoError(
    "INVALID_ARGUMENT",
    `${where}: expected a window within the clip, got one from ${window[0]} s of ${seconds.toFixed(2)} s`,
    { hint: "give a window that begins before the clip ends" },
  );
}

/** A clip of one rate: seconds are frames. */
function byRate(n: number, fps: number, { frames, window, fps: wish }: SamplingRule, where: string): Int32Array {
  const begin = window ? Math.trunc(window[0] * fps) : 0;
  const end = window ? Math.min(Math.max(Math.trunc(window[1] * fps), begin + 1), n) : n;
  if (begin >= n) beyond(where, window!, n / fps);
  const stride = wish === undefined ? 1 : Math.max(fps / wish, 1);
  const candidates = Math.ceil((end - begin) / stride);
  return linspace(candidates - 1, frames).map((k) => Math.min(begin + Math.trunc(k * stride), end - 1));
}

/** A clip of varying rate: frames that are on the screen in the window, at a rate those on it at each tick. */
function byTime(clip: Timeline & { times: Float64Array }, rule: SamplingRule, where: string): Int32Array {
  const { times, count } = clip;
  const { frames, window, fps: wish } = rule;
  const seconds = durationOf(clip);
  if (window && window[0] >= seconds) beyond(where, window, seconds);
  const from = window ? window[0] : 0;
  const begin = begunBy(times, from) - 1;
  let end = count; // the first frame that begins after the window
  if (window) for (end = begunBy(times, window[1]); end > begin + 1 && times[end - 1]! >= window[1]; end--);
  if (wish === undefined) return linspace(end - begin - 1, frames).map((k) => begin + k);
  const until = window ? Math.min(window[1], seconds) : seconds;
  const ticks = Math.max(Math.ceil((until - from) * wish), 1);
  const candidates: number[] = [];
  for (let k = 0; k < ticks; k++) {
    const shown = Math.min(begunBy(times, from + k / wish) - 1, end - 1);
    if (shown !== candidates.at(-1)) candidates.push(shown);
  }
  return linspace(candidates.length - 1, frames).map((k) => candidates[k]!);
}

const rounding = 1e-6; // the error of seconds that are computed from ticks

/** Begin and end of a stretch: of frames that begin in its seconds where the rate varies; never empty. */
function stretchOf(clip: Timeline, [index, of]: readonly [number, number]): [from: number, to: number] {
  const { count: n, times } = clip;
  if (!times) {
    const from = Math.min(Math.floor((n * index) / of), n - 1);
    return [from, Math.max(Math.floor((n * (index + 1)) / of), from + 1)];
  }
  const seconds = durationOf(clip);
  const begunBefore = (share: number) => (share >= of ? n : begunBy(times, (seconds * share) / of - rounding));
  const [from, to] = [begunBefore(index), begunBefore(index + 1)];
  return to > from ? [from, to] : [Math.max(from - 1, 0), Math.max(from, 1)]; // what is on the screen all the while
}

/** Indices into a clip of at least one frame, ascending; a clip shorter than the wish repeats some. */
export function sampleIndices(clip: Timeline, rule: SamplingRule, where: string): Int32Array {
  const { count: n, fps, times } = clip;
  if (rule.part) {
    const [from, to] = stretchOf(clip, rule.part);
    return linspace(to - from - 1, rule.frames).map((k) => from + k);
  }
  if (rule.window === undefined && rule.fps === undefined) return linspace(n - 1, rule.frames);
  if (times) return byTime({ ...clip, times }, rule, where);
  if (fps !== undefined) return byRate(n, fps, rule, where);
  throw new IsrDpoError("INVALID_ARGUMENT", `${where}: expected no window and no fps, since its frames have no times`, {
    hint: "leave out sample.window and sample.fps, or give frames in memory their fps",
  });
}

/** How many of the indices repeat the one before. */
export const repeats = (indices: Int32Array): number => indices.length - new Set(indices).size;
