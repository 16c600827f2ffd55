// The work that test/children/store-kill.ts does and is killed in: a function of group and step alone.
import { join } from "node:path";
import type { StepFacts } from "../../src/runfolder/checkpoints.js";
import type { Journal } from "../../src/runfolder/journal.js";

export type Paths = ReturnType<typeof pathsOf>;
export const pathsOf = (dir: string) => ({
  dir,
  journal: join(dir, "journal.0.log"),
  train: join(dir, "train"),
  metrics: join(dir, "train", "metrics.jsonl"),
  report: join(dir, "report.txt"),
});

export const recordsOf = (group: number): Parameters<Journal["append"]>[0][] =>
  Array.from({ length: 1 + (group % 4) }, (_, i) => ({
    type: "rsp",
    sample: `s${group}`,
    copy: i,
    ids: Array.from({ length: (group * 37) % 2000 }, (_, t) => t * group),
    text: "x".repeat((group * 11) % 500),
    end: "stop",
  }));

export const lossOf = (step: number): number => 1 / (step + 1 / 3);
export const reportOf = (step: number): string => `${step}\n`.repeat(20_000);
export const facts = (step: number, metricsBytes: number): StepFacts => ({
  cursor: step,
  metricsBytes,
  pairsHash: "ab",
});
