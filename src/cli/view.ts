// Writes what a run tells: JSON to stdout, or to stderr a live line on a terminal and plain lines elsewhere.
import type { IterationEvent, TrainOptions } from "../index.js";
import { jsonLine } from "./terminal.js";
import { initialState, lastingLine, liveLine, nextState, statusText, stepLine } from "./train-view.js";

const logEveryMs = 1000;

/** Writes what happens: JSON to stdout, or a live line, or lines of a log. */
export class View {
  #state: ReturnType<typeof initialState>;
  #shown = false;
  #ended = false;
  #logged = Number.NEGATIVE_INFINITY;

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
    if (this.terminal) this.#redraw();
    else if (e.type === "step") this.#log(e.metrics.step);
    else if (e.type === "progress" && e.stage === "generate") this.#samples(e.done, e.total);
  }

  say(line: string): void {
    if (this.json && !this.terminal) return;
    this.#clear();
    process.stderr.write(`${line}\n`);
    if (this.terminal && !this.json && !this.#ended) this.#redraw();
  }

  /** What follows stays as it is written. */
  end(): void {
    this.#ended = true;
    this.#clear();
  }

  #log(step: number): void {
    const s = { ...this.#state, done: step + 1 };
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
    if (this.#shown) process.stderr.write("\r\u001b[2K");
    this.#shown = false;
  }

  #redraw(): void {
    process.stderr.write(`\r\u001b[2K${liveLine(this.#state, (process.stderr.columns || 80) - 1)}`);
    this.#shown = true;
  }
}
