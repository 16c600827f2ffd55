// The contents of a run folder as one HTML file that works offline.
import { join, resolve } from "node:path";
import { path as checkPath } from "../base/check.js";
import { writeAgain } from "../base/file-errors.js";
import { writeAtomically } from "../base/atomic-files.js";
import { framesOf } from "./sample-frames.js";
import { refuseForeignFile } from "../base/output-path.js";
import { sectionsOf } from "./figures.js";
import { generator, pageOf } from "./report-page.js";
import { readFolder } from "./read-run.js";

export interface Reported {
  path: string;
  bytes: number;
  kind: "run" | "comparison" | "training";
  /** Samples that the page's table holds, of `samples`. */
  shown: number;
  samples: number;
  /** In words: figures without data, files that could not be read, frames. */
  missing: string[];
}

export async function writeReport(runDir: string, file?: string): Promise<Reported> {
  const dir = checkPath("runDir", runDir);
  const path = resolve(file === undefined ? join(dir, "report.html") : checkPath("file", file));
  await refuseForeignFile(
    path,
    "a report of this package",
    (head) => head.includes(generator) || head.includes(">isr-dpo report<"),
  );
  const found = await readFolder(dir);
  const tell = (problem: string) => found.problems.push(problem);
  const frames = await framesOf(found, found.table.shown, tell);
  const page = found.table.page(frames.urls);
  const html = Buffer.from(await pageOf(found, page, frames.note));
  await writeAtomically(path, (out) => out.write(html), writeAgain);
  const empty = sectionsOf(found).flatMap((s) =>
    s.figures.flatMap((f) => (f.missing ? [`${f.title}: ${f.missing}`] : [])),
  );
  const notes = page.total > 0 && !frames.complete ? [frames.note] : [];
  const cut = page.ids.length < page.total ? [`The table holds ${page.ids.length} of ${page.total} samples.`] : [];
  return {
    ...{ path, bytes: html.length, kind: found.kind, shown: page.ids.length, samples: page.total },
    missing: [...found.problems, ...empty, ...notes, ...cut],
  };
}
