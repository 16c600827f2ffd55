// The hash of items that a program gives, so that a resumed run can check that it gets the same items.
import { createHash } from "node:crypto";
import { sha256 } from "../base/sha256.js";
import type { TrainItem } from "../base/types.js";
import { toStored } from "./stored-names.js";

export interface Digested extends AsyncIterable<TrainItem> {
  /** The hash of all items in their order; items that were not read yet are read now. */
  sum(): Promise<{ sha256: string }>;
}

const bytesOf = (x: ArrayBufferView) => new Uint8Array(x.buffer, x.byteOffset, x.byteLength);

/** An item as text; arrays of numbers by their type and bytes. */
function textOf(item: unknown): string {
  try {
    return (
      JSON.stringify(item, (_, x: unknown) => {
        if (typeof x === "bigint") return `${x}n`;
        if (!ArrayBuffer.isView(x)) return toStored(x);
        return { [x.constructor.name]: sha256(bytesOf(x)) };
      }) ?? "nothing"
    );
  } catch {
    return "no item"; // one that holds itself: it is refused where it is read
  }
}

/** The items, passed on as they are read. */
export function digested(items: AsyncIterable<TrainItem>): Digested {
  let found: string | undefined;
  async function* read(): AsyncGenerator<TrainItem> {
    const hash = createHash("sha256");
    for await (const item of items) {
      hash.update(`${textOf(item)}\n`);
      yield item;
    }
    found = hash.digest("hex");
  }
  return {
    [Symbol.asyncIterator]: read,
    async sum() {
      if (found === undefined) for await (const _ of read()); // reads to the end: only the hash is wanted
      return { sha256: found! };
    },
  };
}
