// From a Media value to the pixel values that a vision tower takes.
import { join } from "node:path";
import { integer, options as checkOptions, path as checkPath, signal as checkSignal } from "../check.js";
import { IsrDpoError } from "../errors.js";
import type { Media, Tensor } from "../types.js";
import { type Decoded, type DecodeOptions, decode, type Probe, probe } from "./ffmpeg.js";
import { readImage } from "./folder.js";
import { fileKey, Kept } from "./kept.js";
import { applyRecipe, type Frame } from "./preprocess.js";
import { repeats, type SamplingRule, sampleIndices } from "./sampling.js";
import { keyOf, type Source, sourceOf } from "./source.js";
import type { VisionSpec } from "./spec.js";

export interface MediaOptions {
  signal?: AbortSignal;
  /** Of each ffmpeg process; default 300 000. */
  timeoutMs?: number;
  /** The ffmpeg binary; default: ISR_DPO_FFMPEG of the environment, else ffmpeg of PATH. */
  ffmpeg?: string;
  /** Of the decoded frames of one clip; default 1 GiB. */
  maxBytes?: number;
}

export interface MediaNotes {
  /** Frames of the file, folder or array. */
  count: number;
  /** Frames that stand for a second time because the clip is short. */
  repeated: number;
  /** Errors that the decoder reported and went on. */
  decodeErrors: number;
  /** Frames that the container announces and that could not be decoded. */
  lost: number;
  /** The file asks to be shown turned, and was. */
  rotated: boolean;
}

export interface OpenedMedia {
  kind: "video" | "image";
  /** f32 (bf16 where given so). A clip: the spec's layout; an image: (1, 3, H, W). */
  pixels: Tensor;
  /** Which of the file's frames they are. */
  sourceFrames: Int32Array;
  /** Equal keys mean equal pixels. */
  key: string;
  notes: MediaNotes;
}

type Bounds = DecodeOptions;

interface Picked {
  frames: readonly Frame[];
  sourceFrames: Int32Array;
  notes: Omit<MediaNotes, "repeated">;
}

const readBounds = (o: MediaOptions): Bounds => {
  const known = checkOptions("options", o, ["signal", "timeoutMs", "ffmpeg", "maxBytes"]);
  return {
    signal: checkSignal("options.signal", known.signal),
    timeoutMs: known.timeoutMs === undefined ? 300_000 : integer("options.timeoutMs", known.timeoutMs, 1, 2 ** 31 - 1),
    ffmpeg: known.ffmpeg === undefined ? undefined : checkPath("options.ffmpeg", known.ffmpeg),
    maxBytes: known.maxBytes === undefined ? 2 ** 30 : integer("options.maxBytes", known.maxBytes, 1),
  };
};

const intact = { decodeErrors: 0, lost: 0, rotated: false };

interface Read {
  probed: Probe;
  decoded: Decoded;
}

async function readFile(path: string, rules: readonly SamplingRule[], probed: Probe, bounds: Bounds): Promise<Read> {
  const choose = (count: number) =>
    Int32Array.from(rules.flatMap((rule) => [...sampleIndices(count, rule, probed.fps, path)]));
  return { probed, decoded: await decode(path, probed, choose, bounds) };
}

const stretches = new Kept<Read>(64 << 20);

/** A look at one stretch of a small video is seldom the only one: all are decoded in one pass, and kept for a while. */
async function readStretch(path: string, rule: SamplingRule, of: number, bounds: Bounds): Promise<Read> {
  const key = await fileKey(path, [rule.frames, of, bounds.ffmpeg, bounds.maxBytes].join());
  const kept = stretches.find(key);
  if (kept) return kept;
  const probed = await probe(path, bounds);
  const bytes = 3 * probed.pixels * rule.frames * of;
  if (bytes === 0 || bytes > Math.min(smallClip, bounds.maxBytes)) return readFile(path, [rule], probed, bounds);
  const rules = Array.from({ length: of }, (_, i): SamplingRule => ({ ...rule, part: [i, of] }));
  const read = await readFile(path, rules, probed, bounds);
  stretches.keep(key, read, bytes);
  return read;
}

const smallClip = 4 << 20; // bytes

async function fromFile(source: Source & { from: "file" }, bounds: Bounds): Promise<Picked> {
  const { path, rule } = source;
  const { probed, decoded } = rule.part
    ? await readStretch(path, rule, rule.part[1], bounds)
    : await readFile(path, [rule], await probe(path, bounds), bounds);
  const { count, indices, frames, errors } = decoded;
  const from = indices.length > rule.frames ? rule.part![0] * rule.frames : 0; // all stretches, one after the other
  return {
    frames: frames.slice(from, from + rule.frames),
    sourceFrames: indices.slice(from, from + rule.frames),
    notes: { count, decodeErrors: errors, lost: Math.max(probed.announced - count, 0), rotated: probed.rotated },
  };
}

