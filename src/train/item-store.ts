// The items of a training run: they are read once, in order, into the run folder (one JSON line per item), and read from there
// by index. This fixes what is trained on, whatever happens to the source, and a million rows need little memory. Items that
// hold frames or pixels themselves stay in memory.
import { sum } from "../base/statistics.js";
import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { IsrDpoError } from "../base/errors.js";
import type { FittedItem } from "../model/sequence.js";
import { readAll, writeAtomic } from "../base/atomic-files.js";
import { rawLines } from "../base/lines.js";
import { codeOf, guarded } from "../base/file-errors.js";
import { fromStored, toStored } from "./stored-names.js";
import type { Media, Message, TrainItem } from "../base/types.js";

/** An item and what is kept of it. */
export type StoredItem = Pick<FittedItem, "item" | "tokens" | "cut">;

type Plain = Record<string, unknown>;
const arrays = { i32: Int32Array, f32: Float32Array, u8: Uint8Array } as const;
type ArrayType = keyof typeof arrays;

function arrayType(x: unknown): ArrayType | undefined {
  return (Object.keys(arrays) as ArrayType[]).find((kind) => x instanceof arrays[kind]);
}

/** JSON of an item; null when it holds media by value. Typed arrays keep their type. */
function encode(item: TrainItem): string | null {
  let byValue = false;
  const text = JSON.stringify(item, (key, x) => {
    if (key === "frames" || key === "pixels" || key === "data")
      byValue ||= ArrayBuffer.isView(x) || typeof x === "object";
    const kind = arrayType(x);
    return kind ? { $: kind, v: Array.from(x as Int32Array) } : toStored(x);
  });
  return byValue ? null : text;
}

function decode(text: string): unknown {
  return JSON.parse(text, (_, x) => {
    const kind = typeof x === "object" && x !== null ? (x as { $?: ArrayType }).$ : undefined;
    return kind === undefined ? fromStored(x) : arrays[kind].from((x as { v: number[] }).v);
  });
}

/** Paths of media relative to `root`. */
export function rooted(item: TrainItem, root: string): TrainItem {
  const place = (m: Media): Media => {
    if (typeof m === "string") return isAbsolute(m) ? m : join(root, m);
    return "path" in m && !isAbsolute(m.path) ? { ...m, path: join(root, m.path) } : m;
  };
  const list = (media: readonly Media[] | undefined) => media && { media: media.map(place) };
  const messages = (all: readonly Message[]): Message[] =>
    all.map((m) =>
      typeof m.content === "string"
        ? m
        : { ...m, content: m.content.map((p) => (p.type === "text" ? p : { ...p, media: place(p.media) })) },
    );
  if ("chosen" in item && !("prompt" in item))
    return {
      ...item,
      chosen: { ...item.chosen, ...list(item.chosen.media) },
      rejected: { ...item.rejected, ...list(item.rejected.media) },
    };
  if (!("prompt" in item)) return { ...item, ...("media" in item ? list(item.media) : {}) };
  const { prompt } = item;
  if (typeof prompt === "string") return { ...item, ...list(item.media) };
  if (Array.isArray(prompt)) return { ...item, prompt: messages(prompt as readonly Message[]) };
  const sequence = prompt as Exclude<typeof prompt, readonly Message[]>;
  return { ...item, prompt: { ...sequence, ...list(sequence.media) } };
}

/** What items of one step may share: the same media, else the same prompt. */
function groupOf(item: TrainItem): number {
  const o = item as unknown as Plain;
  const media = (o.media ?? (o.prompt as Plain | undefined)?.media) as unknown;
  const key = JSON.stringify(media ?? o.prompt ?? null, (_, x) =>
    ArrayBuffer.isView(x) ? (x as Int32Array).length : x,
  );
  return createHash("sha256").update(key).digest().readUInt32LE(0);
}

/** What is kept in memory of each item. */
interface Index {
  ends: number[]; // byte offset behind the line of each item
  groups: number[];
  tokens: number[];
  cut: number[]; // items that were shortened
  held: Map<number, TrainItem>; // items with media by value
  hash: string;
}

const emptyIndex = (): Index => ({ ends: [], groups: [], tokens: [], cut: [], held: new Map(), hash: "" });

export class ItemSet {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #ends: Float64Array;
  readonly #groups: Uint32Array;
  readonly #tokens: Uint32Array;
  readonly #cut: ReadonlySet<number>;
  readonly #held: ReadonlyMap<number, TrainItem>;
  readonly #root: string | undefined;
  /** sha256 of the lines; items held in memory count by their order alone. */
  readonly hash: string;

  private constructor(path: string, file: FileHandle, index: Index, root: string | undefined) {
    this.#root = root;
    this.#path = path;
    this.#file = file;
    this.#ends = Float64Array.from(index.ends);
    this.#groups = Uint32Array.from(index.groups);
    this.#tokens = Uint32Array.from(index.tokens);
    this.#cut = new Set(index.cut);
    this.#held = index.held;
    this.hash = index.hash;
  }

