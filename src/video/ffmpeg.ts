// Frames of video files, by the user's own ffmpeg and its select filter. In a long file only the parts around the wanted
// frames are decoded, and every frame of such a part is checked against the container's times. If anything differs, and for
// short or unusual files, the whole file is decoded.
import { IsrDpoError } from "../base/errors.js";
import { faultsOf, type Faults, LogReader } from "./decode-faults.js";
import { maxSide, PpmReader } from "./ppm.js";
import type { Frame } from "./preprocess.js";
import { complaint, unreadable } from "./probe.js";
import { input } from "./ffmpeg-tools.js";
import type { Probe } from "./video-stream.js";
import { type Part, partsOf, selection } from "./ffmpeg-select.js";
import { evenly, type Timeline, timelineOf } from "./timeline.js";
import { findTools, passthrough, tool, type ToolOptions, triesOlder } from "./ffmpeg-tools.js";

export { probe } from "./probe.js";
export type { Probe } from "./video-stream.js";

export interface DecodeOptions extends ToolOptions {
  /** Bytes of decoded frames, at most. */
  maxBytes: number;
  /** Threads that decoding may use; default 1. Frames are the same with any number. */
  threads?: number;
}

export interface Decoded extends Faults {
  /** Frames of the file; of a file that was decoded whole those that can be decoded. */
  count: number;
  indices: Int32Array;
  /** One for each index; repeated indices share their bytes. */
  frames: Frame[];
  /** Places of the file that were sought and decoded by themselves; 0: it was decoded from the beginning. */
  seeks: number;
  /** Frames that the decoder gave on the way. */
  decoded: number;
  /** Why all of the file was decoded though a part would have done. */
  fallback?: string;
}

interface Pass {
  frames: Frame[];
  log: LogReader;
  /** The tool's own count of decoded frames; undefined where it was stopped. */
  counted: number | undefined;
}

interface PassOptions {
  select: string;
  /** Frames after which it may end. */
  enough?: number;
  /** Second to seek to, of the file's own clock. */
  from?: number;
  /** Timestamp after which nothing wanted comes. */
  until?: number;
  threads: number;
  room: { bytes: number };
}

const lines = (seek: PassOptions["from"]): string[] =>
  seek === undefined ? [] : ["-seek_timestamp", "1", "-ss", seek.toFixed(6), "-noaccurate_seek"];

