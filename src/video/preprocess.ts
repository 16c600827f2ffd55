// Converts frames to pixel values with the engine's image code (native/kernels/image.h), equal to the families' own image
// processors.
import { sharedHost } from "../base/addon.js";
import { array, choice, integer, number, object, options, refuse } from "../base/check.js";
import { owned } from "../base/owned-arrays.js";
import type { Tensor } from "../base/types.js";

/** Means and deviations of OpenAI's CLIP, for RGB in [0, 1]. */
export const clipMean = [0.48145466, 0.4578275, 0.40821073] as const;
export const clipStd = [0.26862954, 0.26130258, 0.27577711] as const;

const types = ["clip", "siglip_smol", "qwen2_vl", "languagebind"] as const;
const limits = { side: 16384, frames: 4096 };

/** One frame. */
export interface Frame {
  /** RGB bytes, (height, width, 3). */
  readonly data: Uint8Array;
  /** Height in pixels. */
  readonly height: number;
  /** Width in pixels. */
  readonly width: number;
}

/** Options for converting frames to pixel values. */
export interface PreprocessConfig {
  /**
   * The recipe. "clip": bicubic resize of the shortest edge, centre crop. "siglip_smol": Lanczos resize of the longest edge, then to
   * a square. "qwen2_vl": bicubic resize to multiples of patch * merge, rows of patches, two frames per patch. "languagebind":
   * normalisation, then bilinear resize without antialiasing, centre crop.
   */
  type: (typeof types)[number];
  /** Length in pixels that the edge is resized to, 1 to 4096; "qwen2_vl" does not use it. */
  size: number;
  /** "clip" and "languagebind": edge of the centre crop; default `size`. */
  crop?: number;
  /** "qwen2_vl": edge of a patch in pixels, default 14. */
  patch?: number;
  /** "qwen2_vl": number of patches merged along an edge, default 2. */
  merge?: number;
  /** "qwen2_vl": smallest number of pixels of a resized frame, default 3136. */
  minPixels?: number;
  /** "qwen2_vl": largest number of pixels of a resized frame, default 1003520. */
  maxPixels?: number;
  /** Means of the three channels in [0, 1]; default: those of CLIP, for "siglip_smol" 0.5. */
  mean?: readonly number[];
  /** Standard deviations of the three channels; default: those of CLIP, for "siglip_smol" 0.5. */
  std?: readonly number[];
}

/** Pixel values of frames. */
export interface Preprocessed {
  /** f32: (n, 3, H, W); "languagebind": (3, n, H, W); "qwen2_vl": (patches, 3 * 2 * patch * patch). */
  pixels: Tensor;
  /** u8 (n, H, W, 3): resized and cropped, before scaling. */
  resized: Tensor;
  /** "qwen2_vl": patches along time, height and width. */
  gridThw?: readonly [number, number, number];
  /** u8 (n, H, W): "siglip_smol", ones. */
  pixelMask?: Tensor;
}

/** What the engine takes: all settings, and two recipes that the public surface does not name. */
export interface Recipe {
  type: PreprocessConfig["type"] | "languagebind_image";
  size: number;
  crop: number;
  exact: boolean;
  patch: number;
  merge: number;
  minPixels: number;
  maxPixels: number;
  mean: Float32Array;
  std: Float32Array;
}

interface Plan {
  height: number;
  width: number;
  elements: number;
  gridThw: [number, number, number];
}

/** Frames, which may differ in size, to pixel values and, where asked for, the bytes before scaling. */
export async function applyRecipe(
  frames: readonly Frame[],
  config: Recipe,
  o: { resized: boolean; signal?: AbortSignal | undefined },
): Promise<{ pixels: Float32Array; resized?: Uint8Array; plan: Plan }> {
  const host = sharedHost();
  const call = { signals: [o.signal] };
  const plan = await host.call<Plan>("preprocess", { frames, config }, call);
  const pixels = new Float32Array(plan.elements);
  const resized = o.resized ? new Uint8Array(frames.length * plan.height * plan.width * 3) : undefined;
  await host.call("preprocess", { frames, config, pixels, resized }, call);
  return { pixels, plan, ...(resized ? { resized } : {}) };
}

