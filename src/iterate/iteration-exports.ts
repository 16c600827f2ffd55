// Turns the records of an iteration into its results: contexts, pairs, statistics. All of it is derived, so that it is the
// same whenever it is written.
import { join } from "node:path";
import type { Sample } from "../data/read-samples.js";
import { type PairRecord, writePairs } from "../data/write-pairs.js";
import { percent } from "../base/counts.js";
import { IsrDpoError } from "../base/errors.js";
import { decide, type PairStatus, type Policies, statuses, unswapped, type Verdict } from "../judge/judge.js";
import { writeAtomic } from "../base/atomic-files.js";
import type { GroupRecord } from "./generate-group.js";

export type Of<T extends GroupRecord["type"]> = Extract<GroupRecord, { type: T }>;

/** Records of an iteration by what they are about. */
export interface Records {
  contexts: { get(video: string): Of<"ctx"> | undefined; values(): Iterable<Of<"ctx">> };
  responses: { get(sample: string): readonly [Of<"rsp">, Of<"rsp">] | undefined };
  verdicts: ReadonlyMap<string, readonly Of<"verdict">[]>;
  pairs: ReadonlyMap<string, Of<"pair">>;
}

export function sorted(records: readonly GroupRecord[]): Records {
  const contexts = new Map<string, Of<"ctx">>();
  const responses = new Map<string, Of<"rsp">[]>();
  const verdicts = new Map<string, Of<"verdict">[]>();
  const pairs = new Map<string, Of<"pair">>();
  const push = <T>(map: Map<string, T[]>, key: string, value: T) => {
    const list = map.get(key);
    if (list) list.push(value);
    else map.set(key, [value]);
  };
  for (const r of records) {
    if (r.type === "ctx") contexts.set(r.video, r);
    else if (r.type === "rsp") push(responses, r.sample, r);
    else if (r.type === "verdict") push(verdicts, r.sample, r);
    else if (r.type === "pair") pairs.set(r.sample, r);
  }
  for (const list of responses.values()) list.sort((a, b) => a.copy - b.copy);
  for (const list of verdicts.values()) list.sort((a, b) => a.order - b.order);
  return { contexts, responses: responses as unknown as Map<string, readonly [Of<"rsp">, Of<"rsp">]>, verdicts, pairs };
}

/** How many samples became what; they add up to the samples. BUG where they do not. */
export function countsOf(samples: readonly Sample[], { pairs }: Records): Record<PairStatus, number> {
  const counts = Object.fromEntries(statuses.map((s) => [s, 0])) as Record<PairStatus, number>;
  for (const { id } of samples) {
    const status = pairs.get(id)?.status as PairStatus | undefined;
    if (status === undefined || !statuses.includes(status))
      throw new IsrDpoError("BUG", `sample ${id}: expected one status, got ${String(status)}`);
    counts[status] += 1;
  }
  return counts;
}

/** A verdict record as the judge gave it, in terms of the first order. */
const verdictOf = ({ choice, margin }: Of<"verdict">): Verdict => ({
  prefer: choice === "0" ? 0 : choice === "1" ? 1 : null,
  ...(margin === undefined ? {} : { margin }),
});

export interface Guards {
  maxPosition: number;
  minUsable: number;
}

/**
 * Share of verdicts for the response that was shown first, and of samples that became pairs. Where both orders were asked, a
 * liking for a place is in no pair: opposite choices are dropped, or it cancels in the mean of both margins. Such verdicts do
 * not count.
 */
export function shares(records: Records, samples: number): { first: number; verdicts: number; usable: number } {
  let [first, count] = [0, 0];
  for (const [only, ...other] of records.verdicts.values()) {
    if (only === undefined || other.length > 0) continue;
    const verdict = verdictOf(only);
    const shown = only.order === 1 ? unswapped(verdict) : verdict;
    if (shown.prefer === null) continue;
    count += 1;
    if (shown.prefer === 0) first += 1;
  }
  let usable = 0;
  for (const { status } of records.pairs.values()) if (status === "pair") usable += 1;
  return { first: count === 0 ? 0.5 : first / count, verdicts: count, usable: usable / samples };
}

