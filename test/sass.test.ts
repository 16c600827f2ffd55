// What nvcc made of the CUDA kernels (bench/cuda/sass.jsonl, by npm run sass): made from these sources, and within the gates.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ordered } from "./helpers/assert.js";

interface Row {
  kernel: string;
  architecture: "sm_80" | "sm_90";
  registers: number;
  stack: number;
  spilled: number;
  HMMA: number;
  LDSM: number;
  LDGSTS: number;
}
type Table = [head: { sources: Record<string, string> }, ...rows: Row[]];
const { architectures, blocksOf, faultsOf, read, sourcesOf } = (await import(
  new URL("../scripts/gpu/sass.mjs", import.meta.url).href
)) as {
  architectures: readonly Row["architecture"][];
  blocksOf(kernel: string, architecture: Row["architecture"], registers: number): number;
  faultsOf(table: Table): string[];
  read(): Table;
  sourcesOf(): string[];
};

const test = suite("sass");
const [head, ...rows] = read();

test("the table was made from these sources, and holds", () => {
  assert.equal(faultsOf([head, ...rows]), []);
  assert.equal(Object.keys(head.sources), sourcesOf());
});

test("attention has a kernel for every width, on both architectures", () => {
  for (const architecture of architectures)
    for (const columns of [64, 80, 96, 128])
      for (const kernel of ["forward_tiles<", "key_tiles<", "query_tiles<", "cached_tiles<"].flatMap((name) =>
        name.startsWith("cached") ? [`${name}${columns}, 0>`, `${name}${columns}, 1>`] : [`${name}${columns}>`],
      ))
        assert.ok(
          rows.some((row) => row.kernel === kernel && row.architecture === architecture),
          `${kernel} ${architecture}`,
        );
});

// Sums of 4 tiles of 64 rows: 36,864 bytes with 64 columns, 69,632 with 128.
const occupied: [kernel: string, architecture: Row["architecture"], registers: number, blocks: number][] = [
  ["forward_tiles<64>", "sm_80", 168, 3],
  ["forward_tiles<64>", "sm_80", 255, 2],
  ["forward_tiles<64>", "sm_90", 128, 4],
  ["forward_tiles<128>", "sm_80", 255, 2],
  ["key_tiles<128>", "sm_80", 128, 2],
  ["key_tiles<128>", "sm_90", 128, 3],
  ["cached_tiles<128, 1>", "sm_80", 168, 3],
];
for (const [kernel, architecture, registers, blocks] of occupied)
  test(`${kernel} with ${registers} registers, ${architecture}: ${blocks} blocks`, () =>
    assert.is(blocksOf(kernel, architecture, registers), blocks));

const doctored: [what: string, change: (row: Row) => Partial<Row>, expected: RegExp][] = [
  ["spilled registers", () => ({ stack: 120 }), /^no spilled registers/],
  ["no tensor cores", () => ({ HMMA: 0 }), /^attention multiplies|^a fragment that was read/],
  ["fragments read for each product", (row) => ({ LDSM: row.HMMA }), /^a fragment that was read/],
  ["plain copies", () => ({ LDGSTS: 0 }), /^keys and values are copied/],
  ["all registers, and a block alone", () => ({ registers: 513 }), /^blocks on a multiprocessor/],
];
for (const [what, change, expected] of doctored)
  test(`noticed: ${what}`, () => {
    const other = rows.map((row) => (row.kernel === "key_tiles<64>" ? { ...row, ...change(row) } : row));
    const faults = faultsOf([head, ...other]);
    ordered(faults.length, ">", 0);
    for (const fault of faults) assert.match(fault, expected);
  });

test("noticed: another source", () => {
  const sources = { ...head.sources, "norm.cu": "0123456789abcdef" };
  assert.equal(faultsOf([{ ...head, sources }, ...rows]), [
    "norm.cu is not what the table was made from: npm run sass",
  ]);
});

test.run();
