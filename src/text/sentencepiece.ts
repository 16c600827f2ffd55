// SentencePiece models (`tokenizer.model`): reader of the protobuf file and BPE encoder with byte fallback. Only what
// Llama-like checkpoints use: model type BPE, identity normalisation, spaces kept as they are.
import { forEachSymbol, type Parts, slice } from "./bpe.js";
import { tokenizerError } from "./tokenizer-files.js";

const maxPieces = 1 << 20;
const maxPieceBytes = 4096;
const space = "▁";

const pieceType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

export interface SentencePieceModel {
  /** By id. */
  pieces: readonly string[];
  scores: Float64Array;
  types: Uint8Array;
  unkId: number;
  bosId: number | null;
  eosId: number | null;
  byteFallback: boolean;
  addDummyPrefix: boolean;
}

type Value = number | Uint8Array;

/** The fields of a protobuf message, in order: integers (a negative one reads as -1), floats, bytes. */
function* fields(path: string, bytes: Uint8Array): Generator<[number: number, value: Value]> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const need = (n: number) => {
    if (n > bytes.length - at)
      throw tokenizerError(path, `expected ${n} more bytes at ${at}, got ${bytes.length - at}`);
  };
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      need(1);
      const b = bytes[at++]!;
      value += (b & 127) * 2 ** shift;
      if (b < 128) return value >= 2 ** 63 ? -1 : value;
    }
    throw tokenizerError(path, `expected a varint of at most 10 bytes at ${at}, got a longer one`);
  };
  while (at < bytes.length) {
    const key = varint();
    const [number, wire] = [Math.floor(key / 8), key % 8];
    if (number < 1) throw tokenizerError(path, `expected a field number at ${at}, got ${number}`);
    if (wire === 0) yield [number, varint()];
    else if (wire === 5 || wire === 1) {
      const size = wire === 5 ? 4 : 8;
      need(size);
      yield [number, wire === 5 ? view.getFloat32(at, true) : view.getFloat64(at, true)];
      at += size;
    } else if (wire === 2) {
      const size = varint();
      if (size < 0) throw tokenizerError(path, `expected a length at ${at}, got a negative number`);
      need(size);
      yield [number, bytes.subarray(at, at + size)];
      at += size;
    } else throw tokenizerError(path, `expected a protobuf wire type at ${at}, got ${wire}`);
  }
}

function integer(path: string, what: string, value: Value): number {
  if (typeof value === "number" && Number.isInteger(value)) return value;
  throw tokenizerError(path, `${what}: expected an integer, got another kind of field`);
}

function message(path: string, what: string, value: Value): Uint8Array {
  if (typeof value !== "number") return value;
  throw tokenizerError(path, `${what}: expected a message, got a number`);
}

function piece(path: string, id: number, bytes: Uint8Array): { text: string; score: number; type: number } {
  const p = { text: "", score: 0, type: pieceType.normal as number };
  for (const [field, value] of fields(path, bytes)) {
    if (field === 1) {
      const text = message(path, `pieces[${id}].piece`, value);
      if (text.length > maxPieceBytes)
        throw tokenizerError(path, `pieces[${id}]: expected at most ${maxPieceBytes} bytes, got ${text.length}`);
      try {
        p.text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(text);
      } catch (e) {
        throw tokenizerError(path, `pieces[${id}]: expected UTF-8, got other bytes`, e);
      }
    } else if (field === 2) p.score = value as number;
    else if (field === 3) p.type = integer(path, `pieces[${id}].type`, value);
  }
  if (p.text === "") throw tokenizerError(path, `pieces[${id}]: expected a piece, got an empty one`);
  if (typeof p.score !== "number" || Number.isNaN(p.score))
    throw tokenizerError(path, `pieces[${id}].score: expected a number, got none`);
  if (p.type < 1 || p.type > 6) throw tokenizerError(path, `pieces[${id}].type: expected 1 to 6, got ${p.type}`);
  if (p.type === pieceType.unused) throw tokenizerError(path, `pieces[${id}]: unused pieces are not supported`);
  return p;
}

