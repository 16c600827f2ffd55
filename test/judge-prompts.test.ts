// A user's words reach every judge: the one of a configuration, and that of the command line; flags without effect are refused.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { includes, ordered } from "./helpers/assert.js";
import { openAIJudgePrompts, openaiJudge, runIterations } from "../src/index.js";
import { defaultPrompts, endpointWords, promptsOf } from "../src/iterate/method-prompts.js";
import { readChoice } from "../src/judge/openai-judge.js";
import { cliCommand, root } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";
import { clips, isrOptions } from "./helpers/isr-run.js";
import { writeClips } from "./helpers/train-run.js";

const test = suite("judge prompts");
const dir = temporaryFolder();

interface Asked {
  system: string;
  user: string;
}
const asked: Asked[] = [];
/** Prefers the second answer, by the label that it is asked for. */
const server = createServer((request, response) => {
  let body = "";
  request.setEncoding("utf8").on("data", (text) => {
    body += text;
  });
  request.on("end", () => {
    const [system, user] = JSON.parse(body).messages.map((m: { content: string }) => m.content);
    asked.push({ system, user });
    const [, id] = /"id": "([0-9a-f]+)"/.exec(user)!;
    const choice = user.includes('"choice": "B"') ? "B" : 2;
    const content = JSON.stringify({ id, choice });
    response.setHeader("content-type", "application/json").end(JSON.stringify({ choices: [{ message: { content } }] }));
  });
});
let url = "";

test.before(async () => {
  await writeClips(dir, clips);
  await once(server.listen(0, "127.0.0.1"), "listening");
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
});
test.after(() => {
  server.closeAllConnections();
  server.close();
});
test.before.each(() => {
  asked.length = 0;
});

const words = {
  system: "You are strict.",
  judge: {
    plain: "Q {question} A {first} B {second}?",
    withContext: "Seen {context} Q {question} A {first} B {second}?",
    labels: ["A", "B"],
  },
};
const file = join(dir, "prompts.json");
writeFileSync(file, JSON.stringify(words));

async function cli(...args: string[]) {
  const command = [...cliCommand, "judge", ...args];
  const child = spawn(process.execPath, command, { cwd: root, env: { ...process.env, NODE_NO_WARNINGS: "1" } });
  const said = { out: "", err: "" };
  child.stdout.setEncoding("utf8").on("data", (text) => {
    said.out += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text) => {
    said.err += text;
  });
  const [code] = await once(child, "close");
  return { code, ...said };
}

const rows = join(dir, "rows.jsonl");
const write = (...list: object[]) => writeFileSync(rows, list.map((r) => JSON.stringify(r)).join("\n"));
const endpoint = () => ["--in", rows, "--endpoint", url, "--endpoint-model", "m"];
const row = { id: "r", question: "What is it?", responses: ["a cat", "a dog"] };

test("of the command line: --prompts go to the endpoint, with the labels that they ask for", async () => {
  write(row, { ...row, id: "s", context: "a yard" });
  const { code, err, out } = await cli(...endpoint(), "--prompts", file, "--orders", "one");
  assert.is(code, 0, err);
  assert.equal([...new Set(asked.map((a) => a.system))], ["You are strict."]);
  const users = asked.map((a) => a.user.split("\n\n")[0]).sort();
  assert.equal(users, ["Q What is it? A a cat B a dog?", "Seen a yard Q What is it? A a cat B a dog?"]);
  assert.equal(
    out
      .trim()
      .split("\n")
      .map((l) => JSON.parse(l).prefer),
    [1, 1],
  );
});

test("of a configuration: its prompts go to its endpoint, and make another judge of it", async () => {
  const o = isrOptions(dir, join(temporaryFolder(), "run"));
  const judge = { kind: "openai", endpoint: { url, model: "m" }, truncated: "keep" } as const;
  await runIterations({ ...o, to: 2, config: { ...o.config, judge, prompts: file } }).result;
  ordered(asked.length, ">", 0);
  assert.ok(
    asked.every((a) => a.system === "You are strict." && a.user.startsWith("Seen ")),
    JSON.stringify(asked[0]),
  );
  const { facts } = JSON.parse(readFileSync(join(o.runDir, "run.json"), "utf8"));
  assert.is(facts.judge, openaiJudge({ ...judge.endpoint, ...endpointWords(promptsOf(words)) }).id);
  assert.is.not(facts.judge, openaiJudge(judge.endpoint).id);
});

