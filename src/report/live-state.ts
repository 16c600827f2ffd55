// The contents of the live page: a function of the events so far, bounded for runs of any length. Where something is thinned,
// cut or left out, the page says how many there were.
import type { IterationEvent, RunStepMetrics, Stage } from "../train/run-events.js";

/** A text, at most `textLimit` characters of it, and how many it has. */
export interface Cut {
  text: string;
  length: number;
}

export interface StageState {
  stage: Stage;
  state: "begin" | "end" | "resumed";
}

export interface IterationState {
  iteration: number;
  stages: StageState[];
  /** What became of the samples, as far as this process told. */
  counts: Record<string, number>;
}

export interface PairState {
  iteration: number;
  sample: Cut;
  chosen: Cut;
  rejected: Cut;
  context?: Cut;
  /** In nats. */
  margin?: number;
}

export interface WarningState {
  code: Cut;
  message: Cut;
}

/** Number of the step in this process, iteration, step in it, loss, margin, accuracy. */
export type Point = [n: number, iteration: number, step: number, loss: number, margin: number, accuracy: number];

/** Every `every`-th step of `total`. */
export interface Series {
  points: Point[];
  every: number;
  total: number;
}

export type Progress = Omit<Extract<IterationEvent, { type: "progress" }>, "type">;
export type Evaluation = Omit<Extract<IterationEvent, { type: "evaluation" }>, "type">;

export interface AnswerState {
  model: number;
  sample: Cut;
  question: Cut;
  text: Cut;
}

/** How the run ended; `code` and `message` of a failure. */
export interface Outcome {
  state: "done" | "stopped" | "failed";
  code?: string;
  message?: Cut;
}

/** The newest of a list, and how many there were. */
export interface Newest<T> {
  items: T[];
  total: number;
}

export interface Snapshot {
  iterations: Newest<IterationState>;
  progress: Progress | null;
  series: Series;
  step: RunStepMetrics | null;
  pairs: Newest<PairState>;
  evaluations: Newest<Evaluation>;
  answers: Newest<AnswerState>;
  warnings: Newest<WarningState>;
  outcome: Outcome | null;
  /** How many of each list are kept. */
  limits: typeof limits;
}

/** What changed: the name of an event of the page and its data. */
export type Change =
  | { name: "iteration"; data: { iteration: IterationState; total: number; progress: Progress | null } }
  | { name: "progress"; data: Progress }
  | { name: "step"; data: { step: RunStepMetrics; point: Point; total: number } }
  | { name: "series"; data: Series }
  | { name: "pair"; data: { pair: PairState; total: number } }
  | { name: "evaluation"; data: { evaluation: Evaluation; total: number } }
  | { name: "answer"; data: { answer: AnswerState; total: number } }
  | { name: "warning"; data: { warning: WarningState; total: number } }
  | { name: "end"; data: Outcome };

export const textLimit = 1000;
export const limits = {
  points: 2000,
  pairs: 50,
  iterations: 100,
  evaluations: 100,
  answers: 12,
  warnings: 50,
} as const;

export function cut(text: string): Cut {
  const short = text.length > textLimit ? text.slice(0, textLimit) : text;
  return { text: short, length: text.length };
}

function push<T>(list: Newest<T>, item: T, limit: number): number {
  list.items.push(item);
  if (list.items.length > limit) list.items.shift();
  list.total += 1;
  return list.total;
}

const none = <T>(): Newest<T> => ({ items: [], total: 0 });

export class LiveState {
  readonly #now: Snapshot = {
    ...{ iterations: none(), progress: null, series: { points: [], every: 1, total: 0 }, step: null },
    ...{ pairs: none(), evaluations: none(), answers: none(), warnings: none(), outcome: null, limits },
  };

  /** The state itself: to be written out before the next event. */
  get snapshot(): Readonly<Snapshot> {
    return this.#now;
  }

  take(e: IterationEvent): Change[] {
    switch (e.type) {
      case "stage":
        return [this.#stage(e)];
      case "progress": {
        const { type: _, ...data } = e;
        this.#now.progress = data;
        return [{ name: "progress", data }];
      }
      case "step":
        return this.#step(e.iteration, e.metrics);
      case "pair":
        return this.#pair(e);
      case "evaluation": {
        const { type: _, ...evaluation } = e;
        const total = push(this.#now.evaluations, evaluation, limits.evaluations);
        return [{ name: "evaluation", data: { evaluation, total } }];
      }
      case "answer": {
        const answer = { model: e.model, sample: cut(e.sample), question: cut(e.question), text: cut(e.text) };
        return [{ name: "answer", data: { answer, total: push(this.#now.answers, answer, limits.answers) } }];
      }
      case "warning": {
        const warning = { code: cut(e.code), message: cut(e.message) };
        return [{ name: "warning", data: { warning, total: push(this.#now.warnings, warning, limits.warnings) } }];
      }
    }
  }

  end(data: Outcome): Change {
    this.#now.outcome = data;
    return { name: "end", data };
  }

  #iteration(iteration: number): IterationState {
    const { iterations } = this.#now;
    const known = iterations.items.find((i) => i.iteration === iteration);
    if (known) return known;
    const added: IterationState = { iteration, stages: [], counts: {} };
    push(iterations, added, limits.iterations);
    return added;
  }

  #changed(iteration: IterationState): Change {
    const { iterations, progress } = this.#now;
    return { name: "iteration", data: { iteration, total: iterations.total, progress } };
  }

  #stage({ iteration, stage, state }: Extract<IterationEvent, { type: "stage" }>): Change {
    const of = this.#iteration(iteration);
    const known = of.stages.find((s) => s.stage === stage);
    if (known) known.state = state;
    else of.stages.push({ stage, state });
    if (state !== "end") this.#now.progress = null;
    return this.#changed(of);
  }

  #step(iteration: number, step: RunStepMetrics): Change[] {
    const { series } = this.#now;
    const n = series.total;
    series.total += 1;
    const point: Point = [n, iteration, step.step, step.loss, step.margin, step.accuracy];
    this.#now.step = step;
    if (n % series.every === 0) series.points.push(point);
    const told: Change = { name: "step", data: { step, point, total: series.total } };
    if (series.points.length <= limits.points) return [told];
    series.every *= 2;
    series.points = series.points.filter(([at]) => at % series.every === 0);
    return [told, { name: "series", data: series }];
  }

  #pair(e: Extract<IterationEvent, { type: "pair" }>): Change[] {
    const of = this.#iteration(e.iteration);
    of.counts[e.status] = (of.counts[e.status] ?? 0) + 1;
    const told = this.#changed(of);
    if (e.chosen === undefined || e.rejected === undefined) return [told];
    const pair: PairState = {
      ...{ iteration: e.iteration, sample: cut(e.sample), chosen: cut(e.chosen), rejected: cut(e.rejected) },
      ...(e.context === undefined ? {} : { context: cut(e.context) }),
      ...(e.margin === undefined ? {} : { margin: e.margin }),
    };
    return [told, { name: "pair", data: { pair, total: push(this.#now.pairs, pair, limits.pairs) } }];
  }
}
