// Readers of the stream of events (text/event-stream). A reader that does not keep up is disconnected; its browser reconnects
// and gets the current state.
import type { ServerResponse } from "node:http";

/** Bytes that may wait for one reader. */
export const waitingLimit = 2 ** 20;
export const clientLimit = 16;
const heartbeatMs = 15_000;
const retryMs = 2_000;

/** JSON has no line break, so that a message is one line of data. */
const message = (id: number, name: string, data: unknown): string =>
  `id: ${id}\nevent: ${name}\ndata: ${JSON.stringify(data)}\n\n`;

export class Clients {
  readonly #open = new Set<ServerResponse>();
  readonly #beat: NodeJS.Timeout;
  #id = 0;
  #dropped = 0;

  constructor() {
    this.#beat = setInterval(() => this.#write(": still there\n\n"), heartbeatMs);
    this.#beat.unref();
  }

  get count(): number {
    return this.#open.size;
  }

  /** Readers that were let go because they did not keep up. */
  get dropped(): number {
    return this.#dropped;
  }

  /** The largest number of bytes that wait for a reader. */
  get waiting(): number {
    return Math.max(0, ...[...this.#open].map((c) => c.writableLength));
  }

  add(response: ServerResponse, snapshot: unknown): void {
    response.on("close", () => this.#open.delete(response));
    response.on("error", () => this.#open.delete(response)); // the client is gone
    response.write(`retry: ${retryMs}\n${message(this.#id, "snapshot", snapshot)}`);
    this.#open.add(response);
  }

  tell(name: string, data: unknown): void {
    this.#id += 1;
    if (this.#open.size > 0) this.#write(message(this.#id, name, data));
  }

  /** Ends every stream; resolves when what waits has been taken, or after `ms`. */
  async end(ms: number): Promise<void> {
    clearInterval(this.#beat);
    const open = [...this.#open];
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((done) => {
      timer = setTimeout(done, ms); // this timer keeps the process alive until everything is sent
    });
    const taken = open.map((c) => new Promise<void>((done) => c.on("close", done).end(done)));
    await Promise.race([Promise.all(taken), late]);
    clearTimeout(timer);
    for (const client of open) client.destroy();
  }

  #write(text: string): void {
    for (const client of this.#open) {
      if (client.writableLength <= waitingLimit) {
        client.write(text);
        continue;
      }
      this.#dropped += 1;
      this.#open.delete(client);
      client.destroy();
    }
  }
}
