// The items of a training run: read once, front to back, into the run folder (one JSON line an item), and taken from there by
// index. What is trained on is thereby fixed, whatever becomes of the source, and a million rows cost little memory. Items
// that hold frames or pixels themselves stay in memory.
import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { IsrDpoError } from "../errors.js";
import type { Media, Message, TrainItem } from "../types.js";

type Plain = Record<string, unknown>;
const arrays = { i32: Int32Array, f32: Float32Array, u8: Uint8Array } as const;
type Kind = keyof typeof arrays;

function kindOf(x: unknown): Kind | undefined {
  return (Object.keys(arrays) as Kind[]).find((kind) => x instanceof arrays[kind]);
}

/** JSON of an item; null when it holds media by value. Typed arrays keep their type. */
function encode(item: TrainItem): string | null {
  let byValue = false;
  const text = JSON.stringify(item, (key, x) => {
    if (key === "frames" || key === "pixels" || key === "data")
      byValue ||= ArrayBuffer.isView(x) || typeof x === "object";
    const kind = kindOf(x);
    return kind ? { $: kind, v: Array.from(x as Int32Array) } : x;
  });
  return byValue ? null : text;
}

function decode(text: string): TrainItem {
  return JSON.parse(text, (_, x) => {
    const kind = typeof x === "object" && x !== null ? (x as { $?: Kind }).$ : undefined;
    return kind === undefined ? x : arrays[kind].from((x as { v: number[] }).v);
  }) as TrainItem;
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

export class ItemSet {
  readonly #file: FileHandle;
  readonly #ends: Float64Array; // byte behind each line
  readonly #groups: Uint32Array;
  readonly #held: ReadonlyMap<number, TrainItem>;
  /** sha256 of the lines; items held in memory count by their order alone. */
  readonly hash: string;

  private constructor(file: FileHandle, gathered: Gathered) {
    this.#file = file;
    this.#ends = Float64Array.from(gathered.ends);
    this.#groups = Uint32Array.from(gathered.groups);
    this.#held = gathered.held;
    this.hash = gathered.hash;
  }

  static async gather(source: AsyncIterable<TrainItem>, path: string): Promise<ItemSet> {
    const gathered = await write(source, path);
    return new ItemSet(await open(path, "r"), gathered);
  }

  get length(): number {
    return this.#ends.length;
  }

  group(i: number): string {
    return String(this.#groups[i]);
  }

  async item(i: number): Promise<TrainItem> {
    const held = this.#held.get(i);
    if (held) return held;
    const begin = i === 0 ? 0 : this.#ends[i - 1]!;
    const bytes = Buffer.alloc(this.#ends[i]! - begin);
    const { bytesRead } = await this.#file.read(bytes, 0, bytes.length, begin);
    if (bytesRead !== bytes.length)
      throw new IsrDpoError("IO", `item ${i}: expected ${bytes.length} bytes, got ${bytesRead}`, {
        hint: "the run folder's items file was changed; start the run anew",
      });
    return decode(bytes.toString("utf8"));
  }

  items(indices: readonly number[]): Promise<TrainItem[]> {
    return Promise.all(indices.map((i) => this.item(i)));
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

interface Gathered {
  ends: number[];
  groups: number[];
  held: Map<number, TrainItem>;
  hash: string;
}

const flushBytes = 1 << 20;

async function write(source: AsyncIterable<TrainItem>, path: string): Promise<Gathered> {
  const hash = createHash("sha256");
  const out: Gathered = { ends: [], groups: [], held: new Map(), hash: "" };
  const file = await open(path, "w");
  try {
    let waiting: Buffer[] = [];
    let waitingBytes = 0;
    let at = 0;
    const flush = async () => {
      const bytes = Buffer.concat(waiting);
      for (let done = 0; done < bytes.length; ) done += (await file.write(bytes, done)).bytesWritten;
      waiting = [];
      waitingBytes = 0;
    };
    for await (const item of source) {
      const text = encode(item);
      if (text === null) out.held.set(out.ends.length, item);
      const line = Buffer.from(`${text ?? "null"}\n`);
      hash.update(line);
      waiting.push(line);
      waitingBytes += line.length;
      at += line.length;
      out.ends.push(at);
      out.groups.push(groupOf(item));
      if (waitingBytes > flushBytes) await flush();
    }
    await flush();
  } finally {
    await file.close();
  }
  out.hash = hash.digest("hex");
  return out;
}
