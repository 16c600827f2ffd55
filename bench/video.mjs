// Eight frames of a long video, by seeking, against decoding all of it with the same ffmpeg and all threads: 30 minutes of
// 1080p with a key frame every ten seconds. ISR_BENCH_VIDEO_MINUTES asks for another length.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, renameSync } from "node:fs";
import { join } from "node:path";

const frames = 8;
const ffmpeg = (...args) => execFileSync("ffmpeg", ["-nostdin", "-v", "error", "-y", ...args], { stdio: "inherit" });

/** The video, written once: a minute of moving colours, over and over. */
function makeVideo(dir, minutes) {
  const path = join(dir, `moving-1080p-${minutes}min.mp4`);
  if (existsSync(path)) return path;
  mkdirSync(dir, { recursive: true });
  const [minute, part] = ["minute", "part"].map((name) => join(dir, `${name}-${process.pid}.mp4`));
  const source = "testsrc2=size=1920x1080:rate=25:duration=60";
  const codec = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "250", "-pix_fmt", "yuv420p"];
  if (!existsSync(minute)) ffmpeg("-f", "lavfi", "-i", source, ...codec, minute);
  ffmpeg(
    "-stream_loop",
    String(Math.max(Math.ceil(minutes) - 1, 0)),
    "-i",
    minute,
    "-t",
    String(minutes * 60),
    "-c",
    "copy",
    part,
  );
  renameSync(part, path);
  return path;
}

async function timed(work) {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1e3;
}

export async function benchVideo(library, root, dir, report) {
  const minutes = Number(process.env.ISR_BENCH_VIDEO_MINUTES || 30);
  const path = makeVideo(dir, minutes);
  const told = [];
  const model = await library.loadModel(join(root, "test", "golden", "llava_hound", "policy"), {
    onMedia: (notes) => void told.push(notes),
  });
  let some;
  try {
    some = await timed(() => model.encode({ path, sample: { frames, window: [0, minutes * 60] } }));
  } finally {
    await model.dispose();
  }
  const all = await timed(() => ffmpeg("-i", path, "-map", "0:v", "-f", "null", "-"));
  const [{ seeks = 0, fallback }] = told;
  const name = `${frames} frames of ${minutes} min of 1080p`;
  report({ bench: "video", name: `${name}: time`, value: some, unit: "s" });
  report({ bench: "video", name: `${name}: places sought${fallback ? ` (${fallback})` : ""}`, value: seeks, unit: "" });
  report({
    ...{
      bench: "video",
      name: `${name}: against decoding all of it (${all.toFixed(1)} s)`,
      value: some / all,
      unit: "x",
    },
    ...(minutes >= 30 && { atMost: 0.2 }), // the shorter the video, the larger the share that is decoded
  });
}
