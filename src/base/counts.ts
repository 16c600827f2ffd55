// Numbers and words as people read and count them.

/** 1234567 -> "1,234,567" */
export const count = (n: number): string => n.toLocaleString("en-US");

/** "1 row", "2 rows" */
export const plural = (n: number, one: string, many = `${one}s`): string => `${count(n)} ${n === 1 ? one : many}`;

/** 0.125 -> "12.5 %" */
export const percent = (x: number, digits = 1): string => `${(100 * x).toFixed(digits)} %`;

/** Words of a text: what stands between blanks. */
export const wordCount = (text: string): number => text.match(/\S+/gu)?.length ?? 0;
