/**
 * What several tests need, made when the first of them asks and kept for the others: when making it fails, the tests that
 * need it fail, and no other does.
 */
export function shared<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => {
    made ??= make();
    return made;
  };
}