test("what is not replaced stays the endpoint's own", () => {
  assert.equal(endpointWords(defaultPrompts), {});
  const response = promptsOf({ response: "{question} Be short." });
  assert.equal(endpointWords(response), {}, "the answers' prompt is no judge's");
  const plain = endpointWords(promptsOf({ judge: { plain: words.judge.plain } }));
  assert.equal(Object.keys(plain.prompts!), ["plain"]);
  assert.match(plain.prompts!.plain!, /^Q \{question\}.*\n\nReply with one line of JSON.*"choice": 1\} if answer 1/s);
  includes(openAIJudgePrompts.plain, "{id}");
});

const choices: readonly [reply: string, labels: readonly [string, string], prefer: 0 | 1 | null | "none"][] = [
  ['{"id":"x","choice":"A"}', ["A", "B"], 0],
  ['{"id":"x","choice":"B"}', ["A", "B"], 1],
  ['{"id":"x","choice":1}', ["A", "B"], "none"],
  ['{"id":"x","choice":"tie"}', ["A", "B"], null],
  ['{"id":"x","choice":2}', ["2", "1"], 0],
];
for (const [reply, labels, prefer] of choices)
  test(`reads ${reply} with ${labels.join(" and ")}`, () => {
    const found = readChoice(reply, "x", labels);
    assert.is(prefer === "none" ? found : (found as { prefer: unknown }).prefer, prefer === "none" ? null : prefer);
  });

const unused: readonly [flags: string[], says: RegExp][] = [
  [["--method", "text"], /^INVALID_ARGUMENT: --method: expected nothing beside --endpoint/m],
  [["--frames", "4"], /--frames: expected nothing beside --endpoint/],
  [["--vision-tower", "x"], /--vision-tower: expected nothing/],
  [["models/world"], /dir: expected nothing beside --endpoint/],
  [["--force"], /--force: expected --out with a file/],
];
for (const [flags, says] of unused)
  test(`refused beside an endpoint: ${flags.join(" ")}`, async () => {
    write(row);
    const { code, err } = await cli(...endpoint(), ...flags);
    assert.is(code, 2, err);
    assert.match(err, says);
    assert.equal(asked, []);
  });

test("refused without an endpoint: its flags", async () => {
  write(row);
  const { code, err } = await cli("models/world", "--in", rows, "--key-env", "KEY");
  assert.is(code, 2);
  assert.match(err, /--key-env: expected nothing without --endpoint/);
});

test("the same words twice are identical, counted, and asked of nobody; an iteration's pairs are rows too", async () => {
  const pair = {
    id: "p",
    video: "clip0",
    prompt: "What?",
    chosen: "a dog",
    rejected: "a cat",
    chosen_ids: [1],
    margin: 2,
  };
  write({ ...row, responses: ["a dog", "a dog "] }, { ...pair, context: null, agreement: true });
  const out = join(dir, "out.jsonl");
  writeFileSync(out, `${JSON.stringify({ id: "r", prefer: 0, status: "pair", judge: "self/text" })}\n`);
  const { code, err } = await cli(...endpoint(), "--out", out, "--force");
  assert.is(code, 0, err);
  const found = readFileSync(out, "utf8")
    .trim()
    .split("\n")
    .map((l) => JSON.parse(l));
  assert.equal(
    found.map((r) => [r.id, r.status, r.prefer]),
    [
      ["r", "identical", null],
      ["p", "disagree", null],
    ],
  );
  assert.is(asked.length, 2, "one pair in two orders");
  assert.match(err, /out\.jsonl: the verdicts of self\/text are replaced\n/);
  assert.match(err, /2 rows judged by openai\/.*: 1 identical, 1 disagree\n/);
  assert.match(found[0].judge, /^openai\//);
});

test.run();
