// From a Media value to the pixel values that a vision tower takes.
import { join } from "node:path";
import { Lru } from "../base/lru.js";
import { signal as checkSignal } from "../base/check.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { type Resolved, resolved } from "../base/option-rows.js";
import type { Media, MediaReport, Tensor } from "../base/types.js";
import { type Decoded, type DecodeOptions, decode, type Probe, probe } from "./ffmpeg.js";
import { readImage } from "./frame-files.js";
import { changing, identityOf } from "./file-hash.js";
import { applyRecipe, type Frame } from "./preprocess.js";
import { repeats, type SamplingRule, sampleIndices } from "./frame-sampling.js";
import { Shared } from "./shared-work.js";
import type { MediaGrid } from "./media-grid.js";
import { keyOf, pathsOf, type Source, sourceOf } from "./media-source.js";
import { readRows } from "./media-options.js";
import type { FrameSpec, VisionSpec } from "./tower-spec.js";
import { evenly } from "./timeline.js";

export interface MediaOptions extends Partial<Resolved<typeof readRows>> {
  signal?: AbortSignal;
}

/** What is told of a medium, without where it came from. */
export type MediaNotes = Omit<MediaReport, "path" | "kind" | "sourceFrames">;

export interface OpenedMedia {
  kind: "video" | "image";
  /** f32 (bf16 where given so). A clip: the spec's layout; an image: (1, 3, H, W); of a grid: (patches, values). */
  pixels: Tensor;
  /** Of towers that take any. */
  grid?: MediaGrid;
  /** Which of the file's frames they are. */
  sourceFrames: Int32Array;
  /** Equal keys mean equal pixels. */
  key: string;
  notes: MediaNotes;
}

interface Bounds extends DecodeOptions {
  maxLost: number;
}

interface Picked {
  frames: readonly Frame[];
  sourceFrames: Int32Array;
  notes: Omit<MediaNotes, "repeated">;
}

const readBounds = ({ signal, ...o }: MediaOptions): Bounds => {
  const bounds = resolved("options", o, readRows);
  const deadline = performance.now() + bounds.timeoutMs;
  return { ...bounds, ffmpeg: bounds.ffmpeg, deadline, signal: checkSignal("options.signal", signal) };
};

const intact = { decodeErrors: 0, lost: 0, rotated: false };

interface Read {
  probed: Probe;
  decoded: Decoded;
}

const probes = new Lru<Probe>(32 << 20);

/** What the container says, remembered while the file is the same: each look at a clip asks for it. */
async function probeOnce(path: string, bounds: Bounds): Promise<Probe> {
  const key = `${await identityOf(path)}\0${bounds.ffmpeg ?? process.env.ISR_DPO_FFMPEG ?? ""}`;
  const found = probes.get(key);
  if (found) return found;
  const probed = await probe(path, bounds);
  if ((await identityOf(path)) === key.slice(0, key.lastIndexOf("\0")))
    probes.put(key, probed, 512 + 12 * (probed.stamps?.pts.length ?? 0));
  return probed;
}

async function readFile(path: string, rules: readonly SamplingRule[], probed: Probe, bounds: Bounds): Promise<Read> {
  const decoded = await decode(
    path,
    probed,
    (clip) => Int32Array.from(rules.flatMap((rule) => [...sampleIndices(clip, rule, path)])),
    bounds,
  );
  return { probed, decoded };
}

/** MEDIA_UNREADABLE where more is lost or damaged than the caller takes. */
function checkLost(path: string, { count, lost, damaged }: Decoded, { maxLost }: Bounds): void {
  const expected = count + lost;
  if (lost + damaged <= maxLost * expected) return;
  throw new IsrDpoError(
    "MEDIA_UNREADABLE",
    `${path}: expected at most ${maxLost * 100} % of its frames to be lost or damaged, got ${lost} lost and ${damaged} damaged of ${expected}`,
    {
      hint: "fetch or convert the file again; video.maxLost of a configuration (mediaMaxLost of loadModel) sets the share that is taken",
      path,
      detail: { lost, damaged, frames: expected, maxLost },
    },
  );
}

