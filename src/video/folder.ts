// Frames that lie as JPEG or PNG files: a folder of them in the order of their names, or one as an image. sharp decodes,
// loaded at first use; nothing is turned or colour-managed, as in the readers that the families were trained with.
import { open, readdir, stat } from "node:fs/promises";
import type sharp from "sharp";
import { IsrDpoError } from "../errors.js";
import type { Frame } from "./preprocess.js";

const maxFileBytes = 1 << 28;
const maxPixels = 1 << 26; // 8192 x 8192
const maxSide = 16384;

/** JPEG or PNG by their first bytes; nothing else is ever given to the decoder. */
export async function isImageFile(path: string): Promise<boolean> {
  const file = await open(path);
  try {
    const { buffer } = await file.read(Buffer.alloc(8), 0, 8, 0);
    return buffer.readUIntBE(0, 3) === 0xffd8ff || buffer.toString("latin1") === "\x89PNG\r\n\x1a\n";
  } finally {
    await file.close();
  }
}

/** Names of the files of a folder, by code points. MEDIA_EMPTY for none. */
export async function listFrames(dir: string): Promise<string[]> {
  const files = await readdir(dir).catch((cause) => {
    throw new IsrDpoError("MEDIA_UNREADABLE", `${dir}: expected a folder that can be listed, got ${cause.code}`, {
      path: dir,
      cause,
    });
  });
  const names = files.map((name) => ({ name, bytes: Buffer.from(name) }));
  if (names.length === 0)
    throw new IsrDpoError("MEDIA_EMPTY", `${dir}: expected a folder of frames, got an empty one`, { path: dir });
  return names.sort((a, b) => Buffer.compare(a.bytes, b.bytes)).map(({ name }) => name);
}

function unreadable(path: string, what: string, cause?: unknown): IsrDpoError {
  return new IsrDpoError("MEDIA_UNREADABLE", `${path}: expected a JPEG or PNG image, got ${what}`, {
    hint: "a folder of frames holds images and nothing else",
    path,
    cause,
  });
}

/** RGB bytes of an image file; transparency is dropped, not blended. */
export async function readImage(path: string): Promise<Frame> {
  const facts = await stat(path).catch((cause) => {
    throw unreadable(path, "a name that leads nowhere", cause);
  });
  if (!facts.isFile()) throw unreadable(path, facts.isDirectory() ? "a folder" : "no regular file");
  if (facts.size > maxFileBytes) throw unreadable(path, `${facts.size} bytes, above the limit of ${maxFileBytes}`);
  if (facts.size === 0) throw unreadable(path, "an empty file");
  try {
    if (!(await isImageFile(path))) throw new Error("something else");
    const load: typeof sharp = (await import("sharp")).default;
    const image = load(path, { limitInputPixels: maxPixels, failOn: "error", ignoreIcc: true, sequentialRead: true });
    const { width, height } = await image.metadata();
    if (width > maxSide || height > maxSide) throw new Error(`${width} x ${height}, above ${maxSide} pixels a side`);
    const { data } = await image.removeAlpha().toColourspace("srgb").raw().toBuffer({ resolveWithObject: true });
    if (data.length !== width * height * 3) throw new Error(`${data.length / (width * height)} bytes a pixel`);
    return { data, height, width };
  } catch (cause) {
    throw unreadable(path, (cause as Error).message.split("\n")[0] ?? "no image", cause);
  }
}
