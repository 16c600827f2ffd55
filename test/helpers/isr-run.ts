// The iterations that children are killed in: eight clips, two iterations, sixteen tokens, on a checkpoint with random weights.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { RunIterationsOptions } from "../../src/iterate/run-iterations.js";
import { Journal, journalsIn } from "../../src/runfolder/journal.js";
import { finished, keyOf } from "../../src/runfolder/journal-records.js";

export const clips = 8;

const samplesOf = (videos: number, count: number) =>
  Array.from({ length: count }, (_, i) => ({
    id: `s${i}`,
    video: `clip${i % videos}`,
    question: `What is seen in part ${i}?`,
  }));

export const samples = samplesOf(clips, 10);

/** Files of an iteration that do not depend on the number of ranks, where the model before does not. */
export const equalByRanks = ["contexts.jsonl", "pairs.jsonl", "pairs.parquet", "start.json"] as const;

export const isrOptions = (
  data: string,
  runDir: string,
  design: "none" | "fixed" | "renew" | "retrospective" = "retrospective",
): RunIterationsOptions => ({
  runDir,
  model: "test/golden/llava_hound/policy", // from the package folder, where children run
  samples,
  from: 1,
  to: 3,
  context: design,
  config: {
    videos: data,
    seed: 11,
    response: { maxTokens: 16 },
    context: { maxTokens: 16 },
    judge: { method: "logprob", orders: "both", disagree: "average", truncated: "keep" },
    guards: { maxPosition: 1, minUsable: 0 },
    train: { pairsPerStep: 4, epochs: 2, learningRate: 1e-4, saveEverySteps: 2 },
  },
  load: { threads: 1 },
});

/** The same over as many clips, a question each. */
export const manyClips = (data: string, runDir: string, videos: number): RunIterationsOptions => ({
  ...isrOptions(data, runDir),
  samples: samplesOf(videos, videos),
});

const sha256 = (data: string | Buffer): string => createHash("sha256").update(data).digest("hex");

function* filesUnder(dir: string, inside = ""): Generator<string> {
  for (const entry of readdirSync(join(dir, inside), { withFileTypes: true })) {
    const name = inside === "" ? entry.name : `${inside}/${entry.name}`;
    if (entry.isDirectory()) yield* filesUnder(dir, name);
    else yield name;
  }
}

// Files that depend on the time, the process, or the number of starts.
const varying = /^(lock|run\.json)$|^(tensorboard|features)\/|\/(timings\.jsonl|stage\.json|items\.jsonl)$/;

/** What an iteration's journal holds, whatever was begun twice. */
export async function journalOf(path: string) {
  const { journal, records } = await Journal.open(path);
  await journal.close();
  return finished(records).sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1));
}

/** What the journals of an iteration's ranks hold together. */
export async function journalsOf(dir: string) {
  const all = [];
  for (const { name } of await journalsIn(dir)) all.push(...(await journalOf(join(dir, name))));
  return all.sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1));
}

/** The files of a finished run that are a function of the run alone, with their hashes; the journals of an iteration are one. */
export async function isrResultOf(dir: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const name of [...filesUnder(dir)].filter((n) => !varying.test(n)).sort()) {
    const above = dirname(name);
    if (name.endsWith(".log"))
      found[`${above}/journals`] ??= sha256(JSON.stringify(await journalsOf(join(dir, above))));
    else found[name] = sha256(readFileSync(join(dir, name)));
  }
  return found;
}
