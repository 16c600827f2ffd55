// Metrics: lines that are a function of the run, clocks apart, event files that an independent reader understands.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { MetricsWriter } from "../src/runfolder/metrics.js";
import { ordered, rejects } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("store metrics");

function slowCrc(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const b of bytes) {
    crc ^= b;
    for (let i = 0; i < 8; i++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

function unmask(masked: number): number {
  const rotated = (masked - 0xa282ead8) >>> 0;
  return ((rotated >>> 17) | (rotated << 15)) >>> 0;
}

/** Records of a TFRecord file whose checksums all hold. */
function records(file: Buffer): Buffer[] {
  const found: Buffer[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(file.readBigUInt64LE(at));
    assert.is(slowCrc(file.subarray(at, at + 8)), unmask(file.readUInt32LE(at + 8)), "checksum of the length");
    const data = file.subarray(at + 12, at + 12 + length);
    assert.is(slowCrc(data), unmask(file.readUInt32LE(at + 12 + length)), "checksum of the data");
    found.push(data);
    at += length + 16;
  }
  return found;
}

/** Fields of a protobuf message by number. */
function fields(message: Buffer): Map<number, (Buffer | number)[]> {
  const all = new Map<number, (Buffer | number)[]>();
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = message[at++]!;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return Number(value);
    }
  };
  while (at < message.length) {
    const key = varint();
    const type = key & 7;
    const begin = at;
    let value: Buffer | number;
    if (type === 0) value = varint();
    else if (type === 1) [value, at] = [message.readDoubleLE(begin), at + 8];
    else if (type === 5) [value, at] = [message.readFloatLE(begin), at + 4];
    else {
      assert.is(type, 2);
      const length = varint();
      value = message.subarray(at, at + length);
      at += length;
    }
    all.set(key >> 3, [...(all.get(key >> 3) ?? []), value]);
  }
  return all;
}

const first = (m: Map<number, (Buffer | number)[]>, n: number) => m.get(n)![0]!;

function scalarsOf(message: Buffer): Record<string, number> {
  const summary = fields(first(fields(message), 5) as Buffer);
  return Object.fromEntries(
    summary.get(1)!.map((v) => {
      const value = fields(v as Buffer);
      return [String(first(value, 1)), first(value, 2) as number];
    }),
  );
}

test("lines hold the numbers in their shortest form, and no clock", async () => {
  const dir = join(temporaryFolder(), "train");
  const writer = await MetricsWriter.open({ dir });
  await writer.add(1, { loss: 0.1 + 0.2, accuracy: 1 / 3 }, { seconds: 1.5 });
  await writer.add(2, { loss: 1e-300, accuracy: -5e-324 }, { seconds: 2 });
  await writer.sync();
  const text = readFileSync(join(dir, "metrics.jsonl"), "utf8");
  assert.is(
    text,
    '{"step":1,"loss":0.30000000000000004,"accuracy":0.3333333333333333}\n{"step":2,"loss":1e-300,"accuracy":-5e-324}\n',
  );
  assert.is(writer.bytes, text.length);
  assert.is(readFileSync(join(dir, "timings.jsonl"), "utf8"), '{"step":1,"seconds":1.5}\n{"step":2,"seconds":2}\n');
  await writer.close();
  assert.equal(readdirSync(dir).sort(), ["metrics.jsonl", "timings.jsonl"]);
});

for (const loss of [Number.NaN, -Infinity])
  test(`what is no finite number is refused, and not written: ${loss}`, async () => {
    const dir = join(temporaryFolder(), "train");
    const writer = await MetricsWriter.open({ dir });
    await writer.add(2, { loss: 1 }, { seconds: 2 });
    await writer.sync();
    await rejects(() => writer.add(3, { loss }, {}), "NUMERIC", /step 3: loss: expected a finite number/, `${loss}`);
    assert.is(readFileSync(join(dir, "metrics.jsonl"), "utf8"), '{"step":2,"loss":1}\n');
    await writer.close();
    assert.equal(readdirSync(dir).sort(), ["metrics.jsonl", "timings.jsonl"]);
  });

