// Writes the events of a run: JSON to stdout, or to stderr a live line on a terminal and plain lines elsewhere.
import type { IterationEvent, TrainOptions } from "../index.js";
import { printable } from "./terminal.js";
import { jsonLine } from "../base/line-files.js";
import { initialState, lastingLine, liveLines, nextState, statusText, stepLine } from "./train-view.js";

const logEveryMs = 1000;
const drawEveryMs = 50;

/** To the begin of the first of so many lines, the last of which the cursor is in, with nothing below. */
const erase = (lines: number): string => `\r${lines > 1 ? `\u001b[${lines - 1}A` : ""}\u001b[J`;

/** Writes what happens: JSON to stdout, or a live line, or lines of a log. */
export class View {
  #state: ReturnType<typeof initialState>;
  #shown = 0; // lines on the terminal that the next drawing replaces
  #ended = false;
  #logged = Number.NEGATIVE_INFINITY;
  #drawn = Number.NEGATIVE_INFINITY;

  constructor(
    readonly kind: TrainOptions["kind"],
    readonly json: boolean,
    readonly terminal: boolean,
  ) {
    this.#state = initialState(kind);
  }

  event(e: IterationEvent): void {
    if (this.json) process.stdout.write(jsonLine(e));
    const lasting = lastingLine(e, this.kind);
    if (lasting !== undefined) this.say(lasting);
    this.#state = nextState(this.#state, e);
    if (this.json) return;
    if (this.terminal) this.#redraw(drawEveryMs);
    else if (e.type === "step") this.#log();
    else if (e.type === "progress" && e.stage === "generate") this.#samples(e.done, e.total);
  }

  say(line: string): void {
    if (this.json && !this.terminal) return;
    this.#clear();
    process.stderr.write(`${printable(line)}\n`);
    if (this.terminal && !this.json && !this.#ended) this.#redraw();
  }

  /** What follows stays as it is written. */
  end(): void {
    this.#ended = true;
    this.#clear();
  }

  #log(): void {
    const s = this.#state;
    const now = performance.now();
    if (s.done > 1 && s.done < s.total && now - this.#logged < logEveryMs) return;
    this.#logged = now;
    process.stderr.write(`${stepLine(s)}\n`);
  }

  #samples(done: number, total: number): void {
    const now = performance.now();
    if (done < total && now - this.#logged < logEveryMs) return;
    this.#logged = now;
    process.stderr.write(`samples ${done}/${total}  ${statusText(this.#state.statuses)}\n`);
  }

  #clear(): void {
    if (this.#shown > 0) process.stderr.write(erase(this.#shown));
    this.#shown = 0;
  }

  #redraw(atMostEveryMs = 0): void {
    const now = performance.now();
    if (now - this.#drawn < atMostEveryMs) return;
    this.#drawn = now;
    const lines = liveLines(this.#state, (process.stderr.columns || 80) - 1);
    process.stderr.write(`${this.#shown > 0 ? erase(this.#shown) : ""}${lines.join("\n")}`);
    this.#shown = lines.length;
  }
}