/** Three finite numbers, all of them above `above` where it is given. */
export function channels(field: string, value: unknown, above?: number): number[] {
  const list = array(field, value);
  if (list.length !== 3) refuse(field, "three numbers", value);
  return list.map((v, i) => number(`${field}[${i}]`, v, above === undefined ? {} : { above }));
}

function recipeOf(value: unknown): Recipe {
  const keys = ["type", "size", "crop", "patch", "merge", "minPixels", "maxPixels", "mean", "std"];
  const c = options("config", object("config", value), keys);
  const type = choice("config.type", c.type, types);
  const whole = (key: string, fallback: number, max = 2 ** 25) =>
    c[key] === undefined ? fallback : integer(`config.${key}`, c[key], 1, max);
  const half = [0.5, 0.5, 0.5];
  return {
    type,
    size: type === "qwen2_vl" ? 0 : integer("config.size", c.size, 1, 4096),
    crop: whole("crop", 0, 4096),
    exact: false,
    patch: whole("patch", 14),
    merge: whole("merge", 2),
    minPixels: whole("minPixels", 56 * 56),
    maxPixels: whole("maxPixels", 28 * 28 * 1280),
    mean: Float32Array.from(
      c.mean === undefined ? (type === "siglip_smol" ? half : clipMean) : channels("config.mean", c.mean),
    ),
    std: Float32Array.from(
      c.std === undefined ? (type === "siglip_smol" ? half : clipStd) : channels("config.std", c.std, 0),
    ),
  };
}

/** Bytes of n frames as single frames, copied: the bytes stay the caller's. */
export function splitFrames(field: string, data: unknown, width: unknown, height: unknown, n?: unknown): Frame[] {
  const w = integer(`${field}.width`, width, 1, limits.side);
  const h = integer(`${field}.height`, height, 1, limits.side);
  const size = w * h * 3;
  const bytes = data instanceof Uint8Array ? data : refuse(`${field}.data`, "a Uint8Array of RGB bytes", data);
  const count = n === undefined ? bytes.length / size : integer(`${field}.frames`, n, 1, limits.frames);
  if (!Number.isInteger(count) || count < 1 || count > limits.frames || bytes.length !== count * size)
    refuse(
      `${field}.data`,
      `${n === undefined ? "a multiple of" : `${count} x`} ${h} x ${w} x 3 = ${size} bytes`,
      bytes,
    );
  const own = owned(bytes);
  return Array.from({ length: count }, (_, i) => ({
    data: own.subarray(i * size, (i + 1) * size),
    height: h,
    width: w,
  }));
}

const tensor = (dtype: "f32" | "u8", shape: number[], data: Float32Array | Uint8Array): Tensor => ({
  dtype,
  shape,
  data,
});

/**
 * Converts frames in memory to pixel values, as the family's own image processor does. `frames.data` holds RGB bytes,
 * (frames, height, width, 3).
 * @throws {@link IsrDpoError} INVALID_ARGUMENT: sizes above 16384, options out of range, and for "qwen2_vl" frames that are more than
 * 200 times as long as they are wide; OUT_OF_MEMORY
 */
export async function preprocessFrames(
  frames: { data: Uint8Array; frames: number; width: number; height: number },
  config: PreprocessConfig,
): Promise<Preprocessed> {
  const f = object("frames", frames);
  const all = splitFrames("frames", f.data, f.width, f.height, f.frames ?? null);
  const recipe = recipeOf(config);
  const { pixels, resized, plan } = await applyRecipe(all, recipe, { resized: true });
  const [n, h, w] = [all.length, plan.height, plan.width];
  const result = { resized: tensor("u8", [n, h, w, 3], resized!) };
  if (recipe.type === "languagebind") return { pixels: tensor("f32", [3, n, h, w], pixels), ...result };
  if (recipe.type === "qwen2_vl") {
    const rows = plan.gridThw.reduce((a, b) => a * b, 1);
    return { pixels: tensor("f32", [rows, pixels.length / rows], pixels), ...result, gridThw: plan.gridThw };
  }
  const planes = { pixels: tensor("f32", [n, 3, h, w], pixels), ...result };
  if (recipe.type === "clip") return planes;
  return { ...planes, pixelMask: tensor("u8", [n, h, w], new Uint8Array(n * h * w).fill(1)) };
}
