// Run folders as a run leaves them, made from given records: no model, no video.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Journal } from "../../src/runfolder/journal.js";
import type { GroupEnd, JournalRecord } from "../../src/runfolder/journal-records.js";
import { openRun } from "../../src/runfolder/run-json.js";
import { uniform } from "./seeded.js";

export type PlainRecord = Exclude<JournalRecord, GroupEnd>;

export interface MadeSample {
  id: string;
  video: string;
  question: string;
}

export interface MadeIteration {
  t: number;
  records: PlainRecord[];
  contexts?: { video: string; text: string }[];
  metrics?: Record<string, number>[];
  evaluation?: Record<string, number>[];
  stage?: string;
}

export interface MadeRun {
  design: string;
  samples: MadeSample[];
  iterations: MadeIteration[];
  evaluations?: Record<string, unknown>[];
  videos?: string;
}

const lines = (rows: readonly unknown[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join("");

export function writeTraining(dir: string, metrics: readonly object[], evaluation: readonly object[] = []): void {
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, "metrics.jsonl"), lines(metrics));
  if (evaluation.length > 0) writeFileSync(join(dir, "evaluation.jsonl"), lines(evaluation));
}

async function writeIteration(dir: string, design: string, it: MadeIteration): Promise<void> {
  mkdirSync(dir, { recursive: true });
  const start = { iteration: it.t, model: "0", context: design, groups: [], previousContexts: null, seed: "1" };
  writeFileSync(join(dir, "start.json"), JSON.stringify(start));
  writeFileSync(join(dir, "stage.json"), JSON.stringify({ stage: it.stage ?? "done" }));
  const { journal } = await Journal.open(join(dir, "journal.0.log"));
  let held = 0;
  for (const record of it.records) {
    await journal.append(record);
    if (record.type === "pair" && ++held % 5 === 0) await journal.endGroup(`g${held}`);
  }
  await journal.endGroup("last");
  await journal.close();
  if (it.contexts)
    writeFileSync(join(dir, "contexts.jsonl"), lines(it.contexts.map((c) => ({ ...c, ids: [1], previous: null }))));
  if (it.metrics) writeTraining(join(dir, "train"), it.metrics, it.evaluation);
}

/** Writes a run's folder at `dir`. */
export async function writeRun(dir: string, run: MadeRun): Promise<void> {
  mkdirSync(join(dir, "evaluation"), { recursive: true });
  const config = { context: { design: run.design }, ...(run.videos === undefined ? {} : { videos: run.videos }) };
  await openRun(dir, { kind: "isr", config, facts: {} });
  writeFileSync(join(dir, "samples.jsonl"), lines(run.samples));
  for (const it of run.iterations) await writeIteration(join(dir, "iterations", String(it.t)), run.design, it);
  for (const e of run.evaluations ?? [])
    writeFileSync(join(dir, "evaluation", `${e.file ?? e.name}.${e.model}.json`), JSON.stringify(e));
}

// ---------- a run with numbers like those of a real one

const shapes = ["red circle", "blue square", "green triangle", "yellow star", "purple ring"];
const moves = ["moves left", "moves right", "rises", "falls", "turns in place", "stands still", "blinks twice"];

export interface MadeOptions {
  design: string;
  samples: number;
  iterations: number;
  seed: number;
  /** Points of accuracy an iteration. */
  gain?: number;
}

const record = (values: Record<string, unknown>) => values as unknown as PlainRecord;

/** Answers, contexts, verdicts and curves drawn from a seed. */
export function drawnRun({ design, samples: n, iterations, seed, gain = 0.04 }: MadeOptions): MadeRun {
  const next = uniform(seed);
  const pick = <T>(list: readonly T[]): T =>
    list[Math.min(list.length - 1, Math.floor(((next() + 1) / 2) * list.length))]!;
  const sentence = (k: number) =>
    Array.from({ length: k }, () => `The ${pick(shapes)} ${pick(moves)}`)
      .join(". ")
      .concat(".");
  const samples = Array.from({ length: n }, (_, i) => ({
    id: `clip-${String(Math.floor(i / 2)).padStart(4, "0")}/q${i % 2}`,
    video: `clips/clip-${String(Math.floor(i / 2)).padStart(4, "0")}.mp4`,
    question: i % 2 === 0 ? "What happens first in the video?" : "Which shape moves, and where to?",
  }));
  const videos = [...new Set(samples.map((s) => s.video))];
  const contexts = new Map<string, string[]>();
  const made: MadeIteration[] = [];
  for (let t = 1; t <= iterations; t++) {
    const records: PlainRecord[] = [];
    for (const video of videos) {
      const before = contexts.get(video) ?? [];
      const kept = design === "renew" ? [] : before.filter(() => next() > -0.7);
      const now = design === "fixed" && before.length > 0 ? before : [...kept, sentence(1)];
      contexts.set(video, now);
    }
    for (const { id } of samples) {
      const texts = [sentence(1 + Math.floor((next() + 1) * 1.5)), sentence(1 + Math.floor((next() + 1) * 1.2))];
      for (const [copy, text] of texts.entries())
        records.push({ type: "rsp", sample: id, copy, ids: [1, 2], text, end: "eos" });
      const draw = next();
      if (draw > 0.9) {
        records.push({ type: "pair", sample: id, status: draw > 0.95 ? "identical" : "truncated" });
        continue;
      }
      const [a, b] = [next() * 2 + 0.4, next() * 2 + 0.4];
      for (const [order, margin] of [a, b].entries())
        records.push(record({ type: "verdict", sample: id, order, choice: margin > 0 ? "0" : "1", margin }));
      const agrees = a > 0 === b > 0;
      if (agrees) records.push({ type: "pair", sample: id, status: "pair", chosen: a > 0 ? 0 : 1 });
      else records.push({ type: "pair", sample: id, status: "disagree" });
    }
    made.push({
      t,
      records,
      ...(design === "none"
        ? {}
        : { contexts: videos.map((video) => ({ video, text: contexts.get(video)!.join(" ") })) }),
      metrics: Array.from({ length: 30 }, (_, step) => {
        const share = step / 30;
        return {
          ...{
            step,
            loss: 0.69 - 0.2 * share + 0.03 * next(),
            accuracy: Math.min(1, 0.5 + 0.3 * share + 0.1 * next()),
          },
          ...{ chosenReward: 0.3 * share + 0.05 * next(), rejectedReward: -0.5 * share + 0.05 * next() },
          ...{ margin: 0.8 * share, learningRate: 5e-5 * Math.min(1, step / 5), lengthMarginCorrelation: 0.2 * next() },
          gradNorm: 2 + next() * 0.4,
        };
      }),
    });
  }
  const evaluations = Array.from({ length: iterations + 1 }, (_, k) => {
    const accuracy = 0.42 + gain * k + 0.008 * next();
    const half = 1.96 * Math.sqrt((accuracy * (1 - accuracy)) / 400);
    return {
      ...{ name: "held-out", title: "Clips outside training", kind: "exact", model: k + 1, count: 400, accuracy },
      ...{ interval: [accuracy - half, accuracy + half], chance: 0.2, words: 11 + k * (1 - 8 * gain), domain: "world" },
    };
  });
  return { design, samples, iterations: made, evaluations };
}

