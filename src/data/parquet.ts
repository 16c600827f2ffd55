// Rows of a Parquet file, one row group at a time. Sizes are checked against the file and against limits before the library
// sees them; if the library still throws, the file is at fault.
import type { FileHandle } from "node:fs/promises";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import type { CompressionCodec, Compressors, FileMetaData, ParquetRow, RowGroup, SchemaTree } from "hyparquet";
import { sum } from "../base/statistics.js";
import { isIsrDpoError } from "../base/errors.js";
import { fileFault, openForReading } from "../base/data-fault.js";
import { ioError } from "../base/file-errors.js";
import { InvalidUtf8 } from "./row-fields.js";
import { type ColumnLevels, checkChunk, type Inflate } from "./parquet-pages.js";
import type { NumberedRow } from "./bad-rows.js";
import { checkSnappy } from "./snappy.js";
import { readThrift } from "./thrift.js";

const limits = {
  footerBytes: 64 << 20,
  schemaElements: 4096,
  depth: 16,
  fileRows: 2 ** 31,
  groupRows: 1 << 20,
  /** Largest size of a row group's columns that are read, after decompression. */
  groupBytes: 512 << 20,
} as const;

const hint =
  "write it again with row groups of at most 100000 rows, as plain or dictionary pages, compressed by snappy, gzip, zstd or brotli";
const magic = 0x31524150; // "PAR1"

interface Source {
  path: string;
  file: FileHandle;
  size: number;
  library: typeof import("hyparquet");
}

function demand(ok: boolean, path: string, message: string): asserts ok {
  if (!ok) throw fileFault(path, message, hint);
}

async function slice({ path, file, size }: Source, start: number, end: number): Promise<ArrayBuffer> {
  const whole = Number.isSafeInteger(start) && Number.isSafeInteger(end) && start >= 0 && start <= end && end <= size;
  demand(
    whole && end - start <= limits.groupBytes,
    path,
    `expected a part inside ${size} bytes, got ${start} to ${end}`,
  );
  const bytes = new Uint8Array(end - start);
  const { bytesRead } = await file.read(bytes, 0, bytes.length, start);
  demand(bytesRead === bytes.length, path, `expected ${bytes.length} bytes at ${start}, got ${bytesRead}`);
  return bytes.buffer;
}

async function metadataOf(source: Source): Promise<FileMetaData> {
  const { path, size, library } = source;
  demand(size >= 12, path, `expected a Parquet file, got ${size} bytes`);
  const head = new DataView(await slice(source, 0, 4));
  const tail = new DataView(await slice(source, size - 8, size));
  const framed = head.getUint32(0, true) === magic && tail.getUint32(4, true) === magic;
  demand(framed, path, "expected a Parquet file (PAR1 at both ends), got something else or a part of one");
  const length = tail.getUint32(0, true);
  demand(
    length <= Math.min(size - 12, limits.footerBytes),
    path,
    `expected a footer inside the file, got ${length} bytes`,
  );
  const footer = await slice(source, size - 8 - length, size);
  readThrift(new Uint8Array(footer, 0, length)); // refuses a footer of which the library would build too much
  const metadata = library.parquetMetadata(footer, { geoparquet: false });
  checkShape(path, metadata);
  return metadata;
}

function checkShape(path: string, { schema, row_groups, num_rows }: FileMetaData): void {
  const elements = schema.length;
  demand(elements >= 1 && elements <= limits.schemaElements, path, `expected a schema, got ${elements} elements`);
  const counts = row_groups.map((group) => Number(group.num_rows));
  const whole = counts.every((n) => Number.isSafeInteger(n) && n >= 0 && n <= limits.groupRows);
  demand(
    whole,
    path,
    `expected row groups of at most ${limits.groupRows} rows, got ${Math.max(...counts.slice(0, 1000))}`,
  );
  const total = sum(counts);
  demand(
    total <= limits.fileRows && total === Number(num_rows),
    path,
    `expected ${num_rows} rows, got groups of ${total}`,
  );
}

async function compressorsFor(codecs: ReadonlySet<CompressionCodec>): Promise<Compressors> {
  const made: Compressors = {
    GZIP: (bytes, size) => gunzipSync(bytes, { maxOutputLength: Math.max(1, size) }),
    BROTLI: (bytes, size) => brotliDecompressSync(bytes, { maxOutputLength: Math.max(1, size) }),
  };
  if (!codecs.has("ZSTD")) return made;
  const { decompressZstd } = await import("hyparquet-compressors");
  return { ...made, ZSTD: (bytes, size) => decompressZstd(bytes, new Uint8Array(size)) };
}

