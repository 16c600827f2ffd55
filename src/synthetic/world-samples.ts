// Questions about clips, with their true answers: the samples of a run, and the set that it is measured on.
import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { Sample } from "../data/read-samples.js";
import { stretchOf } from "../iterate/frame-policy.js";
import { fill } from "../base/templates.js";
import { type Owner, ownFolder } from "../runfolder/folder-claim.js";
import { makeFolders, writeAtomic } from "../base/atomic-files.js";
import type { Media } from "../base/types.js";
import { IsrDpoError } from "../base/errors.js";
import { type Clip, clipOf, framesOfShot, renderClip, shots, size, type Thing, view } from "./clip.js";
import { worldPrompts } from "./world-prompts.js";
import { Random } from "./seeded-draws.js";
import { openQuestion, type Question, question, questionAbout, textOf } from "./clip-words.js";
import { framesPerSecond, writeClip } from "./clip-video.js";

export interface WorldSample extends Sample {
  /** Number of the clip in its set. */
  index: number;
  clip: Clip;
  asked: Question;
  /** The shot that the answer's look shows; the question is about it. */
  shot: number;
  look: readonly Thing[];
}

/** Names a set of clips and questions. The first clips of a set are the same for any number of clips. */
export interface WorldSet {
  /** Name of the set, such as "train" or "held-out"; another name gives other clips. */
  name: string;
  /** Seed, a whole number; another seed gives other clips. */
  seed: number | bigint;
  /** Number of clips. */
  clips: number;
  /** "drawn" (default): one question per clip, of either kind. "both": two questions per clip, the open one first. */
  questions?: "drawn" | "both";
  /** Seed of the looks, which must be the seed of the run that uses the samples; default: `seed`. */
  lookSeed?: number | bigint;
}

const drawing = (set: WorldSet, index: number, part: string) => new Random("world", set.seed, set.name, index, part);

export const videoName = (set: WorldSet, index: number): string =>
  `${set.name}-${String(set.seed)}-${String(index).padStart(4, "0")}.mp4`;

/** The samples of a set. The same set gives the same samples, whatever its size. */
export function worldSamples(set: WorldSet): WorldSample[] {
  const rule = {
    looks: "varied" as const,
    stretches: shots,
    seed: BigInt(set.lookSeed ?? set.seed),
    sample: undefined,
  };
  return Array.from({ length: set.clips }, (_, index) => {
    const clip = clipOf(drawing(set, index, "clip"));
    const video = videoName(set, index);
    const kinds = set.questions === "both" ? (["open", "about"] as const) : (["drawn"] as const);
    return kinds.map((kind): WorldSample => {
      const id = kinds.length === 1 ? video : `${video}/${kind}`;
      const shot = stretchOf(rule, id, "response", 0);
      const look = view(clip, shot);
      const random = drawing(set, index, `question/${kind}`);
      const asked =
        kind === "open"
          ? openQuestion
          : kind === "about"
            ? questionAbout(random.pick(look).colour)
            : question(random, look);
      return { id, video, question: asked.text, index, clip, asked, shot, look };
    });
  }).flat();
}

/** All frames of a clip of the set, RGB (16, 32, 32, 3). */
export const clipFrames = (set: WorldSet, index: number): Uint8Array =>
  renderClip(drawing(set, index, "pixels"), clipOf(drawing(set, index, "clip")));

const shotBytes = framesOfShot * size * size * 3;

/** One shot of a clip, as frames in memory. */
export const shotMedia = (set: WorldSet, index: number, shot: number): Media => ({
  frames: clipFrames(set, index),
  width: size,
  height: size,
  fps: framesPerSecond,
  sample: { part: [shot, shots] },
});

export const trueCaption = ({ clip }: Pick<WorldSample, "clip">): string => textOf(clip.things);

