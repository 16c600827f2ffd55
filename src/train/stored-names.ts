// Names that run folders hold. They are those of the version in which their formats were made: what is renamed since keeps its
// name there, so that runs of earlier versions go on, and so that the digest of items does not depend on the name they came by.

const [now, stored] = ["lossMask", "scored"] as const;

/** An object with a mask under `from` has it under `to`, at the same place; anything else comes back as it is. */
function keyed(x: unknown, from: string, to: string): unknown {
  if (typeof x !== "object" || x === null || !Object.hasOwn(x, from)) return x;
  if (!((x as Record<string, unknown>)[from] instanceof Uint8Array)) return x;
  return Object.fromEntries(Object.entries(x).map(([key, value]) => [key === from ? to : key, value]));
}

/** A value inside an item, by the names that are stored. */
export const toStored = (x: unknown): unknown => keyed(x, now, stored);

/** A stored value by the names of today. */
export const fromStored = (x: unknown): unknown => keyed(x, stored, now);
