// Reads the journals of an iteration without locking or changing them, so that a running one can be looked at. Damaged lines
// are counted and reported, never guessed at.
import { join } from "node:path";
import { scanLines } from "../base/lines.js";
import { crc32c, hex32 } from "../runfolder/crc32c.js";
import { journalsIn } from "../runfolder/journal.js";
import { finished, type JournalRecord, keyIfRecord } from "../runfolder/journal-records.js";

const maxLineBytes = 17 << 20;
const prefix = 9; // checksum and space

export interface Judged {
  /** Index of the preferred response, whatever the order it was shown in; null: none. */
  prefer: 0 | 1 | null;
  /** In nats, above 0 in favour of response 0; null: the judge gives none. */
  margin: number | null;
  raw: string | null;
}

export interface SampleRecords {
  responses: [string | null, string | null];
  /** By order: 0 shows response 0 first, 1 response 1. */
  verdicts: [Judged | null, Judged | null];
  /** null: not decided yet. */
  status: string | null;
  chosen: 0 | 1 | null;
}

export interface IterationRecords {
  contexts: Map<string, string>;
  samples: Map<string, SampleRecords>;
  /** Videos or samples that were skipped, with the reason. */
  skips: Map<string, string>;
  /** Videos that were used though frames of them were lost or damaged, in words. */
  damage: Map<string, string>;
  /** Lines whose checksum or form does not hold. */
  badLines: number;
  /** Records of groups that were not finished, or are damaged: they do not count. */
  openRecords: number;
}

/** The record of a journal's line, if the line holds. */
function recordOf(text: string): JournalRecord | undefined {
  const json = text.slice(prefix);
  if (text[prefix - 1] !== " " || text.slice(0, prefix - 1) !== hex32(crc32c(Buffer.from(json)))) return undefined;
  try {
    const value: unknown = JSON.parse(json);
    return keyIfRecord(value) === undefined ? undefined : (value as JournalRecord);
  } catch {
    return undefined;
  }
}

function sampleOf(found: IterationRecords, id: string): SampleRecords {
  let sample = found.samples.get(id);
  if (!sample) {
    sample = { responses: [null, null], verdicts: [null, null], status: null, chosen: null };
    found.samples.set(id, sample);
  }
  return sample;
}

const preferences: Record<string, 0 | 1> = { "0": 0, "1": 1 };

function take(found: IterationRecords, r: JournalRecord): void {
  if (r.type === "ctx") found.contexts.set(r.video, r.text);
  else if (r.type === "rsp" && (r.copy === 0 || r.copy === 1)) sampleOf(found, r.sample).responses[r.copy] = r.text;
  else if (r.type === "verdict" && (r.order === 0 || r.order === 1)) {
    const { choice, margin, raw } = r as { choice: string; margin?: number; raw?: string };
    sampleOf(found, r.sample).verdicts[r.order] = {
      prefer: preferences[choice] ?? null,
      margin: margin ?? null,
      raw: raw ?? null,
    };
  } else if (r.type === "pair") {
    const sample = sampleOf(found, r.sample);
    sample.status = r.status;
    sample.chosen = r.chosen === 0 || r.chosen === 1 ? r.chosen : null;
  } else if (r.type === "damage")
    found.damage.set(r.video, `${r.lost} frames lost and ${r.damaged} damaged of ${r.frames}`);
  else if (r.type === "skip") found.skips.set(r.video ?? r.sample ?? "", `${r.code}: ${r.message}`);
}

/** Reads all journals of an iteration's folder. */
export async function readJournals(dir: string): Promise<IterationRecords> {
  const found: IterationRecords = {
    contexts: new Map(),
    samples: new Map(),
    skips: new Map(),
    damage: new Map(),
    badLines: 0,
    openRecords: 0,
  };
  for (const { name } of await journalsIn(dir)) {
    let open: JournalRecord[] = []; // records since the last end record
    for await (const line of scanLines(join(dir, name), maxLineBytes)) {
      const record = "text" in line ? recordOf(line.text) : null;
      if (!record) {
        found.badLines += 1;
        continue;
      }
      open.push(record);
      if (record.type !== "end") continue;
      const held = finished(open);
      for (const r of held) take(found, r);
      found.openRecords += Math.max(0, open.length - 1 - held.length);
      open = [];
    }
    found.openRecords += open.length;
  }
  return found;
}
