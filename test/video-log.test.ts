// The log of a decode: newer releases of ffmpeg read, decode and filter in threads of their own, which write in any order that
// the way of a frame allows. What is said of the file must not depend on it.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { faultsOf, LogReader } from "../src/video/decode-faults.js";
import type { Probe } from "../src/video/video-stream.js";

const test = suite("video log");
const frames = 40;
const pts = Float64Array.from({ length: frames }, (_, i) => i * 512);
const keys = Int32Array.of(0, 10, 20, 30);
const facts = { stream: 0, others: 0, codec: "h264", format: "mov,mp4,m4a,3gp,3g2,mj2", fps: 30, tick: 1 / 15360 };
const probed: Probe = {
  ...{ ...facts, packets: frames, announced: frames, missing: 0, pixels: 4096, rotated: false, rough: false, lead: 0 },
  ...{ times: pts, stamps: { pts, keys } },
};

interface Words {
  packet: (i: number) => string[];
  decoded: (i: number) => string[];
}

const bad = "[h264 @ 0x55d8] [error] Invalid NAL unit size (0 > 140).";
const corrupt = "[vist#0:0/h264 @ 0x56] [dec:h264 @ 0x57] [warning] corrupt decoded frame";
const container = "[mov,mp4,m4a,3gp,3g2,mj2 @ 0x5591] [error] stream 0, offset 0x2f1: partial sample";
const shown = (i: number) => [`[info] ${i}.000000`, `[info] ${i * 512}.000000`];
const d = "duration:512 duration_time:0.0333333";

const releases: Record<string, Words> = {
  "one thread (5.1)": {
    packet: (i) => [
      `[info] demuxer -> ist_index:1 type:audio next_dts:1 pkt_pts:${i} ${d} off:0 off_time:0`,
      `[info] demuxer -> ist_index:0 type:video next_dts:1 pkt_pts:${i * 512} ${d} off:0 off_time:0`,
      `[info] demuxer+ffmpeg -> ist_index:0 type:video pkt_pts:${i * 512} ${d} off:0 off_time:0`,
    ],
    decoded: (i) => [`[info] decoder -> ist_index:0 type:video frame_pts:${i * 512} keyframe:0 time_base:1/15360`],
  },
  "a thread for each stage (7.1)": {
    packet: (i) => [
      `[vist#0:0/h264 @ 0x56] [info] demuxer -> ist_index:0:0 type:video pkt_pts:${i * 512} ${d}`,
      `[vist#0:0/h264 @ 0x56] [info] demuxer+tsfixup -> ist_index:0:0 type:video pkt_pts:${i * 512} ${d}`,
    ],
    decoded: (i) => [
      `[vist#0:0/h264 @ 0x56] [dec:h264 @ 0x57] [info] decoder -> pts:${i * 512} pts_time:1 ${d} keyframe:0 frame_type:3`,
    ],
  },
};

/** What each thread writes, by frame: complaints stand before the frame or packet that they are about. */
function threads({ packet, decoded }: Words): [string[][], string[][], string[][]] {
  const all = Array.from({ length: frames }, (_, i) => i);
  return [
    all.map((i) => [...(i === 33 ? [container] : []), ...packet(i)]),
    all.map((i) => [...(i === 14 ? [bad] : []), ...(i === 27 ? [corrupt] : []), ...decoded(i)]),
    all.map((i) => [...shown(i), "[info] filter -> pts:0 pts_time:0 exact:0 time_base:1/15"]),
  ];
}

/** The lines with each thread up to `ahead` frames before the next; `random` in [0, 1) chooses. */
function woven(stages: readonly string[][][], ahead: number, random: () => number): string[] {
  const lines = ["[info] Stream mapping:"];
  const done = stages.map(() => 0);
  const may = (t: number) =>
    done[t]! < frames &&
    (t === 0 || done[t]! < done[t - 1]!) &&
    (t + 1 === done.length || done[t]! - done[t + 1]! < ahead);
  while (done.some((n) => n < frames)) {
    const open = done.flatMap((_, t) => (may(t) ? [t] : []));
    const t = open[Math.floor(random() * open.length)]!;
    lines.push(...stages[t]![done[t]!++]!);
  }
  return lines;
}

function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 16807) % 2147483647;
    return state / 2147483647;
  };
}

function read(lines: readonly string[], over: Partial<Probe> = {}) {
  const log = new LogReader({ ...probed, ...over });
  const kept = lines.filter((line) => log.line(line) === "keep");
  return { kept, places: log.faults.map(({ at }) => at).sort((a, b) => a - b), faults: faultsOf(probed, log, frames) };
}

for (const [release, words] of Object.entries(releases))
  test(`${release}: faults have their frames in whatever order the threads write`, () => {
    const expected = { errors: 2, lost: 0, damaged: 6 + 3 }; // 14 to 19 and 27 to 29, each to the next key frame
    for (let seed = 1; seed <= 100; seed++) {
      const { kept, places, faults } = read(woven(threads(words), 1 + (seed % 12), randomOf(seed)));
      assert.equal(places, [14, 27, 33], `seed ${seed}`);
      assert.equal(faults, expected, `seed ${seed}`);
      assert.equal(kept.sort(), ["[info] Stream mapping:", bad, corrupt, container].sort());
    }
  });

test("a release that writes no such lines: by the frames that were shown", () => {
  const silent = threads({ packet: () => [], decoded: () => [] });
  const lockstep = woven(silent, 1, () => 0); // a packet is read before the frame of the one before is shown
  assert.equal(read(lockstep).places, [14, 27, 32]);
});

for (const [release, words] of Object.entries(releases))
  test(`${release}: complaints about pictures that are never shown do not count, later ones do`, () => {
    const [packets, decoded, print] = threads(words);
    packets![2] = [container, ...packets![2]!];
    decoded![0] = [bad, bad, ...decoded![0]!];
    for (let seed = 1; seed <= 50; seed++) {
      const lines = woven([packets!, decoded!, print!], 1 + (seed % 12), randomOf(seed));
      assert.equal(read(lines, { rough: true, lead: 3 }).places, [14, 27, 33], `seed ${seed}`);
    }
  });

test.run();
