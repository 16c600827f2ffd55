// The items of each step depend on seed, epoch and the number of items alone, so that a resumed run continues as if it had
// never stopped. No draw depends on time, threads or batch.
import { createHash } from "node:crypto";

/** Whole numbers below 2^32 from SHA-256 in counter mode: the same on every machine. */
function* draws(key: string): Generator<number> {
  for (let block = 0; ; block++) {
    const hash = createHash("sha256").update(`${key}/${block}`).digest();
    for (let at = 0; at < 32; at += 4) yield hash.readUInt32LE(at);
  }
}

/** A number below n without bias: draws of the last, incomplete stretch are drawn again. */
function below(source: Generator<number>, n: number): number {
  const limit = 2 ** 32 - (2 ** 32 % n);
  for (;;) {
    const x = source.next().value as number;
    if (x < limit) return x % n;
  }
}

/** The items of an epoch in the order in which they are trained on. */
export function permutation(n: number, seed: bigint, epoch: number): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  const source = draws(`isr-dpo order/${seed}/${epoch}`);
  for (let i = n - 1; i > 0; i--) {
    const j = below(source, i + 1);
    const kept = order[i]!;
    order[i] = order[j]!;
    order[j] = kept;
  }
  return order;
}

export interface StepPlan {
  itemsPerStep: number;
  stepsPerEpoch: number;
  totalSteps: number;
}

/** The last step of an epoch takes what is left. */
export function stepPlan(items: number, itemsPerStep: number, epochs: number): StepPlan {
  const stepsPerEpoch = Math.ceil(items / itemsPerStep);
  return { itemsPerStep, stepsPerEpoch, totalSteps: stepsPerEpoch * epochs };
}

/** Gives the items of step 0, 1, ...; within a step those of one group (a clip, a prompt) stand together and share it. */
export class Order {
  readonly #items: number;
  readonly #seed: bigint;
  readonly #plan: StepPlan;
  readonly #group: (item: number) => string;
  #epoch = -1;
  #order: Uint32Array = new Uint32Array(0);

  constructor(items: number, seed: bigint, plan: StepPlan, group: (item: number) => string) {
    this.#items = items;
    this.#seed = seed;
    this.#plan = plan;
    this.#group = group;
  }

  step(step: number): number[] {
    const { itemsPerStep, stepsPerEpoch } = this.#plan;
    const epoch = Math.floor(step / stepsPerEpoch);
    if (epoch !== this.#epoch) {
      this.#epoch = epoch;
      this.#order = permutation(this.#items, this.#seed, epoch);
    }
    const from = (step % stepsPerEpoch) * itemsPerStep;
    const taken = Array.from(this.#order.subarray(from, Math.min(from + itemsPerStep, this.#items)));
    const first = new Map<string, number>();
    taken.forEach((item, i) => {
      const group = this.#group(item);
      if (!first.has(group)) first.set(group, i);
    });
    const rank = (item: number) => first.get(this.#group(item))!;
    return taken
      .map((item, i) => ({ item, i, rank: rank(item) }))
      .sort((a, b) => a.rank - b.rank || a.i - b.i)
      .map((x) => x.item);
  }
}
