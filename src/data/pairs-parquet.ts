// Pair rows as a Parquet file; memory holds one row group of 1000 rows at a time.
import type { SchemaElement } from "hyparquet";
import type { AtomicFile } from "../base/atomic-files.js";

/** A row's columns in order. */
export type Columns = Record<string, unknown>;

const groupRows = 1000;

const leaf = (name: string, type: Partial<SchemaElement>, required = false): SchemaElement => ({
  name,
  repetition_type: required ? "REQUIRED" : "OPTIONAL",
  ...type,
});
const text = { type: "BYTE_ARRAY", converted_type: "UTF8" } as const;
const whole = { type: "INT32" } as const;

const list = (name: string, element: Partial<SchemaElement>): SchemaElement[] => [
  { name, repetition_type: "OPTIONAL", num_children: 1, converted_type: "LIST" },
  { name: "list", repetition_type: "REPEATED", num_children: 1 },
  leaf("element", element),
];

function schemaOf(format: "trl" | "hound"): { names: string[]; schema: SchemaElement[] } {
  const columns: [string, SchemaElement[]][] = [
    ["id", [leaf("id", text)]],
    format === "hound" ? ["video", [leaf("video", text, true)]] : ["videos", list("videos", text)],
    ...["prompt", "chosen", "rejected"].map((n): [string, SchemaElement[]] => [n, [leaf(n, text, true)]]),
    ["chosen_ids", list("chosen_ids", whole)],
    ["rejected_ids", list("rejected_ids", whole)],
    ["iteration", [leaf("iteration", whole, true)]],
    ["seeds", list("seeds", text)],
    ["prompt_hash", [leaf("prompt_hash", text, true)]],
    ["model_hash", [leaf("model_hash", text, true)]],
    ["margin", [leaf("margin", { type: "DOUBLE" })]],
    ["agreement", [leaf("agreement", { type: "BOOLEAN" })]],
    ["chosen_length", [leaf("chosen_length", whole, true)]],
    ["rejected_length", [leaf("rejected_length", whole, true)]],
  ];
  const root: SchemaElement = { name: "schema", num_children: columns.length };
  return { names: columns.map(([name]) => name), schema: [root, ...columns.flatMap(([, elements]) => elements)] };
}

export async function writeTable<T>(
  file: AtomicFile,
  rows: AsyncIterable<T> | Iterable<T>,
  make: (row: T) => Columns,
  format: "trl" | "hound",
): Promise<void> {
  const { ByteWriter, ParquetWriter } = await import("hyparquet-writer");
  const { names, schema } = schemaOf(format);
  const bytes = new ByteWriter();
  const flush = async () => {
    const written = bytes.getBytes().slice();
    bytes.index = 0;
    await file.write(written);
  };
  const parquet = new ParquetWriter({ writer: bytes, schema, createdBy: "isr-dpo" });
  let held: Columns[] = [];
  const writeGroup = async () => {
    if (held.length > 0)
      await parquet.write({ columnData: names.map((name) => ({ name, data: held.map((row) => row[name]) })) });
    held = [];
    await flush();
  };
  for await (const row of rows) if (held.push(make(row)) === groupRows) await writeGroup();
  await writeGroup();
  await parquet.finish();
  await flush();
}
