// The append-only journal of a rank. A line is `crc32c space JSON newline`, with the checksum of the JSON, so that a line that
// was cut short or damaged is recognised. When the process is killed, nothing is lost that append() has finished.
import { constants } from "node:fs";
import { type FileHandle, open, readdir } from "node:fs/promises";
import { dirname } from "node:path";
import { IsrDpoError } from "../base/errors.js";
import { crc32c, hex32 } from "./crc32c.js";
import { between } from "../base/failpoint.js";
import { readAll, syncFolder, writeAll } from "../base/atomic-files.js";
import { rawLines } from "../base/lines.js";
import { guarded } from "../base/file-errors.js";
import { type Place, PlaceIndex } from "./line-index.js";
import { type GroupEnd, type JournalRecord, keyIfRecord, keyOf, textOf } from "./journal-records.js";

export { crc32c } from "./crc32c.js";

const maxLineBytes = 16 << 20;
const blockBytes = 1 << 20;
const syncEveryMs = 1000;
const prefixBytes = 9; // checksum and space

/** File name of a rank's journal. */
export const journalName = (rank: number): string => `journal.${rank}.log`;

const named = /^journal\.(0|[1-9]\d{0,5})\.log$/;

/** File names of the journals in a folder, by rank. */
export async function journalsIn(dir: string): Promise<{ rank: number; name: string }[]> {
  const names = await guarded(dir, "list", () => readdir(dir));
  return names
    .flatMap((name) => {
      const rank = named.exec(name)?.[1];
      return rank === undefined ? [] : [{ rank: Number(rank), name }];
    })
    .sort((a, b) => a.rank - b.rank);
}

export interface OpenedJournal {
  journal: Journal;
  /** All records that hold, ends included, in the file's order; none where they were taken one at a time. */
  records: JournalRecord[];
  /** Bytes of an invalid tail that was cut off. */
  cut: number;
}

