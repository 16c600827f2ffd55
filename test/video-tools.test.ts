// What is wrong with a tool, a request or a file is told as such; damage has a bound; content is checked behind reading.
import { chmodSync, copyFileSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { ErrorCode } from "../src/index.js";
import { readImage } from "../src/video/frame-files.js";
import { hashFile } from "../src/video/file-hash.js";
import { mediaKey, openMedia } from "../src/video/load-media.js";
import { run } from "../src/video/bounded-process.js";
import { Shared } from "../src/video/shared-work.js";
import { inspectFfmpeg } from "../src/video/ffmpeg-tools.js";
import { rejects, sameBits, startsWith } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";
import { bytesOf, ffmpeg, makeVideo, plainSpec, selected } from "./helpers/video.js";
import { memoized } from "./helpers/memoized.js";

const test = suite("video tools");
const dir = temporaryFolder();
const at = (name: string) => join(dir, name);
const spec = plainSpec(64);
const x264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p"];
const plain = makeVideo(at("plain.mp4"), x264);

function fake(name: string, script: string): string {
  mkdirSync(at(name));
  writeFileSync(join(at(name), "ffmpeg"), `#!/bin/sh\n${script}\n`);
  chmodSync(join(at(name), "ffmpeg"), 0o755);
  return join(at(name), "ffmpeg");
}

const refusing = (...names: string[]) =>
  `for a in "$@"; do case "$a" in ${names.join("|")}) echo "Unrecognized option '\${a#-}'." >&2; exit 1;; esac; done; exec ffmpeg "$@"`;

// ---------- the tool

test("an ffmpeg before 5.1 reads the same frames, and is asked in its own words from then on", async () => {
  const old = fake("old", `echo "$*" >> '${at("calls")}'; ${refusing("-fps_mode")}`);
  for (let i = 0; i < 2; i++) {
    const { pixels, sourceFrames } = await openMedia(plain, spec, { ffmpeg: old });
    sameBits(bytesOf(pixels), selected(plain, sourceFrames), "frames");
  }
  const calls = readFileSync(at("calls"), "utf8").trim().split("\n");
  assert.equal(
    calls.map((c) => c.includes("-fps_mode")),
    [true, false, false],
  );
  const found = await inspectFfmpeg(old);
  assert.equal([found!.path, found!.frameOption], [old, "-vsync"]);
  assert.match(found!.version, /^\S+$/);
  assert.is.not((await inspectFfmpeg("ffmpeg"))!.frameOption, undefined);
  assert.is(await inspectFfmpeg(at("none")), null);
});

const failing: [what: string, script: string, code: ErrorCode, message: RegExp][] = [
  [
    "too old",
    refusing("-fps_mode", "-vsync"),
    "FFMPEG_MISSING",
    /expected ffmpeg 4\.2 or newer.*does not know the option vsync/,
  ],
  ["without an option", refusing("-seek_timestamp", "-copyts"), "FFMPEG_MISSING", /does not know the option copyts/],
  [
    "without a library",
    "echo 'ffmpeg: error while loading shared libraries: libx.so.1: no such file' >&2; exit 127",
    "FFMPEG_MISSING",
    /libx\.so\.1/,
  ],
  [
    "without a filter",
    `echo "[AVFilterGraph @ 0x1] [error] No such filter: 'settb'" >&2; exit 1`,
    "FFMPEG_MISSING",
    /without settb/,
  ],
  [
    "without a decoder",
    `echo "[error] Decoder (codec av1) not found for input stream #0:0" >&2; exit 1`,
    "FFMPEG_MISSING",
    /decoder for av1/,
  ],
  ["that says nothing", "exit 3", "FFMPEG_MISSING", /without a word/],
  ["that crashes", "kill -SEGV $$", "FFMPEG_MISSING", /crash \(SIGSEGV\)/],
  ["that is ended from outside", "kill -KILL $$", "IO", /SIGKILL from outside/],
];
for (const [what, script, code, message] of failing)
  test(`an ffmpeg ${what} is never the file's fault`, () =>
    rejects(() => openMedia(plain, spec, { ffmpeg: fake(what.replaceAll(" ", "-"), script) }), code, message, what));

test("out of time: the hint names the options", async () => {
  const slow = fake("slow", "exec sleep 60");
  const e = await openMedia(plain, spec, { ffmpeg: slow, timeoutMs: 300 }).catch((e) => e);
  assert.match(e.message, /no end within 0\.3 s/);
  assert.match(e.hint, /video\.timeoutS.*mediaTimeoutMs/);
});

test("a log without end keeps its begin and its end, and costs no more than its length", async () => {
  const script = "for (let i = 0; i < 60000; i++) process.stderr.write('line ' + i + ' ' + 'x'.repeat(40) + '\\n')";
  let lines = 0;
  const { log } = await run(
    process.execPath,
    ["-e", script],
    { timeoutMs: 60_000 },
    () => true,
    () => {
      lines++;
      return "keep";
    },
  );
  assert.is(lines, 60000);
  startsWith(log, "line 0 ", "both ends");
  startsWith(log.trimEnd().split("\n").at(-1)!, "line 59999 ", "both ends");
  assert.ok(log.length < 1 << 20, `${log.length} kept`);
});

// ---------- containers and streams

const sounds: [name: string, args: string[]][] = [
  ["a.wav", []],
  ["a.mp3", ["-c:a", "libmp3lame"]],
  ["a.flac", []],
  ["a.ogg", ["-c:a", "flac"]],
  ["a.aac", []],
  ["a.aiff", []],
  ["a.mka", []],
];
for (const [name, args] of sounds)
  test(`${name}: sound alone is no video`, async () => {
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", ...args, at(name));
    await rejects(() => openMedia(at(name), spec), "MEDIA_EMPTY", /expected a video stream/, name);
  });

test("a container off the list is named, with what to do", async () => {
  const path = makeVideo(at("raw.y4m"), ["-pix_fmt", "yuv420p"]);
  const e = await openMedia(path, spec).catch((e) => e);
  assert.is(e.code, "MEDIA_UNREADABLE");
  assert.match(e.message, /'yuv4mpegpipe', which is not on the list/);
  assert.match(e.hint, /convert it.*docs\/video\.md/);
});

test("of several streams the main one, and that there are others", async () => {
  const [small, large] = [
    makeVideo(at("s.mp4"), x264, { frames: 5 }),
    makeVideo(at("l.mp4"), x264, { frames: 12, size: "128x96" }),
  ];
  const both = (name: string, ...args: string[]) => {
    ffmpeg("-i", small, "-i", large, "-map", "0", "-map", "1", "-c", "copy", ...args, at(name));
    return at(name);
  };
  const count = async (path: string) => (await openMedia(path, spec)).notes;
  const flagged = await count(both("flag.mkv", "-disposition:v:0", "default", "-disposition:v:1", "0"));
  assert.equal([flagged.count, flagged.otherStreams], [5, 1], "its default flag");
  assert.is((await count(both("size.mkv", "-disposition:v:0", "0", "-disposition:v:1", "0"))).count, 12, "its pixels");
  const cover = makeVideo(at("c.mp4"), x264, { frames: 1, size: "256x256" });
  ffmpeg("-i", cover, "-i", small, "-map", "0", "-map", "1", "-c", "copy", at("cover.mkv"));
  assert.is((await count(at("cover.mkv"))).count, 5, "no picture that stands");
});

// ---------- damage

const spoiled = memoized(async () => {
  const bytes = readFileSync(makeVideo(at("spoiled.mp4"), [...x264, "-g", "10"], { frames: 40 }));
  for (let i = Math.floor(bytes.length * 0.4); i < bytes.length * 0.5; i++) bytes[i] = 0;
  writeFileSync(at("spoiled.mp4"), bytes);
  const { notes } = await openMedia(at("spoiled.mp4"), spec);
  const bad = notes.lost + (notes.damaged ?? 0);
  return { notes, bad, share: bad / (notes.count + notes.lost) };
});

test("damage is counted, and falls under a bound above it", async () => {
  const { notes, bad, share } = await spoiled();
  assert.ok(bad > 0 && bad < 40 && notes.decodeErrors > 0, JSON.stringify(notes));
  // Since ffmpeg 7 its decoder runs beside its filters: which frames a complaint is about is known to a few frames.
  const above = Math.min(share + 0.2, 1);
  assert.is((await openMedia(at("spoiled.mp4"), spec, { maxLost: above })).notes.count, notes.count);
});

for (const [what, part] of [
  ["0", 0],
  ["half of it", 0.5],
] as const)
  test(`damage is refused under a bound of ${what}`, async () => {
    const maxLost = (await spoiled()).share * part;
    await rejects(
      () => openMedia(at("spoiled.mp4"), spec, { maxLost }),
      "MEDIA_UNREADABLE",
      /lost and \d+ damaged of/,
      `${maxLost}`,
    );
  });

test("a clock too coarse for the frames is no damage", async () => {
  const path = at("close.mp4");
  const close = [
    "-vf",
    "settb=1/90000,setpts='N*9000+if(mod(N,3),-8000,0)'",
    "-fps_mode",
    "passthrough",
    "-enc_time_base",
    "1/90000",
  ];
  makeVideo(path, [...close, ...x264], { frames: 30 });
  const { notes } = await openMedia({ path, sample: { frames: 30 } }, spec, { maxLost: 0 });
  assert.equal(notes, { count: 30, decodeErrors: 0, lost: 0, rotated: false, repeated: 0 });
});

// ---------- content

test("a file that is replaced while it is read: the new content under its own key, or an error", async () => {
  const [a, b] = [at("A.mp4"), at("B.mp4")];
  copyFileSync(plain, a);
  makeVideo(b, ["-vf", "negate", ...x264]);
  copyFileSync(a, at("v.mp4"));
  const key = await mediaKey(b, spec);
  const swap = `[ -e '${at("done")}' ] || { cp '${b}' '${at("new")}'; mv '${at("new")}' '${at("v.mp4")}'; : > '${at("done")}'; }; exec ffmpeg "$@"`;
  const opened = await openMedia(at("v.mp4"), spec, { ffmpeg: fake("swapping", swap) });
  assert.is(opened.key, key);
  sameBits(opened.pixels.data, (await openMedia(b, spec)).pixels.data, "B");
  const always = `cp '${a}' '${at("new")}'; mv '${at("new")}' '${at("v.mp4")}'; exec ffmpeg "$@"`;
  await rejects(
    () => openMedia(at("v.mp4"), spec, { ffmpeg: fake("restless", always) }),
    "MEDIA_UNREADABLE",
    /changes while it is read/,
    "always",
  );
});

test("a digest is of the file as it is, and read once for many", async () => {
  writeFileSync(at("d"), "one");
  const [first, second] = await Promise.all([hashFile(at("d")), hashFile(at("d"))]);
  assert.is(first, second);
  writeFileSync(at("d2"), "two");
  renameSync(at("d2"), at("d"));
  assert.is.not(await hashFile(at("d")), first);
});

test("what many ask for at once is done once; one who leaves takes nothing from the others", async () => {
  const shared = new Shared<number>();
  let [begun, ended] = [0, false];
  const work = (signal: AbortSignal) => {
    begun++;
    return new Promise<number>((resolve, reject) => {
      const timer = setTimeout(() => resolve(7), 50);
      signal.addEventListener("abort", () => {
        ended = true;
        clearTimeout(timer);
        reject(signal.reason);
      });
    });
  };
  const leaving = new AbortController();
  const all = [
    shared.run("a", leaving.signal, work),
    shared.run("a", undefined, work),
    shared.run("a", undefined, work),
  ];
  leaving.abort(new Error("left"));
  assert.is(await all[0]!.catch((e: Error) => e.message), "left");
  assert.equal(await Promise.all(all.slice(1)), [7, 7]);
  assert.is(begun, 1);
  ended = false;
  const alone = new AbortController();
  const lonely = shared.run("b", alone.signal, work).catch((e: Error) => e.message);
  alone.abort(new Error("nobody"));
  assert.equal([await lonely, ended], ["nobody", true], "nobody waits any more");
  const failing = [1, 2].map(() =>
    shared.run("c", undefined, async () => Promise.reject(new Error(`fault ${++begun}`))),
  );
  assert.equal(await Promise.all(failing.map((p) => p.catch((e: Error) => e.message))), ["fault 3", "fault 3"]);
});

// ---------- pictures

test("a folder: what is no frame is left out and told, what looks like one and is none is refused", async () => {
  mkdirSync(at("frames"));
  const file = (name: string) => join(at("frames"), name);
  const picture = () => sharp({ create: { width: 64, height: 64, channels: 3, background: "red" } });
  for (const name of ["1.jpg", "2.PNG", "3.jpeg"])
    await picture()
      .toFormat(/png/i.test(name) ? "png" : "jpeg")
      .toFile(file(name));
  copyFileSync(file("1.jpg"), file("4")); // by its content
  const strays = ["._1.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt", "meta.json"];
  for (const name of strays) writeFileSync(file(name), "something");
  mkdirSync(file("more"));
  const { notes } = await openMedia(at("frames"), plainSpec(64, { frames: 4 }));
  assert.is(notes.count, 4);
  assert.equal([...notes.leftOut!].sort(), [...strays, "more"].sort());
  await picture().webp().toFile(file("5.webp"));
  await rejects(() => openMedia(at("frames"), spec), "MEDIA_UNREADABLE", /5\.webp.*got a WebP picture/, "webp");
  renameSync(file("5.webp"), at("5.webp"));
  writeFileSync(file("6.jpg"), "no picture");
  await rejects(
    () => openMedia(at("frames"), plainSpec(64, { frames: 5 })),
    "MEDIA_UNREADABLE",
    /6\.jpg/,
    "text named so",
  );
});

/** By hand: what Pillow's convert("RGB") says of one grey, or of four inks. */
test("16-bit grey is cut off at 255", async () => {
  const greys = Uint16Array.of(0, 1, 254, 255, 256, 1000, 40_000, 65_535);
  const raw = { width: 8, height: 1, channels: 1 as const };
  await sharp(greys, { raw }).toColourspace("grey16").png().toFile(at("grey.png"));
  const expected = [0, 1, 254, 255, 255, 255, 255, 255].flatMap((v) => [v, v, v]);
  assert.equal([...(await readImage(at("grey.png"))).data], expected);
});

// a JPEG of one colour: red and the like are what they are, whatever profile a printer has
for (const background of ["#ff0000", "#0000ff"])
  test(`inks are taken from what black leaves: ${background}`, async () => {
    const one = sharp({ create: { width: 16, height: 16, channels: 3, background } });
    const bytes = await one.toColourspace("cmyk").jpeg({ quality: 100 }).toBuffer();
    writeFileSync(at("inks.jpg"), bytes);
    const plates = await sharp(bytes, { ignoreIcc: true })
      .pipelineColourspace("cmyk")
      .toColourspace("cmyk")
      .raw()
      .toBuffer();
    const left = 255 - plates[3]!;
    const got = [...(await readImage(at("inks.jpg"))).data.subarray(0, 3)];
    assert.equal(
      got,
      [0, 1, 2].map((c) => left - Math.round((plates[c]! * left) / 255)),
      background,
    );
  });

test.run();
