// From the records of an iteration to what it leaves: contexts, pairs, statistics. All of it is derived, so that it is the same
// whenever it is written.
import { join } from "node:path";
import type { Sample } from "../data/samples.js";
import { type PairRecord, writePairs } from "../data/write.js";
import { IsrDpoError } from "../errors.js";
import { decide, type PairStatus, type Policies, statuses, unswapped, type Verdict } from "../judge/judge.js";
import { writeAtomic } from "../store/files.js";
import type { GroupRecord } from "./generate.js";

type Of<T extends GroupRecord["type"]> = Extract<GroupRecord, { type: T }>;

/** Records of an iteration by what they are about. */
export interface Records {
  contexts: ReadonlyMap<string, Of<"ctx">>;
  responses: ReadonlyMap<string, readonly [Of<"rsp">, Of<"rsp">]>;
  verdicts: ReadonlyMap<string, readonly Of<"verdict">[]>;
  pairs: ReadonlyMap<string, Of<"pair">>;
}

export function sorted(records: readonly GroupRecord[]): Records {
  const contexts = new Map<string, Of<"ctx">>();
  const responses = new Map<string, Of<"rsp">[]>();
  const verdicts = new Map<string, Of<"verdict">[]>();
  const pairs = new Map<string, Of<"pair">>();
  const push = <T>(map: Map<string, T[]>, key: string, value: T) => map.set(key, [...(map.get(key) ?? []), value]);
  for (const r of records) {
    if (r.type === "ctx") contexts.set(r.video, r);
    else if (r.type === "rsp") push(responses, r.sample, r);
    else if (r.type === "verdict") push(verdicts, r.sample, r);
    else if (r.type === "pair") pairs.set(r.sample, r);
  }
  for (const list of responses.values()) list.sort((a, b) => a.copy - b.copy);
  for (const list of verdicts.values()) list.sort((a, b) => a.order - b.order);
  return { contexts, responses: responses as unknown as Records["responses"], verdicts, pairs };
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

/** Share of verdicts for the response that was shown first, and of samples that became pairs. */
export function shares(records: Records, samples: number): { first: number; verdicts: number; usable: number } {
  let [first, count] = [0, 0];
  for (const list of records.verdicts.values())
    for (const record of list) {
      const v = verdictOf(record);
      const shown = record.order === 1 ? unswapped(v) : v;
      if (shown.prefer === null) continue;
      count += 1;
      if (shown.prefer === 0) first += 1;
    }
  const usable = [...records.pairs.values()].filter((p) => p.status === "pair").length;
  return { first: count === 0 ? 0.5 : first / count, verdicts: count, usable: usable / samples };
}

const fewVerdicts = 20; // below, a share of one position says nothing

/** DEGENERATE for an iteration that would teach nothing, or the wrong thing. */
export function guard(records: Records, samples: number, { maxPosition, minUsable }: Guards): void {
  const { first, verdicts, usable } = shares(records, samples);
  const position = Math.max(first, 1 - first);
  const percent = (x: number) => `${(100 * x).toFixed(1)} %`;
  if (verdicts >= fewVerdicts && position > maxPosition)
    throw new IsrDpoError(
      "DEGENERATE",
      `the judge chose the ${first > 0.5 ? "first" : "second"} answer in ${percent(position)} of ${verdicts} verdicts, more than ${percent(maxPosition)}`,
      {
        hint: 'ask in both orders (judge.orders: "both"), or raise guards.maxPosition',
        detail: { first, verdicts, maxPosition },
      },
    );
  if (usable < minUsable)
    throw new IsrDpoError(
      "DEGENERATE",
      `${percent(usable)} of the samples became pairs, fewer than ${percent(minUsable)}`,
      {
        hint: "look at the counts of the other samples, or lower guards.minUsable",
        detail: { usable, minUsable },
      },
    );
}

export interface ChosenPair {
  sample: Sample;
  context: string | null;
  chosen: Of<"rsp">;
  rejected: Of<"rsp">;
  margin: number | null;
  /** Of two orders; null with one. */
  agreement: boolean | null;
}

/** The pairs of an iteration in the order of its samples. */
export function pairsOf(
  samples: readonly Sample[],
  records: Records,
  contextOf: (video: string) => string | null,
  policies: Policies,
): ChosenPair[] {
  return samples.flatMap((sample): ChosenPair[] => {
    const pair = records.pairs.get(sample.id)!;
    if (pair.status !== "pair") return [];
    const chosen = pair.chosen as 0 | 1;
    const responses = records.responses.get(sample.id)!;
    const verdicts = records.verdicts.get(sample.id)!.map(verdictOf);
    return [
      {
        sample,
        context: contextOf(sample.video),
        chosen: responses[chosen],
        rejected: responses[chosen === 0 ? 1 : 0],
        margin: decide(verdicts, policies).margin ?? null,
        agreement: verdicts.length < 2 ? null : verdicts[0]!.prefer === verdicts[1]!.prefer,
      },
    ];
  });
}

export interface Provenance {
  iteration: number;
  seed: bigint;
  promptHash: string;
  modelHash: string;
}

const recordOf = ({ sample, chosen, rejected, margin, agreement }: ChosenPair, p: Provenance): PairRecord => ({
  id: sample.id,
  video: sample.video,
  prompt: sample.question,
  chosen: chosen.text,
  rejected: rejected.text,
  chosenIds: chosen.ids,
  rejectedIds: rejected.ids,
  iteration: p.iteration,
  seeds: [p.seed],
  promptHash: p.promptHash,
  modelHash: p.modelHash,
  margin,
  agreement,
  lengths: { chosen: chosen.ids.length, rejected: rejected.ids.length },
});

const line = (value: object): string => `${JSON.stringify(value)}\n`;

/** contexts.jsonl, pairs.jsonl and pairs.parquet of an iteration's folder. How many pairs the Parquet file cannot hold. */
export async function writeExports(
  dir: string,
  contexts: readonly { video: string; text: string; ids: readonly number[]; previous: string | null }[],
  pairs: readonly ChosenPair[],
  p: Provenance,
): Promise<number> {
  await writeAtomic(join(dir, "contexts.jsonl"), contexts.map(line).join(""));
  const rows = pairs.map((pair) => {
    const { sample, context, chosen, rejected, margin, agreement } = pair;
    return line({
      sample: sample.id,
      video: sample.video,
      question: sample.question,
      context,
      chosen: chosen.text,
      rejected: rejected.text,
      chosenIds: chosen.ids,
      rejectedIds: rejected.ids,
      margin,
      agreement,
      status: "pair",
    });
  });
  await writeAtomic(join(dir, "pairs.jsonl"), rows.join(""));
  const exportable = pairs.filter(isExportable);
  await writePairs(
    join(dir, "pairs.parquet"),
    exportable.map((pair) => recordOf(pair, p)),
    { format: "hound" },
  );
  return pairs.length - exportable.length;
}

const words = (text: string) => text.trim() !== "" && !/\p{Surrogate}/u.test(text);

/** What the columns of text of a preference file can hold. */
const isExportable = ({ sample, chosen, rejected }: ChosenPair): boolean =>
  words(chosen.text) && words(rejected.text) && words(sample.question) && !/<video>|<image>/.test(sample.question);
