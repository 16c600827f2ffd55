export function visible(text: string): string;
export function short(x: number): string;
export function bytes(n: number): string;
export function duration(seconds: number): string;
export function linear(low: number, high: number, from: number, to: number): (value: number) => number;
export function tenths(x: number): number;
export function pathOf(points: readonly (readonly [x: number, y: number])[], steps?: boolean): string;
