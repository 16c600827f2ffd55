// The inputs that a family's vision towers need, from the processor files of its checkpoint.
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import type { NativeTowerFacts } from "../base/addon.js";
import { codeOf } from "../base/file-errors.js";
import { isObject, type Json, refuse, show } from "../base/check.js";
import { type ErrorCode, IsrDpoError } from "../base/errors.js";
import { parsePythonJson } from "../base/python-json.js";
import { channels, clipMean, clipStd } from "./preprocess.js";

/** Towers that take pictures of any size, as rows of patches. */
export interface GridSpec {
  type: "grid";
  /** Edge of a patch in pixels. */
  patch: number;
  /** Edge, in patches, of the squares that become one row. */
  merge: number;
  /** Values of a patch of two frames. */
  values: number;
}

/** Towers that take frames of one size. */
export interface FrameSpec {
  type: "clip" | "languagebind" | "siglip";
  /** Edge in pixels that frames are resized to. */
  size: number;
  /** Edge in pixels of the centre crop: what the towers take. */
  crop: number;
  /** "shortest_edge" keeps the ratio; "exact" makes size x size of every frame. */
  resize: "shortest_edge" | "exact";
  /** Means and deviations of the channels in [0, 1]. */
  mean: readonly number[];
  std: readonly number[];
  /** Frames of a clip. */
  frames: number;
  /** Layout of the pixels: (T, 3, H, W) or (3, T, H, W). */
  layout: "tchw" | "cthw";
  /** Whether the family takes images. */
  images: boolean;
  /** Part of a video file that frames are taken from. */
  window: "10s" | "all";
}

export type VisionSpec = FrameSpec | GridSpec;

/** Whether files and frames are prepared here; the others' media are pixels. */
export const preparesFiles = ({ type }: VisionSpec): boolean => type === "clip" || type === "languagebind";

const families: Record<string, Pick<FrameSpec, "type" | "layout" | "images" | "window">> = {
  llava_hound: { type: "languagebind", layout: "cthw", images: true, window: "10s" },
  video_llava_original: { type: "languagebind", layout: "cthw", images: true, window: "all" },
  video_llava: { type: "clip", layout: "tchw", images: true, window: "all" },
  llava_next_video: { type: "clip", layout: "tchw", images: false, window: "all" },
  smolvlm: { type: "siglip", layout: "tchw", images: true, window: "all" },
};

// The most specific first. processor_config.json may hold the processors as parts, or no image settings at all.
const files = ["video_preprocessor_config.json", "processor_config.json", "preprocessor_config.json"];
const settings = ["size", "crop_size", "image_mean", "image_std", "do_resize", "do_center_crop", "do_rescale"];
const steps = ["do_resize", "do_center_crop", "do_rescale", "do_normalize"];
const maxFileBytes = 1 << 20;
const halves = [0.5, 0.5, 0.5];

interface Source {
  path: string;
  json: Json;
}

async function readJson(path: string): Promise<Json | undefined> {
  try {
    const { size } = await stat(path);
    if (size > maxFileBytes) throw new Error(`${size} bytes, above the limit of ${maxFileBytes}`);
    const json = parsePythonJson(await readFile(path, "utf8"));
    if (!isObject(json)) throw new Error("no JSON object");
    return json;
  } catch (e) {
    if (codeOf(e) === "ENOENT") return undefined;
    throw new IsrDpoError("INVALID_CONFIG", `${path}: expected a processor's settings, got ${(e as Error).message}`, {
      path,
    });
  }
}

async function findSource(dir: string): Promise<Source | undefined> {
  for (const name of files) {
    const path = join(dir, name);
    const json = await readJson(path);
    if (!json) continue;
    for (const part of [json.video_processor, json.image_processor, json])
      if (isObject(part) && settings.some((key) => part[key] !== undefined && part[key] !== null))
        return { path, json: part };
  }
  return undefined;
}

function wrong(source: Source, code: ErrorCode, key: string, expected: string, value: unknown): never {
  throw new IsrDpoError(code, `${source.path}: ${key}: expected ${expected}, got ${show(value)}`, {
    path: source.path,
    detail: { field: key },
  });
}

