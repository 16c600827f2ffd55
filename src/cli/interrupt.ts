// Ctrl-C and SIGTERM as an AbortSignal, so that work ends in order; the second one ends the process as usual.

/** The command was told to stop: exit code 130. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
}

export interface Interruption {
  signal: AbortSignal;
  /** Leaves the signals to others. */
  off(): void;
}

export function interruption(): Interruption {
  const controller = new AbortController();
  const off = () => {
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
  };
  const stop = () => {
    off();
    controller.abort(new Interrupted("interrupted"));
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  return { signal: controller.signal, off };
}