/** The settings that decide how text is cut; the defaults are the format's. */
function settings(path: string, trainer: Uint8Array, normalizer: Uint8Array) {
  const t = new Map(fields(path, trainer));
  const n = new Map(fields(path, normalizer));
  const number = (of: Map<number, Value>, field: number, otherwise: number) =>
    integer(path, `field ${field}`, of.get(field) ?? otherwise);
  const unsupported = (what: string) =>
    tokenizerError(path, `${what} is not supported; a BPE model with identity normalisation is`);
  const modelType = number(t, 3, 1);
  if (modelType !== 2) throw unsupported(`model type ${["", "unigram", "", "word", "char"][modelType] || modelType}`);
  if (number(t, 24, 0) !== 0) throw unsupported("treat_whitespace_as_suffix");
  if (message(path, "precompiled_charsmap", n.get(2) ?? new Uint8Array()).length > 0) {
    const name = new TextDecoder().decode(message(path, "normalizer name", n.get(1) ?? new Uint8Array()));
    throw unsupported(`normalisation ${JSON.stringify(name.slice(0, 40))}`);
  }
  if (number(n, 4, 1) !== 0) throw unsupported("remove_extra_whitespaces");
  if (number(n, 5, 1) === 0) throw unsupported("escape_whitespaces off");
  return {
    byteFallback: number(t, 35, 0) !== 0,
    addDummyPrefix: number(n, 3, 1) !== 0,
    special: { unk: number(t, 40, 0), bos: number(t, 41, 1), eos: number(t, 42, 2) },
  };
}

/** Reads a `tokenizer.model`. Throws TOKENIZER for what is malformed or not supported. */
export function readSentencePiece(path: string, bytes: Uint8Array): SentencePieceModel {
  const found: ReturnType<typeof piece>[] = [];
  const seen = new Set<string>();
  let trainer: Uint8Array = new Uint8Array();
  let normalizer: Uint8Array = new Uint8Array();
  for (const [field, value] of fields(path, bytes)) {
    if (field === 1) {
      if (found.length >= maxPieces) throw tokenizerError(path, `expected at most ${maxPieces} pieces, got more`);
      const p = piece(path, found.length, message(path, "pieces", value));
      if (seen.has(p.text))
        throw tokenizerError(path, `pieces[${found.length}]: ${JSON.stringify(p.text)} is there twice`);
      seen.add(p.text);
      found.push(p);
    } else if (field === 2) trainer = message(path, "trainer_spec", value);
    else if (field === 3) normalizer = message(path, "normalizer_spec", value);
  }
  const { special, ...rest } = settings(path, trainer, normalizer);
  const at = (id: number) => (found[id] ? id : null);
  if (found[special.unk]?.type !== pieceType.unknown)
    throw tokenizerError(path, `unk_id: expected the id of an unknown piece, got ${special.unk}`);
  if (rest.byteFallback && found.filter((p) => p.type === pieceType.byte).length !== 256)
    throw tokenizerError(path, "byte_fallback: expected 256 byte pieces, got another number");
  return {
    ...rest,
    pieces: found.map((p) => p.text),
    scores: Float64Array.from(found, (p) => p.score),
    types: Uint8Array.from(found, (p) => p.type),
    unkId: special.unk,
    bosId: at(special.bos),
    eosId: at(special.eos),
  };
}

/** Two neighbours that would merge: the better score first, then the one further left. */
class Candidates {
  private readonly scores: number[] = [];
  private readonly lefts: number[] = [];
  private readonly sizes: number[] = []; // of both sides together, to recognise candidates that have passed

  get length(): number {
    return this.scores.length;
  }

  private before(i: number, j: number): boolean {
    const d = this.scores[i]! - this.scores[j]!;
    return d > 0 || (d === 0 && this.lefts[i]! < this.lefts[j]!);
  }

  private swap(i: number, j: number): void {
    for (const x of [this.scores, this.lefts, this.sizes]) {
      const kept = x[i]!;
      x[i] = x[j]!;
      x[j] = kept;
    }
  }

  push(score: number, left: number, size: number): void {
    let i = this.scores.push(score) - 1;
    this.lefts.push(left);
    this.sizes.push(size);
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!this.before(i, parent)) break;
      this.swap(i, parent);
      i = parent;
    }
  }

  pop(): { left: number; size: number } {
    const top = { left: this.lefts[0]!, size: this.sizes[0]! };
    this.swap(0, this.length - 1);
    this.scores.pop();
    this.lefts.pop();
    this.sizes.pop();
    for (let i = 0; ; ) {
      let best = i;
      for (const child of [2 * i + 1, 2 * i + 2]) if (child < this.length && this.before(child, best)) best = child;
      if (best === i) return top;
      this.swap(i, best);
      i = best;
    }
  }
}

const utf8 = new TextEncoder();
const escaped = (s: string) => s.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");

/** Matches the longest of `words` at the leftmost place; null where there are none. */
export function longestOf(words: readonly string[]): RegExp | null {
  if (words.length === 0) return null;
  const sorted = [...words].sort((a, b) => b.length - a.length);
  return new RegExp(sorted.map(escaped).join("|"), "gu");
}

