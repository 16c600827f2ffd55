// The training run that children are killed in and that disk faults meet: pairs about clips, scored, trained, evaluated.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import type { TrainOptions } from "../../src/train/run-events.js";

export interface RunSize {
  steps: number;
  saveEverySteps: number;
  evalEvery: number;
}

export const sizes = {
  long: { steps: 40, saveEverySteps: 5, evalEvery: 8 },
  /** Of its three checkpoints one is removed. */
  three: { steps: 6, saveEverySteps: 2, evalEvery: 3 },
  short: { steps: 4, saveEverySteps: 2, evalEvery: 2 },
} satisfies Record<string, RunSize>;
export type SizeName = keyof typeof sizes;

const itemsPerStep = 2;
const clips = 4;

const row = (i: number): string =>
  `${JSON.stringify({
    id: `row${i}`,
    video: `clip${i % clips}`,
    prompt: `<video>\nWhat is seen in part ${i % 7}?`,
    answer: "",
    chosen: `A dog ${i}.`,
    rejected: `A cat of ${i * i}.`,
  })}\n`;

/** Folders of frames, clip0 and on. */
export async function writeClips(dir: string, count: number): Promise<void> {
  for (let clip = 0; clip < count; clip++) {
    mkdirSync(join(dir, `clip${clip}`), { recursive: true });
    for (let frame = 0; frame < 8; frame++) {
      const pixels = Buffer.from(
        Uint8Array.from({ length: 32 * 32 * 3 }, (_, i) => (i * (clip + 3) + frame * 37) % 251),
      );
      const image = sharp(pixels, { raw: { width: 32, height: 32, channels: 3 } });
      await image.png().toFile(join(dir, `clip${clip}`, `${frame}.png`));
    }
  }
}

/** Writes the run's clips and rows into `dir`. */
export async function writeData(dir: string, { steps }: RunSize): Promise<void> {
  await writeClips(dir, clips);
  const rows = (n: number, from: number) => Array.from({ length: n }, (_, i) => row(from + i)).join("");
  writeFileSync(join(dir, "pairs.jsonl"), rows((steps * itemsPerStep) / 2, 0)); // two epochs
  writeFileSync(join(dir, "eval.jsonl"), rows(4, 1000));
}

export const optionsOf = (data: string, runDir: string, { saveEverySteps, evalEvery }: RunSize): TrainOptions => ({
  kind: "dpo",
  model: "test/golden/llava_hound/policy", // from the package folder, where children run,
  data: join(data, "pairs.jsonl"),
  evalData: join(data, "eval.jsonl"),
  videos: data,
  runDir,
  epochs: 2,
  itemsPerStep,
  saveEverySteps,
  evalEvery,
  trainer: { learningRate: 1e-3, schedule: "cosine", warmupSteps: 2, seed: 5 },
  load: { threads: 1 },
});

const sha256 = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");

function* filesUnder(dir: string, inside = ""): Generator<string> {
  for (const entry of readdirSync(join(dir, inside), { withFileTypes: true })) {
    const name = inside === "" ? entry.name : `${inside}/${entry.name}`;
    if (entry.isDirectory()) yield* filesUnder(dir, name);
    else yield name;
  }
}

// Files that depend on the time, the process, or the moment; all others must be the same whatever happened on the way.
const varying = /^(lock|run\.json|train\/timings\.jsonl|tensorboard\/.*)$/;

/** The files of a finished run that are a function of the run alone, with their hashes. */
export function resultOf(dir: string): Record<string, string> {
  if (!existsSync(dir)) return {};
  const names = [...filesUnder(dir)].filter((name) => !varying.test(name)).sort();
  return Object.fromEntries(names.map((name) => [name, sha256(join(dir, name))]));
}
