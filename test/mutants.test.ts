// The list of faults that the tests have to notice (test/mutants/mutants.json) fits the sources as they are. That each fault is
// noticed is shown by npm run mutants, which takes too long for every change.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ordered } from "./helpers/assert.js";
import { root } from "./helpers/child.js";

const test = suite("mutants");

interface Row {
  name: string;
  file: string;
  find: string;
  replace: string;
  test: { native?: string; cuda?: string; ts?: string; name?: string };
}
const rows = JSON.parse(readFileSync(join(root, "test/mutants/mutants.json"), "utf8")) as Row[];

test("every pattern stands once in its file, and its fault is another text", () => {
  const stale = rows.flatMap(({ name, file, find, replace }) => {
    const count = readFileSync(join(root, file), "utf8").split(find).length - 1;
    return count === 1 && find !== replace ? [] : [`${name}: ${count} times in ${file}`];
  });
  assert.equal(stale, []);
  ordered(rows.length, ">", 100);
});

test("names are given once, and the files of the tests are there", () => {
  assert.is(new Set(rows.map((row) => row.name)).size, rows.length);
  const missing = rows.filter(({ test: { native, cuda, ts } }) =>
    ts ? !existsSync(join(root, "test", ts)) : !(native ?? cuda),
  );
  assert.equal(
    missing.map((row) => row.name),
    [],
  );
});

test.run();
