// docs/follow-one-sample.md against the code: each file and function exists, and is named in a file further up the page, so that a
// reader never has to go back.
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "uvu";
import * as assert from "uvu/assert";

const top = dirname(dirname(fileURLToPath(import.meta.url)));
const page = readFileSync(join(top, "docs/follow-one-sample.md"), "utf8");
const steps = [...page.matchAll(/^\| `([\w./-]+)` \| `(#?\w+)` \|/gm)].map(([, file, name]) => ({
  file: file!,
  name: name!,
}));
const textOf = (file: string) => readFileSync(join(top, file), "utf8");

/** Whether a file defines a function, method or class: TypeScript, or a C++ source. */
function defines(file: string, name: string): boolean {
  const declared = `^(export )?(default )?(async )?(function\\*?|const|class) ${name}\\b`;
  const method = `^ {2}(static |async |get |readonly |\\*)*${name}(<[^>]*>)?( = )?\\(`;
  const native = `^[A-Za-z][\\w:<>,&* ]*[ :&*]${name}\\(`;
  return new RegExp(`${declared}|${method}|${native}`, "m").test(textOf(file));
}

/** A name as both languages may write it: addMedia and add_media are one. */
const plain = (text: string) => text.replaceAll(/[#_]/g, "").toLowerCase();

test("the page has its steps", () => {
  assert.ok(steps.length > 60, `${steps.length} steps`);
});

for (const [i, { file, name }] of steps.entries()) {
  test(`step ${i + 1}: ${file} defines ${name}`, () => {
    assert.ok(existsSync(join(top, file)), `${file}: no such file`);
    assert.ok(defines(file, name), `${file} defines no ${name}`);
  });
  if (i > 0)
    test(`step ${i + 1}: ${name} is named in a file further up, or in its own`, () => {
      const above = new Set([...steps.slice(0, i).map((s) => s.file)]);
      const named = new RegExp(`(?<![a-z0-9])${plain(name)}(?![a-z0-9])`);
      const where = [...above].filter((other) => named.test(plain(textOf(other))));
      assert.ok(where.length > 0, `${name} of ${file} is in none of the ${above.size} files further up`);
    });
}

test.run();
