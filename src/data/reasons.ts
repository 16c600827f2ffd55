// Why rows were left out, gathered, for the error of a file of which nothing is left.
const most = 3; // reasons that are named
const kept = 1000; // different reasons that are counted

/** A reason without its place: "rows.jsonl:3: chosen: ..." and "data[3]: chosen: ..." are one for all rows. */
const placeless = (message: string): string =>
  message.replace(/^(?:[^\n]{0,4096}?(?::\d+|: row \d+)|data\[\d+\]): /, "");

export class Reasons {
  readonly #found = new Map<string, { count: number; first: string }>();
  count = 0;

  /** `message` begins with its place, as those of bad rows do. */
  add(message: string): void {
    this.count++;
    const reason = placeless(message);
    const known = this.#found.get(reason);
    if (known) known.count++;
    else if (this.#found.size < kept) this.#found.set(reason, { count: 1, first: message });
  }

  /** "3 rows left out: 2 as rows.jsonl:1: chosen: expected ...; 1 as ...", the most frequent first. */
  text(): string {
    const all = [...this.#found.values()].sort((a, b) => b.count - a.count);
    const named = all.slice(0, most);
    const others = this.count - named.reduce((n, { count }) => n + count, 0);
    const list = named.map(({ count, first }) => `${count} as ${first}`);
    return `${this.count} rows left out: ${[...list, ...(others > 0 ? [`${others} for other reasons`] : [])].join("; ")}`;
  }
}
