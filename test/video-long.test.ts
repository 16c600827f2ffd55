// Long files: only the parts around the frames that are wanted are decoded, to the bytes of decoding everything; windows and
// rates by the times of frames; any number of frames.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { type DecodeOptions, decode, probe } from "../src/video/ffmpeg.js";
import { openMedia } from "../src/video/load-media.js";
import { linspace, readSampling, sampleIndices } from "../src/video/frame-sampling.js";
import { partsOf, selection } from "../src/video/ffmpeg-select.js";
import { begunBy, evenly, timelineOf } from "../src/video/timeline.js";
import { rejects, sameBits } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";
import { ffmpeg, makeVideo, plainSpec, turnedCopy } from "./helpers/video.js";
import { memoized } from "./helpers/memoized.js";

const test = suite("video long");
const dir = temporaryFolder();
const at = (name: string) => join(dir, name);
const options: DecodeOptions = { maxBytes: 1 << 28, timeoutMs: 60_000, threads: 2 };
const x264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];
const openGroups = [
  "-c:v",
  "libx264",
  "-x264-params",
  "open-gop=1:keyint=30:bframes=3:scenecut=0",
  "-pix_fmt",
  "yuv420p",
];
const x265 = ["-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];
const frames = 640;

/** A file made once, of moving colours or from another one. */
function made(name: string, args: string[], from?: string): string {
  if (existsSync(at(name))) return at(name);
  if (from === undefined) return makeVideo(at(name), args, { frames });
  ffmpeg(...args.slice(0, args.indexOf("|")), "-i", from, ...args.slice(args.indexOf("|") + 1), at(name));
  return at(name);
}

const plain = () => made("plain.mp4", [...x264, "-g", "30"]);
const open = () => made("open.mp4", openGroups);
type Kind = [name: string, make: () => string];
const kinds: Kind[] = [
  ["open groups, B-frames", open],
  ["open groups in Matroska", () => made("open.mkv", openGroups)],
  [
    "a varying rate",
    () =>
      made("varied.mkv", [
        "-vf",
        "setpts='PTS+if(gt(mod(N,60),30),0.05/TB,0)'",
        "-fps_mode",
        "passthrough",
        ...x264,
        "-g",
        "30",
      ]),
  ],
  ["an edit list", () => made("edited.mp4", ["-ss", "3.2", "|", "-c", "copy"], open())],
  ["a start offset", () => made("offset.mp4", ["-itsoffset", "3.7", "|", "-c", "copy"], plain())],
  ["a turned one", () => turnedCopy(plain(), at("turned.mp4"))],
  ["a transport stream", () => made("stream.ts", ["|", "-c", "copy", "-output_ts_offset", "1000"], open())],
  [
    "VP9",
    () =>
      made("vp9.webm", [
        "-c:v",
        "libvpx-vp9",
        "-deadline",
        "realtime",
        "-cpu-used",
        "8",
        "-pix_fmt",
        "yuv420p",
        "-g",
        "40",
      ]),
  ],
  [
    "HEVC",
    () => made("hevc.mp4", [...x265, "-x265-params", "log-level=none:pools=none:keyint=30:open-gop=1:bframes=3"]),
  ],
  ["MPEG-4 in AVI", () => made("four.avi", ["-c:v", "mpeg4", "-g", "30"])],
  ["all frames for themselves", () => made("motion.mov", ["-c:v", "mjpeg", "-pix_fmt", "yuvj420p"])],
  [
    "interlaced",
    () => made("interlaced.mp4", ["-vf", "interlace", "-c:v", "libx264", "-flags", "+ildct+ilme", "-g", "30"]),
  ],
];

const choices: [string, (n: number) => Int32Array][] = [
  ["spread", (n) => linspace(n - 1, 3)],
  ["a stretch", (n) => linspace(20, 5).map((k) => (n >> 1) + k)],
  ["the last", (n) => Int32Array.of(n - 1)],
];
for (const [name, make] of kinds) {
  const file = memoized(make);
  for (const [what, choose] of choices)
    test(`${name}: a part of the file gives the frames of the whole: ${what}`, async () => {
      const path = file();
      const probed = await probe(path, options);
      const some = await decode(path, probed, ({ count }) => choose(count), options);
      const all = await decode(path, { ...probed, stamps: undefined }, ({ count }) => choose(count), options);
      assert.ok(some.decoded < all.decoded && some.seeks > 0, `${what}: ${some.decoded} of ${all.decoded}`);
      assert.is(some.fallback, undefined);
      assert.equal([some.count, [...some.indices]], [all.count, [...all.indices]]);
      for (const [i, frame] of some.frames.entries()) sameBits(frame.data, all.frames[i]!.data, `${what} ${i}`);
      for (const { errors, lost, damaged } of [some, all]) assert.equal([errors, lost, damaged], [0, 0, 0], what);
    });
}

test("the beginning of a long file ends early, without a seek", async () => {
  const probed = await probe(plain(), options);
  const got = await decode(plain(), probed, () => linspace(99, 8), options);
  assert.is(got.seeks, 0);
  assert.ok(got.decoded <= 110, `${got.decoded} decoded`);
  assert.is(got.count, frames);
});

test("times that are not those of the frames: all is decoded, and that is told", async () => {
  const probed = await probe(open(), options);
  const { pts, keys } = probed.stamps!;
  const shifted = { ...probed, stamps: { pts: pts.map((t, i) => (i === 560 ? t + 1 : t)), keys } };
  const got = await decode(open(), shifted, () => Int32Array.of(561), options);
  assert.is(got.decoded, frames);
  assert.match(got.fallback!, /not where the container says/);
  const right = await decode(open(), probed, () => Int32Array.of(561), options);
  sameBits(got.frames[0]!.data, right.frames[0]!.data, "frame 561");
});

test("parts: near ones are one, too many are the whole file", () => {
  const stamps = {
    pts: Float64Array.from({ length: 3000 }, (_, i) => i),
    keys: Int32Array.from({ length: 30 }, (_, i) => i * 100),
  };
  assert.equal(partsOf(stamps, [950]), [{ begin: 800, sure: 900, wanted: [950] }]);
  assert.equal(partsOf(stamps, [950, 980, 1010]), [{ begin: 800, sure: 900, wanted: [950, 980, 1010] }]);
  assert.is(partsOf(stamps, [0, 2500])!.length, 2);
  assert.is(
    partsOf(
      stamps,
      Array.from({ length: 20 }, (_, i) => i * 150),
    ),
    undefined,
  );
  assert.is(partsOf({ ...stamps, pts: stamps.pts.slice(0, 200) }, [150]), undefined, "a short one");
});

// ---------- any number of frames

/** How deep parentheses go: ffmpeg refuses more than 100. */
function depth(text: string): number {
  let [now, most] = [0, 0];
  for (const c of text) {
    if (c === "(") most = Math.max(most, ++now);
    if (c === ")") now--;
  }
  return most;
}

test("a selection of 4096 frames is neither deep nor long, and chooses what it names", () => {
  const wanted = [...linspace(9_999_999, 4096)];
  const text = selection("n", wanted);
  assert.ok(depth(text) < 20, `${depth(text)} deep`);
  assert.ok(text.length < 100_000, `${text.length} characters`);
  const names = {
    between: (v: number, a: number, b: number) => v >= a && v <= b,
    eq: (a: number, b: number) => a === b,
  };
  const chooses = new Function("n", "eq", "between", "lt", "iff", `return ${text.replaceAll("if(", "iff(")}`);
  const isIn = (n: number) =>
    Number(
      chooses(
        n,
        names.eq,
        names.between,
        (a: number, b: number) => a < b,
        (c: boolean, a: unknown, b: unknown) => (c ? a : b),
      ),
    ) > 0;
  for (const n of wanted.slice(0, 50).concat(wanted.at(-1)!))
    assert.equal([isIn(n), isIn(n + 1)], [true, false], `${n}`);
  assert.is(selection("n", [4, 5, 6, 9]), "between(n,4,6)+eq(n,9)");
});

for (const wish of [101, 640, 1000])
  test(`every frame of a clip, and more than there are: ${wish}`, async () => {
    const { sourceFrames } = await openMedia({ path: plain(), sample: { frames: wish } }, plainSpec(64));
    assert.equal([...sourceFrames], [...linspace(frames - 1, wish)], `${wish}`);
  });

test("all looks at a clip are read in one pass", async () => {
  const spec = plainSpec(64);
  for (const index of [12, 0, 7]) {
    const { sourceFrames, pixels } = await openMedia(
      { path: plain(), sample: { frames: 4, part: [index, 13] } as never },
      spec,
    );
    const expected = sampleIndices(evenly(frames, 10), { frames: 4, part: [index, 13] }, "x");
    assert.equal([...sourceFrames], [...expected]);
    const alone = await decode(plain(), await probe(plain(), options), () => expected, options);
    const bytes = Uint8Array.from({ length: 64 * 64 }, (_, i) => Math.round((pixels.data[i] as number) * 255));
    sameBits(
      bytes,
      alone.frames[0]!.data.filter((_, i) => i % 3 === 0),
      `red of look ${index}`,
    );
  }
});

// ---------- times

const rule = (sample: object) => readSampling("sample", sample, { frames: 4 });
/** Ten pictures two seconds apart, then forty a tenth of a second apart. */
const screen = timelineOf(
  [...Array.from({ length: 10 }, (_, i) => i * 20), ...Array.from({ length: 40 }, (_, i) => 200 + i)],
  0.1,
  undefined,
);

const windows: [sample: object, expected: number[]][] = [
  [{ window: [0, 6] }, [0, 0, 1, 2]],
  [{ window: [20, 24] }, [10, 23, 36, 49]],
  [{ window: [3, 7] }, [1, 1, 2, 3]], // what is on the screen at 3 s began at 2 s
  [{ window: [5, 5.5] }, [2, 2, 2, 2]],
  [{ window: [18, 999] }, [9, 22, 35, 49]],
  [{ fps: 0.5 }, [0, 4, 8, 49]],
  [{ window: [20, 24], fps: 2 }, [10, 20, 30, 45]],
  [{ fps: 1000 }, [0, 16, 32, 49]],
];
for (const [sample, expected] of windows)
  test(`a varying rate: ${JSON.stringify(sample)}`, () => {
    const got = [...sampleIndices(screen, rule(sample), "x")];
    assert.equal(got, expected);
  });

/** The same with a rate of ten, so that the last picture stays a tenth of a second. */
const exact = timelineOf(screen.times!, 1, 10);
// of 24 s
const stretches: [index: number, of: number, expected: number[], what: string][] = [
  [0, 2, [0, 1, 3, 5], "pictures that begin in the first half"],
  [1, 2, [6, 20, 34, 49], "and in the second"],
  [5, 6, [10, 23, 36, 49], "the fast ones alone"],
  [1, 24, [0, 0, 0, 0], "none begins in it"],
  [2, 24, [1, 1, 1, 1], "one"],
  [20, 24, [10, 13, 16, 19], "a second of fast ones"],
  [23, 24, [40, 43, 46, 49], "the last"],
];
for (const [index, of, expected, what] of stretches)
  test(`a varying rate: stretch ${index} of ${of} by its seconds, not by its frames: ${what}`, () => {
    const part = { part: [index, of] };
    assert.equal([...sampleIndices(exact, rule(part), "x")], expected);
    const from = Math.floor((50 * index) / of);
    const to = Math.max(Math.floor((50 * (index + 1)) / of), from + 1);
    const even = linspace(to - from - 1, 4).map((k) => from + k);
    assert.equal([...sampleIndices(evenly(50, 10), rule(part), "x")], [...even], "of one rate");
  });

test("a varying rate: a window beyond the end", () =>
  rejects(
    () => sampleIndices(screen, rule({ window: [30, 40] }), "x"),
    "INVALID_ARGUMENT",
    /window.*30 s of 2\d\.\d\d s/,
    "beyond",
  ));

test("times to the millisecond are still one rate", () => {
  const clip = timelineOf(
    Array.from({ length: 90 }, (_, i) => Math.round((i * 1000) / 30)),
    0.001,
    30,
  );
  assert.is(clip.times, undefined);
  assert.equal([...sampleIndices(clip, rule({ window: [1, 2] }), "x")], [30, 39, 49, 59]);
});

test("the frame on the screen", () => {
  const times = Float64Array.of(0, 1, 1, 4);
  assert.equal(
    [-1, 0, 0.5, 1, 3.9, 4, 9].map((t) => begunBy(times, t)),
    [0, 1, 1, 3, 3, 4, 4],
  );
});

test("a file of varying rate: frames shown in the window", async () => {
  const path = at("slides.mkv");
  const slow = "setpts='if(lt(N,30),N*2,60+(N-30)/10)/TB'";
  makeVideo(path, ["-vf", slow, "-fps_mode", "passthrough", ...x264], { frames: 90 });
  const read = async (window: [number, number]) => [
    ...(await openMedia({ path, sample: { frames: 3, window } }, plainSpec(64))).sourceFrames,
  ];
  assert.equal(await read([0, 20]), [0, 4, 9]);
  assert.equal(await read([61, 63]), [40, 49, 59]);
  const { stamps } = await probe(path, options);
  assert.is(stamps, undefined, "two of its frames have one time, after rounding");
});

test.run();
