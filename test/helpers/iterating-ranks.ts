// Two iterations by several ranks: what they are started with, what they tell, and the run that nothing happens to.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import * as assert from "uvu/assert";
import { temporaryFolder } from "./files.js";
import { clips, isrResultOf, samples } from "./isr-run.js";
import { memoized } from "./memoized.js";
import { doneRanks, type RankEnd, startRanks } from "./rank-group.js";
import { writeClips } from "./train-run.js";

export interface Done {
  hash: string;
  counts: Record<string, number>;
  work: Record<string, number>;
  losses: number[];
}
type Lines = readonly Record<string, unknown>[];
export const doneOf = (lines: Lines) => lines.find((l) => "done" in l)!.done as Done[];
export const isDone = ({ lines }: RankEnd) => lines.some((l) => "done" in l);

const runs = temporaryFolder();
let folders = 0;
export const newFolder = () => join(runs, `run${folders++}`);

/** The clips and questions of the iterations. */
export const isrData = memoized(async () => {
  const data = temporaryFolder();
  await writeClips(data, clips);
  writeFileSync(join(data, "questions.jsonl"), samples.map((s) => `${JSON.stringify(s)}\n`).join(""));
  return data;
});

/** How long ranks wait for each other to come: one may be lost before it has. */
export const timeoutMs = 20_000;

export const iterating = (data: string, runDir: string, options: object = {}) => ({
  ...{ work: "iterate", data, runDir, options },
  timeoutMs,
});

/** Two iterations by two ranks of one machine. */
export const straightRun = memoized(async () => {
  const runDir = newFolder();
  const lines = await doneRanks(await startRanks(2, iterating(await isrData(), runDir)));
  return { runDir, lines, result: await isrResultOf(runDir) };
});

/** What ranks made that have told `lines` is, bit for bit, what the straight run made. */
export async function equalsStraight(runDir: string, lines: Lines, what: string): Promise<void> {
  const straight = await straightRun();
  assert.is(doneOf(lines).at(-1)!.hash, doneOf(straight.lines[0]!).at(-1)!.hash, `${what}: the model`);
  assert.equal(await isrResultOf(runDir), straight.result, what);
}
