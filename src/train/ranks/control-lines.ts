// What ranks say to rank 0 and back: lines of JSON over TCP, bounded in length, and nothing before the job's token.
import { createHash, timingSafeEqual } from "node:crypto";
import type { Socket } from "node:net";
import { StringDecoder } from "node:string_decoder";

/** The longest line, in characters. */
export const maxLine = 1 << 20;

/** A message: its kind, and what belongs to it. */
export interface Line {
  kind: string;
  [key: string]: unknown;
}

/** One end of a connection. */
export class Lines {
  readonly socket: Socket;
  #rest = "";
  #closed = false;
  /** Milliseconds of performance.now() at which something last came. */
  heard = performance.now();

  /** `onLine`: a message; `onEnd`: the connection ended, called once. */
  constructor(socket: Socket, onLine: (line: Line) => void, onEnd: (reason: string) => void) {
    this.socket = socket;
    socket.setNoDelay(true);
    const decoder = new StringDecoder("utf8");
    const end = (reason: string) => {
      if (this.#closed) return;
      this.#closed = true;
      socket.destroy();
      onEnd(reason);
    };
    socket.on("data", (bytes: Buffer) => {
      this.heard = performance.now();
      this.#rest += decoder.write(bytes);
      const lines = this.#rest.split("\n");
      this.#rest = lines.pop()!;
      if (this.#rest.length > maxLine) return end("it sent a line without an end");
      for (const text of lines) {
        if (this.#closed) return;
        const line = parsed(text);
        if (line === undefined) return end("it does not speak this protocol");
        onLine(line);
      }
    });
    socket.on("error", (e) => end(e.message));
    socket.on("close", () => end("its connection ended"));
  }

  send(line: Line): void {
    if (!this.#closed && !this.socket.destroyed) this.socket.write(`${JSON.stringify(line)}\n`);
  }

  /** Ends the connection without a word to `onEnd`. */
  close(): void {
    this.#closed = true;
    this.socket.end();
    this.socket.unref();
  }
}

function parsed(text: string): Line | undefined {
  try {
    const value = JSON.parse(text);
    return typeof value?.kind === "string" ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Whether two secrets are equal, in a time that does not depend on where they differ. */
export function same(a: unknown, b: string): boolean {
  const sum = (text: string) => createHash("sha256").update(text).digest();
  return typeof a === "string" && timingSafeEqual(sum(a), sum(b));
}
