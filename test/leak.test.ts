// Memory does not grow with load, generate, train, dispose cycles. ISR_DPO_LEAK_CYCLES sets how many.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ordered } from "./helpers/assert.js";
import { script } from "./helpers/child.js";

const test = suite("leak");
const cycles = Number(process.env.ISR_DPO_LEAK_CYCLES ?? 200);

// A forgotten model is 0.3 MB a cycle: 50 MB here. What V8 still compiles in so few cycles is some MB, up to about the 600th; then
// the resident set stays within one.
const [begin, bound] = cycles >= 1000 ? [Math.floor(cycles * 0.6), 3] : [Math.floor(cycles / 5), 16];

test(`${cycles} cycles: at most ${bound} MB above cycle ${begin}`, () => {
  // A young generation of fixed size: else V8 resizes it by tens of MB, at times of its own.
  const ended = script("leak.ts", [String(cycles), String(begin)], ["--expose-gc", "--max-semi-space-size=1"]);
  assert.is(ended.code, 0, ended.err);
  const { early, late } = JSON.parse(ended.out) as { early: number; late: number };
  ordered(early, ">", 0);
  assert.ok(late - early <= bound * 1e6, `grew by ${((late - early) / 1e6).toFixed(1)} MB`);
});

test.run();
