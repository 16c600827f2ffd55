// What tests share: prepared by the first that asks for it.

/** `make`, run once: everybody gets what it gave, so that where it fails each test that needs it fails, and says why. */
export function memoized<T>(make: () => T): () => T {
  let made: { value: T } | { error: unknown } | undefined;
  return () => {
    if (made === undefined)
      try {
        made = { value: make() };
      } catch (error) {
        made = { error };
      }
    if ("error" in made) throw made.error;
    return made.value;
  };
}

/** The same for each of several, by its name. */
export function memoizedEach<T>(make: (name: string) => T): (name: string) => T {
  const found = new Map<string, () => T>();
  return (name) => {
    if (!found.has(name))
      found.set(
        name,
        memoized(() => make(name)),
      );
    return found.get(name)!();
  };
}
