// What is kept while there is room: the most recently used, up to a total size.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { Lru } from "../src/base/lru.js";

const test = suite("base-lru");

test("the most recently used stay, up to the total size", () => {
  const kept = new Lru<number>(10);
  kept.put("a", 1, 4);
  kept.put("b", 2, 4);
  assert.is(kept.get("a"), 1); // b is the oldest now
  kept.put("c", 3, 4);
  assert.equal(
    ["a", "b", "c"].map((k) => kept.get(k)),
    [1, undefined, 3],
  );
  kept.put("d", 4, 11); // never fits
  assert.equal(
    ["a", "c", "d"].map((k) => kept.get(k)),
    [1, 3, undefined],
  );
  kept.put("a", 9, 6); // in place of the former one, with its own size
  assert.equal(
    ["a", "c"].map((k) => kept.get(k)),
    [9, 3],
  );
  kept.put("e", 6, 10);
  assert.equal(
    ["a", "c", "e"].map((k) => kept.get(k)),
    [undefined, undefined, 6],
  );
});

test("what is taken counts no more; room is made when it is asked for", () => {
  const kept = new Lru<string>(10);
  for (const key of ["a", "b", "c"]) kept.add(key, key, 4);
  assert.is(kept.take("b"), "b");
  assert.is(kept.take("b"), undefined);
  assert.equal(kept.trim(), []);
  kept.add("d", "d", 4);
  assert.is(kept.get("a"), "a");
  assert.is(kept.peek("c"), "c"); // which does not make it a used one
  assert.equal(kept.trim(), ["c"]);
});

test.run();
