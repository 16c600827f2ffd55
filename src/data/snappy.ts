// Checks a Snappy block before the library decompresses it: the library reads lengths as signed numbers and could walk
// backwards for ever.

function demand(ok: boolean, what: string): asserts ok {
  if (!ok) throw new RangeError(`Snappy: ${what}`);
}

/** A little-endian number of n bytes, n at most 4. */
function number(bytes: Uint8Array, at: number, n: number): number {
  demand(at + n <= bytes.length, "it ends inside a length");
  let value = 0;
  for (let i = 0; i < n; i++) value += bytes[at + i]! * 2 ** (8 * i);
  return value;
}

function announced(bytes: Uint8Array): { size: number; at: number } {
  let size = 0;
  for (let at = 0; at < 5; at++) {
    const b = bytes[at];
    demand(b !== undefined, "it has no length");
    size += (b & 0x7f) * 2 ** (7 * at);
    if (b < 0x80) return { size, at: at + 1 };
  }
  throw new RangeError("Snappy: a length of more than 5 bytes");
}

/** Bytes that a tag at `at` takes, with a literal's own, and gives; `out`: bytes given before. */
function element(bytes: Uint8Array, at: number, out: number): { taken: number; given: number } {
  const tag = bytes[at]!;
  const kind = tag & 3;
  const high = tag >>> 2;
  if (kind === 0) {
    const extra = high < 60 ? 0 : high - 59;
    const length = (extra === 0 ? high : number(bytes, at + 1, extra)) + 1;
    demand(at + 1 + extra + length <= bytes.length, "a literal goes past its end");
    return { taken: 1 + extra + length, given: length };
  }
  const extra = kind === 3 ? 4 : kind;
  const low = number(bytes, at + 1, extra);
  const offset = kind === 1 ? low + (tag >>> 5) * 256 : low;
  demand(offset > 0 && offset <= out, "a copy from before its start");
  return { taken: 1 + extra, given: kind === 1 ? (high & 7) + 4 : high + 1 };
}

/** Throws RangeError for what does not inflate to `size` bytes. */
export function checkSnappy(bytes: Uint8Array, size: number): void {
  const { size: told, at: begin } = announced(bytes);
  demand(told === size, `it announces ${told} bytes, the page ${size}`);
  let out = 0;
  for (let at = begin; at < bytes.length; ) {
    const { taken, given } = element(bytes, at, out);
    at += taken;
    out += given;
    demand(out <= size, `it holds more than ${size} bytes`);
  }
  demand(out === size, `it holds ${out} bytes, not ${size}`);
}
