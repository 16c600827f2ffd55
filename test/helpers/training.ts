// Small training runs on the golden checkpoints: their data, their events, the bytes that they leave.
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type IterationEvent, type IterationResult, type Pair, type TrainOptions, train } from "../../src/index.js";
import { rowsFile } from "./data.js";
import { temporaryFolder } from "./files.js";
import { folder, longRun } from "./golden.js";
import { folderOf, type VideoFamily, videoDpo, videoPairs } from "./golden-video.js";
import { makeVideo } from "./video.js";

/** Pairs of ids with an id each, from the golden training run. */
export const idPairs = (n = 12): (Pair & { id: string })[] =>
  longRun()
    .examples.slice(0, n)
    .map((e, i) => ({
      id: `pair ${i}`,
      prompt: { ids: e.prompt_ids },
      chosen: e.chosen_ids,
      rejected: e.rejected_ids,
    }));

const answers = ["A dog runs to the left.", "Two men talk", "The water is blue and calm.", "Nobody."];
const sides = (i: number) => ({ chosen: answers[i % 4]!, rejected: answers[(i + 1 + (i % 3)) % 4]! });

export const textRows = (n = 10) => Array.from({ length: n }, (_, i) => ({ prompt: `What is ${i % 4}?`, ...sides(i) }));
export const exampleRows = (n = 10) =>
  textRows(n).map(({ prompt, chosen }, i) => ({ id: `e${i}`, prompt, completion: chosen }));

/** A run over textRows() in a folder of its own, but for `more`. */
export const textRun = (more: Partial<TrainOptions>): TrainOptions => ({
  kind: "dpo",
  model: folder("text_llama"),
  data: rowsFile(textRows()),
  itemsPerStep: 4,
  load: { threads: 1 },
  runDir: join(temporaryFolder(), "run"),
  ...more,
});

let clips: string | undefined;

/** A folder with the clips 0.mp4, 1.mp4, 2.mp4, made once a process. */
export function clipFolder(): string {
  if (clips) return clips;
  const dir = join(temporaryFolder(), "clips");
  mkdirSync(dir);
  for (const [i, size] of ["64x64", "96x64", "64x80"].entries())
    makeVideo(join(dir, `${i}.mp4`), ["-c:v", "libx264"], { frames: 10 + i, size });
  clips = dir;
  return dir;
}

export const videoRows = (n = 6) =>
  Array.from({ length: n }, (_, i) => ({
    id: `v${i}`,
    video: `${i % 3}.mp4`,
    prompt: `<video>\nWhat happens ${i >> 1}?`,
    ...sides(i),
  }));
export const videoExampleRows = (n = 6) =>
  videoRows(n).map(({ id, video, prompt, chosen }) => ({
    id,
    video,
    conversations: [
      { from: "human", value: prompt },
      { from: "gpt", value: chosen },
    ],
  }));

/** Pairs with pixels by value, as a program gives them. */
export const pixelPairs = (family: VideoFamily) =>
  [0, 1, 2].flatMap((round) =>
    videoPairs(videoDpo(family), false).map((pair, i) => ({ ...pair, id: `pixels ${round}.${i}` })),
  );

async function* stream<T>(items: readonly T[]): AsyncGenerator<T> {
  for (const item of items) yield item;
}

type Setup = Omit<TrainOptions, "runDir">;
const trainer = { learningRate: 1e-3, beta: 0.1, schedule: "linear", warmupRatio: 0.1 } as const;
const small = { itemsPerStep: 4, trainer, load: { threads: 1 } } as const;

/** A run of each kind: what its data are and where they come from. Each call reads its data anew. */
export const setups: Readonly<Record<string, () => Setup>> = {
  "dpo, ids": () => ({ kind: "dpo", model: folder("text_llama"), data: stream(idPairs()), epochs: 2, ...small }),
  "dpo, text rows": () => ({
    kind: "dpo",
    model: folder("text_llama"),
    data: rowsOnce("text", textRows()),
    epochs: 2,
    ...small,
  }),
  "sft, text rows": () => ({
    kind: "sft",
    model: folder("text_llama"),
    data: rowsOnce("sft", exampleRows()),
    epochs: 2,
    ...small,
    trainer: { learningRate: 1e-3, clipNorm: 1 },
  }),
  "dpo, pixels": () => ({
    kind: "dpo",
    model: folderOf("video_llava"),
    data: stream(pixelPairs("video_llava")),
    ...small,
  }),
  "dpo, video files": () => ({
    kind: "dpo",
    model: folderOf("llava_hound"),
    data: rowsOnce("video", videoRows()),
    videos: clipFolder(),
    epochs: 2,
    ...small,
    itemsPerStep: 3,
  }),
  "sft, video files, all parts": () => ({
    kind: "sft",
    model: folderOf("video_llava"),
    data: rowsOnce("video-sft", videoExampleRows()),
    videos: clipFolder(),
    ...small,
    itemsPerStep: 2,
    trainer: { learningRate: 1e-3, train: { vision: true, projector: true, decoder: true } },
  }),
};

const files = new Map<string, string>();

/** A file of rows, written once a process: its path stands in the run folder. */
function rowsOnce(name: string, rows: readonly unknown[]): string {
  if (!files.has(name)) files.set(name, rowsFile(rows, `${name}.jsonl`));
  return files.get(name)!;
}

export async function eventsOf(options: TrainOptions): Promise<{ events: IterationEvent[]; result: IterationResult }> {
  const run = train(options);
  const events: IterationEvent[] = [];
  for await (const event of run) events.push(event);
  return { events, result: await run.result };
}

/** sha256 of each file that does not tell when, where or how often the run was started. */
export function bytesOf(runDir: string): Record<string, string> {
  const found: Record<string, string> = {};
  for (const name of readdirSync(runDir, { recursive: true, withFileTypes: true })) {
    if (!name.isFile()) continue;
    const path = join(name.parentPath ?? name.path, name.name).slice(runDir.length + 1);
    if (/^(lock|run\.json|tensorboard|features)|timings\.jsonl$/.test(path)) continue;
    found[path] = createHash("sha256")
      .update(readFileSync(join(runDir, path)))
      .digest("hex");
  }
  return Object.fromEntries(Object.entries(found).sort(([a], [b]) => (a < b ? -1 : 1)));
}