function notesOf({ probed, decoded }: Read): Picked["notes"] {
  const { count, errors, lost, damaged, seeks, fallback } = decoded;
  return {
    ...{ count, decodeErrors: errors, lost, rotated: probed.rotated },
    ...(damaged > 0 && { damaged }),
    ...(seeks > 0 && { seeks }),
    ...(fallback !== undefined && { fallback }),
    ...(probed.others > 0 && { otherStreams: probed.others }),
  };
}

async function fromFile({ path, rule }: Source & { from: "file" }, bounds: Bounds): Promise<Picked> {
  const read = await readFile(path, [rule], await probeOnce(path, bounds), bounds);
  checkLost(path, read.decoded, bounds);
  return { frames: read.decoded.frames, sourceFrames: read.decoded.indices, notes: notesOf(read) };
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
  const { leftOut, unpadded } = source;
  const told = { ...(leftOut.length > 0 && { leftOut }), ...(unpadded && { unpadded }) };
  return { frames, sourceFrames: indices, notes: { count: names.length, ...intact, ...told } };
}

async function pick(source: Exclude<Source, { from: "pixels" }>, bounds: Bounds): Promise<Picked> {
  if (source.from === "file") return fromFile(source, bounds);
  if (source.from === "folder") return fromFolder(source, bounds);
  if (source.from === "image")
    return { frames: [await readImage(source.path)], sourceFrames: Int32Array.of(0), notes: { count: 1, ...intact } };
  const { frames, fps, rule, kind } = source;
  const indices = kind === "image" ? Int32Array.of(0) : sampleIndices(evenly(frames.length, fps), rule, "media.frames");
  return {
    frames: Array.from(indices, (i) => frames[i]!),
    sourceFrames: indices,
    notes: { count: frames.length, ...intact },
  };
}

async function pixelsOf(
  picked: Picked,
  kind: "video" | "image",
  spec: FrameSpec,
  signal?: AbortSignal,
): Promise<Tensor> {
  const { type, size, crop, mean, std } = spec;
  const still = type === "languagebind" && kind === "image";
  const config = {
    type: still ? ("languagebind_image" as const) : type === "siglip" ? ("siglip_smol" as const) : type,
    ...{ size, crop, exact: spec.resize === "exact", patch: 1, merge: 1, minPixels: 1, maxPixels: 1 },
    ...{ mean: Float32Array.from(mean), std: Float32Array.from(std) },
  };
  const { pixels } = await applyRecipe(picked.frames, config, { resized: false, signal });
  const n = picked.frames.length;
  const shape = kind === "video" && spec.layout === "cthw" ? [3, n, crop, crop] : [n, 3, crop, crop];
  return { dtype: "f32", shape, data: pixels };
}

type Look = Pick<OpenedMedia, "pixels" | "sourceFrames" | "notes">;

async function lookOf(picked: Picked, kind: "video" | "image", spec: FrameSpec, signal?: AbortSignal): Promise<Look> {
  const pixels = await pixelsOf(picked, kind, spec, signal);
  return {
    pixels,
    sourceFrames: picked.sourceFrames,
    notes: { ...picked.notes, repeated: repeats(picked.sourceFrames) },
  };
}

const stretches = new Lru<readonly Look[]>(192 << 20);
const reading = new Shared<readonly Look[]>();
const stretchBytes = { frames: 512 << 20, pixels: 96 << 20 }; // of all looks at a clip: its decoded frames, and the pixels that are kept
const stretchFrames = 4096;

/** All stretches of a clip, read in one pass; undefined where that is too much at once. */
async function readStretches(source: Source & { from: "file" }, spec: FrameSpec, bounds: Bounds) {
  const { path, rule } = source;
  const of = rule.part![1];
  const probed = await probeOnce(path, bounds);
  const read = await readFile(
    path,
    Array.from({ length: of }, (_, i): SamplingRule => ({ ...rule, part: [i, of] })),
    probed,
    bounds,
  );
  checkLost(path, read.decoded, bounds);
  const notes = notesOf(read);
  const { frames, indices } = read.decoded;
  const looks: Look[] = [];
  for (let i = 0; i < of; i++) {
    const [from, to] = [i * rule.frames, (i + 1) * rule.frames];
    const picked = { frames: frames.slice(from, to), sourceFrames: indices.slice(from, to), notes };
    looks.push(await lookOf(picked, "video", spec, bounds.signal));
  }
  return looks;
}

