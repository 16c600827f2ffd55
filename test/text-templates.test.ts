// Which of several chat templates is used, and what is told of the others; as transformers chooses.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { inspectCheckpoint } from "../src/index.js";
import { loadTokenizer } from "../src/text/tokenizer.js";
import { rejects } from "./helpers/assert.js";
import { copyOf } from "./helpers/files.js";

const test = suite("text-templates");
const golden = fileURLToPath(new URL("golden/", import.meta.url));
const more = "additional_chat_templates";
const named = (...names: string[]) => names.map((name) => ({ name, template: `${name} of the list` }));

const rows: [
  what: string,
  files: Record<string, string>,
  config: unknown,
  expected: string | RegExp,
  others: string[],
][] = [
  ["one of a list", {}, named("tool_use", "default", "rag"), "default of the list", ["tool_use", "rag"]],
  ["the last of two named alike", {}, [...named("default"), { name: "default", template: "last" }], "last", []],
  [
    "a list without default",
    {},
    named("tool_use", "rag"),
    /expected .*"default", got templates named "tool_use", "rag"/,
    [],
  ],
  [
    "a file beside others",
    { "chat_template.jinja": "own", [`${more}/tool_use.jinja`]: "t" },
    "config",
    "own",
    ["tool_use"],
  ],
  ["a file named default", { [`${more}/default.jinja`]: "named", [`${more}/b.jinja`]: "b" }, "config", "named", ["b"]],
  [
    "others without default",
    { [`${more}/tool_use.jinja`]: "t" },
    "config",
    /chat_template\.jinja beside .* named "tool_use"/,
    [],
  ],
  [
    "others beside the processor's file",
    { [`${more}/rag.jinja`]: "t", "chat_template.json": '{"chat_template":"processor"}' },
    undefined,
    /chat_template\.jinja beside the templates named "rag", got none/,
    [],
  ],
  ["an empty folder of others", { [`${more}/read.me`]: "" }, "config", "config", []],
];
for (const [what, files, chat_template, expected, others] of rows)
  test(what, async () => {
    const dir = copyOf(`${golden}tokenizers/qwen2`);
    rmSync(join(dir, "chat_template.jinja"), { force: true });
    const path = join(dir, "tokenizer_config.json");
    const config = JSON.parse(readFileSync(path, "utf8"));
    writeFileSync(path, JSON.stringify({ ...config, chat_template }));
    for (const [name, content] of Object.entries(files)) {
      mkdirSync(dirname(join(dir, name)), { recursive: true });
      writeFileSync(join(dir, name), content);
    }
    const t = await loadTokenizer(dir);
    const asked = () => t.applyChatTemplate([{ role: "user", content: "a" }]);
    if (expected instanceof RegExp) {
      await rejects(asked, "TOKENIZER", expected, what);
      assert.is(t.decode(t.encode("a dog")), "a dog", "what needs no template works");
      return;
    }
    assert.is(asked().text, expected);
    assert.equal(t.template!.others, others);
  });

test("inspect tells of templates that are not used, and of one that cannot be", async () => {
  const dir = copyOf(`${golden}text_llama/policy`);
  const put = (name: string, content: string) => {
    mkdirSync(dirname(join(dir, name)), { recursive: true });
    writeFileSync(join(dir, name), content);
  };
  for (const name of ["tokenizer.json", "tokenizer_config.json"])
    put(name, readFileSync(`${golden}tokenizers/llama2/${name}`, "utf8"));
  rmSync(join(dir, "chat_template.jinja"), { force: true });
  put(`${more}/tool_use.jinja`, "t");
  const told = async () => (await inspectCheckpoint(dir)).notes.join("\n");
  assert.match(await told(), /chat template cannot be used: expected chat_template\.jinja/);
  put("chat_template.jinja", "{{ messages[0].content }}");
  assert.match(await told(), /the default is used; not used: "tool_use"/);
});

test.run();
