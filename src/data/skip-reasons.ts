// The reasons why rows were left out, counted for the error about a file of which no row is left.
const most = 3; // reasons that are named
const kept = 1000; // different reasons that are counted

export class Reasons {
  readonly #found = new Map<string, { count: number; first: string }>();
  count = 0;

  /** `reason`: the message without the row's place, so that it is one for all rows. */
  add(message: string, reason: string): void {
    this.count++;
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
