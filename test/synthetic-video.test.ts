// Clips as files: what is read back is what was drawn, and the method's looks take one shot each.
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { loadModel, readExamples, readSamples } from "../src/index.js";
import { framesOfShot, shots, size } from "../src/synthetic/clip.js";
import { initCheckpoint } from "../src/synthetic/init-checkpoint.js";
import {
  clipFrames,
  shotMedia,
  videoName,
  type WorldSet,
  worldSamples,
  writeWorld,
  writeWorldExamples,
} from "../src/synthetic/world-samples.js";
import { textOf } from "../src/synthetic/clip-words.js";
import { writeClip } from "../src/synthetic/clip-video.js";
import { worldSpec } from "../src/synthetic/vocabulary.js";
import { exists, includes, maxAbs, ordered, rejects, sameBytes } from "./helpers/assert.js";
import { all } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";
import { shared } from "./helpers/shared.js";
import { selected } from "./helpers/video.js";

const test = suite("world-video");
const folder = temporaryFolder();
const set: WorldSet = { name: "train", seed: 4, clips: 3 };

test.before(async () => {
  await writeWorld(folder, set);
});
const untrained = shared(async () => {
  await initCheckpoint(join(folder, "model"), worldSpec);
  return loadModel(join(folder, "model"));
});
test.after(async () => {
  await (await untrained()).dispose();
});

const file = (index: number) => join(folder, "videos", videoName(set, index));

test("frames read back from the file are those drawn, within what a codec may change", () => {
  for (let i = 0; i < set.clips; i++) {
    const drawn = clipFrames(set, i);
    const read = selected(
      file(i),
      Array.from({ length: shots * framesOfShot }, (_, k) => k),
    );
    assert.is(read.length, drawn.length);
    const off = maxAbs(Int16Array.from(read, (x, k) => x - drawn[k]!));
    assert.ok(off <= 2, `off by ${off} of 255`);
  }
});

test("a look at a file sees what a look at the frames sees: one shot", async () => {
  const model = await untrained();
  for (let shot = 0; shot < shots; shot++) {
    const fromFile = await model.preprocess({ path: file(1), sample: { part: [shot, shots] } });
    const inMemory = await model.preprocess(shotMedia(set, 1, shot));
    assert.equal(
      [...fromFile.sourceFrames],
      [0, 1, 2, 3].map((k) => shot * framesOfShot + k),
    );
    assert.equal([...inMemory.sourceFrames], [...fromFile.sourceFrames]);
    const [a, b] = [fromFile.pixels.data as Float32Array, inMemory.pixels.data as Float32Array];
    const off = maxAbs(a.map((x, k) => x - b[k]!));
    assert.ok(off <= 2 / 255 / 0.26, `off by ${off}`);
  }
});

test("all stretches of a small file are decoded in one pass, and anew when the file is another", async () => {
  const model = await untrained();
  const passes = join(folder, "passes");
  const counting = join(folder, "counting.sh");
  writeFileSync(counting, `#!/bin/sh\necho >> ${passes}\nexec ffmpeg "$@"\n`, { mode: 0o755 });
  const path = join(folder, "changing.mp4");
  const before = process.env.ISR_DPO_FFMPEG;
  process.env.ISR_DPO_FFMPEG = counting;
  try {
    const counts = [];
    for (const index of [0, 2]) {
      copyFileSync(file(index), path);
      for (const shot of [3, 0, 2, 1]) {
        const { pixels, sourceFrames } = await model.preprocess({ path, sample: { part: [shot, shots] } });
        const drawn = await model.preprocess(shotMedia(set, index, shot));
        assert.is(sourceFrames[0], shot * framesOfShot);
        ordered(
          maxAbs((pixels.data as Float32Array).map((x, k) => x - (drawn.pixels.data as Float32Array)[k]!)),
          "<",
          0.04,
        );
      }
      counts.push(readFileSync(passes, "utf8").length);
    }
    assert.equal(counts, [1, 2]);
    await model.preprocess({ path, sample: { part: [0, 2] } }); // other stretches
    assert.is(readFileSync(passes, "utf8").length, 3);
  } finally {
    if (before === undefined) delete process.env.ISR_DPO_FFMPEG;
    else process.env.ISR_DPO_FFMPEG = before;
  }
});

test("the same set writes the same files", async () => {
  const again = join(folder, "again");
  await writeWorld(again, set);
  for (const name of ["samples.jsonl", "truth.jsonl", `videos/${videoName(set, 2)}`])
    sameBytes(readFileSync(join(folder, name)), readFileSync(join(again, name)), name);
});

