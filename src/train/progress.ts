// Progress of a stage: at most four events per second, with rate and time left by the clock of this process.
import { channel } from "node:diagnostics_channel";
import type { IterationEvent, Stage } from "./run-events.js";

const everyMs = 250;

export type Emit = (event: IterationEvent) => void;

const events = channel("isr-dpo:run");

/** Publishes what a run tells on the diagnostics channel "isr-dpo:run" too, as { runDir, event }. */
export const published =
  (runDir: string, emit: Emit): Emit =>
  (event) => {
    if (events.hasSubscribers) events.publish({ runDir, event });
    emit(event);
  };

/** Progress events that still wait give way to the next of their stage; others never do. */
export function coalesceProgress(queued: IterationEvent, next: IterationEvent): IterationEvent | undefined {
  const same = queued.type === "progress" && next.type === "progress" && queued.stage === next.stage;
  return same && queued.iteration === next.iteration ? next : undefined;
}

export class Progress {
  readonly #began = performance.now();
  #told = Number.NEGATIVE_INFINITY;

  constructor(
    readonly emit: Emit,
    readonly iteration: number,
    readonly stage: Stage,
    readonly total: number,
    /** Done by an earlier process: they do not count for the rate. */
    readonly before: number,
  ) {
    this.tell(before);
    this.#told = Number.NEGATIVE_INFINITY;
  }

  tell(done: number): void {
    const now = performance.now();
    if (done < this.total && now - this.#told < everyMs) return;
    this.#told = now;
    const { iteration, stage, total } = this;
    const perSecond = ((done - this.before) / Math.max(1e-9, now - this.#began)) * 1e3;
    const secondsLeft = perSecond > 0 ? (total - done) / perSecond : 0;
    this.emit({ type: "progress", iteration, stage, done, total, perSecond, secondsLeft });
  }
}

/** Runs a stage between its events; `resumed`: an earlier process had begun it. */
export async function staged<T>(
  emit: Emit,
  iteration: number,
  stage: Stage,
  resumed: boolean,
  work: () => Promise<T>,
): Promise<T> {
  emit({ type: "stage", iteration, stage, state: resumed ? "resumed" : "begin" });
  const result = await work();
  emit({ type: "stage", iteration, stage, state: "end" });
  return result;
}