export class SentencePieceEncoder {
  private readonly ids = new Map<string, number>(); // what merges can make
  private readonly byteIds = new Int32Array(256);
  private readonly fixed: RegExp | null; // user-defined pieces: cut out first, never merged
  private readonly longest: number;

  constructor(private readonly model: SentencePieceModel) {
    const own: string[] = [];
    model.pieces.forEach((p, id) => {
      const type = model.types[id];
      if (type === pieceType.normal || type === pieceType.userDefined) this.ids.set(p, id);
      if (type === pieceType.userDefined) own.push(p);
      const byte = type === pieceType.byte ? /^<0x([0-9A-F]{2})>$/.exec(p) : null;
      if (byte) this.byteIds[Number.parseInt(byte[1]!, 16)] = id;
    });
    this.fixed = longestOf(own);
    this.longest = [...this.ids.keys()].reduce((n, p) => Math.max(n, p.length), 0);
  }

  /** Ids of a text without special tokens; `prefix`: with the dummy space in front. */
  *encode(text: string, prefix: boolean): Parts {
    if (text === "") return;
    const spaced: string[] = prefix ? [space] : [];
    for (let at = 0; at < text.length; at += slice) {
      if (at > 0) yield [];
      spaced.push(text.slice(at, at + slice).replaceAll(" ", space));
    }
    const s = spaced.join("");
    const { starts, fixed } = yield* this.symbols(s);
    yield [];
    yield* this.idsOf(s, yield* this.merge(s, starts, fixed));
  }

  /** Where the symbols begin (and the end of the text), and which of them are not to be merged. */
  private *symbols(s: string): Generator<readonly number[], { starts: number[]; fixed: Set<number> }> {
    const starts: number[] = [];
    const fixed = new Set<number>();
    const characters = function* (from: number, to: number): Generator<readonly number[], void> {
      for (let i = from; i < to; i += s.codePointAt(i)! > 0xffff ? 2 : 1) if (starts.push(i) % slice === 0) yield [];
    };
    let at = 0;
    for (const m of this.fixed ? s.matchAll(this.fixed) : []) {
      yield* characters(at, m.index!);
      if (fixed.add(starts.push(m.index!) - 1).size % slice === 0) yield [];
      at = m.index! + m[0].length;
    }
    yield* characters(at, s.length);
    starts.push(s.length);
    return { starts, fixed };
  }

  /** Merges neighbours, best score first; the starts of what is left, and the end. */
  private *merge(
    s: string,
    starts: readonly number[],
    fixed: ReadonlySet<number>,
  ): Generator<readonly number[], number[]> {
    const n = starts.length - 1;
    const end = new Int32Array(n); // of symbol i; its own start once swallowed
    const next = new Int32Array(n);
    const previous = new Int32Array(n);
    for (let i = 0; i < n; i++) {
      end[i] = starts[i + 1]!;
      next[i] = i + 1;
      previous[i] = i - 1;
    }
    yield [];
    const candidates = new Candidates();
    const consider = (left: number) => {
      const right = left < 0 ? n : next[left]!;
      if (right >= n || fixed.has(left) || fixed.has(right)) return;
      const size = end[right]! - starts[left]!;
      if (size > this.longest) return;
      const id = this.ids.get(s.slice(starts[left]!, end[right]!));
      if (id !== undefined) candidates.push(this.model.scores[id]!, left, size);
    };
    yield* forEachSymbol(n, consider);
    for (let count = 1; candidates.length > 0; count++) {
      if (count % slice === 0) yield [];
      const { left, size } = candidates.pop();
      const right = next[left]!;
      if (end[left] === starts[left] || right >= n || end[right]! - starts[left]! !== size) continue;
      end[left] = end[right]!;
      end[right] = starts[right]!;
      next[left] = next[right]!;
      if (next[right]! < n) previous[next[right]!] = left;
      consider(previous[left]!);
      consider(left);
    }
    const kept: number[] = [];
    for (let i = 0; i < n; i = next[i]!) if (kept.push(starts[i]!) % slice === 0) yield [];
    kept.push(s.length);
    return kept;
  }

  private *idsOf(s: string, starts: readonly number[]): Parts {
    let ids: number[] = [];
    let unknown = false; // neighbouring unknown characters are one token
    for (let i = 0; i + 1 < starts.length; i++) {
      const symbol = s.slice(starts[i]!, starts[i + 1]!);
      const id = this.ids.get(symbol);
      if (id !== undefined) ids.push(id);
      else if (this.model.byteFallback) for (const b of utf8.encode(symbol)) ids.push(this.byteIds[b]!);
      else if (!unknown) ids.push(this.model.unkId);
      unknown = id === undefined;
      if (ids.length >= slice) {
        yield ids;
        ids = [];
      }
    }
    yield ids;
  }
}