/** What leaving out cut answers leaves out: mean tokens of an answer of the samples that are truncated, and of the others. */
export interface Censored {
  truncatedTokens: number;
  /** 0 where no other sample was answered. */
  keptTokens: number;
}

/** null where no sample was left out for an answer that was cut off. */
export function censoredOf({ responses, pairs }: Records): Censored | null {
  if (!some(pairs.values(), ({ status }) => status === "truncated")) return null; // answers are read only for this
  const [cut, kept] = [0, 1].map(() => ({ tokens: 0, answers: 0 })) as [Answers, Answers];
  for (const [sample, { status }] of pairs) {
    const side = status === "truncated" ? cut : kept;
    for (const { ids } of responses.get(sample) ?? []) {
      side.tokens += ids.length;
      side.answers += 1;
    }
  }
  if (cut.answers === 0) return null;
  return { truncatedTokens: cut.tokens / cut.answers, keptTokens: kept.tokens / (kept.answers || 1) };
}

function some<T>(list: Iterable<T>, is: (item: T) => boolean): boolean {
  for (const item of list) if (is(item)) return true;
  return false;
}

type Answers = Record<"tokens" | "answers", number>;

const fewVerdicts = 20; // with fewer, the share of one position says nothing

/** What to do about the status that took the most samples; only what has not been done yet. */
function remedy(status: string | undefined, policies: Policies & { orders?: string; method?: string }): string {
  const known: Record<string, string | false> = {
    disagree:
      policies.disagree !== "average" &&
      'the judge contradicts itself when answers change places: judge.disagree "average" lets its mean margin decide, where it gives margins',
    truncated: "answers are cut off: raise response.maxTokens, or ask for shorter ones in the prompts",
    identical: "both answers are often the same: raise response.temperature",
    unparsed:
      policies.method !== "logprob" &&
      'replies hold no choice: judge.method "logprob" reads it from the labels instead',
    skipped:
      "videos cannot be read or questions do not fit: look at the warnings and at the skip records of the journal",
  };
  return known[status ?? ""] || "look at the counts of the other samples";
}

