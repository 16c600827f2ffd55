// What a command that runs tests says of itself, in numbers.

/** Marks a skipped test in the output of a suite: "skipped test: <its name>: <what is missing>". */
const named = /^skipped test: (.+)$/gm;

const count = (match, group = 1) => Number(match?.[group] ?? 0);

/**
 * The tally of a command: its last line "N passed, N failed" (", N skipped" may follow), or the closing summary of uvu, of
 * whose total skipped tests are no part. A command that reports neither counts as one test.
 * A command that failed, or ran no test and skipped none, is never without a failure; nor is one that skipped tests
 * without naming each. `names` holds what was skipped and why.
 */
export function tallyOf(output, status) {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: colours of test runners
  const plain = output.replace(/\x1b\[[0-9;]*m/g, "");
  const last = (pattern) => [...plain.matchAll(pattern)].at(-1);
  const ours = last(/^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$/gm);
  const total = last(/^\s*Total:\s+(\d+)$/gm);
  const passed = last(/^\s*Passed:\s+(\d+)$/gm);
  const names = [...plain.matchAll(named)].map((match) => match[1]);
  let tally = { passed: status === 0 ? 1 : 0, failed: 0, skipped: 0 };
  if (ours) tally = { passed: count(ours), failed: count(ours, 2), skipped: count(ours, 3) };
  else if (total && passed)
    tally = {
      passed: count(passed),
      failed: Math.max(0, count(total) - count(passed)),
      skipped: count(last(/^\s*Skipped:\s+(\d+)$/gm)),
    };
  const nothing = tally.passed + tally.skipped === 0; // a filter that fits no test
  if (tally.failed === 0 && (status !== 0 || nothing)) tally.failed = 1;
  if (names.length !== tally.skipped) tally.failed += 1;
  return { ...tally, names };
}

/** The last line of everything that runs tests. */
export const closingLine = ({ passed, failed, skipped }) => `${passed} passed, ${failed} failed, ${skipped} skipped`;
