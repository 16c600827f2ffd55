// Media: files of every kind against ffmpeg's own select filter, folders of frames, arrays, keys, and all that can be wrong.
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { ErrorCode, Tensor } from "../src/index.js";
import { mediaKey, type MediaOptions, openMedia } from "../src/video/load-media.js";
import { linspace, readSampling, sampleIndices } from "../src/video/frame-sampling.js";
import { evenly } from "../src/video/timeline.js";
import { near, ordered, rejects, sameBits } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";
import { bytesOf, countFrames, ffmpeg, makeVideo, plainSpec, selected, spaced, turnedCopy } from "./helpers/video.js";
import { memoized } from "./helpers/memoized.js";

const test = suite("video media");
const dir = temporaryFolder();
const at = (name: string) => join(dir, name);
const spec = plainSpec(64);
const x264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p"];

// ---------- video files

/** An intact file of 20 frames, made once. */
const plain = () => (existsSync(at("plain.mp4")) ? at("plain.mp4") : makeVideo(at("plain.mp4"), x264));

type Made = [name: string, args: string[], frames?: number];
const files: Made[] = [
  ["h264.mp4", x264],
  ["b-frames.mkv", [...x264, "-bf", "3", "-g", "12"]],
  ["hevc.mp4", ["-c:v", "libx265", "-x265-params", "log-level=none:pools=none", "-pix_fmt", "yuv420p"]],
  ["ten-bit.mkv", ["-c:v", "libx264", "-pix_fmt", "yuv420p10le"]],
  ["vp9.webm", ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-pix_fmt", "yuv420p"]],
  ["varied.mp4", ["-vf", "select='not(mod(n\\,3))+gt(n\\,12)'", "-fps_mode", "vfr", ...x264]],
  ["picture.gif", []],
  ["mpeg4.avi", ["-c:v", "mpeg4"]],
  ["transport.ts", x264],
  ["flash.flv", ["-c:v", "flv"]],
  ["three.mp4", x264, 3],
  ["one.mp4", x264, 1],
  ["-dash 'quote' $(x): ü.mp4", x264],
];

for (const [name, args, frames] of files)
  test(`${name}: the bytes of ffmpeg's select filter`, async () => {
    const path = makeVideo(at(name), args, { frames: frames ?? 20 });
    const count = name === "varied.mp4" ? countFrames(path) : (frames ?? 20);
    const opened = await openMedia(path, spec);
    const indices = spaced(0, count - 1, 8);
    assert.equal([...opened.sourceFrames], indices);
    assert.equal(opened.pixels.shape, [8, 3, 64, 64]);
    const expected = selected(path, indices);
    const unique = [...new Set(indices)];
    const got = bytesOf(opened.pixels);
    for (const [i, index] of indices.entries()) {
      const size = 64 * 64 * 3;
      const from = unique.indexOf(index) * size;
      sameBits(got.subarray(i * size, (i + 1) * size), expected.subarray(from, from + size), `frame ${index}`);
    }
    assert.equal(opened.notes, { count, repeated: 8 - unique.length, decodeErrors: 0, lost: 0, rotated: false });
    assert.is(opened.kind, "video");
  });

test("a rotated file is turned, as ffmpeg turns it", async () => {
  const path = turnedCopy(plain(), at("turned.mp4"));
  const { pixels, notes } = await openMedia(path, spec);
  const upright = await openMedia(plain(), spec);
  assert.equal([notes.rotated, upright.notes.rotated], [true, false]);
  sameBits(bytesOf(pixels), selected(path, spaced(0, 19, 8)), "turned");
  assert.not.equal(bytesOf(pixels), bytesOf(upright.pixels));
});

test("a picture in an audio file is no video", async () => {
  const path = at("cover.mp4");
  await sharp({ create: { width: 64, height: 64, channels: 3, background: "red" } })
    .png()
    .toFile(at("cover.png"));
  const tone = ["-f", "lavfi", "-i", "sine=duration=1"];
  ffmpeg(
    ...tone,
    "-i",
    at("cover.png"),
    "-map",
    "0",
    "-map",
    "1",
    "-c:v",
    "png",
    "-disposition:v:0",
    "attached_pic",
    path,
  );
  await rejects(() => openMedia(path, spec), "MEDIA_EMPTY", /video stream/, "cover");
});

function spoil(path: string, from: number, to: number): string {
  const bytes = readFileSync(makeVideo(path, [...x264, "-g", "5"], { frames: 40 }));
  for (let i = Math.floor(bytes.length * from); i < bytes.length * to; i++) bytes[i] = (i * 131) & 255;
  writeFileSync(path, bytes);
  return path;
}

test("a container with a hole: the frames around it, and how many are lost", async () => {
  const path = spoil(at("hole.avi"), 0.3, 0.5);
  const { notes, sourceFrames } = await openMedia(path, spec);
  const count = countFrames(path);
  assert.ok(count < 40, `${count} frames`);
  assert.equal(notes, { ...notes, count, lost: 40 - count });
  assert.is(sourceFrames[7], count - 1);
});

test("spoiled frames: what can be decoded, and the errors counted", async () => {
  const path = spoil(at("spoiled.mp4"), 0.3, 0.5);
  const count = countFrames(path);
  const opened = await openMedia(path, spec);
  assert.ok(opened.notes.decodeErrors > 0, `${opened.notes.decodeErrors} errors`);
  assert.is(opened.notes.count, count);
  assert.equal([...opened.sourceFrames], spaced(0, count - 1, 8));
  sameBits(bytesOf(opened.pixels), selected(path, opened.sourceFrames), "what can be decoded");
  const again = await openMedia(path, spec);
  sameBits(again.pixels.data, opened.pixels.data, "the same at each decoding");
});

test("a download that ended early: the frames that came", async () => {
  const path = at("half.mp4");
  makeVideo(path, [...x264, "-movflags", "+faststart", "-g", "5"], { frames: 40 });
  truncateSync(path, Math.floor(statSync(path).size * 0.6));
  const { notes, sourceFrames } = await openMedia(path, spec);
  assert.ok(notes.count > 5 && notes.count < 40, `${notes.count} frames`);
  assert.is(sourceFrames[7], notes.count - 1);
  ordered(notes.decodeErrors, ">", 0, "reported");
});

test("windows and rates", async () => {
  const of = (n: number, sample: object, window?: readonly [number, number]) => [
    ...sampleIndices(evenly(n, 10), readSampling("sample", sample, { frames: 8, ...(window ? { window } : {}) }), "x"),
  ];
  assert.equal(of(150, { frames: 3, window: [2, 4] }), [20, 29, 39]);
  assert.equal(
    of(150, { frames: 4, fps: 2 }),
    spaced(0, 29, 4).map((k) => k * 5),
  );
  assert.equal(of(150, { window: [0, 99] }), spaced(0, 149, 8));
  assert.equal(of(150, {}, [0, 10]), spaced(0, 99, 8));
  assert.equal(of(150, { frames: 2, window: [0, 15] }, [0, 10]), [0, 149]);
  assert.equal(of(40, { frames: 4, fps: 60 }), [0, 13, 26, 39], "no frame twice for a higher rate");
  await rejects(() => of(150, { window: [15, 20] }), "INVALID_ARGUMENT", /window.*15 s of 15\.00 s/, "beyond");
  await rejects(() => of(150, { window: [3, 2] }), "INVALID_ARGUMENT", /window\[1\].*greater than 3/, "backwards");
  await rejects(() => of(150, { frame: 2 }), "INVALID_ARGUMENT", /did you mean 'frames'/, "unknown");
  const path = makeVideo(at("long.mp4"), x264, { frames: 150 });
  assert.equal([...(await openMedia(path, plainSpec(64, { window: "10s" }))).sourceFrames], spaced(0, 99, 8));
  const sample = { frames: 3, window: [2, 4] as const };
  assert.equal([...(await openMedia({ path, sample }, spec)).sourceFrames], [20, 29, 39]);
});

test("sampling: NumPy's truncating linspace", () => {
  assert.equal([...linspace(9, 8)], [0, 1, 2, 3, 5, 6, 7, 9]);
  assert.equal([...linspace(0, 3)], [0, 0, 0]);
  assert.equal([...linspace(5, 1)], [0]);
  for (let n = 1; n < 400; n++) {
    const got = linspace(n - 1, 8);
    for (let i = 0; i < 8; i++)
      assert.ok(Math.abs(got[i]! - ((n - 1) * i) / 7) < 1 && got[i]! <= ((n - 1) * i) / 7 + 1e-9, `${n} ${i}`);
  }
});

// ---------- bad files

const liar = (name: string, content: string | Buffer) => {
  writeFileSync(at(name), content);
  return at(name);
};

const bad: [what: string, make: () => string, code: ErrorCode, message: RegExp][] = [
  ["nothing there", () => at("none.mp4"), "NOT_FOUND", /none\.mp4/],
  ["no bytes", () => liar("empty.mp4", ""), "MEDIA_UNREADABLE", /empty\.mp4.*empty file/],
  ["text", () => liar("text.mp4", "this is no video\n".repeat(99)), "MEDIA_UNREADABLE", /text\.mp4/],
  [
    "a list of other files",
    () => liar("concat.mp4", `ffconcat version 1.0\nfile '${plain()}'\n`),
    "MEDIA_UNREADABLE",
    /concat\.mp4/,
  ],
  [
    "a playlist",
    () => liar("list.mp4", `#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n${plain()}\n#EXT-X-ENDLIST\n`),
    "MEDIA_UNREADABLE",
    /list\.mp4/,
  ],
  [
    "a drawing",
    () => liar("drawing.mp4", '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
    "MEDIA_UNREADABLE",
    /drawing/,
  ],
  [
    "a file cut before its index",
    () => {
      copyFileSync(plain(), at("cut.mp4"));
      truncateSync(at("cut.mp4"), statSync(at("cut.mp4")).size >> 1);
      return at("cut.mp4");
    },
    "MEDIA_UNREADABLE",
    /cut\.mp4.*got/,
  ],
  [
    "sound alone",
    () => {
      ffmpeg("-f", "lavfi", "-i", "sine=duration=1", at("sound.mp4"));
      return at("sound.mp4");
    },
    "MEDIA_EMPTY",
    /sound\.mp4.*video stream/,
  ],
  [
    "a header without frames",
    () => {
      ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=10", "-frames:v", "0", ...x264, at("bare.avi"));
      return at("bare.avi");
    },
    "MEDIA_EMPTY",
    /bare\.avi/,
  ],
  [
    "a size that changes midway",
    () => {
      const [a, b] = ["64x64", "96x80"].map((size) => readFileSync(makeVideo(at(`${size}.ts`), x264, { size })));
      return liar("changing.ts", Buffer.concat([a!, b!]));
    },
    "MEDIA_UNREADABLE",
    /changes midway/,
  ],
  [
    "a device",
    () => {
      execFileSync("mkfifo", [at("pipe.mp4")]);
      return at("pipe.mp4");
    },
    "MEDIA_UNREADABLE",
    /no regular file/,
  ],
  ["an address", () => "https://example.org/a.mp4", "INVALID_ARGUMENT", /local file/],
  ["another address", () => "rtsp://example.org/a", "INVALID_ARGUMENT", /local file/],
  ["a zero byte", () => "a\0.mp4", "INVALID_ARGUMENT", /path/],
];
for (const [what, make, code, message] of bad)
  test(`refused: ${what}`, () => {
    const path = make();
    return rejects(() => openMedia(path, spec, { timeoutMs: 20_000 }), code, message, what);
  });

test("refused: more bytes than allowed", async () => {
  const path = plain();
  await rejects(
    () => openMedia(path, spec, { maxBytes: 64 * 64 * 3 * 8 - 1 }),
    "MEDIA_UNREADABLE",
    /more than 98303 bytes/,
    "bytes",
  );
  await openMedia(path, spec, { maxBytes: 64 * 64 * 3 * 8 });
});

// ---------- ffmpeg itself

function fake(name: string, script: string): string {
  mkdirSync(at(name));
  writeFileSync(join(at(name), "ffmpeg"), `#!/bin/sh\n${script}\n`);
  chmodSync(join(at(name), "ffmpeg"), 0o755);
  return join(at(name), "ffmpeg");
}
/** Ended, though perhaps nobody has asked for its exit code yet. */
const gone = (pid: number) => !existsSync(`/proc/${pid}`) || / [ZX] /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
const until = async (what: string, done: () => boolean) => {
  for (let i = 0; i < 200 && !done(); i++) await new Promise((next) => setTimeout(next, 20));
  assert.ok(done(), what);
};

test("a decoder that hangs is killed with its children", async () => {
  const path = plain();
  const pids = at("hang.pids");
  process.env.ISR_DPO_FFMPEG = fake("hanging", `sleep 60 & echo "$$ $!" > '${pids}'; wait`);
  try {
    const before = Date.now();
    // Long enough for a shell to begin on a machine that is busy with other work, and far from the decoder's own end.
    await rejects(() => openMedia(path, spec, { timeoutMs: 5000 }), "MEDIA_UNREADABLE", /no end within 5 s/, "hang");
    ordered(Date.now() - before, "<", 50_000, "before the decoder's own end");
    const [parent, child] = readFileSync(pids, "utf8").trim().split(" ").map(Number);
    await until("both are gone", () => gone(parent!) && gone(child!));
  } finally {
    delete process.env.ISR_DPO_FFMPEG;
  }
});

test("an abort ends the decoder and rejects with the reason", async () => {
  const path = plain();
  const pids = at("abort.pids");
  const options: MediaOptions = { ffmpeg: fake("aborted", `echo $$ > '${pids}'; exec sleep 60`) };
  const controller = new AbortController();
  const reason = new Error("enough");
  const opened = openMedia(path, spec, { ...options, signal: controller.signal }).catch((e) => e);
  await until("it runs", () => existsSync(pids) && readFileSync(pids, "utf8").endsWith("\n"));
  controller.abort(reason);
  assert.is(await opened, reason);
  await until("it is gone", () => gone(Number(readFileSync(pids, "utf8"))));
  assert.is(await openMedia(path, spec, { signal: AbortSignal.abort(reason) }).catch((e) => e), reason);
});

test("a decoder that writes without end is stopped", () =>
  rejects(
    () => openMedia(plain(), spec, { ffmpeg: fake("endless", "exec yes"), timeoutMs: 20_000 }),
    "MEDIA_UNREADABLE",
    /more than/,
    "yes",
  ));

test("no ffmpeg: how to get it", async () => {
  const path = plain();
  await rejects(
    () => openMedia(path, spec, { ffmpeg: at("nowhere/ffmpeg") }),
    "FFMPEG_MISSING",
    /nowhere\/ffmpeg.*ENOENT/,
    "given",
  );
  const { PATH } = process.env;
  process.env.PATH = dir;
  try {
    await openMedia(path, spec);
    assert.unreachable();
  } catch (e) {
    const { code, hint } = e as { code: string; hint: string };
    assert.is(code, "FFMPEG_MISSING");
    assert.match(hint, /apt install ffmpeg.*ISR_DPO_FFMPEG/);
  } finally {
    process.env.PATH = PATH;
  }
});

// ---------- folders of frames

const noise = (w: number, h: number, seed: number) =>
  Buffer.from(Uint8Array.from({ length: w * h * 3 }, (_, i) => Math.imul(i + seed, 2654435761) >>> 24));
const image = (w: number, h: number, seed: number) =>
  sharp(noise(w, h, seed), { raw: { width: w, height: h, channels: 3 } });

function folder(name: string): (file: string) => string {
  mkdirSync(at(name));
  return (file) => join(at(name), file);
}

test("a folder: names in order, PNG exactly, JPEG as sharp reads it", async () => {
  const file = folder("frames");
  const names = ["b.png", "a.jpg", "c10.png", "c9.png", "Z.png"];
  for (const [i, name] of names.entries()) await image(64, 64, i).toFile(file(name));
  const opened = await openMedia(at("frames"), plainSpec(64, { frames: 5 }));
  const sorted = ["Z.png", "a.jpg", "b.png", "c10.png", "c9.png"];
  const expected = await Promise.all(sorted.map((name) => sharp(file(name)).removeAlpha().raw().toBuffer()));
  sameBits(bytesOf(opened.pixels), Buffer.concat(expected), "frames");
  assert.equal([...opened.sourceFrames], [0, 1, 2, 3, 4]);
  const short = await openMedia(at("frames"), spec);
  assert.equal([...short.sourceFrames], spaced(0, 4, 8));
  const notes = { count: 5, repeated: 3, decodeErrors: 0, lost: 0, rotated: false };
  assert.equal(short.notes, { ...notes, unpadded: true }, "c10 before c9 is told");
});

test("a folder: mixed sizes, grey, transparent, 16 bits, turned", async () => {
  const file = folder("mixed");
  await image(64, 64, 1).toFile(file("0.png"));
  await image(128, 64, 2).toFile(file("1.png"));
  await image(64, 64, 3).greyscale().png().toFile(file("2.png"));
  await image(64, 64, 4).ensureAlpha(0.3).png().toFile(file("3.png"));
  await image(64, 64, 5).toColourspace("rgb16").png().toFile(file("4.png"));
  await image(64, 64, 6).withMetadata({ orientation: 6 }).jpeg({ quality: 100 }).toFile(file("5.jpg"));
  await image(64, 64, 7).png({ palette: true }).toFile(file("6.png"));
  const { pixels } = await openMedia(at("mixed"), plainSpec(64, { frames: 7 }));
  const got = bytesOf(pixels);
  const frame = (i: number) => got.subarray(i * 64 * 64 * 3, (i + 1) * 64 * 64 * 3);
  sameBits(frame(0), noise(64, 64, 1), "as it is");
  const wide = noise(128, 64, 2);
  const crop = Buffer.concat(
    Array.from({ length: 64 }, (_, y) => wide.subarray((y * 128 + 32) * 3, (y * 128 + 96) * 3)),
  );
  sameBits(frame(1), crop, "the middle");
  for (let i = 0; i < 64 * 64; i++) {
    assert.is(frame(2)[i * 3], frame(2)[i * 3 + 1]);
    assert.is(frame(2)[i * 3], frame(2)[i * 3 + 2]);
  }
  sameBits(frame(3), noise(64, 64, 4), "transparency is dropped");
  near(frame(4), noise(64, 64, 5), 1, "16 bits");
  sameBits(frame(5), await sharp(file("5.jpg")).raw().toBuffer(), "not turned");
  assert.is((await sharp(file("5.jpg")).metadata()).orientation, 6);
});

test("bad folders and images", async () => {
  mkdirSync(at("none"));
  await rejects(() => openMedia(at("none"), spec), "MEDIA_EMPTY", /none.*empty/, "empty");
  const cut = folder("cut");
  const whole = await image(64, 64, 1).jpeg().toBuffer();
  writeFileSync(cut("0.jpg"), whole.subarray(0, whole.length / 2));
  await rejects(() => openMedia(at("cut"), spec), "MEDIA_UNREADABLE", /0\.jpg/, "cut");
  writeFileSync(cut("0.jpg"), "");
  await rejects(() => openMedia(at("cut"), spec), "MEDIA_UNREADABLE", /0\.jpg.*empty/, "no bytes");
  const huge = folder("huge");
  const header = await image(64, 64, 1).jpeg().toBuffer();
  const frameHeader = header.indexOf(Buffer.from([0xff, 0xc0]));
  header.writeUInt16BE(16000, frameHeader + 5);
  header.writeUInt16BE(16000, frameHeader + 7);
  writeFileSync(huge("0.jpg"), header);
  await rejects(() => openMedia(at("huge"), spec), "MEDIA_UNREADABLE", /0\.jpg.*pixel/, "16000 x 16000");
  await rejects(() => openMedia(huge("0.jpg"), spec), "MEDIA_UNREADABLE", /0\.jpg.*pixel/, "16000 x 16000 as an image");
  const sample = { window: [0, 1] as const };
  await rejects(() => openMedia({ path: at("frames"), sample }, spec), "INVALID_ARGUMENT", /no times/, "window");
  await rejects(() => openMedia({ path: at("frames"), kind: "image" }, spec), "INVALID_ARGUMENT", /kind/, "kind");
  await rejects(
    () => openMedia(at("frames"), spec, { maxBytes: 1000 }),
    "MEDIA_UNREADABLE",
    /at most 1000 bytes/,
    "bytes",
  );
});

const still = memoized(async () => {
  const path = at("still.png");
  await image(64, 64, 9).toFile(path);
  return path;
});
for (const [what, media] of [
  ["a path", (path: string) => path],
  ["an object", (path: string) => ({ path })],
  ["its kind", (path: string) => ({ path, kind: "image" as const })],
] as const)
  test(`an image by ${what}`, async () => {
    const { kind, pixels, sourceFrames } = await openMedia(media(await still()), spec);
    assert.equal([kind, pixels.shape, [...sourceFrames]], ["image", [1, 3, 64, 64], [0]]);
    sameBits(bytesOf(pixels), noise(64, 64, 9), "image");
  });

test("images: frames of a model of clips, refused by a model without", async () => {
  const path = await still();
  const bind = plainSpec(64, { type: "languagebind", layout: "cthw" });
  const bound = await openMedia(path, bind);
  assert.equal(bound.pixels.shape, [1, 3, 64, 64]);
  near(bytesOf(bound.pixels), noise(64, 64, 9), 0, "languagebind");
  await rejects(
    () => openMedia(path, plainSpec(64, { images: false })),
    "INVALID_ARGUMENT",
    /takes no images/,
    "no images",
  );
  await rejects(() => openMedia({ path, kind: "video" }, spec), "MEDIA_UNREADABLE", /got an image/, "kind");
  await rejects(() => openMedia({ path: plain(), kind: "image" }, spec), "MEDIA_UNREADABLE", /JPEG or PNG/, "kind");
});

// ---------- arrays

test("frames in memory", async () => {
  const frames = Buffer.concat(Array.from({ length: 20 }, (_, i) => noise(64, 64, i)));
  const media = { frames, width: 64, height: 64 };
  const opened = await openMedia(media, spec);
  const indices = spaced(0, 19, 8);
  assert.equal([...opened.sourceFrames], indices);
  sameBits(bytesOf(opened.pixels), Buffer.concat(indices.map((i) => noise(64, 64, i))), "frames");
  const bound = await openMedia(media, plainSpec(64, { type: "languagebind", layout: "cthw", window: "10s" }));
  assert.equal(bound.pixels.shape, [3, 8, 64, 64]);
  const sample = { frames: 2, window: [0.5, 1] as const };
  assert.equal([...(await openMedia({ ...media, fps: 10, sample }, spec)).sourceFrames], [5, 9]);
  await rejects(() => openMedia({ ...media, sample }, spec), "INVALID_ARGUMENT", /no times/, "no fps");
  await rejects(() => openMedia({ ...media, width: 63 }, spec), "INVALID_ARGUMENT", /multiple/, "width");
  await rejects(() => openMedia({ ...media, kind: "image" }, spec), "INVALID_ARGUMENT", /one frame/, "image");
  const three = { ...media, sample: { frames: 3 } };
  await rejects(
    () => openMedia(three, plainSpec(64, { type: "languagebind", layout: "cthw" })),
    "INVALID_ARGUMENT",
    /8/,
    "T",
  );
});

{
  const tensor = (...shape: number[]): Tensor => ({
    dtype: "f32",
    shape,
    data: new Float32Array(shape.reduce((a, b) => a * b, 1)),
  });
  const bind = plainSpec(4, { type: "languagebind", layout: "cthw" });
  const clip = plainSpec(4);
  const kinds: [Tensor, typeof clip, "video" | "image", number[]][] = [
    [tensor(5, 3, 4, 4), clip, "video", [5, 3, 4, 4]],
    [tensor(1, 3, 4, 4), clip, "image", [1, 3, 4, 4]],
    [tensor(3, 4, 4), clip, "image", [1, 3, 4, 4]],
    [tensor(3, 8, 4, 4), bind, "video", [3, 8, 4, 4]],
    [tensor(1, 3, 4, 4), bind, "image", [1, 3, 4, 4]],
    [tensor(1, 3, 4, 4), plainSpec(4, { images: false }), "video", [1, 3, 4, 4]],
  ];
  for (const [pixels, s, kind, shape] of kinds)
    test(`pixels of shape ${pixels.shape} are ${kind}, ${s.layout}`, async () => {
      const opened = await openMedia({ pixels }, s);
      assert.equal([opened.kind, opened.pixels.shape], [kind, shape]);
      assert.is(opened.pixels.data, pixels.data);
    });
  const spoiled = tensor(5, 3, 4, 4);
  (spoiled.data as Float32Array)[7] = Number.NaN;
  const wrong: [unknown, typeof clip, RegExp][] = [
    [tensor(3, 5, 4, 4), clip, /shape.*frames, 3, 4, 4.*\(3, 5, 4, 4\)/],
    [tensor(5, 3, 4, 5), clip, /shape/],
    [tensor(3, 7, 4, 4), bind, /shape.*3, 8, 4, 4/],
    [tensor(3, 4, 4), plainSpec(4, { images: false }), /shape/],
    [{ dtype: "f32", shape: [5, 3, 4, 4], data: new Float32Array(3) }, clip, /data.*240/],
    [{ dtype: "u8", shape: [5, 3, 4, 4], data: new Uint8Array(240) }, clip, /dtype/],
    [{ dtype: "f32", data: new Float32Array(3) }, clip, /shape.*array/],
    [spoiled, clip, /data\[7\].*NaN/],
  ];
  for (const [i, [pixels, s, message]] of wrong.entries())
    test(`wrong pixels, row ${i}: ${message.source}`, () =>
      rejects(() => openMedia({ pixels: pixels as Tensor }, s), "INVALID_ARGUMENT", message, String(message)));

  test("wrong pixels: of another kind, and none", async () => {
    await rejects(
      () => openMedia({ pixels: tensor(1, 3, 4, 4), kind: "video" }, bind),
      "INVALID_ARGUMENT",
      /shape/,
      "kind",
    );
    await rejects(() => openMedia({} as never, clip), "INVALID_ARGUMENT", /path, frames or pixels/, "nothing");
  });
}

// ---------- keys

test("keys: the same for the same, another for anything else, without decoding", async () => {
  const [path, copy] = [plain(), at("copy-of-key.mp4")];
  copyFileSync(path, copy);
  const key = await mediaKey(path, spec);
  assert.match(key, /^[0-9a-f]{64}$/);
  assert.is((await openMedia(path, spec)).key, key);
  assert.is(await mediaKey(copy, spec), key, "a key is of the content");
  const frames = noise(64, 64, 1);
  const picture = await still();
  const all = await Promise.all([
    key,
    mediaKey({ path, sample: { frames: 4 } }, spec),
    mediaKey({ path, sample: { window: [0, 1] } }, spec),
    mediaKey(path, plainSpec(32)),
    mediaKey(path, plainSpec(64, { mean: [0, 0, 0.5] })),
    mediaKey(path, plainSpec(64, { resize: "exact" })),
    mediaKey(path, plainSpec(64, { window: "10s" })),
    mediaKey(path, plainSpec(64, { type: "languagebind" })),
    mediaKey(makeVideo(at("other.mp4"), x264, { frames: 21 }), spec),
    mediaKey(at("frames"), spec),
    mediaKey(at("mixed"), spec),
    mediaKey(picture, spec),
    mediaKey({ frames, width: 64, height: 64 }, spec),
    mediaKey({ frames, width: 64, height: 64, kind: "image" }, spec),
    mediaKey({ frames, width: 32, height: 128 }, spec),
    mediaKey({ frames: noise(64, 64, 2), width: 64, height: 64 }, spec),
    mediaKey({ pixels: { dtype: "f32", shape: [3, 64, 64], data: new Float32Array(3 * 64 * 64) } }, spec),
  ]);
  assert.is(new Set(all).size, all.length);
  writeFileSync(copy, "something else");
  utimesSync(copy, new Date(), new Date());
  assert.is.not(await mediaKey(copy, spec), key, "a changed file is read again");
  assert.is((await openMedia(picture, spec)).key, all[11]);
  mkdirSync(at("nested/inside"), { recursive: true });
  await rejects(() => mediaKey(at("nested"), spec), "MEDIA_EMPTY", /none, but inside/, "a folder in a folder");
  await rejects(() => openMedia(at("nested"), spec), "MEDIA_EMPTY", /none, but inside/, "a folder in a folder");
  assert.is((await openMedia(at("mixed"), spec)).key, all[10]);
});

if (process.env.ISR_DPO_LONG)
  test("a minute of 1080p", async () => {
    const path = makeVideo(at("minute.mp4"), [...x264, "-preset", "ultrafast"], { frames: 600, size: "1920x1080" });
    const before = Date.now();
    const { sourceFrames, pixels } = await openMedia(path, plainSpec(224));
    assert.equal([...sourceFrames], spaced(0, 599, 8));
    assert.equal(pixels.shape, [8, 3, 224, 224]);
    console.log(`    ${Date.now() - before} ms`);
  });

test.run();