test("samples.jsonl is what a run reads", async () => {
  const rows = await all(readSamples(join(folder, "samples.jsonl")));
  const expected = worldSamples(set).map(({ id, video, question }) => ({ id, video, question }));
  assert.equal(
    rows.map(({ id, video, question }) => ({ id, video: video.split("/").at(-1)!, question })),
    expected,
  );
  const truth = readFileSync(join(folder, "truth.jsonl"), "utf8").trim().split("\n");
  assert.is(truth.length, expected.length);
});

test("supervised examples: clips of one shot, and their true answers", async () => {
  const model = await untrained();
  const dir = join(folder, "examples");
  const rows = await all(readExamples(await writeWorldExamples(dir, set)));
  const samples = worldSamples(set);
  assert.is(rows.length, samples.length);
  for (const [i, { answer, prompt }] of rows.entries()) {
    const { look, asked, video, shot } = samples[i]!;
    assert.is(answer, textOf(asked.colour === null ? look : look.filter((t) => t.colour === asked.colour)));
    includes(JSON.stringify(prompt), asked.text);
    const path = join(dir, "videos", video);
    const one = await model.preprocess(path);
    assert.is(one.sourceFrames.length, framesOfShot);
    const drawn = await model.preprocess(shotMedia(set, i, shot));
    ordered(
      maxAbs((one.pixels.data as Float32Array).map((x, k) => x - (drawn.pixels.data as Float32Array)[k]!)),
      "<",
      0.04,
    );
  }
});

test("Ctrl-C of a terminal does not reach the ffmpeg that writes a clip, and a signal that ends it is named", async () => {
  const before = process.env.ISR_DPO_FFMPEG;
  const frames = new Uint8Array(framesOfShot * size * size * 3);
  try {
    const groups = join(folder, "groups.sh"); // who it is, to itself
    writeFileSync(groups, `#!/bin/sh\ncat /proc/self/stat > ${folder}/stat\nkill -INT $$\n`, { mode: 0o755 });
    process.env.ISR_DPO_FFMPEG = groups;
    await rejects(
      () => writeClip(join(folder, "x.mp4"), frames),
      "IO",
      /could not write it: it was ended by SIGINT$/,
      "a signal",
    );
    const group = (stat: string) => stat.slice(stat.lastIndexOf(")") + 2).split(" ")[2];
    assert.is.not(group(readFileSync(join(folder, "stat"), "utf8")), group(readFileSync("/proc/self/stat", "utf8")));
  } finally {
    if (before === undefined) delete process.env.ISR_DPO_FFMPEG;
    else process.env.ISR_DPO_FFMPEG = before;
  }
});

test("what ffmpeg cannot do is said", async () => {
  const frames = new Uint8Array(framesOfShot * size * size * 3);
  await rejects(
    () => writeClip(join(folder, "nowhere/x.mp4"), frames),
    "IO",
    /x\.mp4: ffmpeg could not write it/,
    "no folder",
  );
  const before = process.env.ISR_DPO_FFMPEG;
  try {
    process.env.ISR_DPO_FFMPEG = join(folder, "no-ffmpeg");
    await rejects(() => writeClip(join(folder, "x.mp4"), frames), "FFMPEG_MISSING", /no-ffmpeg/, "no program");
    const poor = join(folder, "poor.sh"); // an ffmpeg without the first encoder
    writeFileSync(
      poor,
      '#!/bin/sh\ncase "$*" in *libx264rgb*) echo "Unknown encoder" >&2; exit 1;; esac\nexec ffmpeg "$@"\n',
      {
        mode: 0o755,
      },
    );
    process.env.ISR_DPO_FFMPEG = poor;
    await writeClip(join(folder, "x.mp4"), clipFrames(set, 0));
  } finally {
    if (before === undefined) delete process.env.ISR_DPO_FFMPEG;
    else process.env.ISR_DPO_FFMPEG = before;
  }
  exists(join(folder, "x.mp4"));
  const read = selected(join(folder, "x.mp4"), [0]);
  const drawn = clipFrames(set, 0).subarray(0, read.length);
  const mean = read.reduce((a, x, k) => a + Math.abs(x - drawn[k]!), 0) / read.length;
  assert.ok(mean < 12, `off by ${mean} on average`); // half the colour resolution
});

test.run();