/** One pass over the file, or over a part of it, that keeps the frames of `select`. */
async function pass(path: string, probed: Probe, o: DecodeOptions, p: PassOptions): Promise<Pass> {
  const { ffmpeg } = findTools(o.ffmpeg);
  const sync = passthrough(ffmpeg);
  const reader = new PpmReader(p.room);
  const log = new LogReader(p.from === undefined ? probed : { ...probed, lead: 0 }, p.until);
  // -debug_ts writes a line for each packet that is read and each frame that is decoded; print() the number and the time of a
  // frame. Times of the output only have to rise, so that no muxer complains.
  const filter = `select='print(n)*0+print(pts)*0+(${p.select})',settb=1/1000,setpts=N*4000000`;
  const args = [
    ...["-nostdin", "-hide_banner", "-nostats", "-loglevel", "repeat+level+verbose", "-debug_ts"],
    ...["-threads", String(p.threads), ...lines(p.from), "-copyts", ...input(path), "-map", `0:${probed.stream}`],
    ...["-an", "-sn", "-dn", "-vf", filter],
    ...[...sync, ...(p.enough === undefined ? [] : ["-frames:v", String(p.enough)])],
    ...["-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "-"],
  ];
  const ended = await tool(
    ffmpeg,
    args,
    path,
    o,
    (c) => reader.take(c),
    (l) => log.line(l),
  );
  if (ended.killed === "output")
    throw unreadable(
      path,
      `frames of more than ${o.maxBytes} bytes or ${maxSide} pixels per side`,
      { maxBytes: o.maxBytes },
      "take fewer frames, or make the video smaller with `ffmpeg -i FILE -vf scale=W:H OUT.mp4`",
    );
  if (triesOlder(ffmpeg, sync, ended.log)) return pass(path, probed, o, p);
  const counted = /\(video\): \d+ packets read .*?; (\d+) frames decoded/.exec(ended.log)?.[1];
  if (counted === undefined && !ended.killed) throw unreadable(path, complaint(ended.log));
  return { frames: reader.frames, log, counted: counted === undefined ? undefined : Number(counted) };
}

/** The frames of a part, checked: every one from its sure place on came in order, and no fault with them. */
async function decodePart(path: string, probed: Probe, part: Part, o: DecodeOptions, room: { bytes: number }) {
  const { pts } = probed.stamps!;
  const last = part.wanted.at(-1)!;
  const got = await pass(path, probed, o, {
    select: selection(
      "pts",
      part.wanted.map((i) => pts[i]!),
    ),
    enough: part.wanted.length,
    ...(part.begin > 0 && { from: pts[part.begin]! * probed.tick + 1e-6 }),
    until: pts[Math.min(last + 64, pts.length - 1)]!,
    threads: 1,
    room,
  });
  const { stamps } = got.log;
  const start = stamps.indexOf(pts[part.sure]!);
  const whole = start >= 0 && part.wanted.length === got.frames.length;
  for (let i = part.sure; whole && i <= last; i++)
    if (stamps[start + i - part.sure] !== pts[i]) return { problem: "its frames are not where the container says" };
  if (!whole) return { problem: "its frames are not where the container says" };
  if (got.log.restarted) return { problem: "its size or pixel format changes" };
  const from = part.begin === 0 ? 0 : Math.max(start - 24, 0); // frames before that may refer to frames that were not decoded
  if (got.log.faults.some(({ at }) => at >= from && at <= start + last - part.sure))
    return { problem: "the decoder reported errors" };
  return { frames: got.frames, decoded: stamps.length };
}

/** The wanted frames by parts, a few parts at a time; a string: why that did not do. */
async function byParts(path: string, probed: Probe, parts: readonly Part[], o: DecodeOptions) {
  const found = new Map<number, Frame>();
  const room = { bytes: o.maxBytes };
  let [next, decoded] = [0, 0];
  let problem: string | undefined;
  const work = async () => {
    while (next < parts.length && problem === undefined) {
      const part = parts[next++]!;
      const got = await decodePart(path, probed, part, o, room);
      if (got.problem !== undefined) problem = got.problem;
      else {
        decoded += got.decoded!;
        for (const [i, place] of part.wanted.entries()) found.set(place, got.frames![i]!);
      }
    }
  };
  const ended = await Promise.allSettled(Array.from({ length: Math.min(o.threads ?? 1, parts.length) }, work));
  for (const each of ended) if (each.status === "rejected") throw each.reason;
  return problem ?? { found, decoded };
}

type Choose = (clip: Timeline) => Int32Array;

/** The frames of one pass over all of the file. What is decoded with several threads counts only if nothing went wrong. */
async function wholePass(path: string, probed: Probe, wanted: readonly number[], o: DecodeOptions): Promise<Pass> {
  for (let threads = o.threads ?? 1; ; threads = 1) {
    const got = await pass(path, probed, o, { select: selection("n", wanted), threads, room: { bytes: o.maxBytes } });
    if (got.log.restarted) throw unreadable(path, "a stream whose size or pixel format changes midway");
    if (threads === 1 || got.log.faults.length === 0) return got;
  }
}

/** A clip that is not known yet may seem too short for what is wanted of it: then any frame, to learn its times. */
function guess(choose: Choose, clip: Timeline): Int32Array {
  try {
    return choose(clip);
  } catch {
    return Int32Array.of(0);
  }
}

const same = (a: Int32Array, b: Int32Array): boolean => a.length === b.length && a.every((v, i) => v === b[i]);

/**
 * Decodes all of the file. Packets of a container are only a first guess at its frames: where the pass itself finds others,
 * a second pass goes by that.
 */
async function whole(path: string, probed: Probe, choose: Choose, o: DecodeOptions): Promise<Decoded> {
  let clip = clipOf(probed);
  for (let round = 0; round < 3; round++) {
    const indices = round > 0 || probed.stamps ? choose(clip) : guess(choose, clip);
    const wanted = [...new Set(indices)];
    const { frames, log, counted } = await wholePass(path, probed, wanted, o);
    const count = counted ?? log.stamps.length;
    if (count === 0) {
      if (log.errors > 0) throw unreadable(path, "no frame that can be decoded", { decodeErrors: log.errors });
      throw new IsrDpoError("MEDIA_EMPTY", `${path}: expected at least one frame, got none`, { path });
    }
    const seen =
      log.stamps.length === count ? timelineOf(log.stamps, probed.tick, probed.fps) : evenly(count, probed.fps);
    if (count === clip.count && frames.length === wanted.length && same(choose(seen), indices)) {
      const byIndex = new Map(wanted.map((index, i) => [index, frames[i]!]));
      const picked = Array.from(indices, (i) => byIndex.get(i)!);
      return { count, indices, frames: picked, seeks: 0, decoded: count, ...faultsOf(probed, log, count) };
    }
    clip = seen;
  }
  throw unreadable(path, "another number of frames at each decoding");
}

/** The clip as its container describes it. */
function clipOf({ packets, fps, tick, times }: Probe): Timeline {
  return times ? timelineOf(times, tick, fps) : evenly(packets, fps);
}

/** Decodes the frames that `choose` names. The bytes of a frame are those that decoding the whole file gives. */
export async function decode(path: string, probed: Probe, choose: Choose, o: DecodeOptions): Promise<Decoded> {
  if (!probed.stamps) return whole(path, probed, choose, o);
  const clip = clipOf(probed);
  const indices = choose(clip);
  const parts = partsOf(probed.stamps, [...new Set(indices)]);
  if (!parts) return whole(path, probed, choose, o);
  const got = await byParts(path, probed, parts, o);
  if (typeof got === "string") return { ...(await whole(path, probed, choose, o)), fallback: got };
  const frames = Array.from(indices, (i) => got.found.get(i)!);
  const seeks = parts.filter(({ begin }) => begin > 0).length;
  return {
    count: clip.count,
    indices,
    frames,
    seeks,
    decoded: got.decoded,
    errors: 0,
    lost: probed.missing,
    damaged: 0,
  };
}
