// A folder as the report needs it: one run of iterations, several runs that are compared, or a plain training run.
import { join, resolve, sep } from "node:path";
import { IsrDpoError } from "../base/errors.js";
import { type Evaluation, readEvaluations } from "./evaluations.js";
import { isObject, type Json } from "../base/check.js";
import { isThere, jsonOf, linesOf, namesIn, numberOr, type Tell, textOr } from "./run-files.js";
import { type IterationRecords, readJournals } from "./read-journal.js";
import { type SampleRow, SampleTable } from "./judged-samples.js";
import { type IterationStatistics, statisticsOf } from "./statistics.js";
import { readTraining, type Training } from "./training-metrics.js";

export interface Iteration {
  /** Index of the model that is used. */
  t: number;
  stage: string;
  statistics: IterationStatistics;
  training: Training | null;
}

export interface RunReport {
  name: string;
  /** Design of the contexts; null where the run does not say. */
  design: string | null;
  dir: string;
  /** Folder of the videos; null where the run does not say. */
  videos: string | null;
  iterations: Iteration[];
  /** The training of a run without iterations; null for iterations. */
  training: Training | null;
  evaluations: Evaluation[];
}

export type Alignment = Record<string, { iteration: number; agree: number; of: number }[]>;

export interface Found {
  kind: "run" | "comparison" | "training";
  dir: string;
  title: string;
  runs: RunReport[];
  chance: number | null;
  alignment: Alignment | null;
  notes: string[];
  /** What could not be read, or not be shown in full. */
  problems: string[];
  table: SampleTable;
}

interface Source {
  name: string;
  dir: string;
}

async function samplesOf(dir: string, name: string, tell: Tell): Promise<SampleRow[]> {
  const rows: SampleRow[] = [];
  for await (const row of linesOf(join(dir, "samples.jsonl"), `${name}: samples.jsonl`, tell)) {
    const [id, video, question] = [row.id, row.video, row.question].map((v) => textOr(v, ""));
    if (id !== "") rows.push({ id: id!, video: video!, question: question! });
  }
  return rows;
}

/** The contexts that the judge of an iteration had, by video. */
async function contextsOf(dir: string, name: string, written: Map<string, string>, tell: Tell) {
  const contexts = new Map<string, string>();
  for await (const row of linesOf(join(dir, "contexts.jsonl"), name, tell))
    contexts.set(textOr(row.video, ""), textOr(row.text, ""));
  return contexts.size > 0 ? contexts : written;
}

function tellJournal(where: string, found: IterationRecords, tell: Tell): void {
  if (found.badLines > 0) tell(`${where}: ${found.badLines} lines of the journal do not hold and were left out.`);
  if (found.openRecords > 0)
    tell(`${where}: ${found.openRecords} records of unfinished groups do not count and were left out.`);
  if (found.damage.size > 0) {
    const some = [...found.damage].slice(0, 3).map(([video, what]) => `${video}: ${what}`);
    const more = found.damage.size > some.length ? `; and ${found.damage.size - some.length} more` : "";
    tell(`${where}: ${found.damage.size} videos were used though frames were lost (${some.join("; ")}${more}).`);
  }
}

async function readIteration(run: RunReport, t: number, table: SampleTable, tell: Tell): Promise<Iteration> {
  const dir = join(run.dir, "iterations", String(t));
  const where = `${run.name}, iteration ${t}`;
  const start = await jsonOf(join(dir, "start.json"), `${where}: start.json`, tell);
  run.design ??= textOr(start?.context, null);
  const found = await readJournals(dir);
  tellJournal(where, found, tell);
  const contexts = await contextsOf(dir, `${where}: contexts.jsonl`, found.contexts, tell);
  table.add(run.name, t, found, contexts);
  const stage = await jsonOf(join(dir, "stage.json"), `${where}: stage.json`, tell);
  return {
    t,
    stage: textOr(stage?.stage, "not begun"),
    statistics: statisticsOf(found, table.idsOf(found)),
    training: await readTraining(join(dir, "train"), `${where}: train`, tell),
  };
}

