// Thrift's compact protocol as far as Parquet uses it, with bounds: every element of a list takes a byte of the input, so that
// the result is no larger than the input allows. What passes here may be given to a parser that trusts its input.
export type Thrift = number | bigint | boolean | Uint8Array | readonly Thrift[] | ThriftStruct;
export interface ThriftStruct {
  readonly fields: ReadonlyMap<number, Thrift>;
}

const maxDepth = 24;

class Reader {
  #depth = 0;

  constructor(
    readonly bytes: Uint8Array,
    public offset: number,
  ) {}

  byte(): number {
    const b = this.bytes[this.offset++];
    if (b === undefined) throw new RangeError("a structure goes past its end");
    return b;
  }

  varint(): bigint {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const b = this.byte();
      value |= BigInt(b & 0x7f) << shift;
      if (b < 0x80) return value;
    }
    throw new RangeError("a number of more than 10 bytes");
  }

  zigzag(): bigint {
    const n = this.varint();
    return (n >> 1n) ^ -(n & 1n);
  }

  int32(): number {
    const n = this.zigzag();
    if (BigInt.asIntN(32, n) !== n) throw new RangeError(`a 32-bit number of ${n}`);
    return Number(n);
  }

  size(): number {
    const n = this.varint();
    if (n > BigInt(this.bytes.length - this.offset)) throw new RangeError(`a length of ${n} goes past the end`);
    return Number(n);
  }

  struct(): ThriftStruct {
    if (++this.#depth > maxDepth) throw new RangeError(`structures nested more than ${maxDepth} deep`);
    const fields = new Map<number, Thrift>();
    let id = 0;
    for (let head = this.byte(); (head & 15) !== 0; head = this.byte()) {
      id = head >> 4 ? id + (head >> 4) : Number(this.zigzag());
      fields.set(id, this.element(head & 15, false));
    }
    this.#depth--;
    return { fields };
  }

  list(): Thrift[] {
    if (++this.#depth > maxDepth) throw new RangeError(`lists nested more than ${maxDepth} deep`);
    const head = this.byte();
    const count = head >> 4 === 15 ? this.size() : head >> 4;
    const values: Thrift[] = [];
    for (let i = 0; i < count; i++) values.push(this.element(head & 15, true));
    this.#depth--;
    return values;
  }

  element(type: number, inList: boolean): Thrift {
    if (type === 1 || type === 2) return inList ? this.byte() === 1 : type === 1;
    if (type === 3) return this.byte();
    if (type === 4 || type === 5) return this.int32();
    if (type === 6) return this.zigzag();
    if (type === 7) return this.take(8).length;
    if (type === 8) return this.take(this.size());
    if (type === 9) return this.list();
    if (type === 12) return this.struct();
    throw new RangeError(`a field of type ${type}`);
  }

  take(count: number): Uint8Array {
    if (count > this.bytes.length - this.offset) throw new RangeError("a text goes past its end");
    this.offset += count;
    return this.bytes.subarray(this.offset - count, this.offset);
  }
}

/** The structure at `offset` and where it ends; RangeError where it is none. Of floating-point numbers nothing is kept. */
export function readThrift(bytes: Uint8Array, offset = 0): { value: ThriftStruct; end: number } {
  const reader = new Reader(bytes, offset);
  const value = reader.struct();
  return { value, end: reader.offset };
}

export function numberAt(s: ThriftStruct, field: number): number | undefined {
  const value = s.fields.get(field);
  return typeof value === "number" ? value : undefined;
}

export function structAt(s: ThriftStruct, field: number): ThriftStruct | undefined {
  const value = s.fields.get(field);
  return typeof value === "object" && "fields" in value ? value : undefined;
}
