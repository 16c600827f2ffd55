// An error of a template: what is wrong in it or in what it does, and the line.

export class JinjaFault extends Error {
  constructor(
    message: string,
    public line = 0,
    /** The template itself refused the conversation (raise_exception). */
    readonly raised = false,
  ) {
    super(message);
  }
}

/** What one rendering may still do; templates come with checkpoints and are not trusted. */
export interface Budget {
  steps: number;
  depth: number;
}

/** Bounds of a rendering: steps (a node, an item or a hundred characters each), characters of a text, items of a list. */
export const bounds = { steps: 4_000_000, text: 64 << 20, items: 1_000_000, depth: 200 } as const;

let left: Budget = { steps: 0, depth: 0 };

/** Renderings are synchronous: the budget is that of the one that runs. */
export function withBudget<T>(f: () => T): T {
  const outer = left;
  left = { steps: bounds.steps, depth: bounds.depth };
  try {
    return f();
  } catch (e) {
    if (e instanceof RangeError) throw new JinjaFault("values or calls that are nested too deep");
    throw e;
  } finally {
    left = outer;
  }
}

export function spend(steps: number): void {
  left.steps -= steps;
  if (left.steps < 0) throw new JinjaFault(`more than ${bounds.steps} steps`);
}

/** A text that was built: its size is checked and paid for. */
export function built(text: string): string {
  if (text.length > bounds.text) throw new JinjaFault(`a text of more than ${bounds.text} characters`);
  if (text.length > 100) spend(text.length / 100);
  return text;
}

export function deeper<T>(f: () => T): T {
  if (--left.depth < 0) throw new JinjaFault(`calls more than ${bounds.depth} deep`);
  try {
    return f();
  } finally {
    left.depth++;
  }
}
