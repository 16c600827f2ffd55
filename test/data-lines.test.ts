// Lines of a file: cut at 0x0A alone, bounded, with numbers and offsets that are true.
import { createWriteStream, readFileSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { readLines } from "../src/base/lines.js";
import { script } from "./helpers/child.js";
import { caught } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("data-lines");

async function linesOf(bytes: Buffer | string, o?: { maxLineBytes?: number }) {
  const path = join(temporaryFolder(), "a.jsonl");
  writeFileSync(path, bytes);
  const lines = [];
  for await (const line of readLines(path, o)) lines.push(line);
  return lines;
}

const cut: readonly [name: string, bytes: string, texts: string[], offsets: number[]][] = [
  ["nothing", "", [], []],
  ["one newline", "\n", [""], [0]],
  ["a last line without newline", "a\nb", ["a", "b"], [0, 2]],
  ["a last line with newline", "a\nb\n", ["a", "b"], [0, 2]],
  [
    "U+2028, U+2029, U+0085 and a lone CR are text",
    "a\u2028b\u2029c\u0085d\re\nf",
    ["a\u2028b\u2029c\u0085d\re", "f"],
    [0, 15],
  ],
  ["CR LF keeps its CR", "a\r\nb", ["a\r", "b"], [0, 3]],
  ["a byte order mark belongs to the file", "\ufeffa\n\ufeffb", ["a", "\ufeffb"], [0, 5]],
  ["empty lines", "\n\na\n\n", ["", "", "a", ""], [0, 1, 2, 4]],
];
for (const [name, bytes, texts, offsets] of cut)
  test(name, async () => {
    const lines = await linesOf(bytes);
    assert.equal(
      lines.map((l) => l.text),
      texts,
    );
    assert.equal(
      lines.map((l) => l.offset),
      offsets,
    );
    assert.equal(
      lines.map((l) => l.line),
      texts.map((_, i) => i + 1),
    );
  });

test("lines across blocks: lengths around the block size, characters of several bytes", async () => {
  const texts = [262143, 262144, 262145, 3, 524288, 1].map((n, i) => ["x", "é", "😀"][i % 3]!.repeat(n));
  const whole = Buffer.from(texts.join("\n"));
  const lines = await linesOf(whole);
  assert.equal(
    lines.map((l) => l.text.length),
    texts.map((t) => t.length),
  );
  for (const { text, offset } of lines) {
    const bytes = Buffer.from(text);
    assert.ok(whole.subarray(offset, offset + bytes.length).equals(bytes), `at ${offset}`);
  }
});

const faults: readonly [name: string, bytes: Buffer, line: number, message: RegExp, o?: { maxLineBytes: number }][] = [
  ["a byte that is no UTF-8", Buffer.from("a\nb\xff\n", "latin1"), 2, /:2: expected UTF-8/],
  ["half a character at the end", Buffer.from("a\n\xe6\x97", "latin1"), 2, /:2: expected UTF-8/],
  ["an encoded surrogate", Buffer.from("\xed\xa0\x80", "latin1"), 1, /:1: expected UTF-8/],
  ["a NUL byte", Buffer.from("a\n\nb\0c"), 3, /:3: expected text, got a NUL byte/],
  ["a line beyond the limit", Buffer.from("abc\nabcd\n"), 2, /at most 3 bytes, got 4/, { maxLineBytes: 3 }],
  ["a last line beyond the limit", Buffer.from("abc\nabcd"), 2, /at most 3 bytes, got 4/, { maxLineBytes: 3 }],
];
for (const [name, bytes, line, message, o] of faults)
  test(`refused: ${name}`, async () => {
    const e = await caught(() => linesOf(bytes, o));
    assert.is(e.code, "DATA_INVALID");
    assert.match(e.message, message);
    assert.is(e.detail?.line, line);
    assert.match(e.path!, /a\.jsonl$/);
  });

test("no file, a folder, wrong options", async () => {
  const read = async (path: string, o?: unknown) => {
    for await (const _ of readLines(path, o as never)) assert.unreachable();
  };
  assert.is((await caught(() => read(join(temporaryFolder(), "none")))).code, "NOT_FOUND");
  assert.is((await caught(() => read(temporaryFolder()))).code, "IO");
  assert.is((await caught(() => read("a", { maxLineByte: 1 }))).code, "INVALID_ARGUMENT");
  assert.is((await caught(() => read("a", { maxLineBytes: 0 }))).code, "INVALID_ARGUMENT");
  assert.is((await caught(() => read(""))).code, "INVALID_ARGUMENT");
});

test("200000 rows are read in bounded memory", async () => {
  const path = join(temporaryFolder(), "many.jsonl");
  const out = createWriteStream(path);
  for (let i = 0; i < 200; i++) {
    const rows = Array.from({ length: 1000 }, (_, k) => `{"id":"${i * 1000 + k}","text":"${"x".repeat(200)}"}\n`);
    if (!out.write(rows.join(""))) await once(out, "drain");
  }
  out.end();
  await once(out, "finish");
  const { code, out: text, err } = script("data-memory.ts", [path], ["--max-old-space-size=32", "--expose-gc"]);
  assert.is(code, 0, err);
  const { rows, grown } = JSON.parse(text) as { rows: number; grown: number };
  assert.is(rows, 200_000);
  assert.ok(grown < 24 << 20, `grew by ${grown} bytes over a file of ${readFileSync(path).length}`);
});

test.run();