/** For each sample the true caption of another clip: the next one of the list that shows other things. */
export function wrongCaptions(samples: readonly Pick<WorldSample, "clip">[]): string[] {
  const captions = samples.map(trueCaption);
  return captions.map((own, i) => {
    for (let k = 1; k < captions.length; k++) {
      const other = captions[(i + k) % captions.length]!;
      if (other !== own) return other;
    }
    throw new IsrDpoError("INVALID_ARGUMENT", "samples: expected clips that show different things, got one alone");
  });
}

/** As many at once as the machine has cores: most of a short clip's time is the start of a process. */
async function each(count: number, work: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < count) await work(next++);
  };
  const settled = await Promise.allSettled(Array.from({ length: Math.min(count, availableParallelism()) }, worker));
  const failed = settled.find((s) => s.status === "rejected");
  if (failed) throw (failed as PromiseRejectedResult).reason;
}

const worldOwner: Owner<object> = {
  mark: "world.json",
  what: "the folder of such a set",
  read: (_, found) => (found["isr-dpo"] === "world" ? found : null),
};

/** Paths of a set that was written. */
export interface WrittenWorld {
  /** Path of samples.jsonl, with id, video and question per row. */
  samples: string;
  /** Folder of the mp4 files. */
  videos: string;
}

/**
 * Writes a set of clips into a folder: videos/*.mp4, samples.jsonl for a run, and truth.jsonl with what is on screen and the captions.
 * @param dir - folder that is missing, empty, or was written by this function
 * @param set - name, seed and number of clips
 * @param o - `signal` cancels the call
 * @throws {@link IsrDpoError} FFMPEG_MISSING; INVALID_ARGUMENT: the folder holds anything else; DISK_FULL, IO
 */
export async function writeWorld(dir: string, set: WorldSet, o: { signal?: AbortSignal } = {}): Promise<WrittenWorld> {
  const videos = join(dir, "videos");
  await ownFolder(dir, worldOwner);
  await makeFolders(videos);
  await each(set.clips, (i) => writeClip(join(videos, videoName(set, i)), clipFrames(set, i), o));
  const samples = worldSamples(set);
  const lines = (rows: readonly object[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");
  const path = join(dir, "samples.jsonl");
  await writeAtomic(path, lines(samples.map(({ id, video, question: q }) => ({ id, video, question: q }))));
  const truth = samples.map((s) => ({
    ...{ id: s.id, video: s.video, shot: s.shot, caption: trueCaption(s) },
    ...{ look: textOf(s.look), things: s.clip.things, shotsOf: s.clip.shotsOf },
  }));
  await writeAtomic(join(dir, "truth.jsonl"), lines(truth));
  return { samples: path, videos };
}

/**
 * Writes supervised examples of a set into a folder: one shot of each clip as an mp4 file of four frames, and examples.jsonl with a
 * question about each shot and its true answer (messages, videos), as `isr-dpo train sft` reads them.
 * @throws {@link IsrDpoError} as {@link writeWorld}
 */
export async function writeWorldExamples(
  dir: string,
  set: WorldSet,
  o: { signal?: AbortSignal } = {},
): Promise<string> {
  await ownFolder(dir, worldOwner);
  await makeFolders(join(dir, "videos"));
  const samples = worldSamples({ ...set, questions: "drawn" });
  await each(samples.length, (i) => {
    const { index, video, shot } = samples[i]!;
    const frames = clipFrames(set, index).subarray(shot * shotBytes, (shot + 1) * shotBytes);
    return writeClip(join(dir, "videos", video), frames, o);
  });
  const rows = samples.map(({ id, video, asked, look }) => {
    const answer = textOf(asked.colour === null ? look : look.filter((t) => t.colour === asked.colour));
    const messages = [
      { role: "system", content: worldPrompts.system },
      { role: "user", content: `<video>\n${fill(worldPrompts.response, { question: asked.text })}` },
      { role: "assistant", content: answer },
    ];
    return `${JSON.stringify({ id, messages, videos: [`videos/${video}`] })}\n`;
  });
  const file = join(dir, "examples.jsonl");
  await writeAtomic(file, rows.join(""));
  return file;
}
