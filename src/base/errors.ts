// The one error class of the package, recognised by name and code rather than by identity: ESM and CommonJS copies and
// workers each have their own class.
const codes = [
  "INVALID_ARGUMENT",
  "INVALID_CONFIG",
  "CHECKPOINT_UNSUPPORTED",
  "CHECKPOINT_CORRUPT",
  "TOKENIZER",
  "PLACEHOLDER_MISMATCH",
  "CONTEXT_OVERFLOW",
  "MEDIA_UNREADABLE",
  "MEDIA_EMPTY",
  "FFMPEG_MISSING",
  "DATA_INVALID",
  "OUT_OF_MEMORY",
  "DISK_FULL",
  "DEVICE_UNAVAILABLE",
  "BINARY_MISSING",
  "RUN_LOCKED",
  "RUN_MISMATCH",
  "JOURNAL_CORRUPT",
  "NONDETERMINISM",
  "NUMERIC",
  "RANK_LOST",
  "JUDGE_FAILED",
  "DISPOSED",
  "IO",
  "NOT_FOUND",
  "DEGENERATE",
  "BUG",
] as const;

/** Stable codes of errors; docs/errors.md explains each, and says what to do. */
export type ErrorCode = (typeof codes)[number];

/** What an error may say besides its code and message. */
export interface ErrorFacts {
  /** What to do about it. */
  hint?: string;
  /** The file or folder that the error is about. */
  path?: string;
  /** Facts for programs. */
  detail?: Readonly<Record<string, unknown>>;
  /** The failure that caused it. */
  cause?: unknown;
}

const factsOf = ({ hint, path, detail }: Readonly<Record<string, unknown>>): ErrorFacts => ({
  ...(typeof hint === "string" ? { hint } : {}),
  ...(typeof path === "string" ? { path } : {}),
  ...(typeof detail === "object" && detail !== null ? { detail: detail as Record<string, unknown> } : {}),
});

/** `value` as JSON: numbers that it lacks (bigint, infinity) as text; undefined for a circle. */
function json(value: unknown): string | undefined {
  const word = (_key: string, x: unknown) =>
    typeof x === "bigint" || (typeof x === "number" && !Number.isFinite(x)) ? String(x) : x;
  try {
    return JSON.stringify(value, word);
  } catch {
    return undefined;
  }
}

/** Facts as one line of JSON; undefined where there are none. */
function factsLine({ cause: _, ...facts }: ErrorFacts): string | undefined {
  return Object.keys(facts).length === 0 ? undefined : (json(facts) ?? json({ ...facts, detail: undefined }));
}

/** The first lines of an error's stack. A structured clone of an error has its message and its stack and nothing else. */
const header = (code: ErrorCode, message: string, facts: ErrorFacts): string => {
  const line = factsLine(facts);
  return `IsrDpoError [${code}]: ${message}${line === undefined ? "" : `\n  ${line}`}`;
};

/** Frames of a stack that begins with an error's name and message. */
const framesOf = (stack: string | undefined, message: string): string => {
  const from = (stack ?? "").indexOf("\n    at ", (stack ?? "").indexOf(message) + message.length);
  return from < 0 ? "" : stack!.slice(from);
};

/** What the stack of a cloned error says of the error that it was. */
function readHeader(e: Error): { code: ErrorCode; facts: ErrorFacts } | undefined {
  const [, code] = /^IsrDpoError \[([A-Z_]+)\]: /.exec(e.stack ?? "") ?? [];
  if (!codes.includes(code as ErrorCode)) return undefined;
  const [line = ""] = e.stack!.slice(`IsrDpoError [${code}]: ${e.message}`.length).replace(/^\n/, "").split("\n", 1);
  let facts: ErrorFacts = {};
  if (line.startsWith("  {"))
    try {
      facts = factsOf(JSON.parse(line) as Record<string, unknown>);
    } catch {} // the line was cut off on its way: the code is known all the same
  return { code: code as ErrorCode, facts };
}

/**
 * The error of every failure that this package foresees: `code` is stable, `hint` says what to do, `path` names the file.
 *
 * It survives `postMessage()` and `structuredClone()`: the receiver gets an `Error` with the same message and stack, and
 * {@link isIsrDpoError} restores its code, hint, path and detail. `JSON.stringify(error)` and {@link IsrDpoError.from} pass it
 * through JSON.
 */
export class IsrDpoError extends Error {
  /** What went wrong; it does not change between versions (docs/errors.md). */
  readonly code: ErrorCode;
  /** What to do about it. */
  declare readonly hint?: string;
  /** The file or folder that the error is about. */
  declare readonly path?: string;
  /** Facts for programs, which depend on the code: `field` (of the options), `line`, `items`, byte counts. */
  declare readonly detail?: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, facts: ErrorFacts = {}) {
    super(message, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.name = "IsrDpoError"; // an own property: it survives the way out of a worker
    this.code = code;
    Object.assign(this, factsOf(facts as Record<string, unknown>));
    this.stack = header(code, message, facts) + framesOf(this.stack, message);
  }

  /** Name, code, message, hint, path and detail; {@link IsrDpoError.from} reads it. */
  toJSON(): Record<string, unknown> {
    const { name, code, message, hint, path } = this;
    const detail = json(this.detail);
    return { name, code, message, hint, path, detail: detail === undefined ? undefined : JSON.parse(detail) };
  }

  /**
   * An IsrDpoError of this copy and thread, made of one that came from elsewhere: another copy of the package, a worker
   * (postMessage, structuredClone), or JSON (what {@link IsrDpoError.toJSON} gave). `undefined` for everything else.
   */
  static from(value: unknown): IsrDpoError | undefined {
    if (value instanceof IsrDpoError) return value;
    if (!isIsrDpoError(value)) return undefined;
    const { code, message, stack, cause } = value as IsrDpoError;
    const error = new IsrDpoError(code, String(message ?? ""), {
      ...factsOf(value as unknown as Record<string, unknown>),
      ...(cause === undefined ? {} : { cause }),
    });
    if (typeof stack === "string") error.stack = stack;
    return error;
  }
}

/** `error` with the frames of another stack, for a failure that is told away from the call that made it. */
export function withFrames(error: IsrDpoError, stack: string): void {
  error.stack = header(error.code, error.message, factsOf({ ...error })) + framesOf(stack, "");
}

/**
 * True for errors of this package, of any copy or thread; with `code`, only for that one. An error that came by
 * `postMessage()` or `structuredClone()` gets back the name, code, hint, path and detail that the clone lacks.
 */
export function isIsrDpoError(e: unknown, code?: ErrorCode): e is IsrDpoError {
  if (typeof e !== "object" || e === null) return false;
  const { name, code: own } = e as { name?: unknown; code?: unknown };
  if (name === "IsrDpoError" && codes.includes(own as ErrorCode)) return code === undefined || own === code;
  const was = e instanceof Error && own === undefined ? readHeader(e) : undefined;
  if (!was) return false;
  if (Object.isExtensible(e)) Object.assign(e, { name: "IsrDpoError", code: was.code }, was.facts);
  return code === undefined || was.code === code;
}