function inflaterOf({ path, library }: Source, codec: CompressionCodec, compressors: Compressors): Inflate {
  const own = compressors[codec];
  return (bytes, size) => {
    if (codec === "UNCOMPRESSED") {
      demand(bytes.length === size, path, `expected a page of ${size} bytes, got ${bytes.length}`);
      return bytes;
    }
    if (own) return own(bytes, size);
    demand(codec === "SNAPPY", path, `expected a codec of snappy, gzip, zstd or brotli, got ${codec}`);
    checkSnappy(bytes, size);
    const page = new Uint8Array(size);
    library.snappyUncompress(bytes, page);
    return page;
  };
}

function levelsOf(path: string, tree: SchemaTree, steps: readonly string[]): ColumnLevels {
  demand(steps.length >= 1 && steps.length <= limits.depth, path, `expected a column at most ${limits.depth} deep`);
  let node = tree;
  const levels = { repetition: node.element.repetition_type === "REPEATED" ? 1 : 0, definition: 0 };
  for (const step of steps) {
    const child: SchemaTree | undefined = node.children.find((c) => c.element.name === step);
    demand(child !== undefined, path, `expected column ${steps.join(".")} in the schema, got none`);
    if (child.element.repetition_type === "REPEATED") levels.repetition++;
    if (child.element.repetition_type !== "REQUIRED") levels.definition++;
    node = child;
  }
  return levels;
}

async function checkGroup(
  source: Source,
  group: RowGroup,
  tree: SchemaTree,
  wanted: readonly string[],
  c: Compressors,
) {
  let left: number = limits.groupBytes;
  for (const { meta_data: column } of group.columns) {
    if (!column || !wanted.includes(column.path_in_schema[0] ?? "")) continue;
    const start = Number(column.dictionary_page_offset || column.data_page_offset);
    const chunk = await slice(source, start, start + Number(column.total_compressed_size));
    const levels = levelsOf(source.path, tree, column.path_in_schema);
    left -= checkChunk(new Uint8Array(chunk), levels, inflaterOf(source, column.codec, c), left);
  }
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decode(bytes: Uint8Array): string | InvalidUtf8 {
  try {
    return strict.decode(bytes);
  } catch {
    return new InvalidUtf8();
  }
}

type Others = (names: readonly string[], rows: number) => void;

async function* rows(source: Source, known: readonly string[], others: Others): AsyncGenerator<NumberedRow> {
  const { library, size } = source;
  const metadata = await metadataOf(source);
  const tree = library.parquetSchema(metadata);
  const names = [...new Set(tree.children.map((child) => child.element.name))];
  const columns = names.filter((name) => known.includes(name));
  const found = names.slice(0, 20);
  demand(
    columns.length > 0 || metadata.row_groups.length === 0,
    source.path,
    `expected columns of rows, got ${found.join(", ")}`,
  );
  others(
    names.filter((name) => !known.includes(name)),
    Number(metadata.num_rows),
  );
  const codecs = new Set(
    metadata.row_groups.flatMap((g) => g.columns.map((c) => c.meta_data?.codec ?? "UNCOMPRESSED")),
  );
  const compressors = await compressorsFor(codecs);
  const file = { byteLength: size, slice: (from: number, to?: number) => slice(source, from, to ?? size) };
  const parsers = { stringFromBytes: decode, jsonFromBytes: decode };
  let rowStart = 0;
  for (const group of metadata.row_groups) {
    const rowEnd = rowStart + Number(group.num_rows);
    await checkGroup(source, group, tree, columns, compressors);
    const part = { file, metadata, columns, rowStart, rowEnd, compressors, parsers, geoparquet: false };
    const read: ParquetRow[] = rowEnd > rowStart ? await library.parquetReadObjects(part) : [];
    for (const [i, row] of read.entries()) yield { line: rowStart + i + 1, row };
    rowStart = rowEnd;
  }
}

/**
 * Rows in order, numbered from 1, with those of `columns` that the file has; `others` is told its other columns and its number
 * of rows. Throws DATA_INVALID, NOT_FOUND, IO.
 */
export async function* rowsOfParquet(
  path: string,
  columns: readonly string[],
  others: Others = () => {},
): AsyncGenerator<NumberedRow> {
  const file = await openForReading(path);
  try {
    const { size } = await file.stat();
    const reader = rows({ path, file, size, library: await import("hyparquet") }, columns, others);
    for (;;) {
      const next = await reader.next().catch((e) => {
        throw parquetError(path, e);
      });
      if (next.done) break;
      yield next.value;
    }
  } finally {
    await file.close();
  }
}

function parquetError(path: string, e: unknown): unknown {
  const ours = ioError(path, e, "read");
  if (isIsrDpoError(ours)) return ours;
  return fileFault(path, `expected a Parquet file, got a fault: ${e instanceof Error ? e.message : e}`, hint, e);
}
