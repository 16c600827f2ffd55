// Clips as pictures: a strip for the report, and folders of frames where there is no ffmpeg.
import { rename } from "node:fs/promises";
import { join } from "node:path";
import { temporaryOf } from "../base/output-path.js";
import { makeFolders } from "../base/atomic-files.js";
import { frames, framesOfShot, shots, size } from "./clip.js";

const frameBytes = size * size * 3;
const raw = (width: number) => ({ raw: { width, height: size, channels: 3 as const } });

/** A PNG of the first frame of each shot side by side, twice as large, in base64. */
export async function writeStrip(pixels: Uint8Array): Promise<string> {
  const { default: sharp } = await import("sharp");
  const width = shots * size;
  const strip = Buffer.alloc(width * size * 3);
  for (let s = 0; s < shots; s++)
    for (let y = 0; y < size; y++) {
      const from = s * framesOfShot * frameBytes + y * size * 3;
      strip.set(pixels.subarray(from, from + size * 3), (y * width + s * size) * 3);
    }
  const png = await sharp(strip, raw(width))
    .resize(2 * width, 2 * size, { kernel: "nearest" })
    .png({ palette: true })
    .toBuffer();
  return png.toString("base64");
}

/** A folder with a PNG a frame, in order, which is there whole or not at all. */
export async function writeFrames(dir: string, pixels: Uint8Array): Promise<void> {
  const { default: sharp } = await import("sharp");
  const temporary = temporaryOf(dir);
  await makeFolders(temporary);
  for (let f = 0; f < frames; f++)
    await sharp(Buffer.from(pixels.subarray(f * frameBytes, (f + 1) * frameBytes)), raw(size))
      .png()
      .toFile(join(temporary, `${String(f).padStart(2, "0")}.png`));
  await rename(temporary, dir);
}
