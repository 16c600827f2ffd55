// Dates of chat templates: every letter of strftime as Python prints it, and the option that pins the date.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { loadTokenizer } from "../src/model/inspect.js";
import { clockText, strftime, wallClock } from "../src/text/template-date.js";
import { rejects } from "./helpers/assert.js";
import { copyOf } from "./helpers/files.js";

const test = suite("text-dates");
const golden = fileURLToPath(new URL("golden/", import.meta.url));
const table = JSON.parse(readFileSync(`${golden}templates/dates.json`, "utf8")) as {
  date: string;
  text: Record<string, string>;
}[];

for (const { date, text } of table)
  for (const [format, expected] of Object.entries(text))
    test(`as datetime.strftime prints it: ${format} of ${date}`, () =>
      assert.is(strftime(format, wallClock("date", date)), expected));

for (const format of ["%Q", "%10Y", "%s", "%"])
  test(`a letter that is not supported is refused, not printed: ${format}`, () =>
    assert.throws(() => strftime(format, wallClock("date", "2026-01-01")), /strftime_now: "%.*not supported/));

test("templateDate: what strftime_now prints, kept for all texts of a tokenizer", async () => {
  const dir = copyOf(`${golden}tokenizers/llama3`);
  writeFileSync(join(dir, "chat_template.jinja"), "{{ strftime_now('%d %b %Y %H:%M:%S') }}");
  const said = async (templateDate?: string | Date) => {
    const t = await loadTokenizer(dir, templateDate === undefined ? {} : { templateDate });
    return [t.applyChatTemplate([{ role: "user", content: "a" }]).text, t.templateDate];
  };
  assert.equal(await said("2024-07-26"), ["26 Jul 2024 00:00:00", "2024-07-26T00:00:00"]);
  assert.equal(await said("2024-07-26T10:20:30"), ["26 Jul 2024 10:20:30", "2024-07-26T10:20:30"]);
  assert.equal(await said(new Date(2021, 1, 3, 4, 5, 6)), ["03 Feb 2021 04:05:06", "2021-02-03T04:05:06"]);
  const t = await loadTokenizer(dir);
  const [first] = await said(t.templateDate);
  assert.is(t.applyChatTemplate([{ role: "user", content: "b" }]).text, first, "the same moment, however late it is");
  assert.is(clockText(wallClock("date", "2024-02-29T23:59:59")), "2024-02-29T23:59:59");
});

for (const bad of ["2024-02-30", "yesterday", "2024-1-1", "2024-01-01T25:00:00", "2024-01-01Z", "0001-01-01", 5])
  test(`templateDate: ${bad} is refused`, () =>
    rejects(
      () => loadTokenizer(`${golden}tokenizers/llama3`, { templateDate: bad as string }),
      "INVALID_ARGUMENT",
      /templateDate/,
      String(bad),
    ));

test.run();
