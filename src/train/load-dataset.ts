// Turns a file of rows, or given items, into the set that a run trains on. Rows are checked before anything is computed: their
// form, their ids, that their media exist, and that they fit into the model's context.
import { stat } from "node:fs/promises";
import { dirname } from "node:path";
import { readExamplesWith } from "../data/read-examples.js";
import { isRowFault } from "../base/data-fault.js";
import { withOwnId } from "../data/read-items.js";
import type { DataNote } from "../data/bad-rows.js";
import { readPairsWith } from "../data/read-pairs.js";
import { Reasons } from "../data/skip-reasons.js";
import type { SkippedRow } from "../data/bad-rows.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { internalsOf } from "../model/model.js";
import type { VideoLM } from "../model/video-lm.js";
import type { FittedItem } from "../model/sequence.js";
import { noRepairs, type Repairs, repairTexts } from "../text/answer-span.js";
import type { Media, Message, TrainItem } from "../base/types.js";
import { fitted } from "./evaluate-set.js";
import { ItemSet, rooted } from "./item-store.js";

export interface GatherOptions {
  kind: "sft" | "dpo";
  model: VideoLM;
  data: string | AsyncIterable<TrainItem>;
  /** Folder that media paths are relative to; default: that of the file. */
  videos: string | undefined;
  onBadRow: "fail" | "skip";
  onLong: "fail" | "truncate";
  /** What to do with answers without one end token behind them, and with prompts that a template has rendered already. */
  onEnd: "fail" | "repair";
  /** Supervised: what is scored of a row of several turns. */
  turns: "last" | "all";
  onSkip(row: SkippedRow): void;
  /** Told of each row with media. */
  onMedia?(): void;
  /** What is odd about the file: told once, at its end. */
  onNote(note: DataNote): void;
  /** What was put right or dropped: told once, at the end. */
  onCount(code: string, count: number, message: string): void;
  signal: AbortSignal;
}

export type FileMedia = Extract<Media, string | { path: string }>;

const pathOf = (media: FileMedia): string => (typeof media === "string" ? media : media.path);

/** An item's media that are files. */
export function mediaFiles(item: TrainItem): FileMedia[] {
  const found: FileMedia[] = [];
  const take = (list: readonly Media[] | undefined) => {
    for (const m of list ?? []) if (typeof m === "string" || "path" in m) found.push(m);
  };
  const o = item as { media?: readonly Media[]; prompt?: unknown; chosen?: unknown; rejected?: unknown };
  take(o.media);
  for (const part of [o.prompt, o.chosen, o.rejected]) {
    if (Array.isArray(part)) {
      for (const m of part as readonly Message[])
        if (typeof m === "object" && m !== null && Array.isArray(m.content))
          for (const p of m.content) if (p.type !== "text") take([p.media]);
    } else if (typeof part === "object" && part !== null && "media" in part) take((part as { media?: Media[] }).media);
  }
  return found;
}

/** Remembers which paths are there, so that a clip of many rows is looked up once. */
class Presence {
  readonly #known = new Set<string>();

