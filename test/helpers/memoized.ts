// What tests share: made by the first that asks for it.

/**
 * `make`, run once, when it is first asked for. Everybody gets what it gave; where it throws, or gives a promise that rejects,
 * each test that needs it fails with that, and the others do not.
 */
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
