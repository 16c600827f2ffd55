// Patterns that match letters of either case, cut as the `tokenizers` library (0.23) cuts.
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { foldedPattern } from "../src/text/case-folding.js";
import { type PatternLibrary, preTokenizerOf } from "../src/text/pre-tokenizers.js";

const test = suite("text-fold");
const library = (await import("@huggingface/tokenizers")) as unknown as PatternLibrary;

const rows: [pattern: string, text: string, cut: string][] = [
  ["(?i:'s)", "x'ſx'Sx's", "x 'ſ x 'S x 's"],
  ["(?i:k)", "KkKSsſ", "K k K Ssſ"],
  ["(?i:é)", "éÉe", "é É e"],
  ["(?i:å)", "åÅÅ", "å Å Å"],
  ["(?i:[st])", "xſySTs", "x ſ y S T s"],
  ["(?i:[a-z])", "1ſ2", "1 ſ 2"],
  ["(?i:[^s])", "KSsſ", "K Ssſ"],
  ["(?i:\\x73)", "xſyS", "x ſ y S"],
  ["(?i:x(?:s)y)", "xſy,xSY,xsy", "xſy , xSY , xsy"],
  ["(?i:s)s", "ſsSS", "ſs SS"],
  ["s", "sSſ", "s Sſ"],
];
for (const [pattern, text, cut] of rows)
  test(`${pattern} in ${text}`, () => {
    const split = { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
    assert.is([...preTokenizerOf(library, split)(text, true)].join(" "), cut);
  });

for (const pattern of ["\\p{Lu}s", "(?:s)", "(?i:\\p{L})", "(?i:[[:space:]])", "[s(?i:]", "(?i:a)"])
  test(`a pattern that is left as it is: ${pattern}`, () =>
    assert.is(foldedPattern(pattern).replace("[aA]", "a"), pattern));

test("a letter that stands for more than one is refused", () => {
  assert.throws(() => foldedPattern("(?i:ß)"), /\(\?i:ß\) stands for more than one letter/);
});

test.run();
