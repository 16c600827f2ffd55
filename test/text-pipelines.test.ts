// Parts of a tokenizer.json by themselves: every setting of normalizers, pre-tokenizers, models, post-processors and added
// tokens gives the ids of the `tokenizers` library (0.23).
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { loadTokenizer } from "../src/text/tokenizer.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("text-pipelines");
const path = fileURLToPath(new URL("golden/tokenizers/pipelines.json", import.meta.url));
const { texts, cases } = JSON.parse(readFileSync(path, "utf8")) as {
  texts: string[];
  cases: { name: string; json: object; ids: number[][] }[];
};

for (const { name, json, ids } of cases)
  test(name, async () => {
    const dir = temporaryFolder();
    writeFileSync(join(dir, "tokenizer.json"), JSON.stringify(json));
    const t = await loadTokenizer(dir);
    assert.equal(
      texts.map((text) => ({ text, ids: [...t.encode(text)] })),
      texts.map((text, i) => ({ text, ids: ids[i] })),
    );
  });

test.run();