/** Samples by status, the most frequent first; pairs left out. */
function lostOf(records: Records): [status: string, count: number][] {
  const counts = new Map<string, number>();
  for (const { status } of records.pairs.values())
    if (status !== "pair") counts.set(status, (counts.get(status) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
}

/** DEGENERATE for an iteration that would teach nothing, or the wrong thing. */
export function guard(records: Records, samples: number, { maxPosition, minUsable }: Guards, policies: Policies): void {
  const { first, verdicts, usable } = shares(records, samples);
  const position = Math.max(first, 1 - first);
  if (verdicts >= fewVerdicts && position > maxPosition)
    throw new IsrDpoError(
      "DEGENERATE",
      `the judge chose the ${first > 0.5 ? "first" : "second"} answer in ${percent(position)} of ${verdicts} verdicts, more than ${percent(maxPosition)}`,
      {
        hint: 'ask in both orders (judge.orders: "both"), or raise guards.maxPosition',
        detail: { first, verdicts, maxPosition },
      },
    );
  if (usable >= minUsable) return;
  const lost = lostOf(records);
  const counts = lost.map(([status, count]) => `${count} ${status}`).join(", ");
  throw new IsrDpoError(
    "DEGENERATE",
    `${percent(usable)} of the samples became pairs, fewer than ${percent(minUsable)}${counts === "" ? "" : `; the others: ${counts}`}`,
    {
      hint: `${remedy(lost[0]?.[0], policies)}; guards.minUsable is the bound`,
      detail: { usable, minUsable, counts: Object.fromEntries(lost) },
    },
  );
}

export interface ChosenPair {
  sample: Sample;
  context: string | null;
  chosen: Of<"rsp">;
  rejected: Of<"rsp">;
  margin: number | null;
  /** Whether both orders preferred the same answer; null with one order. */
  agreement: boolean | null;
}

/** The pairs of an iteration in the order of its samples, one at a time. */
export function* pairsOf(
  samples: Iterable<Sample>,
  records: Records,
  contextOf: (video: string) => string | null,
  policies: Policies,
): Generator<ChosenPair> {
  for (const sample of samples) {
    const pair = records.pairs.get(sample.id)!;
    if (pair.status !== "pair") continue;
    const chosen = pair.chosen as 0 | 1;
    const responses = records.responses.get(sample.id)!;
    const verdicts = records.verdicts.get(sample.id)!.map(verdictOf);
    yield {
      sample,
      context: contextOf(sample.video),
      chosen: responses[chosen],
      rejected: responses[chosen === 0 ? 1 : 0],
      margin: decide(verdicts, policies).margin ?? null,
      agreement: verdicts.length < 2 ? null : verdicts[0]!.prefer === verdicts[1]!.prefer,
    };
  }
}

export interface Provenance {
  iteration: number;
  seed: bigint;
  promptHash: string;
  modelHash: string;
}

const wordsOf = ({ sample, chosen, rejected }: ChosenPair) => ({
  id: sample.id,
  video: sample.video,
  prompt: sample.question,
  chosen: chosen.text,
  rejected: rejected.text,
});

const recordOf = (pair: ChosenPair, p: Provenance): PairRecord => {
  const { chosen, rejected, margin, agreement } = pair;
  return {
    ...wordsOf(pair),
    chosenIds: chosen.ids,
    rejectedIds: rejected.ids,
    iteration: p.iteration,
    seeds: [p.seed],
    promptHash: p.promptHash,
    modelHash: p.modelHash,
    margin,
    agreement,
    lengths: { chosen: chosen.ids.length, rejected: rejected.ids.length },
  };
};

/** A row that readPairs, LLaVA-Hound (video, prompt, chosen, rejected) and TRL (prompt, chosen, rejected) read. */
function rowOf(pair: ChosenPair, p: Provenance): object {
  const { context, chosen, rejected, margin, agreement } = pair;
  return {
    ...wordsOf(pair),
    chosen_ids: chosen.ids,
    rejected_ids: rejected.ids,
    ...{ iteration: p.iteration, seeds: [String(p.seed)], prompt_hash: p.promptHash, model_hash: p.modelHash },
    ...{ margin, agreement, chosen_length: chosen.ids.length, rejected_length: rejected.ids.length },
    context,
  };
}

/** Lines of JSON as blocks of about a megabyte: a file of any number of rows is written in bounded memory. */
async function* blocksOf(rows: Iterable<object>): AsyncGenerator<Uint8Array> {
  let held = "";
  for (const row of rows) {
    held += `${JSON.stringify(row)}\n`;
    if (held.length < 1 << 20) continue;
    yield Buffer.from(held);
    held = "";
  }
  yield Buffer.from(held);
}

function* mapped<T, U>(list: Iterable<T>, of: (item: T) => U): Generator<U> {
  for (const item of list) yield of(item);
}

export interface ExportedContext {
  video: string;
  text: string;
  ids: readonly number[];
  previous: string | null;
}

/**
 * contexts.jsonl, pairs.jsonl and pairs.parquet of an iteration's folder. `pairs` begins anew at each call. How many pairs the
 * Parquet file cannot hold.
 */
export async function writeExports(
  dir: string,
  contexts: Iterable<ExportedContext>,
  pairs: () => Iterable<ChosenPair>,
  p: Provenance,
): Promise<number> {
  await writeAtomic(join(dir, "contexts.jsonl"), blocksOf(contexts));
  await writeAtomic(join(dir, "pairs.jsonl"), blocksOf(mapped(pairs(), (pair) => rowOf(pair, p))));
  let left = 0;
  function* exportable(): Generator<PairRecord> {
    for (const pair of pairs()) {
      if (isExportable(pair)) yield recordOf(pair, p);
      else left += 1;
    }
  }
  await writePairs(join(dir, "pairs.parquet"), exportable(), { format: "hound" });
  return left;
}

const words = (text: string) => text.trim() !== "" && !/\p{Surrogate}/u.test(text);

/** What the columns of text of a preference file can hold. */
const isExportable = ({ sample, chosen, rejected }: ChosenPair): boolean =>
  words(chosen.text) && words(rejected.text) && words(sample.question) && !/<video>|<image>/.test(sample.question);
