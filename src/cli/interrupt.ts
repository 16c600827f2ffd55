// Ctrl-C and SIGTERM as AbortSignals, so that work ends in order; the last one ends the process as usual.
import { say } from "./terminal.js";

/** The command was told to stop: exit code 130. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
}

export interface Interruption {
  signal: AbortSignal;
  /** Leaves the signals to others. */
  off(): void;
}

/** Calls `first` at the first signal; from then on they do what they do to any process. */
function onSignal(first: () => void): () => void {
  const off = () => {
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
  };
  const stop = () => {
    off();
    first();
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  return off;
}

/** The first signal ends the work at once. */
export function interruption(): Interruption {
  const controller = new AbortController();
  const off = onSignal(() => controller.abort(new Interrupted("interrupted")));
  return { signal: controller.signal, off };
}

/** The first signal lets the work at hand be finished; the second one ends the process, which leaves a run resumable too. */
export function gradualInterruption(tell: (line: string) => void = say): { finish: AbortSignal; off(): void } {
  const controller = new AbortController();
  const off = onSignal(() => {
    tell("stopping after the current step; Ctrl-C again ends at once, and the same command resumes");
    controller.abort(new Interrupted("interrupted"));
  });
  return { finish: controller.signal, off };
}