async function fromFolder(source: Source & { from: "folder" }, { signal, maxBytes }: Bounds): Promise<Picked> {
  const { path, names, indices } = source;
  const read = new Map<number, Frame>();
  let bytes = 0;
  for (const i of new Set(indices)) {
    signal?.throwIfAborted();
    const frame = await readImage(join(path, names[i]!));
    bytes += frame.data.length;
    if (bytes > maxBytes)
      throw new IsrDpoError(
        "MEDIA_UNREADABLE",
        `${path}: expected frames of at most ${maxBytes} bytes in all, got more`,
        {
          hint: "make the frames smaller, or take fewer of them",
          path,
          detail: { maxBytes },
        },
      );
    read.set(i, frame);
  }
  const frames = Array.from(indices, (i) => read.get(i)!);
  return { frames, sourceFrames: indices, notes: { count: names.length, ...intact } };
}

async function pick(source: Exclude<Source, { from: "pixels" }>, bounds: Bounds): Promise<Picked> {
  if (source.from === "file") return fromFile(source, bounds);
  if (source.from === "folder") return fromFolder(source, bounds);
  if (source.from === "image")
    return { frames: [await readImage(source.path)], sourceFrames: Int32Array.of(0), notes: { count: 1, ...intact } };
  const { frames, fps, rule, kind } = source;
  const indices = kind === "image" ? Int32Array.of(0) : sampleIndices(frames.length, rule, fps, "media.frames");
  return {
    frames: Array.from(indices, (i) => frames[i]!),
    sourceFrames: indices,
    notes: { count: frames.length, ...intact },
  };
}

async function pixelsOf(
  picked: Picked,
  kind: "video" | "image",
  spec: VisionSpec,
  signal?: AbortSignal,
): Promise<Tensor> {
  const { type, size, crop, mean, std } = spec;
  const config = {
    type: type === "languagebind" && kind === "image" ? ("languagebind_image" as const) : type,
    ...{ size, crop, exact: spec.resize === "exact", patch: 1, merge: 1, minPixels: 1, maxPixels: 1 },
    ...{ mean: Float32Array.from(mean), std: Float32Array.from(std) },
  };
  const { pixels } = await applyRecipe(picked.frames, config, { resized: false, signal });
  const n = picked.frames.length;
  const shape = kind === "video" && spec.layout === "cthw" ? [3, n, crop, crop] : [n, 3, crop, crop];
  return { dtype: "f32", shape, data: pixels };
}

/**
 * Decodes, samples and preprocesses. MEDIA_UNREADABLE: it cannot be decoded, or not in time; MEDIA_EMPTY: there is no frame
 * in it; NOT_FOUND; FFMPEG_MISSING; INVALID_ARGUMENT for values that are none, addresses, and windows outside the clip.
 */
export async function openMedia(media: Media, spec: VisionSpec, o: MediaOptions = {}): Promise<OpenedMedia> {
  const bounds = readBounds(o);
  bounds.signal?.throwIfAborted();
  const source = await sourceOf(media, spec);
  const { kind } = source;
  if (source.from === "pixels") {
    const { pixels } = source;
    const count = pixels.shape[kind === "video" && spec.layout === "cthw" ? 1 : 0]!;
    const sourceFrames = Int32Array.from({ length: count }, (_, i) => i);
    const notes = { count, repeated: 0, ...intact };
    return { kind, pixels, sourceFrames, key: await keyOf(source, spec, bounds.signal), notes };
  }
  const picked = await pick(source, bounds);
  const pixels = await pixelsOf(picked, kind, spec, bounds.signal);
  const notes = { ...picked.notes, repeated: repeats(picked.sourceFrames) };
  return { kind, pixels, sourceFrames: picked.sourceFrames, key: await keyOf(source, spec, bounds.signal), notes };
}

/**
 * The key that openMedia would give, without decoding: of a file the SHA-256 of its content (remembered by path, size and
 * times), how frames are taken and what is done with them; of arrays their content.
 */
export async function mediaKey(media: Media, spec: VisionSpec, o: { signal?: AbortSignal } = {}): Promise<string> {
  return keyOf(await sourceOf(media, spec), spec, checkSignal("options.signal", o.signal));
}
