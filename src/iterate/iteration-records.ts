// The records of an iteration for its exports. Verdicts and statuses are kept in memory; texts and tokens of answers and
// contexts stay in the journal, so that memory holds a few hundred bytes per sample, however long the answers are.
import { closeSync, openSync, readSync } from "node:fs";
import { IsrDpoError } from "../base/errors.js";
import { fileError, guarded } from "../base/file-errors.js";
import { Journal } from "../runfolder/journal.js";
import type { Place } from "../runfolder/line-index.js";
import { GroupReader } from "../runfolder/journal-records.js";
import type { Of, Records } from "./iteration-exports.js";
import type { GroupRecord } from "./generate-group.js";

const prefixBytes = 9; // checksum and space

/** Records in a file by key, in the order in which the keys came; a key that comes again keeps its first place. */
class Stored<T> {
  readonly #entries = new Map<string, number>();
  #offsets = new Float64Array(1 << 10);
  #bytes = new Uint32Array(1 << 10);

  constructor(readonly read: (place: Place) => T) {}

  add(key: string, { offset, bytes }: Place): void {
    if (this.#entries.has(key)) return;
    const entry = this.#entries.size;
    this.#entries.set(key, entry);
    if (entry === this.#offsets.length) {
      const [offsets, sizes] = [this.#offsets, this.#bytes];
      this.#offsets = new Float64Array(2 * entry);
      this.#offsets.set(offsets);
      this.#bytes = new Uint32Array(2 * entry);
      this.#bytes.set(sizes);
    }
    this.#offsets[entry] = offset;
    this.#bytes[entry] = bytes;
  }

  get(key: string): T | undefined {
    const entry = this.#entries.get(key);
    return entry === undefined ? undefined : this.read({ offset: this.#offsets[entry]!, bytes: this.#bytes[entry]! });
  }

  *values(): Generator<T> {
    for (const key of this.#entries.keys()) yield this.get(key)!;
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

  private constructor(
    readonly path: string,
    readonly file: number,
  ) {
    const read = <T>(place: Place) => this.#read(place) as T;
    this.contexts = new Stored(read<Of<"ctx">>);
    this.#answers = [new Stored(read<Of<"rsp">>), new Stored(read<Of<"rsp">>)];
  }

  /** Reads a journal's finished groups; `close` it when nothing is read from it any more. */
  static async open(path: string): Promise<StoredRecords> {
    const groups = new GroupReader<Place>();
    const records = new StoredRecords(path, await guarded(path, "open", async () => openSync(path, "r")));
    try {
      const { journal } = await Journal.open(path, (record, place) => {
        for (const [r, at] of groups.push(record, place)) records.#take(r, at);
      });
      await journal.close();
      for (const list of records.verdicts.values()) list.sort((a, b) => a.order - b.order);
      return records;
    } catch (e) {
      records.close();
      throw e;
    }
  }

  /** Videos that were used though frames of them were lost or damaged. */
  get damagedVideos(): number {
    return this.#damaged.size;
  }

  close(): void {
    closeSync(this.file);
  }

  #take(r: GroupRecord, place: Place): void {
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

  #read({ offset, bytes }: Place): unknown {
    const line = Buffer.allocUnsafe(bytes);
    let done = 0;
    try {
      while (done < bytes) {
        const read = readSync(this.file, line, done, bytes - done, offset + done);
        if (read === 0) break;
        done += read;
      }
      return JSON.parse(line.toString("utf8", prefixBytes, done));
    } catch (e) {
      if (!(e instanceof SyntaxError)) throw fileError(e, this.path, "read");
      throw new IsrDpoError(
        "JOURNAL_CORRUPT",
        `${this.path}: at byte ${offset}: expected the record of before, got another`,
        {
          hint: "the file was changed while it was read: run it again",
          path: this.path,
          detail: { offset },
        },
      );
    }
  }
}
