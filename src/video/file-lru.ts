// Values read from files, kept while the files stay unchanged: the most recently used ones, up to a number of bytes.

interface Entry<T> {
  value: T;
  bytes: number;
}

export class Kept<T> {
  readonly #entries = new Map<string, Entry<T>>();
  #bytes = 0;

  constructor(private readonly maxBytes: number) {}

  find(key: string | null): T | undefined {
    const entry = key === null ? undefined : this.#entries.get(key);
    if (!entry) return undefined;
    this.#entries.delete(key!); // the latest comes last
    this.#entries.set(key!, entry);
    return entry.value;
  }

  /** `key`: from before the file was read. */
  keep(key: string | null, value: T, bytes: number): void {
    if (key === null || bytes > this.maxBytes || this.#entries.has(key)) return;
    this.#entries.set(key, { value, bytes });
    this.#bytes += bytes;
    for (const [oldest, entry] of this.#entries) {
      if (this.#bytes <= this.maxBytes) break;
      this.#entries.delete(oldest);
      this.#bytes -= entry.bytes;
    }
  }
}
