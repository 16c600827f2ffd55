// Tests that need something which a supported machine may lack.
import type { suite } from "uvu";

type Suite = ReturnType<typeof suite>;
type Add = (name: string, work: () => Promise<void> | void) => void;

/**
 * How to add a test that needs something: as any other where `missing` is undefined. Where it says what is missing, the test
 * counts as skipped and is named with the reason, in the form that scripts/tally.mjs reads.
 */
export function needing(test: Suite, missing: string | undefined): Add {
  if (missing === undefined) return (name, work) => test(name, work);
  return (name, work) => {
    test.skip(name, work);
    console.log(`\nskipped test: ${name}: ${missing}`);
  };
}
