// The golden video families in one shape, whatever their files call things.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Media, SequencePair, Tensor } from "../../src/index.js";
import { floatsOf, intsOf, readSafetensors, type Stored } from "./safetensors.js";

const root = fileURLToPath(new URL("../golden/", import.meta.url));
const json = (path: string) => JSON.parse(readFileSync(root + path, "utf8"));

export const videoFamilies = [
  "llava_hound",
  "video_llava_original",
  "video_llava",
  "llava_next_video",
  "smolvlm",
  "qwen2_5_vl",
  "qwen3_vl",
] as const;
export type VideoFamily = (typeof videoFamilies)[number];
export const isOriginal = (family: VideoFamily) => family === "llava_hound" || family === "video_llava_original";
/** Whose files and frames are prepared here. */
export const takesFiles = (family: VideoFamily) => !takesGrids(family) && family !== "smolvlm";
/** Whose processor takes pictures of any size. */
export const takesGrids = (family: VideoFamily) => family === "qwen2_5_vl" || family === "qwen3_vl";
export const folderOf = (family: VideoFamily, part = "policy"): string => `${root}${family}/${part}`;

type Data = Map<string, Stored>;
type Pixels = Extract<Media, { pixels: Tensor }>;

const tensor = (data: Data, name: string): Tensor => ({
  dtype: "f32",
  shape: data.get(name)!.shape,
  data: floatsOf(data, name),
});
/** Item i of a batched tensor. */
function item(t: Tensor, i: number): Tensor {
  const size = t.data.length / t.shape[0]!;
  return { dtype: "f32", shape: t.shape.slice(1), data: t.data.slice(i * size, (i + 1) * size) as Float32Array };
}

/** Rows of patches of several media, with the grid of each. */
function gridsOf(data: Data, name: string, kind: "video" | "image"): Pixels[] {
  const grids = intsOf(data, `${name}/${kind}_grid_thw`);
  const pixels = tensor(data, `${name}/pixel_values${kind === "video" ? "_videos" : ""}`);
  const seconds = data.has(`${name}/second_per_grid_ts`) ? floatsOf(data, `${name}/second_per_grid_ts`) : undefined;
  let row = 0;
  return Array.from({ length: grids.length / 3 }, (_, i) => {
    const gridThw = [...grids.subarray(3 * i, 3 * i + 3)] as [number, number, number];
    const [rows, values] = [gridThw[0] * gridThw[1] * gridThw[2], pixels.shape[1]!];
    const own = (pixels.data as Float32Array).slice(row * values, (row + rows) * values);
    row += rows;
    const time = kind === "video" && seconds ? { secondsPerGrid: seconds[i]! } : {};
    return { kind, pixels: { dtype: "f32" as const, shape: [rows, values], data: own }, gridThw, ...time };
  });
}

function mediaOf(data: Data, name: string): Pixels[] {
  const kinds = (["video", "image"] as const).filter((kind) => data.has(`${name}/${kind}_grid_thw`));
  if (kinds.length > 0) return kinds.flatMap((kind) => gridsOf(data, name, kind));
  if (data.has(`${name}/video_cthw`)) return [{ kind: "video", pixels: tensor(data, `${name}/video_cthw`) }];
  const media: Pixels[] = [];
  const videos = `${name}/pixel_values_videos`;
  if (data.has(videos))
    for (let i = 0; i < data.get(videos)!.shape[0]!; i++)
      media.push({ kind: "video", pixels: item(tensor(data, videos), i) });
  if (data.has(`${name}/pixel_values`)) {
    const pixels = tensor(data, `${name}/pixel_values`); // (1, 3, H, W), or (1, frames, 3, H, W) where a video is its frames
    media.push(pixels.shape.length === 4 ? { kind: "image", pixels } : { kind: "video", pixels: item(pixels, 0) });
  }
  return media;
}

export interface VideoCase {
  facts: { prompt_text: string };
  name: string;
  ids: Int32Array;
  prompt: Int32Array;
  lossMask: Uint8Array;
  media: Pixels[];
  logits: Float32Array;
  hidden: Float32Array;
  logps: Float32Array;
  generated: Int32Array;
  projected: Float32Array | undefined; // of all media
  levels: Float32Array[]; // features of all media that go into later layers, level by level
  positions: Int32Array | undefined;
  tower: Float32Array | undefined;
}

export function videoCases(family: VideoFamily) {
  const facts = json(`${family}/cases.json`);
  const data = readSafetensors(`${root}${family}/cases.safetensors`);
  const optional = (name: string) => (data.has(name) ? floatsOf(data, name) : undefined);
  const numbered = facts.cases.filter((c: { case: unknown }) => typeof c.case === "number");
  const cases = numbered.map((c: { case: number; prompt_len: number; prompt_text: string }): VideoCase => {
    const name = `case${c.case}`;
    const ids = intsOf(data, `${name}/input_ids`);
    return {
      facts: c,
      name,
      ids,
      prompt: ids.slice(0, c.prompt_len),
      lossMask: new Uint8Array(ids.length).fill(1, c.prompt_len),
      media: mediaOf(data, name),
      logits: floatsOf(data, `${name}/logits`),
      hidden: floatsOf(data, `${name}/last_hidden`),
      logps: floatsOf(data, `${name}/response_logps`),
      generated: intsOf(data, `${name}/generated`),
      projected:
        optional(`${name}/projected`) ?? optional(`${name}/vision_features`) ?? optional(`${name}/image_features`),
      levels: [0, 1, 2]
        .map((k) => optional(`${name}/vision_deepstack${k}`) ?? optional(`${name}/image_deepstack${k}`))
        .filter((x) => x !== undefined),
      positions: data.has(`${name}/position_ids`) ? intsOf(data, `${name}/position_ids`) : undefined,
      tower: optional(`${name}/tower_features`),
    };
  });
  const suppress: number[] = facts.suppressed_token_ids ?? facts.suppressed_in_greedy;
  const image = data.has("image")
    ? {
        media: { kind: "image" as const, pixels: tensor(data, "image") },
        projected: floatsOf(data, "image_projected"),
        tower: floatsOf(data, "image_tower_features"),
      }
    : undefined;
  return { cases: cases as VideoCase[], suppress, image };
}

