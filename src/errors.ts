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

export type ErrorCode = (typeof codes)[number];

/** What besides code and message an error may say. */
export interface ErrorFacts {
  hint?: string;
  path?: string;
  detail?: Readonly<Record<string, unknown>>;
  cause?: unknown;
}

/** Every failure that this package can foresee: `code` is stable, `hint` says what to do, `path` is the file it is about. */
export class IsrDpoError extends Error {
  readonly code: ErrorCode;
  declare readonly hint?: string;
  declare readonly path?: string;
  declare readonly detail?: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, facts: ErrorFacts = {}) {
    super(message, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.name = "IsrDpoError"; // an own property: it survives the way out of a worker
    this.code = code;
    if (facts.hint !== undefined) this.hint = facts.hint;
    if (facts.path !== undefined) this.path = facts.path;
    if (facts.detail !== undefined) this.detail = facts.detail;
  }

  toJSON(): Record<string, unknown> {
    const { name, code, message, hint, path, detail } = this;
    return { name, code, message, hint, path, detail };
  }
}

/** True for errors of this package, of any copy or thread; with `code`, only for that one. */
export function isIsrDpoError(e: unknown, code?: ErrorCode): e is IsrDpoError {
  if (typeof e !== "object" || e === null) return false;
  const { name, code: own } = e as { name?: unknown; code?: unknown };
  if (name !== "IsrDpoError" || !codes.includes(own as ErrorCode)) return false;
  return code === undefined || own === code;
}
