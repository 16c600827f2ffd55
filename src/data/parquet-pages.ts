// Checks of a Parquet column's pages before the library decodes them. The library trusts counts, run lengths and block sizes;
// each of them could make it allocate without bound or loop for ever, so that they are compared with the page here.
import type { Thrift, ThriftStruct } from "./thrift.js";
import { numberAt, readThrift, structAt } from "./thrift.js";

export type Inflate = (bytes: Uint8Array, size: number) => Uint8Array;

export interface ColumnLevels {
  /** The number of repeated steps in the column's path, and the number of optional ones. */
  repetition: number;
  definition: number;
}

/** Values of one column in one row group; a list's elements count each. */
export const maxValues = 1 << 24;

const encodings: Readonly<Record<number, "plain" | "dictionary" | "runs" | "delta">> = {
  0: "plain",
  2: "dictionary",
  3: "runs",
  5: "delta",
  6: "delta",
  8: "dictionary",
};

function demand(ok: boolean, what: string): asserts ok {
  if (!ok) throw new RangeError(what);
}

function count(s: ThriftStruct | undefined, field: number, what: string, most: number): number {
  const n = s && numberAt(s, field);
  demand(n !== undefined && n >= 0 && n <= most, `expected ${what} from 0 to ${most}, got ${n}`);
  return n;
}

function varint(bytes: Uint8Array, at: number): { value: number; next: number } {
  let value = 0;
  for (let i = 0; i < 5; i++) {
    const b = bytes[at + i];
    demand(b !== undefined, "runs go past the page");
    value += (b & 0x7f) * 2 ** (7 * i);
    if (b < 0x80) return { value, next: at + i + 1 };
  }
  throw new RangeError("a run length of more than 5 bytes");
}

/** Runs of `values` numbers of `width` bits, as far as they are in the page: none may be longer than what is left. */
function checkRuns(bytes: Uint8Array, at: number, width: number, values: number): void {
  for (let [seen, offset] = [0, at]; seen < values && offset < bytes.length; ) {
    const { value, next } = varint(bytes, offset);
    const packed = value % 2 === 1;
    const length = Math.floor(value / 2) * (packed ? 8 : 1);
    demand(length <= values - seen + (packed ? 512 : 0), `a run of ${length} where ${values - seen} values are left`);
    offset = next + (packed ? Math.max(1, (length * width) / 8) : (width + 7) >> 3);
    seen += length;
  }
}

const bits = (level: number) => 32 - Math.clz32(level);

/** Levels that begin with their length in bytes; where they end. */
function checkLevels(bytes: Uint8Array, at: number, level: number, values: number): number {
  if (level === 0) return at;
  demand(at + 4 <= bytes.length, "levels go past the page");
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(at, true);
  demand(at + 4 + length <= bytes.length, "levels go past the page");
  checkRuns(bytes, at + 4, bits(level), values);
  return at + 4 + length;
}

function checkValues(bytes: Uint8Array, at: number, encoding: number | undefined, values: number): void {
  const kind = encodings[encoding ?? -1];
  demand(kind !== undefined, `expected plain, dictionary or delta-length encoding, got encoding ${encoding}`);
  if (kind === "dictionary") {
    const width = bytes[at] ?? 0;
    demand(width <= 32, `an index of ${width} bits`);
    checkRuns(bytes, at + 1, width, values);
  } else if (kind === "runs") checkRuns(bytes, at + 4, 1, values);
  else if (kind === "delta" && at < bytes.length) {
    const block = varint(bytes, at);
    const parts = varint(bytes, block.next);
    const size = block.value / parts.value;
    demand(block.value > 0 && block.value <= 1 << 20 && size % 32 === 0, `blocks of ${block.value} / ${parts.value}`);
  }
}

interface Page {
  type: number;
  header: ThriftStruct;
  body: Uint8Array;
  size: number;
}

function checkDataPage({ header, body, size }: Page, levels: ColumnLevels, inflate: Inflate): number {
  const head = structAt(header, 5);
  const values = count(head, 1, "a count of values", maxValues);
  const bytes = inflate(body, size);
  let at = checkLevels(bytes, 0, levels.repetition, values);
  at = checkLevels(bytes, at, levels.definition, values);
  checkValues(bytes, at, numberAt(head!, 2), values);
  return values;
}

function checkDataPageV2({ header, body, size }: Page, levels: ColumnLevels, inflate: Inflate): number {
  const head = structAt(header, 8);
  const values = count(head, 1, "a count of values", maxValues);
  count(head, 2, "a count of nulls", values);
  count(head, 3, "a count of rows", values);
  const definition = count(head, 5, "a length of levels", body.length);
  const repetition = count(head, 6, "a length of levels", body.length - definition);
  demand(size >= definition + repetition, "levels larger than the page");
  if (levels.repetition > 0) checkRuns(body, 0, bits(levels.repetition), values);
  if (levels.definition > 0) checkRuns(body, repetition, bits(levels.definition), values);
  const rest = body.subarray(definition + repetition);
  const plain: Thrift | undefined = head?.fields.get(7);
  const bytes = plain === false ? rest : inflate(rest, size - definition - repetition);
  checkValues(bytes, 0, numberAt(head!, 4), values);
  return values;
}

/**
 * Walks the pages of a column chunk. Gives the bytes that they hold once inflated; throws RangeError for what is no
 * column, for more than `maxBytes`, and for more than 2^24 values.
 */
export function checkChunk(chunk: Uint8Array, levels: ColumnLevels, inflate: Inflate, maxBytes: number): number {
  let [bytes, values] = [0, 0];
  for (let at = 0; at < chunk.length - 1; ) {
    const { value: header, end } = readThrift(chunk, at);
    const type = count(header, 1, "a page type", 3);
    const size = count(header, 2, "a page size", maxBytes - bytes);
    const stored = count(header, 3, "a stored page size", chunk.length - end);
    const page = { type, header, body: chunk.subarray(end, end + stored), size };
    demand(type !== 1, "expected data and dictionary pages, got an index page");
    if (type === 2) {
      count(structAt(header, 7), 1, "a count of values", maxValues);
      inflate(page.body, size);
    } else values += type === 0 ? checkDataPage(page, levels, inflate) : checkDataPageV2(page, levels, inflate);
    demand(values <= maxValues, `expected at most ${maxValues} values in a row group, got more`);
    bytes += size;
    at = end + stored;
  }
  return bytes;
}
