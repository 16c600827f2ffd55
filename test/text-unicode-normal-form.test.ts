// Marks are put in order in linear time and in pieces, with the result of String.normalize().
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { normalForm } from "../src/text/unicode-normal-form.js";
import { atOnce } from "../src/text/pausable.js";
import { uniform } from "./helpers/seeded.js";

const test = suite("text-normal");
const marks = Array.from({ length: 0x20000 - 0x300 }, (_, i) => String.fromCodePoint(i + 0x300)).filter((c) =>
  /\p{M}/u.test(c),
);
const starters = ["a", "\u00e9", "\uac01", "\u1100", "\u0dd9", "\u09c7", "\u00a8", "\ufb01", " "];

for (const [what, from] of [
  ["marks of few classes", marks.slice(0, 80)],
  ["all marks", marks],
] as const)
  for (const form of ["NFC", "NFD", "NFKC", "NFKD"])
    test(`${form} of long runs: ${what}`, () => {
      const next = uniform(form.length + from.length);
      const draw = () => (next() + 1) / 2;
      const pick = (list: readonly string[]) => list[Math.floor(draw() * list.length)]!;
      for (let k = 0; k < 40; k++) {
        let text = "";
        for (let run = 0; run < 4; run++) {
          text += pick(starters);
          for (let n = Math.floor(draw() * 200); n > 0; n--) text += pick(from);
        }
        assert.is(atOnce(normalForm(text, form)), text.normalize(form), JSON.stringify(text));
      }
    });

test("a long run of marks has places to pause", () => {
  const steps = normalForm(`a${"\u0316\u0301".repeat(50_000)}`, "NFC");
  let pauses = 0;
  while (!steps.next().done) pauses++;
  assert.ok(pauses >= 20, `${pauses} pauses`);
});

test.run();
