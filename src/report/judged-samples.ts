// Samples for the page's table, as columns of numbers into one pool of texts, since runs of a comparison share answers and
// samples of a video share contexts. Samples that would make the page too large are left out and counted.
import type { IterationRecords, Judged, SampleRecords } from "./read-journal.js";
import { statuses } from "../judge/judge.js";

export interface SampleRow {
  id: string;
  video: string;
  question: string;
}

/** Characters of texts in a page: beyond, browsers become slow. */
const maxCharacters = 24_000_000;
const maxRows = 20_000;
/** Characters that are kept of a text that comes when the pool is full. */
const cutTo = 2_000;

/** [preference or -1, margin or null, text in the pool or -1] */
type VerdictColumn = [number, number | null, number] | 0;

export interface IterationColumns {
  t: number;
  /** Index into `statuses`; -1: not decided. */
  status: number[];
  /** 0, 1, or -1. */
  chosen: number[];
  a: number[];
  b: number[];
  first: VerdictColumn[];
  second: VerdictColumn[];
  /** By video. */
  context: number[];
  /** Reason of a skipped sample. */
  skip: Record<number, number>;
}

export interface SamplePage {
  /** Samples of the run; those shown may be fewer. */
  total: number;
  statuses: readonly string[];
  ids: string[];
  video: number[];
  question: number[];
  videos: string[];
  texts: string[];
  runs: { name: string; iterations: IterationColumns[] }[];
  /** Texts that hold their first `cutTo` characters alone. */
  cut: number;
  cutTo: number;
  /** By video: data URLs. */
  frames: Record<number, string>;
}

const characters = ({ responses, verdicts }: SampleRecords): number =>
  [...responses, ...verdicts.map((v) => v?.raw ?? null)].reduce((sum, t) => sum + (t?.length ?? 0), 0);

const rounded = (x: number | null): number | null => (x === null ? null : Number(x.toPrecision(5)));

export class SampleTable {
  readonly #rows: SampleRow[];
  readonly #known: boolean;
  readonly #iterations: number;
  #shown: SampleRow[] | undefined;
  #videos = new Map<string, number>();
  readonly #pool = new Map<string, number>();
  #characters = 0;
  #cut = 0;
  readonly #runs = new Map<string, IterationColumns[]>();

  /** `iterations`: of all runs together. Without rows they are those of the first journal. */
  constructor(
    rows: SampleRow[],
    iterations: number,
    readonly limit = maxCharacters,
  ) {
    this.#rows = rows;
    this.#known = rows.length > 0;
    this.#iterations = Math.max(1, iterations);
  }

  /** Ids that an iteration is about: all samples of the run, or those of its journal where nothing else is known. */
  idsOf(found: IterationRecords): string[] {
    return this.#known ? this.#rows.map((r) => r.id) : [...found.samples.keys()];
  }

  /** Rows that fit: as many as the first iteration's mean size allows, evenly spaced. */
  #choose(found: IterationRecords, contexts: ReadonlyMap<string, string>): SampleRow[] {
    if (!this.#known) this.#rows.push(...[...found.samples.keys()].map((id) => ({ id, video: "", question: "" })));
    const rows = this.#rows;
    let all = 0;
    for (const s of found.samples.values()) all += characters(s);
    for (const text of contexts.values()) all += text.length;
    const questions = rows.reduce((sum, r) => sum + r.question.length + r.id.length + 40, 0);
    const wanted = all * this.#iterations + questions;
    const fit = wanted <= this.limit ? rows.length : Math.max(1, Math.floor((rows.length * this.limit) / wanted));
    const n = Math.min(rows.length, fit, maxRows);
    const shown = Array.from({ length: n }, (_, i) => rows[Math.floor((i * rows.length) / n)]!);
    for (const { video } of shown) if (!this.#videos.has(video)) this.#videos.set(video, this.#videos.size);
    return shown;
  }

  #text(text: string | null | undefined): number {
    if (text == null) return -1;
    const full = this.#characters + text.length > 1.5 * this.limit;
    const kept = full && text.length > cutTo ? text.slice(0, cutTo) : text;
    const known = this.#pool.get(kept);
    if (known !== undefined) return known;
    if (kept !== text) this.#cut += 1;
    this.#characters += kept.length;
    this.#pool.set(kept, this.#pool.size);
    return this.#pool.size - 1;
  }

  #verdict(v: Judged | null | undefined): VerdictColumn {
    return v ? [v.prefer ?? -1, rounded(v.margin), this.#text(v.raw)] : 0;
  }

  add(run: string, t: number, found: IterationRecords, contexts: ReadonlyMap<string, string>): void {
    this.#shown ??= this.#choose(found, contexts);
    const of = this.#shown.map((row) => found.samples.get(row.id));
    const skip: Record<number, number> = {};
    this.#shown.forEach((row, i) => {
      const reason = found.skips.get(row.id) ?? found.skips.get(row.video);
      if (reason !== undefined) skip[i] = this.#text(reason);
    });
    const columns: IterationColumns = {
      t,
      status: of.map((s) => statuses.indexOf((s?.status ?? "") as (typeof statuses)[number])),
      chosen: of.map((s) => s?.chosen ?? -1),
      a: of.map((s) => this.#text(s?.responses[0])),
      b: of.map((s) => this.#text(s?.responses[1])),
      first: of.map((s) => this.#verdict(s?.verdicts[0])),
      second: of.map((s) => this.#verdict(s?.verdicts[1])),
      context: [...this.#videos.keys()].map((video) => this.#text(contexts.get(video))),
      skip,
    };
    this.#runs.set(run, [...(this.#runs.get(run) ?? []), columns]);
  }

  rename(from: string, to: string): void {
    const columns = this.#runs.get(from);
    this.#runs.delete(from);
    if (columns) this.#runs.set(to, columns);
  }

  get total(): number {
    return this.#rows.length;
  }

  /** Rows that are shown. */
  get shown(): readonly SampleRow[] {
    return this.#shown ?? [];
  }

  page(frames: ReadonlyMap<string, string>): SamplePage {
    const shown = this.shown;
    const question = shown.map((r) => this.#text(r.question));
    return {
      total: this.total,
      statuses,
      ids: shown.map((r) => r.id),
      video: shown.map((r) => this.#videos.get(r.video)!),
      question,
      videos: [...this.#videos.keys()],
      texts: [...this.#pool.keys()],
      runs: [...this.#runs].map(([name, iterations]) => ({ name, iterations })),
      ...{ cut: this.#cut, cutTo },
      frames: Object.fromEntries([...frames].map(([video, url]) => [this.#videos.get(video) ?? -1, url])),
    };
  }
}