/** A look at one stretch of a video is seldom the only one: all are decoded in one pass, and kept for a while. */
async function openStretch(source: Source & { from: "file" }, spec: FrameSpec, bounds: Bounds): Promise<Look> {
  const { path, rule } = source;
  const [index, of] = rule.part!;
  const probed = await probeOnce(path, bounds);
  const n = rule.frames * of;
  const raw = 3 * probed.pixels * n;
  const kept = 12 * spec.crop ** 2 * n;
  const small = raw > 0 && raw <= Math.min(stretchBytes.frames, bounds.maxBytes) && kept <= stretchBytes.pixels;
  if (!small || n > stretchFrames) return lookOf(await fromFile(source, bounds), "video", spec, bounds.signal);
  const { maxLost, maxBytes, ffmpeg } = bounds;
  const key = JSON.stringify([await identityOf(path), rule.frames, of, maxLost, maxBytes, ffmpeg, spec]);
  const found = stretches.get(key);
  const looks =
    found ?? (await reading.run(key, bounds.signal, (signal) => readStretches(source, spec, { ...bounds, signal })));
  if (!found && (await identityOf(path)) === JSON.parse(key)[0]) stretches.put(key, looks, kept);
  const { pixels, sourceFrames, notes } = looks[index]!;
  const data = pixels.data.slice(); // each caller's own
  return { pixels: { ...pixels, data }, sourceFrames: sourceFrames.slice(), notes: { ...notes } };
}

async function openSource(source: Source, spec: VisionSpec, bounds: Bounds): Promise<OpenedMedia> {
  const { kind } = source;
  if (source.from === "pixels") {
    const { pixels, grid } = source;
    const time = kind === "video" && spec.type !== "grid" && spec.layout === "cthw" ? 1 : 0;
    const count = grid ? grid.gridThw[0] * (kind === "image" ? 1 : 2) : pixels.shape[time]!; // two frames a step of a grid
    const sourceFrames = Int32Array.from({ length: count }, (_, i) => i);
    const notes = { count, repeated: 0, ...intact };
    const key = await keyOf(source, spec, bounds.signal);
    return { kind, pixels, sourceFrames, key, notes, ...(grid && { grid }) };
  }
  if (spec.type === "grid") throw new TypeError("sourceOf() gives pixels alone for towers of grids");
  const look =
    source.from === "file" && source.rule.part
      ? await openStretch(source, spec, bounds)
      : await lookOf(await pick(source, bounds), kind, spec, bounds.signal);
  return { kind, ...look, key: await keyOf(source, spec, bounds.signal) };
}

const identitiesOf = async (paths: readonly string[]): Promise<string> =>
  JSON.stringify(await Promise.all(paths.map(identityOf)));

/**
 * Decodes, samples and preprocesses. MEDIA_UNREADABLE: it cannot be decoded, or not in time, loses more than `maxLost`, or
 * changes while it is read (after a second try); MEDIA_EMPTY: there is no frame in it; NOT_FOUND; FFMPEG_MISSING: the tool is
 * missing or too old; IO: something ended it; INVALID_ARGUMENT for values that are none, addresses, and windows outside the
 * clip.
 */
export async function openMedia(media: Media, spec: VisionSpec, o: MediaOptions = {}): Promise<OpenedMedia> {
  const bounds = readBounds(o);
  bounds.signal?.throwIfAborted();
  let path = "";
  for (let round = 0; round < 2; round++) {
    const source = await sourceOf(media, spec);
    const paths = pathsOf(source);
    path = paths[0] ?? "";
    const before = await identitiesOf(paths);
    try {
      const opened = await openSource(source, spec, bounds);
      if ((await identitiesOf(paths)) === before) return opened;
    } catch (e) {
      // The file changed while it was read: half of one content and half of another cannot be read either.
      if (!isIsrDpoError(e) || (await identitiesOf(paths)) === before) throw e;
    }
  }
  throw changing(path);
}

/**
 * The key that openMedia would give, without decoding: of a file the SHA-256 of its content (remembered by path, size and
 * times), how frames are taken and what is done with them; of arrays their content.
 */
export async function mediaKey(media: Media, spec: VisionSpec, o: { signal?: AbortSignal } = {}): Promise<string> {
  return keyOf(await sourceOf(media, spec), spec, checkSignal("options.signal", o.signal));
}