/** {shortest_edge}, {height, width} or a number; the last two kinds differ in what they mean for `size`. */
function edgeOf(source: Source, key: "size" | "crop_size"): { edge: number; exact: boolean } | undefined {
  const value = source.json[key];
  if (value === undefined || value === null) return undefined;
  const whole = (x: unknown, what: string) => {
    if (!Number.isSafeInteger(x) || (x as number) < 1 || (x as number) > 4096)
      wrong(source, "INVALID_CONFIG", what, "an integer from 1 to 4096", x);
    return x as number;
  };
  if (!isObject(value)) return { edge: whole(value, key), exact: false };
  if (value.shortest_edge !== undefined && value.longest_edge === undefined)
    return { edge: whole(value.shortest_edge, `${key}.shortest_edge`), exact: false };
  if (value.height === undefined || value.width === undefined)
    wrong(source, "CHECKPOINT_UNSUPPORTED", key, "shortest_edge, or height and width", value);
  const [height, width] = [whole(value.height, `${key}.height`), whole(value.width, `${key}.width`)];
  if (height !== width) wrong(source, "CHECKPOINT_UNSUPPORTED", key, "height equal to width", `${height} x ${width}`);
  return { edge: height, exact: true };
}

function checkSteps(source: Source): void {
  const { json } = source;
  for (const key of steps)
    if (json[key] !== undefined && json[key] !== null && json[key] !== true)
      wrong(
        source,
        "CHECKPOINT_UNSUPPORTED",
        key,
        "true, since frames are always resized, cropped and normalised",
        json[key],
      );
  if (json.resample !== undefined && json.resample !== null && json.resample !== 3)
    wrong(source, "CHECKPOINT_UNSUPPORTED", "resample", "3 (bicubic)", json.resample);
  const factor = json.rescale_factor;
  if (factor !== undefined && factor !== null && !(typeof factor === "number" && Math.abs(factor * 255 - 1) < 1e-6))
    wrong(source, "CHECKPOINT_UNSUPPORTED", "rescale_factor", "1/255", factor);
}

function channelsOf(source: Source, key: "image_mean" | "image_std", fallback: readonly number[]): readonly number[] {
  const value = source.json[key];
  if (value === undefined || value === null) return fallback;
  try {
    return channels(key, value, key === "image_std" ? 0 : undefined);
  } catch {
    return wrong(source, "INVALID_CONFIG", key, `three finite numbers${key === "image_std" ? " above 0" : ""}`, value);
  }
}

/**
 * The preprocessing of a checkpoint's family: what its processor files say, the family's own values where they say nothing.
 * `facts`: edge in pixels that the towers take, and frames of a clip, from config.json. INVALID_CONFIG for values that are
 * none or contradict `facts`; CHECKPOINT_UNSUPPORTED for steps that are switched off or done otherwise.
 */
export async function readVisionSpec(
  dir: string,
  family: string,
  facts: Pick<NativeTowerFacts, "imageSize" | "frames" | "patch" | "merge">,
): Promise<VisionSpec> {
  const { patch, merge = 1 } = facts;
  if (patch !== undefined) return { type: "grid", patch, merge, values: 3 * 2 * patch * patch };
  const own = families[family] ?? refuse("family", `one of ${Object.keys(families).join(", ")}`, family);
  const base = { ...own, resize: "shortest_edge" as const, frames: facts.frames };
  if (own.type === "siglip")
    return { ...base, size: facts.imageSize, crop: facts.imageSize, mean: halves, std: halves };
  const source = await findSource(dir);
  if (!source) return { ...base, size: facts.imageSize, crop: facts.imageSize, mean: clipMean, std: clipStd };
  checkSteps(source);
  const size = edgeOf(source, "size") ?? { edge: facts.imageSize, exact: false };
  const crop = edgeOf(source, "crop_size")?.edge ?? facts.imageSize;
  if (crop !== facts.imageSize)
    wrong(source, "INVALID_CONFIG", "crop_size", `${facts.imageSize}, the image_size of the vision tower`, crop);
  if (crop > size.edge) wrong(source, "CHECKPOINT_UNSUPPORTED", "crop_size", `at most size (${size.edge})`, crop);
  if (size.exact && own.type === "languagebind")
    wrong(source, "CHECKPOINT_UNSUPPORTED", "size", "shortest_edge or a number", source.json.size);
  return {
    ...base,
    size: size.edge,
    crop,
    resize: size.exact ? "exact" : "shortest_edge",
    mean: channelsOf(source, "image_mean", clipMean),
    std: channelsOf(source, "image_std", clipStd),
  };
}
