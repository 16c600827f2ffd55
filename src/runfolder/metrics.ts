// The metrics of training steps: metrics.jsonl, which depends on the run alone; timings.jsonl, the times; TensorBoard files.
import { type FileHandle, open } from "node:fs/promises";
import { constants } from "node:fs";
import { join } from "node:path";
import { IsrDpoError } from "../base/errors.js";
import { between } from "../base/failpoint.js";
import { makeFolders, readAll, writeAll } from "../base/atomic-files.js";
import { guarded } from "../base/file-errors.js";
import { EventFile } from "./tensorboard.js";

export interface MetricsOptions {
  /** Folder of metrics.jsonl and timings.jsonl; made where it is missing. */
  dir: string;
  /** Folder of event files; default: none are written. */
  tensorboard?: string;
}

const maxLineBytes = 4096;

type Values = Readonly<Record<string, number>>;

/** A file that lines are added to at its end. */
class Lines {
  private constructor(
    readonly path: string,
    readonly file: FileHandle,
    public bytes: number,
  ) {}

  static async open(path: string): Promise<Lines> {
    const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;
    const file = await guarded(path, "open", () => open(path, flags, 0o666));
    try {
      return new Lines(path, file, (await guarded(path, "stat", () => file.stat())).size);
    } catch (e) {
      await file.close().catch(() => {}); // the error that is being thrown says more
      throw e;
    }
  }

  /** Cuts off a last line without its newline: a process ended inside its write. */
  async mend(): Promise<void> {
    const { path, file } = this;
    const tail = Buffer.alloc(Math.min(this.bytes, maxLineBytes));
    const from = this.bytes - tail.length;
    const whole = await guarded(path, "read", async () => {
      const got = await readAll(file, tail, from);
      return from + tail.subarray(0, got).lastIndexOf(10) + 1;
    });
    if (whole < this.bytes) await this.cut(whole);
  }

  async cut(bytes: number): Promise<void> {
    const { path, file } = this;
    await guarded(path, "cut", () => between("cut", path, () => file.truncate(bytes)));
    this.bytes = bytes;
  }

  async add(line: Values): Promise<void> {
    const bytes = Buffer.from(`${JSON.stringify(line)}\n`);
    await guarded(this.path, "append to", () => writeAll(this.file, bytes, this.bytes, this.path));
    this.bytes += bytes.length;
  }
}

export class MetricsWriter {
  readonly #metrics: Lines;
  readonly #timings: Lines;
  readonly #tensorboard: string | undefined;
  #events: EventFile | undefined;

  private constructor(metrics: Lines, timings: Lines, tensorboard: string | undefined) {
    this.#metrics = metrics;
    this.#timings = timings;
    this.#tensorboard = tensorboard;
  }

  /** Continues the files that are there. To resume, truncateTo() comes first. */
  static async open(o: MetricsOptions): Promise<MetricsWriter> {
    await makeFolders(o.dir);
    const opened: Lines[] = [];
    try {
      for (const name of ["metrics.jsonl", "timings.jsonl"]) opened.push(await Lines.open(join(o.dir, name)));
      const [metrics, timings] = opened as [Lines, Lines];
      await timings.mend(); // no checkpoint records its length
      return new MetricsWriter(metrics, timings, o.tensorboard);
    } catch (e) {
      for (const { file } of opened) await file.close().catch(() => {});
      throw e;
    }
  }

  /** Size of metrics.jsonl, which a checkpoint records. */
  get bytes(): number {
    return this.#metrics.bytes;
  }

  /**
   * A line each for metrics and clocks, `step` in front; one call at a time. NUMERIC for a metric that is not finite:
   * nothing is written then.
   */
  async add(step: number, metrics: Values, clocks: Values): Promise<void> {
    for (const [name, value] of Object.entries(metrics))
      if (!Number.isFinite(value))
        throw new IsrDpoError("NUMERIC", `step ${step}: ${name}: expected a finite number, got ${value}`, {
          hint: "training has diverged: lower the learning rate, or look at the pairs of this step",
          detail: { step, name },
        });
    await this.#metrics.add({ step, ...metrics });
    await this.#timings.add({ step, ...clocks });
    if (this.#tensorboard === undefined) return;
    this.#events ??= await EventFile.create(this.#tensorboard, step);
    await this.#events.scalars(step, { ...metrics, ...clocks });
  }

  /** Cuts metrics.jsonl back to what a checkpoint knew. JOURNAL_CORRUPT where it is shorter. */
  async truncateTo(bytes: number): Promise<void> {
    const { path } = this.#metrics;
    if (this.#metrics.bytes < bytes)
      throw new IsrDpoError(
        "JOURNAL_CORRUPT",
        `${path}: expected at least ${bytes} bytes, got ${this.#metrics.bytes}`,
        {
          hint: "the file was changed or damaged: restore it, or train again in a new folder",
          path,
        },
      );
    await this.#metrics.cut(bytes);
  }

  /** Makes metrics.jsonl durable: before the checkpoint that counts on its bytes. */
  async sync(): Promise<void> {
    const { path, file } = this.#metrics;
    await guarded(path, "sync", () => between("sync", path, () => file.sync()));
  }

  /** Closes all files, whatever fails; the first failure is thrown. */
  async close(): Promise<void> {
    const closing = [this.#metrics, this.#timings].map(({ path, file }) => guarded(path, "close", () => file.close()));
    const ends = await Promise.allSettled([...closing, this.#events?.close()]);
    for (const end of ends) if (end.status === "rejected") throw end.reason;
  }
}
