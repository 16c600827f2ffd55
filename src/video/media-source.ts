// The source of a Media value: it is checked at the border, found on disk, and named by a key without decoding anything.
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { codeOf } from "../base/file-errors.js";
import { array, choice, integer, number, object, options, path as checkPath, refuse } from "../base/check.js";
import { IsrDpoError } from "../base/errors.js";
import type { Media, Tensor } from "../base/types.js";
import { kindOfFile, listFrames, otherPicture } from "./frame-files.js";
import { hashFile, hashOf } from "./file-hash.js";
import { gridOf, type MediaGrid } from "./media-grid.js";
import { type Frame, splitFrames } from "./preprocess.js";
import { readSampling, sampleIndices, type SamplingRule } from "./frame-sampling.js";
import { type FrameSpec, type GridSpec, preparesFiles, type VisionSpec } from "./tower-spec.js";
import { evenly } from "./timeline.js";

export type Source =
  | { from: "file"; kind: "video"; path: string; rule: SamplingRule }
  | {
      from: "folder";
      kind: "video";
      path: string;
      names: readonly string[];
      leftOut: readonly string[];
      unpadded: boolean;
      indices: Int32Array;
    }
  | { from: "image"; kind: "image"; path: string }
  | { from: "frames"; kind: "video" | "image"; frames: readonly Frame[]; fps: number | undefined; rule: SamplingRule }
  | { from: "pixels"; kind: "video" | "image"; pixels: Tensor; grid?: MediaGrid };

type GivenKind = "video" | "image" | undefined;

const checkedKind = (value: unknown): GivenKind =>
  value === undefined ? undefined : choice<"video" | "image">("media.kind", value, ["video", "image"]);

function checkImages(spec: FrameSpec, kind: GivenKind): void {
  if (kind === "image" && !spec.images) refuse("media", "a video, since this model takes no images", "an image");
}

function ruleOf(sample: unknown, spec: FrameSpec, kind: GivenKind, file: boolean): SamplingRule {
  if (kind === "image" && sample !== undefined) refuse("media.sample", "none for an image", sample);
  const window = file && spec.window === "10s" ? { window: [0, 10] as const } : {};
  const rule = readSampling("media.sample", sample, { frames: spec.frames, ...window });
  if (spec.type === "languagebind" && rule.frames !== spec.frames)
    refuse("media.sample.frames", `${spec.frames}, as the vision tower has been trained with`, rule.frames);
  return rule;
}

async function onDisk(path: string) {
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(path))
    throw new IsrDpoError("INVALID_ARGUMENT", `media.path: expected a local file or folder, got the address ${path}`, {
      hint: "fetch it first, for example with `curl -LO ADDRESS`, and give the file's path",
    });
  try {
    return await stat(path);
  } catch (cause) {
    const code = codeOf(cause);
    if (code === "ENOENT" || code === "ENOTDIR")
      throw new IsrDpoError("NOT_FOUND", `${path}: expected a video file or a folder of frames, got nothing there`, {
        path,
        cause,
      });
    throw new IsrDpoError("MEDIA_UNREADABLE", `${path}: expected a readable file or folder, got ${code}`, {
      path,
      cause,
    });
  }
}

async function sourceAt(path: string, given: GivenKind, sample: unknown, spec: FrameSpec): Promise<Source> {
  const facts = await onDisk(path);
  if (facts.isDirectory()) {
    if (given === "image") refuse("media.kind", "video for a folder of frames", given);
    const rule = ruleOf(sample, spec, "video", false);
    if (rule.window || rule.fps !== undefined)
      refuse("media.sample", "frames alone for a folder, whose frames have no times", sample);
    const { names, leftOut, unpadded } = await listFrames(path);
    const indices = sampleIndices(evenly(names.length, undefined), rule, path);
    return { from: "folder", kind: "video", path, names, leftOut, unpadded, indices };
  }
  const what = !facts.isFile() ? "no regular file" : facts.size === 0 ? "an empty file" : undefined;
  if (what) throw new IsrDpoError("MEDIA_UNREADABLE", `${path}: expected a video file, got ${what}`, { path });
  const { image, other } = await kindOfFile(path).catch((cause) => {
    throw new IsrDpoError("MEDIA_UNREADABLE", `${path}: expected a readable file, got ${cause.code}`, { path, cause });
  });
  // A GIF is a video as well. Any other picture is none, whatever ffmpeg makes of it.
  if (!image && other && (given === "image" || other !== "a GIF")) throw otherPicture(path, other);
  const found = image ? "image" : "video";
  if (given !== undefined && given !== found)
    throw new IsrDpoError(
      "MEDIA_UNREADABLE",
      `${path}: expected ${given === "image" ? "a JPEG or PNG image" : "a video file"}, got ${image ? "an image" : "something else"}`,
      {
        hint: `leave out media.kind, or give it as '${found}'`,
        path,
      },
    );
  checkImages(spec, found);
  const rule = ruleOf(sample, spec, found, true);
  return image ? { from: "image", kind: "image", path } : { from: "file", kind: "video", path, rule };
}

