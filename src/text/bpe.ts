// The BPE model of a tokenizer.json, as the `tokenizers` library runs it: characters to ids, then merges, lowest rank first
// and leftmost among equals. The time grows with n log n of a word's length; long words are merged in slices.
import { Lru } from "../base/lru.js";
import { type Json, show } from "../base/check.js";
import { tokenizerError } from "./tokenizer-files.js";
import { MinHeap } from "./heap.js";

/** Merges between two pauses. */
export const slice = 4096;
const cachedLength = 64;
const cachedWords = 20_000;

/** Ids come in parts; an empty part is a place to pause. */
export type Parts = Generator<readonly number[], void>;

/** Calls `work` for the symbols 0 to n - 1, with places to pause. */
export function* forEachSymbol(n: number, work: (i: number) => void): Parts {
  for (let i = 0; i < n; i++) {
    work(i);
    if (i % slice === slice - 1) yield [];
  }
}

const utf8 = new TextEncoder();

const idLimit = 2 ** 22; // ids are below it (tokenizer-json.ts): a pair is one number

interface Merge {
  rank: number;
  id: number;
}

export class Bpe {
  private readonly merges = new Map<number, Merge>();
  private readonly cache = new Lru<readonly number[]>(cachedWords);
  private readonly unk: number | null;
  private readonly fuse: boolean;
  private readonly wholeWords: boolean;
  private readonly bytes: readonly number[] | null;
  private readonly prefix: string;
  private readonly suffix: string;
  private readonly longest: number;

  constructor(
    path: string,
    model: Json,
    private readonly vocab: ReadonlyMap<string, number>,
  ) {
    this.unk = typeof model.unk_token === "string" ? vocab.get(model.unk_token)! : null;
    this.fuse = model.fuse_unk === true;
    this.wholeWords = model.ignore_merges === true;
    this.prefix = (model.continuing_subword_prefix as string | null) ?? "";
    this.suffix = (model.end_of_word_suffix as string | null) ?? "";
    this.bytes = model.byte_fallback === true ? byteIds(vocab) : null;
    this.longest = [...vocab.keys()].reduce((n, piece) => Math.max(n, piece.length), 0);
    (model.merges as (string | [string, string])[]).forEach((pair, rank) => {
      const [left, right] = typeof pair === "string" ? (pair.split(" ") as [string, string]) : pair;
      const ids = [left, right, left + right.slice(this.prefix.length)].map((piece) => {
        const id = vocab.get(piece);
        if (id === undefined)
          throw tokenizerError(path, `model.merges[${rank}]: ${show(piece)} is not a token of the vocabulary`);
        return id;
      });
      this.merges.set(ids[0]! * idLimit + ids[1]!, { rank, id: ids[2]! });
    });
  }

  *encode(word: string): Parts {
    const whole = this.wholeWords && word.length <= this.longest ? this.vocab.get(word) : undefined;
    if (whole !== undefined) {
      yield [whole];
      return;
    }
    if (word.length > cachedLength) {
      yield* this.merged(yield* this.symbols(word));
      return;
    }
    const known = this.cache.peek(word);
    if (known) {
      yield known;
      return;
    }
    const ids: number[] = [];
    for (const part of this.merged(yield* this.symbols(word))) for (const id of part) ids.push(id);
    this.cache.put(word, ids);
    yield ids;
  }

  /** The ids of a word's characters; runs of unknown ones are one id if the model says so. */
  private *symbols(word: string): Generator<readonly number[], number[]> {
    const ids: number[] = [];
    let unknown = false; // an unknown id is held back until a known one comes
    const flush = () => {
      if (unknown) ids.push(this.unk!);
      unknown = false;
    };
    for (let i = 0, count = 1; i < word.length; count++) {
      if (count % slice === 0) yield [];
      const end = i + (word.codePointAt(i)! > 0xffff ? 2 : 1);
      const c = (i > 0 ? this.prefix : "") + word.slice(i, end) + (end === word.length ? this.suffix : "");
      i = end;
      const id = this.vocab.get(c);
      if (id !== undefined) {
        flush();
        ids.push(id);
        continue;
      }
      if (this.bytes) {
        const { bytes } = this;
        for (const b of utf8.encode(c)) ids.push(bytes[b]!);
      } else if (this.unk !== null) {
        if (!this.fuse) flush();
        unknown = true;
      }
    }
    flush();
    return ids;
  }

  private *merged(ids: number[]): Parts {
    const n = ids.length;
    const next = new Int32Array(n);
    const previous = new Int32Array(n);
    for (let i = 0; i < n; i++) {
      next[i] = i + 1;
      previous[i] = i - 1;
    }
    const gone = new Uint8Array(n);
    const heap = new MinHeap();
    const pair = (i: number) => (next[i]! < n ? this.merges.get(ids[i]! * idLimit + ids[next[i]!]!) : undefined);
    const consider = (i: number) => {
      const merge = i < 0 ? undefined : pair(i);
      if (merge) heap.push(merge.rank * 2 ** 30 + i);
    };
    yield* forEachSymbol(n, consider);
    for (let count = 1; heap.size > 0; count++) {
      if (count % slice === 0) yield [];
      const key = heap.pop();
      const rank = Math.floor(key / 2 ** 30);
      const i = key - rank * 2 ** 30;
      const merge = gone[i] ? undefined : pair(i);
      if (merge?.rank !== rank) continue; // one of the two has been merged with another
      const right = next[i]!;
      ids[i] = merge.id;
      gone[right] = 1;
      next[i] = next[right]!;
      if (next[i]! < n) previous[next[i]!] = i;
      consider(previous[i]!);
      consider(i);
    }
    let out: number[] = [];
    for (let i = 0; i < n; i = next[i]!) {
      if (out.push(ids[i]!) < slice) continue;
      yield out;
      out = [];
    }
    yield out;
  }
}

/** Ids of <0x00> to <0xFF>, or null where one is missing: then no byte falls back, as in the library. */
function byteIds(vocab: ReadonlyMap<string, number>): readonly number[] | null {
  const ids: number[] = [];
  for (let b = 0; b < 256; b++) {
    const id = vocab.get(`<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`);
    if (id === undefined) return null;
    ids.push(id);
  }
  return ids;
}
