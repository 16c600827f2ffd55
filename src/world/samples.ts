// Questions about clips, with their truth: what a run of the method is given, and what it is measured against.
import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { Sample } from "../data/samples.js";
import { stretchOf } from "../isr/looks.js";
import { fill } from "../isr/prompts.js";
import { type Owner, ownFolder } from "../store/claim.js";
import { makeFolders, writeAtomic } from "../store/files.js";
import type { Media } from "../types.js";
import { IsrDpoError } from "../errors.js";
import { type Clip, clipOf, framesOfShot, renderClip, shots, size, type Thing, view } from "./clip.js";
import { worldPrompts } from "./prompts.js";
import { Random } from "./rng.js";
import { openQuestion, type Question, question, questionAbout, textOf } from "./text.js";
import { framesPerSecond, writeClip } from "./video.js";

export interface WorldSample extends Sample {
  /** Number of the clip in its set. */
  index: number;
  clip: Clip;
  asked: Question;
  /** The shot that the answer's look shows; the question is about it. */
  shot: number;
  look: readonly Thing[];
}

/** Which clips and questions: equal sets are equal, whatever their number of clips. */
export interface WorldSet {
  /** "train", "held-out", ...: sets of other names have other clips. */
  name: string;
  /** A whole number; other seeds give other clips. */
  seed: number | bigint;
  /** Number of clips. */
  clips: number;
  /** drawn: one question a clip, of either kind; both: two, of which the first is the open one. Default drawn. */
  questions?: "drawn" | "both";
  /** Seed of the looks: that of the run which uses the samples. Default `seed`. */
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

/** Where a set was written. */
export interface WrittenWorld {
  /** Path of samples.jsonl: id, video, question a row. */
  samples: string;
  /** Folder of the mp4 files. */
  videos: string;
}

/**
 * Writes a set into a folder: videos/*.mp4, samples.jsonl for a run, truth.jsonl with what is on screen and the captions.
 * FFMPEG_MISSING without ffmpeg; INVALID_ARGUMENT for a folder that holds anything else.
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
 * Supervised examples of a set: one shot of each clip as an mp4 file of four frames, and examples.jsonl with a question about
 * it and its true answer (messages, videos), as `isr-dpo train sft` reads them. FFMPEG_MISSING without ffmpeg; INVALID_ARGUMENT for a
 * folder that holds anything else.
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