function framesSource(m: Record<string, unknown>, kind: "video" | "image", spec: FrameSpec): Source {
  const frames = splitFrames("media", m.frames, m.width, m.height);
  if (kind === "image" && frames.length !== 1) refuse("media.frames", "one frame for an image", m.frames);
  const fps = m.fps === undefined ? undefined : number("media.fps", m.fps, { above: 0, max: 1000 });
  return { from: "frames", kind, frames, fps, rule: ruleOf(m.sample, spec, kind, false) };
}

/** What a shape of four (an image's three are completed) is under the spec; undefined: nothing that the towers take. */
function kindOfShape(shape: readonly number[], given: GivenKind, spec: FrameSpec): "video" | "image" | undefined {
  const [a, b, h, w] = shape as [number, number, number, number];
  if (shape.length !== 4 || h !== spec.crop || w !== spec.crop) return undefined;
  if (a === 1 && b === 3 && spec.images && (given !== "video" || spec.layout === "cthw")) return "image";
  const [frames, planes] = spec.layout === "tchw" ? [a, b] : [b, a];
  const fits = spec.type !== "languagebind" ? frames >= 1 && frames <= 4096 : frames === spec.frames;
  return planes === 3 && fits ? "video" : undefined;
}

function pixelsSource(m: Record<string, unknown>, given: GivenKind, spec: FrameSpec): Source {
  const t = object("media.pixels", m.pixels);
  const dtype = choice<"f32" | "bf16">("media.pixels.dtype", t.dtype, ["f32", "bf16"]);
  const dims = array("media.pixels.shape", t.shape).map((n, i) => integer(`media.pixels.shape[${i}]`, n, 1, 4096));
  const shape = dims.length === 3 ? [1, ...dims] : dims;
  const found = kindOfShape(shape, given, spec);
  if (found === undefined || (given !== undefined && given !== found) || (dims.length === 3 && found !== "image")) {
    const { crop, layout, frames, images } = spec;
    const clip = `a clip ${layout === "tchw" ? `(frames, 3, ${crop}, ${crop})` : `(3, ${frames}, ${crop}, ${crop})`}`;
    const image = `an image (1, 3, ${crop}, ${crop}) or (3, ${crop}, ${crop})`;
    const expected = !images || given === "video" ? clip : given === "image" ? image : `${clip}, or ${image}`;
    refuse("media.pixels.shape", expected, `(${dims.join(", ")})`);
  }
  return { from: "pixels", kind: found, pixels: { dtype, shape, data: pixelData(t.data, dtype, shape) } };
}

/** Rows of patches with their grid. */
function patchesSource(m: Record<string, unknown>, given: GivenKind, spec: GridSpec): Source {
  const t = object("media.pixels", m.pixels);
  const dtype = choice<"f32" | "bf16">("media.pixels.dtype", t.dtype, ["f32", "bf16"]);
  const grid = gridOf("media", m, spec.merge);
  const [time, height, width] = grid.gridThw;
  const kind = given ?? "video";
  if (kind === "image" && time !== 1) refuse("media.gridThw[0]", "1 for an image", time);
  const shape = [time * height * width, spec.values];
  const dims = array("media.pixels.shape", t.shape);
  if (dims.length !== 2 || dims.some((n, i) => n !== shape[i]))
    refuse("media.pixels.shape", `(${shape.join(", ")}) for this grid`, `(${dims.join(", ")})`);
  return { from: "pixels", kind, pixels: { dtype, shape, data: pixelData(t.data, dtype, shape) }, grid };
}

