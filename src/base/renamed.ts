// Public names that gave way to the terms of the field. For one minor version the old ones are accepted in what is given, and
// readable in results; docs/service.md lists them. Each is reported once per process.
import { show } from "./check.js";
import { IsrDpoError } from "./errors.js";

interface Renaming {
  now: string;
  /** What has the name. */
  of: string;
  /** Code of the warning. */
  code: `ISR_DPO_DEP_${string}`;
  /** Where other programs mean something else by the old name: only a string is ours, and this is said of other values. */
  otherwise?: string;
}

export const renamings = {
  stream: {
    now: "randomStream",
    of: "sampling options",
    code: "ISR_DPO_DEP_STREAM",
    otherwise:
      "text needs no option to arrive while it is generated: iterate the run (`for await (const event of model.generate(...))`); `randomStream` names a stream of random draws",
  },
  copies: { now: "n", of: "a request for answers", code: "ISR_DPO_DEP_COPIES" },
  end: { now: "finishReason", of: "a completion", code: "ISR_DPO_DEP_END" },
  scored: { now: "lossMask", of: "a sequence", code: "ISR_DPO_DEP_SCORED" },
  gamma: { now: "sftWeight", of: "a preference loss", code: "ISR_DPO_DEP_GAMMA" },
  apply: { now: "applyChatTemplate", of: "a tokenizer", code: "ISR_DPO_DEP_APPLY" },
} as const satisfies Readonly<Record<string, Renaming>>;

export type OldName = keyof typeof renamings;
type NewName<O extends OldName> = (typeof renamings)[O]["now"];

const told = new Set<OldName>();

/** Reports the use of an old name, the first time in a process. */
export function tellRenamed(old: OldName): void {
  if (told.has(old)) return;
  told.add(old);
  const { now, of, code } = renamings[old];
  const message = `${old} of ${of} is deprecated: it is now ${now}, and the old name is removed in 0.3`;
  process.emitWarning(message, { type: "DeprecationWarning", code });
}

/** A recorded object by the names of today: what was written under an old name has the new one, and nothing is reported. */
export function recorded<T extends Readonly<Record<string, unknown>>>(o: T, ...olds: readonly OldName[]): T {
  const names = new Map<string, string>(olds.map((old) => [old, renamings[old].now]));
  return Object.fromEntries(Object.entries(o).map(([key, value]) => [names.get(key) ?? key, value])) as T;
}

/** The name of a field of what is called `field`, or is named otherwise. */
type Naming = string | ((name: string) => string);

const named = (at: Naming, name: string): string =>
  typeof at === "function" ? at(name) : at === "" ? name : `${at}.${name}`;

/** The value of a field of `o` under its new name, or under its old one. INVALID_ARGUMENT where both are given. */
export function renamedField(at: Naming, o: Readonly<Record<string, unknown>>, old: OldName): unknown {
  const { now, otherwise }: Renaming = renamings[old];
  const own = Object.getOwnPropertyDescriptor(o, old);
  if (own && !own.enumerable) return o[now]; // a result of ours, which has both
  const [before, value] = [o[old], o[now]];
  if (before === undefined) return value;
  const field = named(at, old);
  if (otherwise !== undefined && typeof before !== "string")
    throw new IsrDpoError("INVALID_ARGUMENT", `${field}: expected a string (it is now ${now}), got ${show(before)}`, {
      hint: otherwise,
      detail: { field },
    });
  if (value !== undefined)
    throw new IsrDpoError(
      "INVALID_ARGUMENT",
      `${field}: expected nothing beside ${named(at, now)}, which is its new name, got ${show(before)}`,
      { hint: `give ${now} alone; what is spread from a result may hold it already`, detail: { field } },
    );
  tellRenamed(old);
  return before;
}

/** Options, with the values of old names under the new ones; what is no such object comes back as it is. */
export function renamed(at: Naming, value: unknown, ...olds: readonly OldName[]): unknown {
  if (typeof value !== "object" || value === null) return value;
  const given = value as Readonly<Record<string, unknown>>;
  const found = olds.filter((old) => Object.hasOwn(given, old));
  if (found.length === 0) return value;
  const o = { ...given };
  for (const old of found) {
    const { now } = renamings[old];
    const field = renamedField(at, given, old);
    delete o[old];
    if (field !== undefined) o[now] = field;
  }
  return o;
}

/**
 * `result`, whose property can be read and set under its old name too. That one is not enumerable: JSON, copies and comparisons
 * have the new name alone.
 */
export function withOldName<O extends OldName, T extends Readonly<Record<NewName<O>, unknown>>>(
  result: T,
  old: O,
): T & Readonly<Record<O, T[NewName<O>]>> {
  const now: NewName<O> = renamings[old].now;
  return Object.defineProperty(result, old, {
    configurable: true,
    get(this: T) {
      tellRenamed(old);
      return this[now];
    },
    set(this: { [name in NewName<O>]: unknown }, value: unknown) {
      tellRenamed(old);
      this[now] = value;
    },
  }) as T & Readonly<Record<O, T[NewName<O>]>>;
}