async function readRun({ name, dir }: Source, table: SampleTable, tell: Tell): Promise<RunReport> {
  const runFile = await jsonOf(join(dir, "run.json"), `${name}: run.json`, tell);
  const config: Json = isObject(runFile?.config) ? runFile.config : {};
  const context = isObject(config.context) ? textOr(config.context.design, null) : null;
  const run: RunReport = {
    ...{ name, dir, iterations: [] as Iteration[] },
    design: context,
    videos: textOr(config.videos, null),
    training: await readTraining(join(dir, "train"), `${name}: train`, tell),
    evaluations: await readEvaluations(dir, name, tell),
  };
  const folders = await namesIn(join(dir, "iterations"));
  const indices = folders.filter((n) => /^(0|[1-9]\d{0,8})$/.test(n)).map(Number);
  for (const t of indices.sort((a, b) => a - b)) run.iterations.push(await readIteration(run, t, table, tell));
  return run;
}

function alignmentOf(truth: unknown, tell: Tell): Alignment | null {
  const found = isObject(truth) && isObject(truth.judgeAlignment) ? truth.judgeAlignment : null;
  if (!found) return null;
  return Object.fromEntries(
    Object.entries(found).map(([design, by]) => [
      design,
      Object.entries(isObject(by) ? by : {})
        .flatMap(([iteration, v]) =>
          isObject(v) ? [{ iteration: Number(iteration), agree: numberOr(v.agree, 0), of: numberOr(v.of, 0) }] : [],
        )
        .filter(({ iteration, agree, of }) => {
          const holds = Number.isFinite(iteration) && of >= 0 && agree >= 0 && agree <= of;
          if (!holds) tell(`comparison.json: judgeAlignment.${design}.${iteration} is no share and was left out.`);
          return holds && of > 0;
        })
        .sort((a, b) => a.iteration - b.iteration),
    ]),
  );
}

/** Folders of a comparison's runs; they may not lie outside of it. */
function sourcesOf(dir: string, comparison: Json, tell: Tell): Source[] {
  const list = Array.isArray(comparison.runs) ? comparison.runs : [];
  return list.flatMap((run: unknown, i): Source[] => {
    const folder = isObject(run) ? textOr(run.dir, null) : null;
    const path = folder === null ? null : resolve(dir, folder);
    if (!isObject(run) || path === null || !`${path}${sep}`.startsWith(`${resolve(dir)}${sep}`)) {
      tell(`comparison.json: runs[${i}] names no folder inside the comparison and was left out.`);
      return [];
    }
    return [{ name: textOr(run.name, folder!), dir: path }];
  });
}

const texts = (v: unknown): string[] => (Array.isArray(v) ? v.filter((x) => typeof x === "string") : []);

const foreign = (dir: string, there: boolean) =>
  new IsrDpoError(
    "NOT_FOUND",
    `${dir}: expected the folder of a run, got ${there ? "one without iterations/, train/ or run.json" : "nothing there"}`,
    {
      hint: "give the folder that `isr-dpo run`, `demo` or `train` wrote",
      path: dir,
    },
  );

/** NOT_FOUND for what is no folder of a run or of a comparison. */
export async function readFolder(runDir: string): Promise<Found> {
  const dir = resolve(runDir);
  const problems: string[] = [];
  const tell = (problem: string) => problems.push(problem);
  const comparison = await jsonOf(join(dir, "comparison.json"), "comparison.json", tell);
  const marks = ["iterations", "train", "run.json"].map((name) => isThere(join(dir, name)));
  if (!comparison && !(await Promise.all(marks)).includes(true)) throw foreign(dir, await isThere(dir));
  const sources = comparison ? sourcesOf(dir, comparison, tell) : [{ name: "run", dir }];
  const samples = new Map<string, SampleRow>();
  for (const source of sources)
    for (const row of await samplesOf(source.dir, source.name, tell))
      if (!samples.has(row.id)) samples.set(row.id, row);
  const iterations = (await Promise.all(sources.map((s) => namesIn(join(s.dir, "iterations"))))).flat().length;
  const table = new SampleTable([...samples.values()], iterations);
  const runs: RunReport[] = [];
  for (const source of sources) runs.push(await readRun(source, table, tell));
  if (!comparison && runs[0]?.design) runs[0].name = runs[0].design;
  if (!comparison) table.rename("run", runs[0]!.name);
  const trainingOnly = !comparison && runs.every((r) => r.iterations.length === 0);
  return {
    kind: comparison ? "comparison" : trainingOnly ? "training" : "run",
    dir,
    title: textOr(comparison?.title, trainingOnly ? "Training run" : "Run of ISR-DPO"),
    ...{ runs, problems, table },
    chance: numberOr(comparison?.chance, null),
    alignment: alignmentOf(comparison?.truth, tell),
    notes: texts(comparison?.notes),
  };
}
