// From a file of rows, or items given, to the set that a run trains on. Rows are checked here, before anything is computed:
// their form, their ids, that their media are there, and that they fit into the model's context.
import { stat } from "node:fs/promises";
import { dirname } from "node:path";
import { readExamplesWith } from "../data/examples.js";
import { isRowFault, withOwnId } from "../data/items.js";
import type { DataNote } from "../data/notes.js";
import { readPairsWith } from "../data/pairs.js";
import type { SkippedRow } from "../data/rows.js";
import { IsrDpoError, isIsrDpoError } from "../errors.js";
import type { VideoLM } from "../model.js";
import type { FittedItem } from "../sequence.js";
import type { Media, Message, TrainItem } from "../types.js";
import { fitted } from "./evaluate.js";
import { ItemSet, rooted } from "./items.js";

export interface GatherOptions {
  kind: "sft" | "dpo";
  model: VideoLM;
  data: string | AsyncIterable<TrainItem>;
  /** Folder that media paths are relative to; default: that of the file. */
  videos: string | undefined;
  onBadRow: "fail" | "skip";
  onLong: "fail" | "truncate";
  onSkip(row: SkippedRow): void;
  /** What is odd about the file: told once, at its end. */
  onNote(note: DataNote): void;
  signal: AbortSignal;
}

type FileMedia = Extract<Media, string | { path: string }>;

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

/** The field of an item's fault without the name that the item has while it is checked. */
function ofRow(e: unknown): unknown {
  if (!isIsrDpoError(e)) return e;
  const bare = (text: string) => text.replace(/\bitems\[0\]\.?/, "");
  const { code, message, hint, path, detail } = e;
  const field = typeof detail?.field === "string" ? { field: bare(detail.field) } : {};
  return new IsrDpoError(code, bare(message), {
    ...(hint === undefined ? {} : { hint }),
    ...(path === undefined ? {} : { path }),
    detail: { ...detail, ...field },
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
      const ready = await fitted(o.model, given, o.kind === "sft", o.onLong === "truncate");
      await presence.check(root === undefined ? ready.item : rooted(ready.item, root));
      return ready;
    } catch (e) {
      throw ofRow(e);
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
      o.onSkip({ path: "data", line: i, message });
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

/** The set at `path` as an earlier process left it (`resumed`), or read from the source now. DATA_INVALID where it is empty. */
export async function gather(path: string, resumed: boolean, o: GatherOptions): Promise<ItemSet> {
  const root = rootOf(o);
  const again = () => sourceOf({ ...o, onSkip: () => {}, onNote: () => {} });
  const found = resumed ? await ItemSet.reopen(path, again, root) : null;
  const set = found ?? (await ItemSet.gather(sourceOf(o), path, root));
  if (set.length > 0) return set;
  await set.close();
  const file = typeof o.data === "string" ? { path: o.data } : {};
  throw new IsrDpoError("DATA_INVALID", `${file.path ?? "data"}: expected items to train on, got none`, {
    hint: "give rows, or look at why they were left out",
    ...file,
  });
}
