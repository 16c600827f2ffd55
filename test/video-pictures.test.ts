// Pictures as Pillow's convert("RGB") gives them, and those of kinds that are not read, by name.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { deflateSync } from "node:zlib";
import sharp from "sharp";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { readImage } from "../src/video/frame-files.js";
import { openMedia } from "../src/video/load-media.js";
import { isError, ordered, rejects } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";
import { plainSpec } from "./helpers/video.js";
import { memoized } from "./helpers/memoized.js";

const test = suite("video pictures");
const dir = temporaryFolder();
const at = (...names: string[]) => join(dir, ...names);

interface Png {
  type: number;
  bits: number;
  size: [width: number, height: number];
  /** In hexadecimal, each row behind its filter byte. */
  rows: string;
  chunks?: [name: string, hex: string][];
  interlaced?: 0 | 1;
}

function crc32(bytes: Uint8Array): number {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let i = 0; i < 8; i++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

function chunk(name: string, data: Buffer): Buffer {
  const named = Buffer.concat([Buffer.from(name), data]);
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(data.length);
  sum.writeUInt32BE(crc32(named));
  return Buffer.concat([length, named, sum]);
}

function pngOf({ type, bits, size, rows, chunks = [], interlaced = 0 }: Png): Buffer {
  const head = Buffer.alloc(13);
  head.writeUInt32BE(size[0], 0);
  head.writeUInt32BE(size[1], 4);
  head.set([bits, type, 0, 0, interlaced], 8);
  return Buffer.concat([
    Buffer.from("\x89PNG\r\n\x1a\n", "latin1"),
    chunk("IHDR", head),
    ...chunks.map(([name, hex]) => chunk(name, Buffer.from(hex, "hex"))),
    chunk("IDAT", deflateSync(Buffer.from(rows, "hex"))),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

/** Expected: Pillow 13's `Image.open(file).convert("RGB")`. */
const pngs: [what: string, png: Png, rgb: number[]][] = [
  ["1 bit, grey", { type: 0, bits: 1, size: [3, 1], rows: "00a0" }, [255, 255, 255, 0, 0, 0, 255, 255, 255]],
  [
    "2 bits, grey",
    { type: 0, bits: 2, size: [4, 1], rows: "001b" },
    [0, 0, 0, 85, 85, 85, 170, 170, 170, 255, 255, 255],
  ],
  ["4 bits, grey", { type: 0, bits: 4, size: [3, 1], rows: "0007f0" }, [0, 0, 0, 119, 119, 119, 255, 255, 255]],
  [
    "grey with a transparent value",
    { type: 0, bits: 8, size: [2, 1], rows: "00057f", chunks: [["tRNS", "0005"]] },
    [5, 5, 5, 127, 127, 127],
  ],
  [
    "grey with gamma",
    { type: 0, bits: 8, size: [2, 1], rows: "00407f", chunks: [["gAMA", "000186a0"]] },
    [64, 64, 64, 127, 127, 127],
  ],
  [
    "16 bits, grey",
    { type: 0, bits: 16, size: [3, 1], rows: "0000800200ffff" },
    [128, 128, 128, 255, 255, 255, 255, 255, 255],
  ],
  [
    "16 bits, grey and alpha",
    { type: 4, bits: 16, size: [2, 1], rows: "0012340000fedcffff" },
    [18, 18, 18, 254, 254, 254],
  ],
  ["grey and alpha", { type: 4, bits: 8, size: [2, 1], rows: "0010002080" }, [16, 16, 16, 32, 32, 32]],
  [
    "RGB with a transparent colour",
    { type: 2, bits: 8, size: [2, 1], rows: "00010203040506", chunks: [["tRNS", "000100020003"]] },
    [1, 2, 3, 4, 5, 6],
  ],
  [
    "RGB with a background",
    { type: 6, bits: 8, size: [2, 1], rows: "000102030004050680", chunks: [["bKGD", "000a0014001e"]] },
    [1, 2, 3, 4, 5, 6],
  ],
  ["16 bits, RGB", { type: 2, bits: 16, size: [1, 1], rows: "0012ff34ff56ff" }, [18, 52, 86]],
  ["16 bits, RGB and alpha", { type: 6, bits: 16, size: [1, 1], rows: "0012ff34ff56ff0000" }, [18, 52, 86]],
  [
    "1 bit, palette",
    { type: 3, bits: 1, size: [3, 1], rows: "0040", chunks: [["PLTE", "0a141e28323c46505a646e78"]] },
    [10, 20, 30, 40, 50, 60, 10, 20, 30],
  ],
  [
    "2 bits, palette with alpha",
    {
      type: 3,
      bits: 2,
      size: [4, 1],
      rows: "001b",
      chunks: [
        ["PLTE", "0a141e28323c46505a646e78"],
        ["tRNS", "0080"],
      ],
    },
    [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120],
  ],
  [
    "8 bits, palette, an index beyond its end",
    { type: 3, bits: 8, size: [3, 1], rows: "00000309", chunks: [["PLTE", "0a141e28323c46505a646e78"]] },
    [10, 20, 30, 100, 110, 120, 0, 0, 0],
  ],
  [
    "interlaced",
    { type: 2, bits: 8, size: [2, 2], rows: "0001020300040506000708090a0b0c", interlaced: 1 },
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
  ],
];

for (const [what, png, rgb] of pngs)
  test(`PNG: ${what}`, async () => {
    writeFileSync(at("one.png"), pngOf(png));
    const { data, width, height } = await readImage(at("one.png"));
    assert.equal([width, height], png.size);
    assert.equal([...data], rgb);
  });

/** A picture whose left half is dark, wider than it is high. */
const halves = () => {
  const data = Buffer.from(Uint8Array.from({ length: 32 * 16 * 3 }, (_, i) => ((i / 3) % 32 < 16 ? 10 : 240)));
  return sharp(data, { raw: { width: 32, height: 16, channels: 3 } });
};

for (const orientation of [1, 2, 3, 4, 5, 6, 7, 8])
  test(`JPEG with EXIF orientation ${orientation}: as it is stored, as Pillow opens it`, async () => {
    await halves().withMetadata({ orientation }).jpeg({ quality: 95 }).toFile(at("turned.jpg"));
    const { data, width, height } = await readImage(at("turned.jpg"));
    assert.equal([width, height], [32, 16]);
    ordered(data[0]!, "<", 40, "dark on the left");
    ordered(data[data.length - 1]!, ">", 200, "dark on the left");
  });

const encoded: [what: string, encode: () => Promise<Buffer>][] = [
  ["a GIF", () => halves().gif().toBuffer()],
  ["a WebP picture", () => halves().webp({ lossless: true }).toBuffer()],
  ["a WebP picture", () => halves().webp({ quality: 50 }).toBuffer()],
  ["a TIFF picture", () => halves().tiff().toBuffer()],
  ["a TIFF picture", async () => Buffer.from("MM\0*\0\0\0\x08\0\0\0\0\0\0", "latin1")],
  ["an AVIF picture", () => halves().avif().toBuffer()],
  ["a HEIF picture", async () => Buffer.from("\0\0\0\x18ftypheic\0\0\0\0mif1heic", "latin1")],
  ["a BMP picture", async () => Buffer.from("BM\x3a\0\0\0\0\0\0\0\x36\0\0\0", "latin1")],
  ["a JPEG 2000 picture", async () => Buffer.from("\0\0\0\x0cjP  \r\n\x87\n", "latin1")],
  ["a JPEG XL picture", async () => Buffer.from("\xff\n\xfa\x1f\x01", "latin1")],
];

const spec64 = plainSpec(64, { images: true });
const openings: [way: string, open: (name: string, frames: string) => Promise<unknown>][] = [
  ["an image", (name) => openMedia({ kind: "image", path: name }, spec64)],
  ["a frame", (_, frames) => openMedia(frames, spec64)],
  ["the decoder", (name) => readImage(name)],
  ["a path", (name) => openMedia(name, spec64)],
];
for (const [i, [what, encode]] of encoded.entries()) {
  const written = memoized(async () => {
    const [name, frames] = [at(`other${i}.jpg`), at(`frames${i}`)];
    const bytes = await encode();
    writeFileSync(name, bytes);
    mkdirSync(frames);
    writeFileSync(join(frames, "1"), bytes);
    return [name, frames] as const;
  });
  for (const [way, open] of openings.filter(([way]) => what !== "a GIF" || way !== "a path"))
    test(`${what} (${i}) is refused by its kind, whatever it is called: ${way}`, async () => {
      const [name, frames] = await written();
      const error = await open(name, frames).catch((e: Error) => e);
      isError(error, "MEDIA_UNREADABLE", `${way}`);
      assert.match(error.message, new RegExp(`expected a JPEG or PNG image, got ${what}$`), way);
      assert.match(error.hint!, /ffmpeg -i FILE OUT\.png/, way);
    });
}

for (const [name, encode, last] of [
  ["short.jpg", () => halves().jpeg({ progressive: true }), 2],
  ["short.png", () => halves().png(), 13],
] as const)
  for (const [what, lengthOf] of [
    ...[0, 1, 3, 8, 20].map((n) => [`${n} bytes`, () => n] as const),
    ["its half", (n: number) => n >> 1] as const,
    ["all but its end", (n: number) => n - last] as const,
  ])
    test(`a picture that ends early is refused: ${what} of ${name}`, async () => {
      const bytes = await encode().toBuffer();
      const length = lengthOf(bytes.length);
      writeFileSync(at(name), bytes.subarray(0, length));
      await rejects(() => readImage(at(name)), "MEDIA_UNREADABLE", /short/, `${name}, ${length} of ${bytes.length}`);
    });

const orders: [names: string[], told: boolean][] = [
  [["frame_1.png", "frame_2.png", "frame_10.png"], true],
  [["frame_01.png", "frame_02.png", "frame_10.png"], false],
  [["shot2_0001.png", "shot10_0001.png"], true],
  [["shot02_0001.png", "shot10_0001.png"], false],
  [["9.png", "10.png"], true],
  [["a1.png", "b10.png"], false],
  [["1f3c.png", "10ab.png"], false],
];

for (const [i, [names, told]] of orders.entries())
  test(`the order of ${names.join(", ")} is ${told ? "told" : "no news"}`, async () => {
    const frames = at(`order${i}`);
    mkdirSync(frames);
    for (const name of names) await halves().png().toFile(join(frames, name));
    const { notes } = await openMedia(frames, plainSpec(64));
    assert.is(notes.unpadded, told ? true : undefined);
  });

test.run();
