// The records of an iteration for its exports, from the journals of all its ranks, in the order of its groups. Verdicts and statuses are kept in memory; texts and tokens of answers and
// contexts stay in the journal, so that memory holds a few hundred bytes per sample, however long the answers are.
import { closeSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { IsrDpoError } from "../base/errors.js";
import { fileError, guarded } from "../base/file-errors.js";
import { Journal, journalsIn } from "../runfolder/journal.js";
import type { Place } from "../runfolder/line-index.js";
import { GroupReader } from "../runfolder/journal-records.js";
import type { Of, Records } from "./iteration-exports.js";
import type { GroupRecord } from "./generate-group.js";

const prefixBytes = 9; // checksum and space

/** Where a record stands: its journal's index, its bytes there, and the number of its group. */
interface Found extends Place {
  file: number;
  group: number;
}

/** Numbers, as many as come. */
class Column<A extends Float64Array | Uint32Array> {
  #values: A;

  constructor(readonly make: (length: number) => A) {
    this.#values = make(1 << 10);
  }

  set(i: number, value: number): void {
    if (i >= this.#values.length) {
      const before = this.#values;
      this.#values = this.make(2 * before.length);
      this.#values.set(before);
    }
    this.#values[i] = value;
  }

  at(i: number): number {
    return this.#values[i]!;
  }
}

/** Records in files by key, in the order of their groups; a key that comes again keeps its first place. */
class Stored<T> {
  readonly #entries = new Map<string, number>();
  readonly #offsets = new Column((n) => new Float64Array(n));
  readonly #bytes = new Column((n) => new Uint32Array(n));
  readonly #files = new Column((n) => new Uint32Array(n));
  readonly #groups = new Column((n) => new Float64Array(n));

  constructor(readonly read: (file: number, place: Place) => T) {}

  add(key: string, { offset, bytes, file, group }: Found): void {
    if (this.#entries.has(key)) return;
    const entry = this.#entries.size;
    this.#entries.set(key, entry);
    this.#offsets.set(entry, offset);
    this.#bytes.set(entry, bytes);
    this.#files.set(entry, file);
    this.#groups.set(entry, group);
  }

  get(key: string): T | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    const place = { offset: this.#offsets.at(entry), bytes: this.#bytes.at(entry) };
    return this.read(this.#files.at(entry), place);
  }

  *values(): Generator<T> {
    const group = (key: string) => this.#groups.at(this.#entries.get(key)!);
    for (const key of [...this.#entries.keys()].sort((a, b) => group(a) - group(b))) yield this.get(key)!;
  }
}

export class StoredRecords implements Records {
  readonly verdicts = new Map<string, Of<"verdict">[]>();
  readonly pairs = new Map<string, Of<"pair">>();
  readonly contexts: Stored<Of<"ctx">>;
  readonly #answers: readonly [Stored<Of<"rsp">>, Stored<Of<"rsp">>];
  readonly #damaged = new Set<string>();
  readonly responses = {
    get: (sample: string): readonly [Of<"rsp">, Of<"rsp">] | undefined => {
      const [a, b] = this.#answers.map((side) => side.get(sample));
      return a && b ? [a, b] : undefined;
    },
  };
  /** Prompts that were cut to fit into the context window. */
  promptsCut = 0;

  readonly #paths: readonly string[];
  readonly #files: number[] = []; // open

  private constructor(paths: readonly string[]) {
    this.#paths = paths;
    const read = <T>(file: number, place: Place) => this.#read(file, place) as T;
    this.contexts = new Stored(read<Of<"ctx">>);
    this.#answers = [new Stored(read<Of<"rsp">>), new Stored(read<Of<"rsp">>)];
  }

  /** Reads the finished groups of an iteration's journals; `close` it when nothing is read from them any more. */
  static async open(dir: string): Promise<StoredRecords> {
    const records = new StoredRecords((await journalsIn(dir)).map(({ name }) => join(dir, name)));
    try {
      const known = new Map<string, string>(); // of the journals before: checksums by group
      for (const file of records.#paths.keys()) await records.#readJournal(file, known);
      for (const list of records.verdicts.values()) list.sort((a, b) => a.order - b.order);
      return records;
    } catch (e) {
      records.close();
      throw e;
    }
  }

  async #readJournal(file: number, known: Map<string, string>): Promise<void> {
    const path = this.#paths[file]!;
    this.#files.push(await guarded(path, "open", async () => openSync(path, "r")));
    const groups = new GroupReader<Place>();
    const { journal } = await Journal.open(path, (record, place) => {
      const whole = groups.push(record, place);
      if (record.type !== "end") return;
      const { group, crc } = record;
      const before = known.get(group);
      if (before !== undefined && before !== crc && groups.whole.has(group)) throw twice(path, group);
      if (before === undefined) for (const [r, at] of whole) this.#take(r, { ...at, file, group: groupNumber(group) });
    });
    await journal.close();
    for (const [group, crc] of groups.whole) known.set(group, crc);
  }

  /** Videos that were used though frames of them were lost or damaged. */
  get damagedVideos(): number {
    return this.#damaged.size;
  }

  close(): void {
    for (const file of this.#files) closeSync(file);
  }

  #take(r: GroupRecord, place: Found): void {
    if (r.type === "ctx") this.contexts.add(r.video, place);
    else if (r.type === "rsp") this.#answers[r.copy === 0 ? 0 : 1].add(r.sample, place);
    else if (r.type === "pair") this.pairs.set(r.sample, r);
    else if (r.type === "damage") this.#damaged.add(r.video);
    else if (r.type === "verdict") {
      const { raw: _, ...verdict } = r; // replies may be long
      const list = this.verdicts.get(r.sample) ?? [];
      if (list.some(({ order }) => order === r.order)) return;
      this.verdicts.set(r.sample, [...list, verdict]);
    }
    if ("cut" in r) this.promptsCut += 1;
  }

  #read(file: number, { offset, bytes }: Place): unknown {
    const path = this.#paths[file]!;
    const line = Buffer.allocUnsafe(bytes);
    let done = 0;
    try {
      while (done < bytes) {
        const read = readSync(this.#files[file]!, line, done, bytes - done, offset + done);
        if (read === 0) break;
        done += read;
      }
      return JSON.parse(line.toString("utf8", prefixBytes, done));
    } catch (e) {
      if (!(e instanceof SyntaxError)) throw fileError(e, path, "read");
      throw new IsrDpoError(
        "JOURNAL_CORRUPT",
        `${path}: at byte ${offset}: expected the record of before, got another`,
        {
          hint: "the file was changed while it was read: run it again",
          path,
          detail: { offset },
        },
      );
    }
  }
}

/** Groups are named by their numbers. */
function groupNumber(name: string): number {
  const number = Number(name);
  return Number.isSafeInteger(number) ? number : 0;
}

const twice = (path: string, group: string): IsrDpoError =>
  new IsrDpoError("NONDETERMINISM", `${path}: group ${group} is in another rank's journal, too, with other records`, {
    hint: "the same work gave another result: the machine, the engine or an input changed between the runs",
    path,
    detail: { group },
  });
