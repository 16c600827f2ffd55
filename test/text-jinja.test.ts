// Chat templates render as transformers renders them: a table of templates with the texts of jinja2 (transformers 5.24,
// jinja2 3.1.6), one context for all. Rows behind the first hundred were found by comparing random templates.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ordered } from "./helpers/assert.js";
import { strftime, wallClock } from "../src/text/template-date.js";
import { compile, JinjaFault } from "../src/text/jinja/index.js";

const test = suite("text-jinja");
const path = fileURLToPath(new URL("golden/templates/jinja.json", import.meta.url));
const { context, cases } = JSON.parse(readFileSync(path, "utf8")) as {
  context: Record<string, unknown>;
  cases: { template: string; text: string }[];
};
const clock = wallClock("date", "2026-03-04T05:06:07");
const render = (template: string, names = context) => compile(template, (f) => strftime(f, clock)).render(names);

test("the table is whole", () => ordered(cases.length, ">=", 140));

for (const { template, text } of cases)
  test(`the text of jinja2: ${JSON.stringify(template)}`, () => assert.is(render(template), text));

const faults: [template: string, line: number, message: RegExp][] = [
  ["{{ 1 }}\n\n{{ undef.x }}", 3, /'undef' is undefined/],
  ["a\n{{ 'a' + 1 }}", 2, /unsupported operand type\(s\) for \+: 'str' and 'int'/],
  ["{% if 1 %}\n{% endfor %}", 2, /\{% endfor %\} is not a tag/],
  ["\n{% if 1 %}\n", 2, /\{% endif %\} is missing/],
  ["\n\n{{ 1 ", 3, /\}\} is missing/],
  ["{{ 1 }}\n{{ [1, 2 }}", 2, /unexpected '\}', expected '\]'/],
  ["{% macro m(a) %}\n{{ a }}{% endmacro %}\n{{ m(1, 2) }}", 3, /not more than 1 argument/],
  ["{{ {'a': undef} | tojson }}", 1, /Undefined is not JSON serializable/],
  ["{{ 1 < 'a' }}", 1, /'<' not supported between 'int' and 'str'/],
  ["{{ 9007199254740993 }}", 1, /too large/],
  ["{{ 1 // 0 }}", 1, /by zero/],
  ["{% break %}", 1, /outside of a loop/],
  ["{% set loop.x = 1 %}", 1, /is no namespace/],
  ["{{ 'a'.encode() }}", 1, /str\.encode is not supported/],
  ["{{ [] | first | upper }}{{ nothing() }}", 1, /'nothing' is undefined/],
];
for (const [template, line, message] of faults)
  test(`a fault names its line and what is wrong: ${JSON.stringify(template)}`, () => {
    try {
      render(template);
      assert.unreachable(template);
    } catch (e) {
      assert.instance(e, JinjaFault, template);
      assert.match((e as JinjaFault).message, message, template);
      assert.is((e as JinjaFault).line, line, template);
    }
  });

test("a rendering cannot change what it was given, nor what another one sees", () => {
  const names = { list: [1, 2], map: { a: 1 } };
  assert.throws(() => render("{{ list.append(3) }}", names), /changes its object/);
  assert.throws(() => render("{{ map.update({'b': 1}) }}", names), /changes its object/);
  assert.is(render("{% set list = 5 %}{{ list }}", names), "5");
  assert.is(render("{{ list }}{{ map }}", names), "[1, 2]{'a': 1}");
});

test.run();
