// Frames that lie as JPEG or PNG files: a folder of them in the order of their names, or one as an image. sharp decodes,
// loaded at first use; nothing is turned or colour-managed, as in the readers that the families were trained with.
import { open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type sharp from "sharp";
import type { Metadata, Sharp } from "sharp";
import { IsrDpoError } from "../errors.js";
import type { Frame } from "./preprocess.js";

const maxFileBytes = 1 << 28;
const maxPixels = 1 << 26; // 8192 x 8192
const maxSide = 16384;
const headBytes = 32;
const pngColourType = 25; // its place in a PNG file

const isImage = (head: Buffer): boolean =>
  head.readUIntBE(0, 3) === 0xffd8ff || head.toString("latin1", 0, 8) === "\x89PNG\r\n\x1a\n";

async function headOf(path: string): Promise<Buffer> {
  const file = await open(path);
  try {
    const { buffer } = await file.read(Buffer.alloc(headBytes), 0, headBytes, 0);
    return buffer;
  } finally {
    await file.close();
  }
}

/** JPEG or PNG by their first bytes; nothing else is ever given to the decoder. */
export const isImageFile = async (path: string): Promise<boolean> => isImage(await headOf(path));

export interface FrameNames {
  /** Frames, by code points of their names, as the families' readers sort them. */
  names: string[];
  /** Entries that are no frames: hidden files, those of file managers, folders, texts. */
  leftOut: string[];
  /** Numbers in the names have different lengths, so that frame10 comes before frame2. */
  unpadded: boolean;
}

const frameName = /\.(jpe?g|jpe|jfif|png)$/i;
// of file managers and archives: never frames, whatever they hold
const foreign =
  /^(\..*|thumbs\.db|ehthumbs\.db|ehthumbs_vista\.db|desktop\.ini|icon\r|__macosx|@eadir|\$recycle\.bin)$/i;
const pictures = /\.(webp|bmp|dib|gif|tiff?|avif|heic|heif|jp2|j2k|jxl|tga|ppm|pgm|pnm|exr|dng|raw|svg)$/i;

/** Whether what lies under a name is a frame. MEDIA_UNREADABLE for pictures of a kind that is not read. */
async function isFrame(path: string, name: string): Promise<boolean> {
  if (foreign.test(name)) return false;
  const facts = await stat(path).catch(() => null);
  if (facts?.isDirectory()) return false;
  if (frameName.test(name)) return true; // what is wrong with it is found when it is read
  if (!facts?.isFile()) return false;
  const head = await headOf(path).catch((cause) => {
    throw unreadable(path, `a file that cannot be read (${cause.code})`, cause);
  });
  if (isImage(head)) return true;
  const text = head.toString("latin1");
  const other = /^(GIF8|BM.{4}\0\0\0\0|II\*\0|MM\0\*|RIFF.{4}WEBP|.{4}ftyp(avif|heic|mif1))/s.test(text);
  if (!other && !pictures.test(name)) return false;
  throw unreadable(
    path,
    "a picture of another kind",
    undefined,
    "convert the frames to JPEG or PNG, for example with `ffmpeg -i FILE OUT.png`",
  );
}

/** Whether two names differ in a number alone, one of them with more digits and no zeros before. */
function isUnpadded(names: readonly string[]): boolean {
  const digits = new Map<string, { length: number; zeros: boolean }>();
  for (const name of names) {
    const at = /(\d+)(\D*)$/.exec(name);
    if (!at) continue;
    const key = `${name.slice(0, at.index)}\0${at[2]}`;
    const found = digits.get(key);
    if (found && found.length !== at[1]!.length) return true;
    digits.set(key, { length: at[1]!.length, zeros: at[1]!.startsWith("0") });
  }
  return false;
}

/** The frames of a folder. MEDIA_EMPTY for none. */
export async function listFrames(dir: string): Promise<FrameNames> {
  const files = await readdir(dir).catch((cause) => {
    throw new IsrDpoError("MEDIA_UNREADABLE", `${dir}: expected a folder that can be listed, got ${cause.code}`, {
      path: dir,
      cause,
    });
  });
  const entries = files.map((name) => ({ name, bytes: Buffer.from(name) }));
  entries.sort((a, b) => Buffer.compare(a.bytes, b.bytes));
  const [names, leftOut]: [string[], string[]] = [[], []];
  for (const { name } of entries) ((await isFrame(join(dir, name), name)) ? names : leftOut).push(name);
  if (names.length > 0) return { names, leftOut, unpadded: isUnpadded(names) };
  const what =
    leftOut.length === 0
      ? "an empty one"
      : `none, but ${leftOut.slice(0, 3).join(", ")}${leftOut.length > 3 ? ` and ${leftOut.length - 3} more` : ""}`;
  throw new IsrDpoError("MEDIA_EMPTY", `${dir}: expected a folder of JPEG or PNG frames, got ${what}`, {
    hint: "a video is the file itself, or a folder that holds its frames and not folders of them",
    path: dir,
  });
}

function unreadable(path: string, what: string, cause?: unknown, hint?: string): IsrDpoError {
  return new IsrDpoError("MEDIA_UNREADABLE", `${path}: expected a JPEG or PNG image, got ${what}`, {
    hint: hint ?? "look at it with an image viewer; leave it out, or make it again",
    path,
    cause,
  });
}

/** As Pillow: 16-bit grey is cut off at 255, not scaled. */
function fromGrey16(data: Buffer, pixels: number): Uint8Array {
  const out = new Uint8Array(pixels * 3);
  const step = data.length / 2 / pixels; // in numbers: grey alone, or grey and alpha
  for (let i = 0; i < pixels; i++) out.fill(Math.min(data.readUInt16LE(i * step * 2), 255), i * 3, i * 3 + 3);
  return out;
}

/** As Pillow: each ink takes its colour away from what black leaves; no colour profile is asked. */
function fromCmyk(data: Buffer): Uint8Array {
  const out = new Uint8Array((data.length / 4) * 3);
  for (let i = 0, o = 0; i < data.length; i += 4) {
    const left = 255 - data[i + 3]!;
    for (let c = 0; c < 3; c++) {
      const product = data[i + c]! * left + 128;
      out[o++] = left - (((product >> 8) + product) >> 8);
    }
  }
  return out;
}

interface Decodable {
  load: () => Sharp;
  facts: Metadata;
}

/** RGB bytes by the rules of Pillow's convert("RGB"): nothing is colour-managed, transparency is dropped, not blended. */
async function rgbOf(path: string, { load, facts }: Decodable): Promise<Uint8Array> {
  const { width, height, space, depth } = facts;
  if (space === "cmyk") {
    const inks = await load().pipelineColourspace("cmyk").toColourspace("cmyk").raw().toBuffer();
    return fromCmyk(inks);
  }
  // of greys with an alpha of their own Pillow takes the upper byte, as below
  if (space === "grey16" && depth === "ushort" && (await headOf(path))[pngColourType] === 0)
    return fromGrey16(
      await load().pipelineColourspace("grey16").toColourspace("grey16").raw({ depth: "ushort" }).toBuffer(),
      width * height,
    );
  return load().removeAlpha().toColourspace("srgb").raw().toBuffer();
}

/** RGB bytes of an image file, as Pillow's convert("RGB") gives them. */
export async function readImage(path: string): Promise<Frame> {
  const facts = await stat(path).catch((cause) => {
    throw unreadable(path, "a name that leads nowhere", cause);
  });
  if (!facts.isFile()) throw unreadable(path, facts.isDirectory() ? "a folder" : "no regular file");
  if (facts.size > maxFileBytes) throw unreadable(path, `${facts.size} bytes, above the limit of ${maxFileBytes}`);
  if (facts.size === 0) throw unreadable(path, "an empty file");
  try {
    if (!(await isImageFile(path))) throw new Error("something else");
    const make: typeof sharp = (await import("sharp")).default;
    const load = () =>
      make(path, { limitInputPixels: maxPixels, failOn: "error", ignoreIcc: true, sequentialRead: true });
    const found = await load().metadata();
    const { width, height } = found;
    if (width > maxSide || height > maxSide) throw new Error(`${width} x ${height}, above ${maxSide} pixels a side`);
    const data = await rgbOf(path, { load, facts: found });
    if (data.length !== width * height * 3) throw new Error(`${data.length / (width * height)} bytes per pixel`);
    return { data, height, width };
  } catch (cause) {
    throw unreadable(path, (cause as Error).message.split("\n")[0] ?? "no image", cause);
  }
}
