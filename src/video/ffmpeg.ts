// Frames of video files, by the user's own ffmpeg: what its select filter gives, one pass for an intact file.
import { existsSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { IsrDpoError } from "../errors.js";
import { type Bounds, type Ended, run } from "./process.js";
import type { Frame } from "./preprocess.js";

export interface DecodeOptions extends Bounds {
  /** Bytes of decoded frames, at most. */
  maxBytes: number;
  /** The ffmpeg binary; default: ISR_DPO_FFMPEG of the environment, else ffmpeg of PATH. */
  ffmpeg?: string | undefined;
}

/** A file before decoding. */
export interface Probe {
  /** Packets of the video stream: nearly always the number of its frames. */
  packets: number;
  /** Frames that the container announces, where it does. */
  announced: number;
  /** Average frames per second. */
  fps: number | undefined;
  /** Of a frame, as the container says; 0: it does not. */
  pixels: number;
  rotated: boolean;
}

export interface Decoded {
  /** Frames of the file that can be decoded. */
  count: number;
  indices: Int32Array;
  /** One for each index; repeated indices share their bytes. */
  frames: Frame[];
  /** Errors that the decoder reported on the way. */
  errors: number;
}

// Containers of real video alone: never scripts or lists that name other files or addresses (concat, hls, image2).
const containers =
  "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,flv,ogg,asf,ivf,h264,hevc,m4v,mxf,nut";
export const maxPixels = 1 << 26; // 8192 x 8192
const maxSide = 16384;
const maxText = 1 << 20;

interface Tools {
  ffmpeg: string;
  ffprobe: string;
}

function findTools(given: string | undefined): Tools {
  const ffmpeg = given ?? process.env.ISR_DPO_FFMPEG ?? "";
  if (ffmpeg === "") return { ffmpeg: "ffmpeg", ffprobe: "ffprobe" };
  const beside = join(dirname(resolve(ffmpeg)), basename(ffmpeg).replace(/ffmpeg/i, "ffprobe"));
  return { ffmpeg, ffprobe: beside !== resolve(ffmpeg) && existsSync(beside) ? beside : "ffprobe" };
}

const input = (path: string): string[] => [
  ...["-protocol_whitelist", "file", "-format_whitelist", containers, "-max_pixels", String(maxPixels)],
  ...["-i", `file:${resolve(path)}`],
];

const logLines = (log: string, levels: string): string[] =>
  log.split(/[\r\n]+/).filter((line) => new RegExp(`\\[(${levels})\\]`).test(line));

/** The last thing that the tool complained of, without addresses and levels. */
function complaint(log: string): string {
  const last = logLines(log, "error|fatal|panic").at(-1) ?? log.trim().split("\n").at(-1) ?? "";
  return (
    last
      .replace(/\[[^\]]*\]\s*/g, "")
      .replaceAll("file:", "")
      .slice(0, 300) || "no message"
  );
}

function unreadable(path: string, what: string, detail: Record<string, unknown> = {}): IsrDpoError {
  return new IsrDpoError("MEDIA_UNREADABLE", `${path}: expected a video file that ffmpeg can decode, got ${what}`, {
    hint: "play it with ffplay; a broken download or an unusual container is often mended by `ffmpeg -i FILE -c copy OUT.mp4`",
    path,
    detail,
  });
}

async function tool(
  command: string,
  args: string[],
  path: string,
  o: Bounds,
  take: (chunk: Buffer) => boolean,
): Promise<Ended> {
  let ended: Ended;
  try {
    ended = await run(command, args, o, take);
  } catch (cause) {
    const code = (cause as { code?: unknown }).code;
    if (o.signal?.aborted || typeof code !== "string") throw cause;
    throw new IsrDpoError("FFMPEG_MISSING", `${command}: expected a program that can be started, got ${code}`, {
      hint: "install ffmpeg with ffprobe (Debian, Ubuntu: apt install ffmpeg; macOS: brew install ffmpeg), or name the ffmpeg binary in ISR_DPO_FFMPEG",
      path: command,
      cause,
    });
  }
  if (ended.killed === "timeout")
    throw unreadable(path, `no end within ${o.timeoutMs / 1000} s`, { timeoutMs: o.timeoutMs });
  return ended;
}

function ratio(text: unknown): number | undefined {
  const [, a, b] = /^(\d+)\/(\d+)$/.exec(String(text)) ?? [];
  return Number(a) > 0 && Number(b) > 0 ? Number(a) / Number(b) : undefined;
}

interface ProbedStream {
  width?: number;
  height?: number;
  avg_frame_rate?: string;
  r_frame_rate?: string;
  nb_frames?: string;
  nb_read_packets?: string;
  side_data_list?: { rotation?: number }[];
  tags?: { rotate?: string };
}

