// Half of a download: containers that say how long they are, and what decoders do not complain of. Whole files are whole,
// whatever else is in them.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { openMedia } from "../src/video/load-media.js";
import { rejects } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";
import { ffmpeg, makeVideo, plainSpec } from "./helpers/video.js";
import { memoized } from "./helpers/memoized.js";

const test = suite("video short");
const dir = temporaryFolder();
const at = (name: string) => join(dir, name);
const spec = plainSpec(64);
const x264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "20"];
const sound = (seconds: number) => ["-f", "lavfi", "-i", `sine=duration=${seconds}`];
const frames = 400;

/** A clip of 40 s, with `seconds` of sound. */
function made(name: string, args: readonly string[], seconds = 0): string {
  if (seconds === 0) return makeVideo(at(name), [...args], { frames });
  const video = makeVideo(at(`video-${name}.mkv`), [...args], { frames });
  ffmpeg("-i", video, ...sound(seconds), "-c:v", "copy", "-c:a", "aac", at(name));
  return at(name);
}

function cut(path: string, share: number): string {
  const bytes = readFileSync(path);
  const short = path.replace(/\.(\w+)$/, `-${share}.$1`);
  writeFileSync(short, bytes.subarray(0, Math.floor(bytes.length * share)));
  return short;
}

const whole = { decodeErrors: 0, lost: 0, rotated: false, repeated: 0 };
const fast = [...x264, "-movflags", "+faststart"];
const announcing: [name: string, args: readonly string[], seconds?: number][] = [
  ["matroska.mkv", x264],
  ["sound.mkv", x264, 40],
  ["webm.webm", ["-c:v", "libvpx", "-b:v", "100k"]],
  ["flash.flv", x264],
  ["sound.flv", x264, 40],
  ["ivf.ivf", ["-c:v", "libvpx", "-b:v", "100k"]],
  ["mxf.mxf", ["-c:v", "mpeg2video", "-r", "25"]],
  ["begin.mp4", fast],
  ["avi.avi", ["-c:v", "mpeg4"]],
];
for (const [name, args, seconds] of announcing) {
  const file = memoized(async () => {
    const path = made(name, args, seconds);
    return { path, full: (await openMedia(path, spec, { maxLost: 0 })).notes };
  });
  test(`${name}, whole: nothing is missing`, async () => {
    assert.equal({ ...(await file()).full, count: 0, seeks: 0 }, { ...whole, count: 0, seeks: 0 });
  });
  for (const share of [0.5, 0.9])
    test(`${name}, cut off at ${share}: what is missing is counted, for a few frames and for many`, async () => {
      const { path, full } = await file();
      const short = cut(path, share);
      for (const sample of [{ frames: 2 }, { frames: 64 }]) {
        const { count, lost } = (await openMedia({ path: short, sample }, spec)).notes;
        assert.ok(
          lost > 0 && Math.abs(count + lost - full.count) <= 3,
          `${share}: ${count} + ${lost} of ${full.count}`,
        );
      }
      const refused = () => openMedia(short, spec, { maxLost: 0 });
      await rejects(refused, "MEDIA_UNREADABLE", /expected at most 0 % of its frames to be lost/, name);
    });
}

const longer: [what: string, name: string, make: (path: string) => void][] = [
  ["sound that goes on", "more.mkv", () => made("more.mkv", x264, 55)],
  ["sound that goes on, in FLV", "more.flv", () => made("more.flv", x264, 55)],
  ["sound that ends before", "less.flv", () => made("less.flv", x264, 20)],
  ["sound that goes on, in MP4", "more.mp4", () => made("more.mp4", x264, 55)],
  [
    "frames that begin late",
    "late.mkv",
    (path) => ffmpeg("-itsoffset", "4", "-i", made("l.mkv", x264), "-c", "copy", path),
  ],
  [
    "a last picture that stays",
    "stays.mkv",
    (path) =>
      makeVideo(path, ["-vf", "setpts='PTS+if(gte(N,399),6/TB,0)'", "-fps_mode", "passthrough", ...x264], { frames }),
  ],
  [
    "subtitles that go on",
    "words.mkv",
    (path) => {
      writeFileSync(at("words.srt"), "1\n00:00:01,000 --> 00:00:55,000\nStill here.\n");
      ffmpeg("-i", made("w.mkv", x264), "-i", at("words.srt"), "-c:v", "copy", "-c:s", "srt", path);
    },
  ],
  ["no length at all", "live.mkv", (path) => makeVideo(path, [...x264, "-live", "1", "-f", "matroska"], { frames })],
  ["pieces", "pieces.mp4", (path) => makeVideo(path, [...x264, "-movflags", "frag_keyframe+empty_moov"], { frames })],
  [
    "three seconds of a longer one",
    "part.mkv",
    (path) => ffmpeg("-ss", "3", "-t", "3", "-i", made("p.mkv", x264), "-c", "copy", path),
  ],
];
for (const [what, name, make] of longer) {
  const file = memoized(() => make(at(name)));
  for (const n of [2, 64])
    test(`whole: ${what}, ${n} frames`, async () => {
      file();
      const { notes } = await openMedia({ path: at(name), sample: { frames: n } }, spec, { maxLost: 0 });
      const { decodeErrors, lost, damaged } = notes;
      assert.equal([decodeErrors, lost, damaged], [0, 0, undefined], `${n} frames`);
    });
}

test.run();