export class Journal {
  readonly #file: FileHandle;
  readonly #places = new PlaceIndex(); // where the first line of each key stands
  #size = 0;
  #group = { records: 0, crc: 0 }; // appended since the last end
  #queue: Promise<unknown> = Promise.resolve();
  #failure: unknown;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  private constructor(
    readonly path: string,
    file: FileHandle,
  ) {
    this.#file = file;
  }

  /**
   * Opens or creates a journal. An invalid tail is cut off. JOURNAL_CORRUPT, with the offset, for an invalid line before
   * a valid one; NONDETERMINISM for two records of one key that differ. `take` gets the records with their places in the
   * file one at a time, so that a journal of any size is read without holding it.
   */
  static async open(path: string, take?: (record: JournalRecord, place: Place) => void): Promise<OpenedJournal> {
    const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    const file = await guarded(path, "open", () => open(path, flags, 0o666));
    const journal = new Journal(path, file);
    try {
      const facts = await file.stat();
      if (!facts.isFile())
        throw new IsrDpoError("IO", `${path}: expected a regular file, got something else`, { path });
      await syncFolder(dirname(path));
      const records: JournalRecord[] = [];
      await journal.#recover(take ?? ((record) => void records.push(record)));
      const cut = facts.size - journal.#size;
      if (cut > 0)
        await guarded(path, "cut the tail of", async () => {
          await between("cut", path, () => file.truncate(journal.#size));
          await between("sync", path, () => file.sync());
        });
      return { journal, records, cut };
    } catch (e) {
      await file.close();
      throw e;
    }
  }

  async #recover(take: (record: JournalRecord, place: Place) => void): Promise<void> {
    let bad: number | undefined;
    for await (const line of rawLines(this.#file, this.path, { limit: maxLineBytes - 1, blockBytes })) {
      const { offset, size, bytes } = line;
      const json = line.ended && bytes ? checked(bytes) : undefined;
      if (!json || !bytes) {
        bad ??= offset;
        continue;
      }
      if (bad !== undefined) throw this.#corrupt(bad, "a line whose checksum holds", "another, before valid ones");
      const record = parsed(json);
      const key = keyIfRecord(record);
      if (key === undefined) throw this.#corrupt(offset, "a record of a known type", show(json));
      const place = { offset, bytes: size };
      if (!(await this.#known(key, bytes, offset))) this.#places.add(key, place);
      take(record as JournalRecord, place);
      this.#size = offset + size;
    }
  }

  #corrupt(offset: number, expected: string, got: string): IsrDpoError {
    return new IsrDpoError("JOURNAL_CORRUPT", `${this.path}: at byte ${offset}: expected ${expected}, got ${got}`, {
      hint: "the file was changed or the disk is failing: restore the file, or delete the iteration and run it again",
      path: this.path,
      detail: { offset },
    });
  }

  /** Whether the key has a line already; NONDETERMINISM where it is another one. */
  async #known(key: string, line: Uint8Array, offset: number): Promise<boolean> {
    for (const before of this.#places.find(key)) {
      const old = Buffer.alloc(before.bytes);
      await guarded(this.path, "read", () => readAll(this.#file, old, before.offset));
      if (old.equals(line)) return true;
      if (keyIfRecord(parsed(old.subarray(prefixBytes))) === key)
        throw this.#differs(key, before.offset, old, offset, line);
    }
    return false;
  }

  #differs(key: string, first: number, old: Buffer, second: number, line: Uint8Array): IsrDpoError {
    return new IsrDpoError(
      "NONDETERMINISM",
      `${this.path}: two records ${key} differ: at byte ${first} ${show(old.subarray(prefixBytes))}, ` +
        `at byte ${second} ${show(line.subarray(prefixBytes))}`,
      {
        hint: "the same work gave another result: the machine, the engine or an input changed between the runs",
        path: this.path,
        detail: { key, first, second },
      },
    );
  }

  /** One thing after the other, in the order of the calls; after a failure nothing more is written. */
  #next<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(async () => {
      if (this.#failure !== undefined) throw this.#failure;
      try {
        return await work();
      } catch (e) {
        this.#failure = e;
        throw e;
      }
    });
    this.#queue = result.catch(() => {});
    return result;
  }

  /** Writes a record. Once it resolves, the end of the process loses nothing; sync() is for the end of the machine. */
  append(record: Exclude<JournalRecord, GroupEnd>): Promise<void> {
    const key = keyOf(record);
    const json = textOf(record);
    this.#refuseClosed();
    return this.#next(async () => {
      await this.#write(key, json);
      this.#group = { records: this.#group.records + 1, crc: crc32c(json, this.#group.crc) };
    });
  }

  /** Closes the group of all records that were appended since the last end, or since open(). */
  endGroup(group: string): Promise<void> {
    this.#refuseClosed();
    return this.#next(async () => {
      const { records, crc } = this.#group;
      const end: GroupEnd = { type: "end", group, records, crc: hex32(crc) };
      await this.#write(keyOf(end), textOf(end));
      this.#group = { records: 0, crc: 0 };
    });
  }

  async #write(key: string, json: Buffer): Promise<void> {
    const line = Buffer.concat([Buffer.from(`${hex32(crc32c(json.subarray(0, -1)))} `), json]);
    if (line.length > maxLineBytes)
      throw new IsrDpoError("BUG", `${this.path}: ${key}: expected at most ${maxLineBytes} bytes, got ${line.length}`);
    const offset = this.#size;
    const known = await this.#known(key, line, offset);
    await guarded(this.path, "append to", async () => {
      try {
        await writeAll(this.#file, line, offset, this.path);
      } catch (e) {
        await this.#file.truncate(offset).catch(() => {}); // if this fails, the next open() cuts it off
        throw e;
      }
    });
    this.#size += line.length;
    if (!known) this.#places.add(key, { offset, bytes: line.length });
    this.#timer ??= setTimeout(() => this.sync().catch(() => {}), syncEveryMs).unref(); // the next call throws what failed here
  }

  /** Makes all that was appended durable. It also happens by itself, a second after an append. */
  sync(): Promise<void> {
    this.#refuseClosed();
    return this.#sync();
  }

  #sync(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    return this.#next(() => guarded(this.path, "sync", () => between("sync", this.path, () => this.#file.datasync())));
  }

  /** Syncs and closes; a failure from before is thrown once more. Calling it again does nothing. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    try {
      await this.#sync();
    } finally {
      clearTimeout(this.#timer);
      await this.#file.close();
    }
  }

  #refuseClosed(): void {
    if (this.#closed) throw new IsrDpoError("BUG", `${this.path}: expected an open journal, got a closed one`);
  }
}

const show = (json: Uint8Array): string => {
  const text = Buffer.from(json.subarray(0, 200)).toString().trimEnd();
  return json.length > 200 ? `${text}...` : text;
};

/** The JSON of a line whose checksum holds. */
function checked(line: Buffer): Buffer | undefined {
  if (line.length < prefixBytes + 1 || line[prefixBytes - 1] !== 0x20) return undefined;
  const json = line.subarray(prefixBytes, -1);
  return line.toString("latin1", 0, prefixBytes - 1) === hex32(crc32c(json)) ? json : undefined;
}

function parsed(json: Buffer): unknown {
  try {
    return JSON.parse(json.toString());
  } catch {
    return undefined;
  }
}