/** Reads the container, decoding nothing. MEDIA_UNREADABLE; MEDIA_EMPTY where there is no video in it. */
export async function probe(path: string, o: DecodeOptions): Promise<Probe> {
  const fields =
    "stream=width,height,avg_frame_rate,r_frame_rate,nb_frames,nb_read_packets:stream_side_data=rotation:stream_tags=rotate";
  const args = ["-hide_banner", "-loglevel", "level+error", "-select_streams", "V:0", "-count_packets"];
  let text = "";
  const ended = await tool(
    findTools(o.ffmpeg).ffprobe,
    [...args, "-show_entries", fields, "-of", "json", ...input(path)],
    path,
    o,
    (chunk) => {
      text += chunk.toString("latin1");
      return text.length <= maxText;
    },
  );
  if (ended.code !== 0 || ended.killed) throw unreadable(path, complaint(ended.log));
  let stream: ProbedStream | undefined;
  try {
    stream = (JSON.parse(text) as { streams?: ProbedStream[] }).streams?.[0];
  } catch {
    throw unreadable(path, "an answer of ffprobe that is no JSON");
  }
  if (!stream) throw new IsrDpoError("MEDIA_EMPTY", `${path}: expected a video stream, got none`, { path });
  const packets = Number(stream.nb_read_packets) || 0;
  if (packets === 0) throw new IsrDpoError("MEDIA_EMPTY", `${path}: expected at least one frame, got none`, { path });
  const turns = [stream.tags?.rotate, ...(stream.side_data_list ?? []).map((s) => s.rotation)].map((turn) =>
    Number(turn ?? 0),
  );
  return {
    packets,
    announced: Number(stream.nb_frames) || 0,
    fps: ratio(stream.avg_frame_rate) ?? ratio(stream.r_frame_rate),
    pixels: (Number(stream.width) || 0) * (Number(stream.height) || 0),
    rotated: turns.some((turn) => turn % 360 !== 0),
  };
}

/** Frames as ffmpeg's ppm encoder writes them one after the other: each says its own size. */
class PpmReader {
  readonly frames: Frame[] = [];
  #header = "";
  #frame: { data: Uint8Array; height: number; width: number } | undefined;
  #filled = 0;
  #room: number;

  constructor(maxBytes: number) {
    this.#room = maxBytes;
  }

  /** False when there is more than there is room for, or it is no such stream. */
  take(chunk: Buffer): boolean {
    for (let at = 0; at < chunk.length; ) {
      if (!this.#frame) {
        this.#header += String.fromCharCode(chunk[at++]!);
        if (!this.#begin()) return false;
        continue;
      }
      const { data } = this.#frame;
      const part = chunk.subarray(at, at + data.length - this.#filled);
      data.set(part, this.#filled);
      at += part.length;
      this.#filled += part.length;
      if (this.#filled < data.length) continue;
      this.frames.push(this.#frame);
      this.#frame = undefined;
    }
    return true;
  }

  #begin(): boolean {
    const [, w, h] = /^P6\n(\d+) (\d+)\n255\n$/.exec(this.#header) ?? [];
    if (w === undefined || h === undefined) return this.#header.length < 32;
    const [width, height] = [Number(w), Number(h)];
    this.#room -= width * height * 3;
    if (this.#room < 0 || width > maxSide || height > maxSide || width * height === 0) return false;
    this.#frame = { data: new Uint8Array(width * height * 3), height, width };
    this.#filled = 0;
    this.#header = "";
    return true;
  }
}

interface Pass {
  frames: Frame[];
  count: number; // frames decoded
  errors: number;
}

/** One pass over the whole file that keeps the frames with the given indices. */
async function pass(path: string, indices: readonly number[], o: DecodeOptions): Promise<Pass> {
  const reader = new PpmReader(o.maxBytes);
  const select = `select='${indices.map((i) => `eq(n,${i})`).join("+")}'`;
  const ended = await tool(
    findTools(o.ffmpeg).ffmpeg,
    [
      ...["-nostdin", "-hide_banner", "-nostats", "-loglevel", "repeat+level+verbose", "-threads", "1", ...input(path)],
      ...["-map", "0:V:0", "-an", "-sn", "-dn", "-vf", select, "-fps_mode", "passthrough", "-pix_fmt", "rgb24"],
      ...["-c:v", "ppm", "-f", "image2pipe", "-"],
    ],
    path,
    o,
    (chunk) => reader.take(chunk),
  );
  if (ended.killed === "output")
    throw unreadable(path, `frames of more than ${o.maxBytes} bytes or ${maxSide} pixels a side`, {
      maxBytes: o.maxBytes,
    });
  const decoded = /\(video\): \d+ packets read .*?; (\d+) frames decoded/.exec(ended.log);
  if (!decoded) throw unreadable(path, complaint(ended.log));
  // A change of size or pixel format starts ffmpeg's filters anew, and with them the numbers of the frames.
  if (ended.log.split(/ tb:\d+\/\d+ fr:\d+\/\d+ sar:/).length > 2)
    throw unreadable(path, "a stream whose size or pixel format changes midway");
  return { frames: reader.frames, count: Number(decoded[1]), errors: logLines(ended.log, "error|fatal|panic").length };
}

/**
 * Decodes the frames that `choose` names out of `count`. Packets of a container are only a first guess at the number of
 * frames: where the pass itself counts another, a second pass goes by that.
 */
export async function decode(
  path: string,
  probed: Probe,
  choose: (count: number) => Int32Array,
  o: DecodeOptions,
): Promise<Decoded> {
  let count = probed.packets;
  for (let round = 0; round < 3; round++) {
    const indices = choose(count);
    const wanted = [...new Set(indices)];
    const got = await pass(path, wanted, o);
    if (got.count === 0) {
      if (got.errors > 0) throw unreadable(path, "no frame that can be decoded", { decodeErrors: got.errors });
      throw new IsrDpoError("MEDIA_EMPTY", `${path}: expected at least one frame, got none`, { path });
    }
    if (got.count === count && got.frames.length === wanted.length) {
      const byIndex = new Map(wanted.map((index, i) => [index, got.frames[i]!]));
      return { count, indices, frames: Array.from(indices, (i) => byIndex.get(i)!), errors: got.errors };
    }
    count = got.count;
  }
  throw unreadable(path, "another number of frames at each decoding");
}
