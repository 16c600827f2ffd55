// TensorBoard event files of scalars: TFRecord frames around protobuf messages, both written by hand.
import { hostname } from "node:os";
import { join } from "node:path";
import { type FileHandle, open } from "node:fs/promises";
import { crc32c } from "./crc32c.js";
import { makeFolders } from "../base/atomic-files.js";
import { guarded } from "../base/file-errors.js";

let files = 0;

/** One new event file; TensorBoard reads all files of a folder as one run. */
export class EventFile {
  private constructor(
    readonly path: string,
    readonly file: FileHandle,
  ) {}

  /** Events of `firstStep` and later that older files of the folder hold are superseded. */
  static async create(dir: string, firstStep: number): Promise<EventFile> {
    await makeFolders(dir);
    const now = Date.now() / 1000;
    const path = join(dir, `events.out.tfevents.${Math.floor(now)}.${hostname()}.${process.pid}.${files++}`);
    const events = new EventFile(path, await guarded(path, "create", () => open(path, "ax")));
    const version = event(now, 0, bytesField(3, Buffer.from("brain.Event:2")));
    const start = event(now, firstStep, bytesField(7, varintField(1, 1))); // SessionLog, status START
    try {
      await events.#append(Buffer.concat([frame(version), frame(start)]));
    } catch (e) {
      await events.file.close().catch(() => {}); // the error that is being thrown says more
      throw e;
    }
    return events;
  }

  async scalars(step: number, values: Readonly<Record<string, number>>): Promise<void> {
    const summary = Object.entries(values).map(([tag, value]) =>
      bytesField(1, Buffer.concat([bytesField(1, Buffer.from(tag)), floatField(2, value)])),
    );
    await this.#append(frame(event(Date.now() / 1000, step, bytesField(5, Buffer.concat(summary)))));
  }

  async #append(bytes: Buffer): Promise<void> {
    await guarded(this.path, "append to", () => this.file.appendFile(bytes));
  }

  async close(): Promise<void> {
    await guarded(this.path, "close", () => this.file.close());
  }
}

const masked = (bytes: Uint8Array): number => {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
};

/** Length (8 bytes), its masked checksum, data, its masked checksum; little-endian. */
function frame(data: Buffer): Buffer {
  const whole = Buffer.alloc(data.length + 16);
  whole.writeBigUInt64LE(BigInt(data.length), 0);
  whole.writeUInt32LE(masked(whole.subarray(0, 8)), 8);
  data.copy(whole, 12);
  whole.writeUInt32LE(masked(data), 12 + data.length);
  return whole;
}

// Fields of a message: wall_time = 1 (double), step = 2, file_version = 3, summary = 5, session_log = 7.
function event(wallTime: number, step: number, content: Buffer): Buffer {
  const time = Buffer.alloc(9);
  time[0] = (1 << 3) | 1;
  time.writeDoubleLE(wallTime, 1);
  return Buffer.concat([time, varintField(2, step), content]);
}

function varint(n: number): Buffer {
  const bytes: number[] = [];
  for (let rest = BigInt(n); ; rest >>= 7n) {
    const low = Number(rest & 127n);
    if (rest < 128n) return Buffer.from([...bytes, low]);
    bytes.push(low | 128);
  }
}

const varintField = (field: number, n: number): Buffer => Buffer.concat([varint(field << 3), varint(n)]);

const bytesField = (field: number, bytes: Buffer): Buffer =>
  Buffer.concat([varint((field << 3) | 2), varint(bytes.length), bytes]);

function floatField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(5);
  bytes[0] = (field << 3) | 5;
  bytes.writeFloatLE(value, 1);
  return bytes;
}
