// Work on the rows of a file, one result per row: what is read from and written to, and what becomes of rows that cannot be used.
import { dirname, resolve } from "node:path";
import { path as checkPath, refuse } from "../base/check.js";
import { IsrDpoError, isIsrDpoError } from "../base/errors.js";
import { jsonLine, openInput, openOutput, type Output, readUntil } from "../base/line-files.js";
import { flag, resolved } from "../base/option-rows.js";
import { onBadRow, type SkippedRow } from "./bad-rows.js";
import { Reasons } from "./skip-reasons.js";

/** Where rows come from: a path, or a stream of bytes. */
export type RowSource = string | AsyncIterable<Uint8Array>;

/** Where results go: the path of a file, which appears when all rows are done, or an object that takes one line at a time. */
export type RowSink =
  | string
  | {
      /** Takes one line of JSON, with its newline; a promise that it returns is awaited. */
      write(line: string): unknown;
    };

/** Options of calls that work on the rows of a file. */
export interface RowWorkOptions {
  /** "fail" (default): the first bad row ends the call. "skip": bad rows are left out, and `onSkip` is called for each. */
  onBadRow?: "fail" | "skip";
  /** Called for each row that is left out. */
  onSkip?(row: SkippedRow & { code: string }): void;
  /** Replaces the output file, if such a call has written it; default false. */
  overwrite?: boolean;
  /** Name of the input in messages, when it is a stream; default "rows". */
  name?: string;
  /** Folder that relative paths in the rows start from; default: that of the input file, or the current one for a stream. */
  folder?: string;
  /** Ends the call with its reason. */
  signal?: AbortSignal;
}

const policies = {
  onBadRow,
  overwrite: flag("Whether an output file that such a call has written is replaced.").or(false),
};

export const rowWorkKeys = ["onBadRow", "onSkip", "overwrite", "name", "folder", "signal"] as const;

/** The failure of a row, with its file and line. */
function rowFailure(file: string, line: number, e: IsrDpoError): { error: IsrDpoError; reason: string } {
  const code = e.code === "INVALID_ARGUMENT" ? "DATA_INVALID" : e.code;
  const { reason = e.message, ...detail } = (e.detail ?? {}) as { reason?: string };
  const error = new IsrDpoError(code, `${file}:${line}: ${reason}`, {
    hint: e.hint ?? 'correct the row, or leave such rows out (--on-error skip; onBadRow: "skip")',
    path: file,
    detail: { ...detail, line },
    cause: e,
  });
  return { error, reason };
}

/** One such call: its input, its output and its bad rows. */
export class RowWork {
  /** Of rows that were left out. */
  readonly skipped: number[] = [];
  readonly #reasons = new Reasons();

  private constructor(
    readonly name: string,
    readonly folder: string,
    readonly input: AsyncIterable<Uint8Array>,
    private readonly output: Output,
    private readonly o: RowWorkOptions,
    private readonly close: () => void,
  ) {}

  /** Opens both ends; `keys`: those of a line that such a call writes. */
  static async open(from: RowSource, to: RowSink, keys: readonly string[], o: RowWorkOptions): Promise<RowWork> {
    const { overwrite } = resolved("options", { onBadRow: o.onBadRow, overwrite: o.overwrite }, policies);
    if (typeof from !== "string" && typeof from?.[Symbol.asyncIterator] !== "function")
      refuse("input", "a path or a stream of bytes", from);
    if (typeof to !== "string" && typeof to?.write !== "function")
      refuse("output", "a path, or an object with write(line)", to);
    const path = typeof from === "string" ? checkPath("input", from) : null;
    const opened = path === null ? null : await openInput(path);
    const input = opened && o.signal ? readUntil(o.signal, opened) : (opened ?? (from as AsyncIterable<Uint8Array>));
    const close = () => void opened?.destroy();
    const idle = async () => {};
    try {
      const output =
        typeof to === "string"
          ? await openOutput(checkPath("output", to), overwrite, keys)
          : { write: async (line: string) => void (await to.write(line)), commit: idle, discard: idle };
      const folder = o.folder ?? (path === null ? process.cwd() : dirname(resolve(path)));
      return new RowWork(o.name ?? path ?? "rows", folder, input, output, o, close);
    } catch (e) {
      close();
      throw e;
    }
  }

  /** Throws the row's failure, or leaves the row out and tells it. */
  readonly bad = (line: number, e: IsrDpoError): void => {
    const { error, reason } = rowFailure(this.name, line, e);
    if (this.o.onBadRow !== "skip") throw error;
    this.skipped.push(line);
    this.#reasons.add(error.message, reason);
    const { code, message } = error;
    this.o.onSkip?.({ path: this.name, line, code, message, reason });
  };

  /** Writes the outcomes of rows, one line of JSON for each that `lines` makes of them, in the order of the rows. */
  async write<T>(line: number, outcome: T | IsrDpoError, lines: (outcome: T) => readonly object[]): Promise<boolean> {
    if (isIsrDpoError(outcome)) {
      this.bad(line, outcome);
      return false;
    }
    for (const made of lines(outcome)) await this.output.write(jsonLine(made));
    return true;
  }

  /** Does the work; the output appears when it is done. DATA_INVALID where it has left out every row there was. */
  async after<T extends { rows: number }>(work: () => Promise<T>): Promise<T> {
    try {
      const result = await work();
      if (result.rows === 0 && this.skipped.length > 0)
        throw new IsrDpoError(
          "DATA_INVALID",
          `${this.name}: expected at least one usable row, got ${this.#reasons.text()}`,
        );
      await this.output.commit();
      return result;
    } finally {
      this.close();
      await this.output.discard();
    }
  }
}
