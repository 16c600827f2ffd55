// What is kept while there is room: the most recently used values, up to a total size.

interface Entry<T> {
  value: T;
  size: number;
}

export class Lru<T> {
  readonly #entries = new Map<string, Entry<T>>(); // the least recently used one first
  #size = 0;

  /** `most`: the total size, in the unit that the callers of put() count in. */
  constructor(private readonly most: number) {}

  /** The value of a key, which is the most recently used one from now on. */
  get(key: string): T | undefined {
    const entry = this.#entries.get(key);
    if (!entry) return undefined;
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    return entry.value;
  }

  /** The value of a key, which counts as used as before: several times as fast as get(). */
  peek(key: string): T | undefined {
    return this.#entries.get(key)?.value;
  }

  /** Keeps a value in place of the key's former one; removes others until there is room. One that is too large is not kept. */
  put(key: string, value: T, size = 1): void {
    if (size > this.most) return;
    this.add(key, value, size);
    this.trim();
  }

  /** put() without making room. */
  add(key: string, value: T, size: number): void {
    this.take(key);
    this.#entries.set(key, { value, size });
    this.#size += size;
  }

  /** Removes a key; the value that it had. */
  take(key: string): T | undefined {
    const entry = this.#entries.get(key);
    if (!entry) return undefined;
    this.#entries.delete(key);
    this.#size -= entry.size;
    return entry.value;
  }

  /** Removes the least recently used values until the others fit. */
  trim(): T[] {
    const gone: T[] = [];
    for (const key of this.#entries.keys()) {
      if (this.#size <= this.most) break;
      gone.push(this.take(key)!);
    }
    return gone;
  }
}