function pixelData(given: unknown, dtype: "f32" | "bf16", shape: readonly number[]): Float32Array | Uint16Array {
  const type = dtype === "f32" ? Float32Array : Uint16Array;
  const size = shape.reduce((a, b) => a * b, 1);
  if (!(given instanceof type) || given.length !== size)
    refuse("media.pixels.data", `a ${type.name} of ${size}`, given);
  const data = given as Float32Array | Uint16Array;
  const at = data instanceof Float32Array ? data.findIndex((v) => !Number.isFinite(v)) : -1;
  if (at >= 0) refuse(`media.pixels.data[${at}]`, "a finite number", data[at]);
  return data;
}

/** Checks a Media value and looks at the disk; opens and decodes nothing but the first bytes of a file. */
export async function sourceOf(media: Media, spec: VisionSpec): Promise<Source> {
  if (!preparesFiles(spec)) checkPixels(media);
  if (spec.type === "grid") return gridSource(media, spec);
  if (typeof media === "string") return sourceAt(checkPath("media", media), undefined, undefined, spec);
  const m = object("media", media);
  const kind = checkedKind(m.kind);
  if (m.path !== undefined) {
    options("media", m, ["kind", "path", "sample"]);
    return sourceAt(checkPath("media.path", m.path), kind, m.sample, spec);
  }
  if (m.frames !== undefined) {
    options("media", m, ["kind", "frames", "width", "height", "fps", "sample"]);
    checkImages(spec, kind);
    return framesSource(m, kind ?? "video", spec);
  }
  if (m.pixels !== undefined) {
    options("media", m, ["kind", "pixels"]);
    checkImages(spec, kind);
    return pixelsSource(m, kind, spec);
  }
  return refuse("media", "a path, or an object with path, frames or pixels", media);
}

/** Of families whose files and frames somebody else prepares. */
function checkPixels(media: Media): void {
  if (typeof media === "object" && "pixels" in media) return;
  throw new IsrDpoError(
    "INVALID_ARGUMENT",
    "media: expected pixels (or features): this version does not prepare files or frames for this family",
    { hint: "preprocessFrames() with type 'qwen2_vl' or 'siglip_smol' makes pixels of frames in memory" },
  );
}

/** Of towers that take pictures of any size. */
function gridSource(media: Media, spec: GridSpec): Source {
  const m = options("media", object("media", media), ["kind", "pixels", "gridThw", "secondsPerGrid"]);
  return patchesSource(m, checkedKind(m.kind), spec);
}

/** Files and folders that a source is read from. */
export function pathsOf(source: Source): string[] {
  if (source.from === "file" || source.from === "image") return [source.path];
  if (source.from !== "folder") return [];
  return [source.path, ...[...new Set(source.indices)].map((i) => join(source.path, source.names[i]!))];
}

function recipeOf(spec: VisionSpec): object {
  if (spec.type === "grid") return spec;
  const { type, size, crop, resize, mean, std } = spec;
  return { type, size, crop, resize, mean, std };
}

/** Which video or image, which frames of it, and what is done with them: equal keys mean equal pixels. */
export async function keyOf(source: Source, spec: VisionSpec, signal?: AbortSignal): Promise<string> {
  // `version` grows when the same request gives other frames or pixels, so that features of older releases are not used for it.
  const recipe = { kind: source.kind, ...recipeOf(spec) };
  const about = (facts: object, ...parts: ArrayBufferView[]) =>
    hashOf([JSON.stringify({ version: 2, from: source.from, ...recipe, ...facts }), ...parts]);
  switch (source.from) {
    case "file":
      return about({ content: await hashFile(source.path, signal), rule: source.rule });
    case "image":
      return about({ content: await hashFile(source.path, signal) });
    case "folder": {
      const contents: string[] = [];
      for (const i of source.indices) contents.push(await hashFile(join(source.path, source.names[i]!), signal));
      return about({ contents });
    }
    case "frames": {
      const { frames, fps, rule } = source;
      const { height, width } = frames[0]!;
      return about({ n: frames.length, height, width, fps, rule }, ...frames.map((f) => f.data));
    }
    case "pixels":
      return about({ dtype: source.pixels.dtype, shape: source.pixels.shape, ...source.grid }, source.pixels.data);
  }
}