  static async #open(path: string, index: Index, root: string | undefined): Promise<ItemSet> {
    return new ItemSet(path, await guarded(path, "open", () => open(path, "r")), index, root);
  }

  /**
   * Reads the source to its end into `path`, which appears whole. `root`: folder that media paths are relative to; it does not
   * stand in the file, so that data may be moved.
   */
  static async gather(source: AsyncIterable<StoredItem>, path: string, root?: string): Promise<ItemSet> {
    const index = emptyIndex();
    const hash = createHash("sha256");
    await writeAtomic(path, linesOf(source, index, hash));
    index.hash = hash.digest("hex");
    return ItemSet.#open(path, index, root);
  }

  /**
   * The set that gather() left at `path`; null where there is none. Items with media by value are taken from `source` again,
   * which must give what it gave before (RUN_MISMATCH).
   */
  static async reopen(path: string, source: () => AsyncIterable<StoredItem>, root?: string): Promise<ItemSet | null> {
    const index = await indexOf(path);
    if (!index) return null;
    if (index.held.size === 0) return ItemSet.#open(path, index, root);
    const again = emptyIndex();
    const hash = createHash("sha256");
    for await (const _ of linesOf(source(), again, hash)); // reads to the end: only what it notes is wanted
    again.hash = hash.digest("hex");
    if (again.hash !== index.hash)
      throw new IsrDpoError("RUN_MISMATCH", `${path}: expected the items that the run began with, got others`, {
        hint: "resume with the same data, or start in a new folder",
        path,
      });
    return ItemSet.#open(path, again, root);
  }

  get length(): number {
    return this.#ends.length;
  }

  group(i: number): string {
    return String(this.#groups[i]);
  }

  /** Number of tokens of all sequences of the item; each includes the prompt. */
  tokens(i: number): number {
    return this.#tokens[i]!;
  }

  cut(i: number): boolean {
    return this.#cut.has(i);
  }

  get cutCount(): number {
    return this.#cut.size;
  }

  async item(i: number): Promise<TrainItem> {
    const item = this.#held.get(i) ?? (await this.#read(i));
    return this.#root === undefined ? item : rooted(item, this.#root);
  }

  async #read(i: number): Promise<TrainItem> {
    const begin = i === 0 ? 0 : this.#ends[i - 1]!;
    const bytes = Buffer.alloc(this.#ends[i]! - begin);
    const got = await guarded(this.#path, "read", () => readAll(this.#file, bytes, begin));
    if (got !== bytes.length) throw changed(this.#path, i);
    return lineItem(this.#path, i, bytes.toString("utf8")).item!;
  }

  items(indices: readonly number[]): Promise<TrainItem[]> {
    return Promise.all(indices.map((i) => this.item(i)));
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

function changed(path: string, i: number): IsrDpoError {
  return new IsrDpoError("JOURNAL_CORRUPT", `${path}: item ${i}: expected the line as it was written, got another`, {
    hint: "the run's items were changed: restore the file, or start in a new folder",
    path,
  });
}

interface Line {
  item: TrainItem | null;
  tokens: readonly number[];
  cut?: true;
}

function lineItem(path: string, i: number, text: string): Line {
  try {
    const line = decode(text) as Line;
    if (Array.isArray(line.tokens) && line.item !== undefined) return line;
  } catch {}
  throw changed(path, i);
}

function note(index: Index, i: number, { tokens, cut }: { tokens: readonly number[]; cut?: boolean }, item: TrainItem) {
  index.tokens.push(sum(tokens));
  index.groups.push(groupOf(item));
  if (cut) index.cut.push(i);
}

const flushBytes = 1 << 20;

async function* linesOf(
  source: AsyncIterable<StoredItem>,
  index: Index,
  hash: ReturnType<typeof createHash>,
): AsyncGenerator<Uint8Array> {
  let waiting: Buffer[] = [];
  let waitingBytes = 0;
  let at = 0;
  for await (const { item, tokens, cut } of source) {
    const i = index.ends.length;
    const text = encode(item);
    if (text === null) index.held.set(i, item);
    const rest = `"tokens":${JSON.stringify(tokens)}${cut ? ',"cut":true' : ""}`;
    const line = Buffer.from(`{"item":${text ?? "null"},${rest}}\n`);
    hash.update(line);
    waiting.push(line);
    waitingBytes += line.length;
    at += line.length;
    index.ends.push(at);
    note(index, i, { tokens, cut }, item);
    if (waitingBytes < flushBytes) continue;
    yield Buffer.concat(waiting);
    waiting = [];
    waitingBytes = 0;
  }
  yield Buffer.concat(waiting);
}

/** The index of a file of items, by reading it once; null where there is none. */
async function indexOf(path: string): Promise<Index | null> {
  const file = await open(path, "r").catch((e) => {
    if (codeOf(e) === "ENOENT") return null;
    return guarded(path, "open", () => Promise.reject(e));
  });
  if (!file) return null;
  const index = emptyIndex();
  const hash = createHash("sha256");
  try {
    for await (const { bytes, ended, offset, size } of rawLines(file, path, {
      limit: Infinity,
      blockBytes: flushBytes,
    })) {
      if (!ended || !bytes) throw changed(path, -1);
      hash.update(bytes);
      const i = index.ends.length;
      const line = lineItem(path, i, bytes.toString("utf8"));
      index.ends.push(offset + size);
      if (line.item === null) index.held.set(i, { ids: [] });
      note(index, i, { tokens: line.tokens, cut: line.cut === true }, line.item ?? { ids: [] });
    }
  } finally {
    await file.close();
  }
  index.hash = hash.digest("hex");
  return index;
}