export interface VideoSide {
  ids: Int32Array;
  lossMask: Uint8Array;
  policy: Float32Array;
  reference: Float32Array;
}
export interface VideoDpo {
  facts: {
    loss_beta_0_1: number;
    loss_beta_0_5: number;
    parameters_without_gradient?: string[];
    adam_ill_conditioned: string[];
    adamw: { losses_before_each_step_then_final: number[]; grad_norms_before_clip: number[] };
    adamw_frozen?: { vision_frozen: { losses: number[]; grad_norms: number[] } };
  };
  pairs: { chosen: VideoSide; rejected: VideoSide; media: Media[] }[];
  gradients: Map<string, Float32Array>;
  after: Map<string, Float32Array>;
}

/** Values of row `row` at the columns of scored tokens: column t belongs to token t + 1. */
function perToken(data: Data, name: string, row: number, scored: (token: number) => boolean): Float32Array {
  const [, columns] = data.get(name)!.shape as [number, number];
  return floatsOf(data, name)
    .subarray(row * columns, (row + 1) * columns)
    .filter((_, t) => scored(t + 1));
}

function originalSide(data: Data, pair: number, side: "chosen" | "rejected", n: number): VideoSide {
  const row = side === "chosen" ? pair : n + pair;
  const prompt = intsOf(data, `pair${pair}/prompt`);
  const answer = intsOf(data, `pair${pair}/${side}`);
  const labels = intsOf(data, "labels");
  const S = data.get("labels")!.shape[1]!;
  const scored = (t: number) => labels[row * S + t] !== -100;
  return {
    ids: Int32Array.from([...prompt, ...answer]),
    lossMask: new Uint8Array(prompt.length + answer.length).fill(1, prompt.length),
    policy: perToken(data, "policy_token_logps", row, scored),
    reference: perToken(data, "ref_token_logps", row, scored),
  };
}

function expandedSide(data: Data, pair: number, side: "chosen" | "rejected", n: number): VideoSide {
  const row = side === "chosen" ? pair : n + pair;
  const S = data.get("input_ids")!.shape[1]!;
  const at = (name: string) => intsOf(data, name).subarray(row * S, (row + 1) * S);
  const length = at("attention_mask").reduce((sum, x) => sum + x, 0);
  const mask = at("completion_mask").subarray(0, length);
  const scored = (t: number) => mask[t] === 1;
  return {
    ids: at("input_ids").slice(0, length),
    lossMask: Uint8Array.from(mask),
    policy: perToken(data, "policy_token_logps", row, scored),
    reference: perToken(data, "ref_token_logps", row, scored),
  };
}

export function videoDpo(family: VideoFamily): VideoDpo {
  const data = readSafetensors(`${root}${family}/dpo.safetensors`);
  const n = data.get("policy_token_logps")!.shape[0]! / 2;
  const side = isOriginal(family) ? originalSide : expandedSide;
  const videos = data.has("media_per_pair/pixel_values_videos") ? "pixel_values_videos" : "pixel_values";
  const grids = data.has("media_per_pair/video_grid_thw") ? gridsOf(data, "media_per_pair", "video") : undefined;
  const media = (i: number): Media[] =>
    isOriginal(family)
      ? mediaOf(data, `pair${i}`)
      : grids
        ? [grids[i]!]
        : [{ kind: "video", pixels: item(tensor(data, `media_per_pair/${videos}`), i) }];
  const withPrefix = (prefix: string) =>
    new Map(
      [...data.keys()].filter((k) => k.startsWith(prefix)).map((k) => [k.slice(prefix.length), floatsOf(data, k)]),
    );
  return {
    facts: json(`${family}/dpo.json`),
    pairs: Array.from({ length: n }, (_, i) => ({
      chosen: side(data, i, "chosen", n),
      rejected: side(data, i, "rejected", n),
      media: media(i),
    })),
    gradients: withPrefix("grad/"),
    after: withPrefix("after/"),
  };
}

export function videoPairs(d: VideoDpo, withReference: boolean): SequencePair[] {
  return d.pairs.map(({ chosen, rejected, media }) => ({
    chosen: { ids: chosen.ids, lossMask: chosen.lossMask, media },
    rejected: { ids: rejected.ids, lossMask: rejected.lossMask, media },
    ...(withReference ? { reference: { chosen: chosen.reference, rejected: rejected.reference } } : {}),
  }));
}