  async check(item: TrainItem): Promise<void> {
    for (const media of mediaFiles(item)) {
      const path = pathOf(media);
      if (this.#known.has(path)) continue;
      await stat(path).catch((cause) => {
        const field = (typeof media === "object" && media.kind) || "video";
        throw new IsrDpoError("NOT_FOUND", `${field}: expected a file or folder, got nothing at ${path}`, {
          path,
          detail: { field },
          cause,
        });
      });
      this.#known.add(path);
    }
  }
}

/** A row that was put right, where the caller wants such rows refused. */
function unrepaired({ repairs }: FittedItem): IsrDpoError | undefined {
  const found = (["endAdded", "endDoubled", "rendered"] as const).find((kind) => repairs[kind] > 0);
  if (found === undefined) return undefined;
  const field = found === "rendered" ? "prompt" : "answer";
  const [expected, got] = {
    endAdded: ["an answer with an end token behind it", "a chat template that writes none"],
    endDoubled: ["an answer with one end token", "more"],
    rendered: ["words", "a prompt that the chat template has rendered already"],
  }[found];
  return new IsrDpoError("DATA_INVALID", `${field}: expected ${expected}, got ${got}`, {
    hint: 'correct the row or the template, or let it be put right with onEnd: "repair"',
    detail: { field },
  });
}

/** What belongs to the item and not to the model, as a row's fault: a template that refuses a conversation among it. */
function ofRow(model: VideoLM, e: unknown): unknown {
  if (!isIsrDpoError(e, "TOKENIZER")) return e;
  const { tokenizerOrNull, rules } = internalsOf(model).inputs;
  if (!tokenizerOrNull || (rules.style !== "original" && !tokenizerOrNull.template)) return e; // leaving rows out would not help
  const { message, hint, detail } = e;
  return new IsrDpoError("DATA_INVALID", message, {
    ...(hint === undefined ? {} : { hint }),
    ...(detail ? { detail } : {}),
    cause: e,
  });
}

const rootOf = (o: GatherOptions): string | undefined =>
  o.videos ?? (typeof o.data === "string" ? dirname(o.data) : undefined);

function preparation(o: GatherOptions) {
  const presence = new Presence();
  const root = rootOf(o);
  return async (given: TrainItem): Promise<FittedItem> => {
    o.signal.throwIfAborted();
    try {
      const asked = o.turns === "last" && given && "answer" in given ? { ...given, turns: "last" as const } : given;
      const ready = await fitted(o.model, asked, {
        supervised: o.kind === "sft",
        cut: o.onLong === "truncate",
        signal: o.signal,
      });
      const wrong = o.onEnd === "fail" && unrepaired(ready);
      if (wrong) throw wrong;
      if (o.onMedia && mediaFiles(ready.item).length > 0) o.onMedia();
      await presence.check(root === undefined ? ready.item : rooted(ready.item, root));
      return ready;
    } catch (e) {
      throw ofRow(o.model, e);
    }
  };
}

/** The item with a key of its own; `i` is its place. */
function keyed(item: TrainItem, taken: ReadonlySet<string>, i: number): TrainItem {
  const id: unknown = (item as { id?: unknown } | null)?.id;
  return typeof id === "string" ? (withOwnId(item as { id: string }, taken, i) as unknown as TrainItem) : item;
}

/** Items that a program gives: what does not fit is told by its index. */
async function* fromProgram(items: AsyncIterable<TrainItem>, o: GatherOptions): AsyncGenerator<FittedItem> {
  const prepare = preparation(o);
  const taken = new Set<string>();
  const shared: { item: number; id: string }[] = [];
  let i = -1;
  for await (const given of items) {
    i++;
    let ready: FittedItem;
    try {
      const item = keyed(given, taken, i);
      ready = await prepare(item);
      const { id } = ready.item as { id?: string };
      if (id !== undefined) taken.add(id);
      if (item !== given) shared.push({ item: i, id: id! });
    } catch (e) {
      if (!isRowFault(e)) throw e;
      const message = `data[${i}]: ${e.message}`;
      const place = { ...(e.hint ? { hint: e.hint } : {}), ...(e.path ? { path: e.path } : {}) };
      const facts = { ...place, detail: { ...e.detail, item: i }, cause: e };
      if (o.onBadRow === "fail") throw new IsrDpoError(e.code, message, facts);
      o.onSkip({ path: "data", line: i, message, reason: e.message });
      continue;
    }
    yield ready;
  }
  const [first] = shared;
  if (first)
    o.onNote({
      path: "data",
      code: "DUPLICATE_ID",
      count: shared.length,
      line: first.item,
      message: `data: ${shared.length} items share an id with an earlier item and were given one of their own; the first: data[${first.item}], now ${first.id}`,
    });
}

/** Rows of a file. readItems wants items: the fitted ones ride along. */
async function* fromFile(path: string, o: GatherOptions): AsyncGenerator<FittedItem> {
  const prepare = preparation(o);
  const ready = new WeakMap<object, FittedItem>();
  const step = async <T extends TrainItem>(item: T): Promise<T> => {
    const done = await prepare(item);
    ready.set(done.item, done);
    return done.item as T;
  };
  const { onBadRow, onSkip, onNote } = o;
  const reading = { onBadRow, onSkip, onNote };
  const rows = o.kind === "sft" ? readExamplesWith(path, reading, step) : readPairsWith(path, reading, step);
  for await (const item of rows) yield ready.get(item)!;
}

const sourceOf = (o: GatherOptions): AsyncIterable<FittedItem> =>
  typeof o.data === "string" ? fromFile(o.data, o) : fromProgram(o.data, o);

/** What was put right in a set's items, and what was left out of it. */
export interface GatherCounts extends Repairs {
  /** Pairs whose answers are the same: they teach nothing, and are left out. */
  identical: number;
  /** Tokens that are scored, over all items. */
  scoredTokens: number;
}

export const noCounts = (): GatherCounts => ({ identical: 0, scoredTokens: 0, ...noRepairs() });

/** The items that teach something; counts them, and what was done to them. */
async function* counted(items: AsyncIterable<FittedItem>, counts: GatherCounts): AsyncGenerator<FittedItem> {
  for await (const item of items) {
    if (item.identical) {
      counts.identical++;
      continue;
    }
    counts.scoredTokens += item.scoredTokens;
    for (const kind of Object.keys(item.repairs) as (keyof Repairs)[]) counts[kind] += item.repairs[kind];
    yield item;
  }
}

/** What gather() would find in the first `most` items that teach something; nothing is told and nothing written. */
export async function measure(
  o: Omit<GatherOptions, "onSkip" | "onNote" | "onCount" | "signal">,
  most: number,
): Promise<GatherCounts & { items: number }> {
  const quiet = { onSkip: () => {}, onNote: () => {}, onCount: () => {}, signal: new AbortController().signal };
  const counts = noCounts();
  let items = 0;
  for await (const _ of counted(sourceOf({ ...o, ...quiet }), counts)) if (++items === most) break;
  return { ...counts, items };
}

function tell(o: GatherOptions, counts: GatherCounts): void {
  const { identical } = counts;
  const place = typeof o.data === "string" ? o.data : "data";
  if (identical > 0)
    o.onCount("IDENTICAL", identical, `${place}: ${identical} pairs have the same answer twice and were left out`);
  for (const kind of Object.keys(repairTexts) as (keyof Repairs)[]) {
    const [code, words] = repairTexts[kind];
    if (counts[kind] > 0) o.onCount(code, counts[kind], `${place}: in ${counts[kind]} rows ${words}`);
  }
}

function nothing(o: GatherOptions, identical: number, left: Reasons): IsrDpoError {
  const file = typeof o.data === "string" ? { path: o.data } : {};
  const got = [
    ...(identical > 0 ? [`${identical} pairs whose two answers are the same`] : []),
    ...(left.count > 0 ? [left.text()] : []),
  ];
  const hint = got.length === 0 ? "give rows" : identical > 0 ? "give pairs whose answers differ" : "correct the rows";
  return new IsrDpoError(
    "DATA_INVALID",
    `${file.path ?? "data"}: expected items to train on, got ${got.join(", and ") || "none"}`,
    { hint, ...file, detail: { identical, skippedRows: left.count } },
  );
}

/** The set at `path` as an earlier process left it (`resumed`), or read from the source now. DATA_INVALID where it is empty. */
export async function gather(
  path: string,
  resumed: boolean,
  o: GatherOptions,
): Promise<{ set: ItemSet; counts: GatherCounts }> {
  const { inputs } = internalsOf(o.model);
  for (const kind of Object.keys(repairTexts) as (keyof Repairs)[]) inputs.told.add(kind); // this call reports them itself
  const quiet = { ...o, onSkip: () => {}, onNote: () => {} };
  const root = rootOf(o);
  const found = resumed ? await ItemSet.reopen(path, () => counted(sourceOf(quiet), noCounts()), root) : null;
  const counts = noCounts();
  const left = new Reasons();
  const onSkip = (row: SkippedRow) => {
    left.add(row.message, row.reason);
    o.onSkip(row);
  };
  const set = found ?? (await ItemSet.gather(counted(sourceOf({ ...o, onSkip }), counts), path, root));
  if (set.length === 0) {
    await set.close();
    throw nothing(o, counts.identical, left);
  }
  tell(o, counts);
  return { set, counts };
}
