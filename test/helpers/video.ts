// Video files made by ffmpeg on the spot, and what its own select filter gives for them.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import type { FrameSpec } from "../../src/video/tower-spec.js";

export const ffmpeg = (...args: string[]): Buffer =>
  execFileSync("ffmpeg", ["-nostdin", "-v", "error", "-y", ...args], {
    maxBuffer: 1 << 30,
    stdio: ["ignore", "pipe", "ignore"],
  });

/** `frames` pictures of moving colours, 10 a second, put through `args` (codec and container). */
export function makeVideo(
  path: string,
  args: string[] = ["-c:v", "libx264"],
  { frames = 20, size = "64x64" } = {},
): string {
  const source = `testsrc2=size=${size}:rate=10`;
  ffmpeg("-f", "lavfi", "-i", source, "-frames:v", String(frames), "-threads", "1", ...args, path);
  return path;
}

/** A copy of an mp4 file that is to be shown turned by 90 degrees: no one option of ffmpeg says so in all its versions. */
export function turnedCopy(source: string, path: string, height = 64): string {
  const bytes = readFileSync(source);
  const matrix = bytes.indexOf("tkhd") + 44; // in the header of the first track
  [0, 0x10000, 0, -0x10000, 0, 0, height << 16, 0, 0x40000000].forEach((x, i) => {
    bytes.writeInt32BE(x, matrix + 4 * i);
  });
  writeFileSync(path, bytes);
  return path;
}

/** Frames that can be decoded, counted by decoding. */
export function countFrames(path: string): number {
  const args = [
    "-v",
    "quiet",
    "-threads",
    "1",
    "-select_streams",
    "V:0",
    "-count_frames",
    "-show_entries",
    "stream=nb_read_frames",
  ];
  return Number(/\d+/.exec(execFileSync("ffprobe", [...args, "-of", "csv=p=0", path], { encoding: "utf8" }))?.[0]);
}

/** RGB bytes of the frames with these numbers, ascending. */
export function selected(path: string, indices: Iterable<number>): Buffer {
  const select = [...new Set(indices)].map((i) => `eq(n\\,${i})`).join("+");
  return ffmpeg(
    "-threads",
    "1",
    "-i",
    path,
    "-vf",
    `select=${select}`,
    "-fps_mode",
    "passthrough",
    "-pix_fmt",
    "rgb24",
    "-f",
    "rawvideo",
    "-",
  );
}

/** np.linspace(first, last, count, dtype=int), written down once more. */
export const spaced = (first: number, last: number, count: number): number[] =>
  Array.from({ length: count }, (_, i) =>
    count === 1 ? first : Math.floor((first * (count - 1 - i) + last * i) / (count - 1)),
  );

/** A spec under which a picture of `edge` x `edge` comes out as it went in: values are bytes / 255. */
export function plainSpec(edge: number, over: Partial<FrameSpec> = {}): FrameSpec {
  const norm = { mean: [0, 0, 0], std: [1, 1, 1] };
  const shape = { size: edge, crop: edge, resize: "shortest_edge", layout: "tchw" } as const;
  return { type: "clip", ...shape, ...norm, frames: 8, images: true, window: "all", ...over };
}

/** (T, 3, H, W) values / 255 back to (T, H, W, 3) bytes. */
export function bytesOf(pixels: { shape: readonly number[]; data: ArrayLike<number> }): Buffer {
  const [T, , H, W] = pixels.shape as [number, number, number, number];
  const out = Buffer.alloc(T * H * W * 3);
  for (let t = 0; t < T; t++)
    for (let c = 0; c < 3; c++)
      for (let i = 0; i < H * W; i++)
        out[(t * H * W + i) * 3 + c] = Math.round(pixels.data[(t * 3 + c) * H * W + i]! * 255);
  return out;
}