for (const [what, before] of [
  ["others stay", '{"step":0,"seconds":1}\n'],
  ["it was the first", ""],
] as const)
  test(`a line of clocks that a process ended inside is cut off: ${what}`, async () => {
    const dir = temporaryFolder();
    const torn = '{"step":1,"sec';
    writeFileSync(join(dir, "timings.jsonl"), before + torn);
    const writer = await MetricsWriter.open({ dir });
    await writer.add(1, { loss: 1 }, { seconds: 2 });
    await writer.close();
    assert.is(readFileSync(join(dir, "timings.jsonl"), "utf8"), `${before}{"step":1,"seconds":2}\n`);
  });

test("event files: framing, checksums, version first, values", async () => {
  const [dir, tensorboard] = [temporaryFolder(), join(temporaryFolder(), "a", "b")];
  const writer = await MetricsWriter.open({ dir, tensorboard });
  const before = Date.now() / 1000;
  const steps = [0, 1, 127, 128, 300, 2 ** 40];
  for (const step of steps) await writer.add(step, { "train/loss": step / 7, é: -0.5 }, { seconds: step });
  await writer.close();
  const [name, ...others] = readdirSync(tensorboard);
  assert.match(name!, /^events\.out\.tfevents\.\d+\./);
  assert.is(others.length, 0);
  const all = records(readFileSync(join(tensorboard, name!)));
  assert.is(String(first(fields(all[0]!), 3)), "brain.Event:2");
  assert.equal(first(fields(first(fields(all[1]!), 7) as Buffer), 1), 1, "a session starts");
  assert.is(all.length, steps.length + 2);
  for (const [i, step] of steps.entries()) {
    const event = fields(all[i + 2]!);
    assert.is(first(event, 2), step);
    const time = first(event, 1) as number;
    ordered(time, ">=", before);
    ordered(time, "<=", Date.now() / 1000);
    assert.equal(scalarsOf(all[i + 2]!), { "train/loss": Math.fround(step / 7), é: -0.5, seconds: Math.fround(step) });
  }
});

test("a resumed writer cuts, goes on to the same bytes, and starts a session at its step", async () => {
  const run = async (dir: string, stop: boolean) => {
    const tensorboard = join(dir, "tensorboard");
    let writer = await MetricsWriter.open({ dir, tensorboard });
    const add = (step: number) => writer.add(step, { loss: 1 / step }, { seconds: Math.random() });
    for (let step = 1; step <= 3; step++) await add(step);
    const { bytes } = writer;
    for (let step = 4; step <= 6; step++) await add(step);
    if (stop) {
      await writer.close();
      writer = await MetricsWriter.open({ dir, tensorboard });
      await writer.truncateTo(bytes);
      assert.is(writer.bytes, bytes);
      for (let step = 4; step <= 6; step++) await add(step);
    }
    await writer.close();
    return readFileSync(join(dir, "metrics.jsonl"));
  };
  const [whole, resumed] = [temporaryFolder(), temporaryFolder()];
  assert.equal(await run(resumed, true), await run(whole, false));
  const names = readdirSync(join(resumed, "tensorboard"));
  const starts = names.map((name) => first(fields(records(readFileSync(join(resumed, "tensorboard", name)))[1]!), 2));
  assert.equal(starts.sort(), [1, 4]);
});

test("a file shorter than its checkpoint says is told", async () => {
  const dir = temporaryFolder();
  writeFileSync(join(dir, "metrics.jsonl"), "123");
  const writer = await MetricsWriter.open({ dir });
  await rejects(() => writer.truncateTo(4), "JOURNAL_CORRUPT", /expected at least 4 bytes, got 3/, "short");
  await writer.close();
});

test.run();
