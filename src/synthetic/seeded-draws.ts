// Seeded draws that are the same on every machine: 32-bit integers from a counter-based generator, no floating-point logic.
import { sum } from "../base/statistics.js";

/** SplitMix32-style mixing of a 32-bit state. */
function mix(x: number): number {
  let z = x >>> 0;
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return (z ^ (z >>> 15)) >>> 0;
}

function hashOf(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = mix(Math.imul(h ^ text.charCodeAt(i), 0x01000193) + i);
  return h >>> 0;
}

export class Random {
  readonly #key: number;
  #at = 0;

  /** Equal keys give equal draws. */
  constructor(...key: readonly (string | number | bigint)[]) {
    this.#key = hashOf(key.map(String).join("/"));
  }

  /** A whole number from 0 to 2^32 - 1. */
  next(): number {
    this.#at = (this.#at + 1) >>> 0;
    return mix(mix(this.#key + Math.imul(this.#at, 0x9e3779b9)) ^ this.#at);
  }

  /** A whole number from 0 to n - 1. */
  below(n: number): number {
    return Math.floor((this.next() / 2 ** 32) * n);
  }

  /** A number in [low, high). */
  between(low: number, high: number): number {
    return low + (high - low) * (this.next() / 2 ** 32);
  }

  chance(p: number): boolean {
    return this.next() / 2 ** 32 < p;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  /** An index with the odds of `weights`. */
  weighted(weights: readonly number[]): number {
    const total = sum(weights);
    let left = this.between(0, total);
    for (let i = 0; i < weights.length; i++) {
      left -= weights[i]!;
      if (left < 0) return i;
    }
    return weights.length - 1;
  }

  /** n of the list, in the order drawn. */
  sample<T>(list: readonly T[], n: number): T[] {
    const rest = [...list];
    return Array.from({ length: n }, () => rest.splice(this.below(rest.length), 1)[0]!);
  }
}