export const designs: readonly [design: string, gain: number][] = [
  ["none", 0.012],
  ["fixed", 0.022],
  ["renew", 0.018],
  ["retrospective", 0.045],
];

/** A comparison of the four designs. */
export async function writeComparison(dir: string, o: Pick<MadeOptions, "samples" | "iterations">): Promise<void> {
  const alignment: Record<string, Record<string, { agree: number; of: number }>> = {};
  for (const [i, [design, gain]] of designs.entries()) {
    await writeRun(join(dir, design), drawnRun({ design, ...o, seed: 7 + i, gain }));
    alignment[design] = Object.fromEntries(
      Array.from({ length: o.iterations }, (_, k) => [
        k + 1,
        { agree: Math.round(110 + 400 * gain * (k + 1)), of: 200 },
      ]),
    );
  }
  const comparison = {
    ...{ title: "Four designs of contexts", chance: 0.2, truth: { judgeAlignment: alignment } },
    runs: designs.map(([design]) => ({ name: design, dir: design })),
    notes: ["Made by a test: no model took part."],
  };
  writeFileSync(join(dir, "comparison.json"), JSON.stringify(comparison));
}

/** Texts that try to become markup, to turn the text around them, or to fill the page. */
export const hostileTexts: readonly [id: string, text: string][] = [
  ["</script><script>alert(1)</script>", "</script><script>document.title='owned'</script><!-- <b>bold</b>"],
  ["<img src=x onerror=alert(1)>", '"><img src=x onerror="document.title=`owned`">'],
  ["bidi \u202e\u2066 id", "before \u202egnihtemos\u202c after \u2067isolate\u2069 \u200bzero"],
  ["null \0 id", "null \0\0 and \u001b[31mred\u001b[0m and \u0007"],
  ["../../etc/passwd", "\u2028\u2029 separators, \ufeff mark, lone \ud800 half"],
  ["__proto__", "__proto__"],
  ["long", "word ".repeat(210_000)],
  ["blank", ""],
];

export function hostileRun(): MadeRun {
  const videoOf = (id: string) => `${id}.mp4`;
  return {
    design: "<retro>",
    samples: hostileTexts.map(([id, text]) => ({ id, video: videoOf(id), question: `${text.slice(0, 100)}?` })),
    iterations: [1, 2].map((t) => ({
      t,
      records: hostileTexts.flatMap(([sample, text]): PlainRecord[] => [
        { type: "rsp", sample, copy: 0, ids: [1], text, end: "eos" },
        { type: "rsp", sample, copy: 1, ids: [1], text: `${text.slice(0, 300)} other`, end: "eos" },
        { type: "verdict", sample, order: 0, choice: "0", margin: 1, raw: text.slice(0, 300) },
        { type: "verdict", sample, order: 1, choice: "0", margin: 2, raw: text.slice(0, 300) },
        { type: "pair", sample, status: "pair", chosen: 0 },
      ]),
      contexts: hostileTexts.map(([id, text]) => ({ video: videoOf(id), text: `${t} ${text.slice(0, 500)}` })),
    })),
    evaluations: [
      {
        ...{ name: "<i>x</i>", title: "</title><script>alert(2)</script>\u202e", kind: "exact", model: 1, count: 3 },
        ...{ accuracy: 0.5, interval: [0.2, 0.8], chance: 0.1, words: 3, domain: "in" },
      },
    ].map((e) => ({ ...e, file: "hostile" })),
  };
}
