// Rows that do not fit into the model's context: refused by their length before they are cut into tokens, or cut at the end,
// whatever form the row has; a signal is heard while long texts are cut into tokens.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { loadModel, train } from "../src/index.js";
import { rejects } from "./helpers/assert.js";
import { rowsFile } from "./helpers/data.js";
import { copyOf } from "./helpers/files.js";
import { folder } from "./helpers/golden.js";
import { eventsOf, textRows, textRun } from "./helpers/training.js";

const test = suite("training long");

function templated(template: string): string {
  const dir = copyOf(folder("text_llama"));
  writeFileSync(join(dir, "chat_template.jinja"), template);
  return dir;
}
const spaced = templated(
  "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'] }} {% else %}ASSISTANT: {{ m['content'] + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}",
);
const rendered = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n";
const qwen = folder("text_qwen2");
const long = (word: string) => `the ${word} `.repeat(400);
const of = (prompt: string, chosen: string, rejected: string) => ({ prompt, chosen, rejected });

type Stored = { item: Record<string, { ids?: number[]; v?: number[] }>; tokens: number[]; cut?: boolean };
const stored = (runDir: string): Stored[] =>
  readFileSync(join(runDir, "items.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line, (_, x) => (x?.$ ? x.v : x)));

const cuts: readonly [name: string, model: string, row: object, count: string, kind?: "sft"][] = [
  ["both answers share a token with the prompt", spaced, of("1", long("car"), long("dog")), "merged"],
  ["one answer shares a token with the prompt", spaced, of("1", long("car"), "7"), "merged"],
  ["a rendered prompt", qwen, of(rendered, long("car"), long("dog")), "rendered"],
  ["supervised, shared", spaced, { prompt: "1", completion: long("car") }, "merged", "sft"],
  ["supervised, rendered", qwen, { prompt: rendered, completion: long("car") }, "rendered", "sft"],
];
for (const [name, model, row, count, kind = "dpo"] of cuts)
  test(`an item that is too long is cut: ${name}`, async () => {
    const o = textRun({ kind, model, data: rowsFile([row]), onLong: "truncate" });
    const { result } = await eventsOf(o);
    assert.equal([result.pairs, result.counts.truncated, result.counts[count]], [1, 1, 1]);
    await using m = await loadModel(model, { threads: 1 });
    const [line] = stored(o.runDir);
    assert.equal([line!.cut, Math.max(...line!.tokens)], [true, m.info.contextLength], "as long as there is room for");
    const sides = kind === "sft" ? [line!.item] : [line!.item.chosen!, line!.item.rejected!];
    const given = row as Record<string, string>;
    const texts = kind === "sft" ? [given.completion!] : [given.chosen!, given.rejected!];
    for (const [i, text] of texts.entries()) {
      const side = sides[i] as unknown as { ids: number[]; scored: number[] };
      const ids = Int32Array.from(side.ids);
      const whole = m.tokenizer!.decode(ids);
      const words = m.tokenizer!.decode(
        ids.filter((_, k) => side.scored[k]),
        { skipSpecial: true },
      );
      assert.ok(whole.includes(given.prompt!.slice(0, 10)), `${whole} holds the prompt`);
      assert.ok(
        text.startsWith(words.trim()) && words.trim() !== "",
        `${JSON.stringify(words)} begins ${text.slice(0, 40)}`,
      );
    }
  });

test("what the assistant said before the answer that was cut stays scored", async () => {
  const message = (role: string, content: string) => ({ role, content });
  const talk = [
    message("user", "1"),
    message("assistant", "2"),
    message("user", "3"),
    message("assistant", long("car")),
  ];
  const o = (turns: "all" | "last") =>
    textRun({ kind: "sft", model: spaced, data: rowsFile([{ messages: talk }]), onLong: "truncate", turns });
  const counts = [];
  for (const turns of ["all", "last"] as const) counts.push((await train(o(turns))).counts.scoredTokens!);
  assert.ok(counts[0]! > counts[1]!, `${counts}`);
});

test("an item whose prompt alone is too long is a bad row, whatever its answer shares with it", async () => {
  const data = rowsFile([...textRows(2), of(`${long("car")}1`, "2", "3")]);
  await rejects(() => train(textRun({ model: spaced, data, onLong: "truncate" })), "DATA_INVALID", /:3: /, "fail");
});

test("an answer of ids longer than the context is cut; its ids are checked", async () => {
  const prompt = { ids: [1, 5, 6] };
  const ids = (n: number, first = 7) => [first, ...Array.from({ length: n }, (_, i) => 5 + (i % 50))];
  const run = (chosen: unknown) =>
    train(textRun({ data: [{ prompt, chosen, rejected: [9, 2] }] as never, onLong: "truncate" }));
  const { counts } = await run(ids(1000));
  assert.is(counts.truncated, 1);
  await rejects(() => run(ids(1000, 1.5)), "INVALID_ARGUMENT", /chosen\[0\]/, "no integer");
  await rejects(() => run([...ids(20), "7", ...ids(1000)]), "INVALID_ARGUMENT", /chosen\[21\]/, "no number");
});

const letters = (() => {
  const dir = copyOf(folder("text_llama"));
  const source = fileURLToPath(new URL("golden/tokenizers/qwen2", import.meta.url));
  for (const name of ["tokenizer.json", "tokenizer_config.json"])
    writeFileSync(join(dir, name), readFileSync(join(source, name)));
  const turn = "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}";
  const open = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
  writeFileSync(join(dir, "chat_template.jinja"), `{% for m in messages %}${turn}{% endfor %}${open}`);
  return dir;
})();
const million = "word ".repeat(200_000);
const refused: readonly [name: string, row: object, kind?: "sft"][] = [
  ["a pair", of("What?", million, "b")],
  ["its other answer", of("What?", "b", million)],
  ["a rendered prompt", of(rendered, million, "b")],
  ["an example", { prompt: "What?", completion: million }, "sft"],
  ["an answer behind ids", { prompt: { ids: [1, 2] }, answer: million }, "sft"],
];
for (const [name, row, kind = "dpo"] of refused)
  test(`a row that cannot fit is refused by its length: ${name}`, async () => {
    const data = "answer" in row ? ([row] as never) : rowsFile([row]);
    const code = "answer" in row ? "CONTEXT_OVERFLOW" : "DATA_INVALID";
    await rejects(() => train(textRun({ kind, model: letters, data })), code, /: at least \d+ tokens do not fit/, name);
  });

for (const [name, prompt] of [
  ["words", "What?"],
  ["rendered", rendered],
] as const)
  test(`a signal is heard while a long answer is cut into tokens: ${name}`, async () => {
    const stop = new AbortController();
    const data = (async function* () {
      yield of("Who?", "a man", "a dog");
      setTimeout(() => stop.abort(new Error("enough")), 30);
      yield of(prompt, million, `${million}<|im_end|> not`); // a fault that is found once all is cut
    })();
    const run = train(textRun({ model: letters, data: data as never, onLong: "truncate", signal: stop.signal }));
    let reason: unknown;
    await Promise.resolve(run).catch((e: unknown) => {
      reason = e;
    });
    assert.is((reason as Error | undefined)?.message, "enough");
  });

test.run();
