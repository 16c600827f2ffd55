// Frames in JPEG or PNG files: a folder of them in the order of their names, or one file as an image. sharp, which is loaded
// at first use, decodes them; nothing is rotated or colour-managed, as in the readers that the families were trained with.
import { open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type sharp from "sharp";
import type { Metadata, Sharp } from "sharp";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
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

/** Pictures of other kinds: what stands at which byte of them. Sequences (GIF, avis) are for ffmpeg as well. */
const otherKinds: readonly [name: string, ...marks: [at: number, text: string][]][] = [
  ["a GIF", [0, "GIF8"]],
  ["a WebP picture", [0, "RIFF"], [8, "WEBP"]],
  ["a BMP picture", [0, "BM"], [6, "\0\0\0\0"]],
  ["a TIFF picture", [0, "II*\0"]],
  ["a TIFF picture", [0, "MM\0*"]],
  ["an AVIF picture", [4, "ftypavif"]],
  ...["heic", "heix", "mif1"].map((brand): [string, [number, string]] => ["a HEIF picture", [4, `ftyp${brand}`]]),
  ["a JPEG 2000 picture", [4, "jP  \r\n"]],
  ["a JPEG 2000 picture", [0, "\xffO\xffQ"]],
  ["a JPEG XL picture", [4, "JXL \r\n"]],
  ["a JPEG XL picture", [0, "\xff\n"]],
];

export interface Kind {
  /** JPEG or PNG; nothing else is ever given to the decoder. */
  image: boolean;
  /** A picture of a kind that is not read. */
  other: string | undefined;
}

/** What a file is by its first bytes, whatever its name says. */
export async function kindOfFile(path: string): Promise<Kind> {
  const head = await headOf(path);
  const text = head.toString("latin1");
  const other = otherKinds.find(([, ...marks]) => marks.every(([at, mark]) => text.startsWith(mark, at)));
  return { image: isImage(head), other: other?.[0] };
}

/** MEDIA_UNREADABLE of a picture that is neither JPEG nor PNG. */
export const otherPicture = (path: string, what: string): IsrDpoError =>
  unreadable(path, what, undefined, "convert it to JPEG or PNG, for example with `ffmpeg -i FILE OUT.png`");

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
  const { image, other } = await kindOfFile(path).catch((cause) => {
    throw unreadable(path, `a file that cannot be read (${cause.code})`, cause);
  });
  if (image) return true;
  if (!other && !pictures.test(name)) return false;
  throw otherPicture(path, other ?? "a picture of another kind");
}

/** Whether two names differ in one number alone, which has more digits in one of them. */
function isUnpadded(names: readonly string[]): boolean {
  const digits = new Map<string, number>();
  for (const name of names)
    for (const { 0: number, index } of name.matchAll(/\d+/g)) {
      const around = `${name.slice(0, index)}\0${name.slice(index + number.length)}`;
      if ((digits.get(around) ?? number.length) !== number.length) return true;
      digits.set(around, number.length);
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
  const step = data.length / 2 / pixels; // numbers per pixel: grey alone, or grey and alpha
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
  // Of greys with an alpha channel Pillow takes the upper byte, as below.
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
    const { image, other } = await kindOfFile(path);
    if (!image && other) throw otherPicture(path, other);
    if (!image) throw new Error("something else");
    const make: typeof sharp = (await import("sharp")).default;
    const load = () =>
      make(path, { limitInputPixels: maxPixels, failOn: "error", ignoreIcc: true, sequentialRead: true });
    const found = await load().metadata();
    const { width, height } = found;
    if (width > maxSide || height > maxSide) throw new Error(`${width} x ${height}, above ${maxSide} pixels per side`);
    const data = await rgbOf(path, { load, facts: found });
    if (data.length !== width * height * 3) throw new Error(`${data.length / (width * height)} bytes per pixel`);
    return { data, height, width };
  } catch (cause) {
    if (isIsrDpoError(cause)) throw cause;
    throw unreadable(path, (cause as Error).message.split("\n")[0] ?? "no image", cause);
  }
}
