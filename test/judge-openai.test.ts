// The endpoint judge against a server that misbehaves: what passes is asked again, what does not ends typed, in bounds of
// time and bytes, with nothing lost, judged twice, or told about the key.
import { createHash } from "node:crypto";
import { appendFileSync, readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { join } from "node:path";
import { inspect } from "node:util";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { retryAfter, shown } from "../src/judge/openai-endpoint.js";
import type { JudgeItem } from "../src/judge/judge.js";
import { type OpenAIJudge, type OpenAIJudgeOptions, openaiJudge, readChoice } from "../src/judge/openai-judge.js";
import { caught } from "./helpers/data.js";
import { excludes, ordered, rejects } from "./helpers/assert.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("judge-openai");

const secret = 'sk-"very\\secret/0123456789';
process.env.ISR_DPO_TEST_KEY = secret;

interface Ask {
  /** From 0, of the whole server. */
  n: number;
  /** From 0, of requests with this id. */
  again: number;
  id: string;
  words: string;
  body: Record<string, unknown>;
  request: IncomingMessage;
  response: ServerResponse;
}

type Behaviour = (ask: Ask) => void;

const completion = (content: unknown) => JSON.stringify({ choices: [{ message: { role: "assistant", content } }] });
const say =
  (status: number, text: string, headers: Record<string, string> = {}): Behaviour =>
  ({ response }) =>
    response.writeHead(status, headers).end(text);
const answer =
  (content: (ask: Ask) => unknown): Behaviour =>
  (ask) =>
    say(200, completion(content(ask)))(ask);
const choose = (choice: unknown): Behaviour => answer(({ id }) => JSON.stringify({ id, choice }));
/** Prefers the answer that holds "good". */
const fair: Behaviour = (ask) => choose(/Answer 1:\n[^\n]*good/.test(ask.words) ? 1 : 2)(ask);

class Server {
  readonly asks: Ask[] = [];
  most = 0;
  #open = 0;
  readonly #sockets = new Set<Socket>();
  readonly #server = createServer((request, response) => {
    this.most = Math.max(this.most, ++this.#open);
    response.on("close", () => --this.#open);
    let text = "";
    request.setEncoding("utf8").on("data", (piece) => {
      text += piece;
    });
    request.on("end", () => {
      const body = JSON.parse(text);
      const words = (body.messages as { content: string }[]).at(-1)!.content;
      const id = /"id": "([0-9a-f]+)"/.exec(words)![1]!;
      const again = this.asks.filter((a) => a.id === id).length;
      const ask = { n: this.asks.length, again, id, words, body, request, response };
      this.asks.push(ask);
      this.behave(ask);
    });
  });

  constructor(public behave: Behaviour) {}

  async start(): Promise<string> {
    this.#server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/v1`;
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

const quick = { model: "m", keyEnv: "ISR_DPO_TEST_KEY", backoffS: 0.002, timeoutS: 5, idleS: 0.2, attempts: 3 };

async function against(
  behave: Behaviour,
  options: Partial<OpenAIJudgeOptions>,
  work: (judge: OpenAIJudge, server: Server, url: string) => Promise<void>,
): Promise<void> {
  const server = new Server(behave);
  const url = await server.start();
  try {
    await work(openaiJudge({ ...quick, url, ...options }), server, url);
  } finally {
    await server.stop();
  }
}

const item = (i: number, change: Partial<JudgeItem> = {}): JudgeItem => ({
  sample: { id: `s${i}`, video: `v${i}.mp4`, question: `What is it ${i}?` },
  context: `It is ${i}. {question} $& {id}`,
  responses: i % 2 === 0 ? ["a good one", "a bad one"] : ["a bad one", "a good one"],
  ...change,
});
const items = (n: number) => Array.from({ length: n }, (_, i) => item(i));
const fairly = (n: number) => Array.from({ length: n }, (_, i) => i % 2);

/** Everything that a failure or a judge could show. */
const all = (...values: unknown[]) =>
  values.map((v) => inspect(v, { depth: 9, showHidden: true }) + JSON.stringify(v)).join("\n");
function keepsSecret(...values: unknown[]): void {
  const text = all(...values);
  for (const part of [secret, JSON.stringify(secret).slice(1, -1), secret.slice(3, 15)])
    excludes(text, part, "the key");
}

// ---- what passes

const garbage = Buffer.from(Array.from({ length: 3000 }, (_, i) => (i * 7919) % 256));
const broken: Record<string, Behaviour> = {
  "429 without Retry-After": say(429, '{"error":{"message":"slow down"}}'),
  "429 with Retry-After": say(429, "", { "retry-after": "0.01" }),
  "429 with Retry-After in the past": say(429, "", { "retry-after": "Wed, 21 Oct 2015 07:28:00 GMT" }),
  "500": say(500, "oh no"),
  "503 in HTML": say(503, "<html><body>busy</body></html>", { "content-type": "text/html" }),
  "HTML with 200": say(200, "<!doctype html><title>Sign in</title>", { "content-type": "text/html" }),
  "nothing with 200": say(200, ""),
  "garbage with 200": ({ response }) => response.writeHead(200).end(garbage),
  "JSON of another kind": say(200, '{"choices":[]}'),
  "JSON null": say(200, "null"),
  "half of what was announced": ({ response }) => {
    response.writeHead(200, { "content-length": "500" }).write(completion("half").slice(0, 20));
    setTimeout(() => response.socket?.end(), 5);
  },
  "half a chunked answer": ({ response }) => {
    response.writeHead(200).write(completion("half").slice(0, 20));
    setTimeout(() => response.socket?.end(), 5);
  },
  "half JSON, ended well": say(200, completion("x").slice(0, 20)),
  "a reset": ({ request }) => request.socket.resetAndDestroy(),
  "no answer": () => {},
  "an answer that stands still": ({ response }) => void response.writeHead(200).write('{"cho'),
  "too much": ({ response }) => {
    response.writeHead(200);
    const more = () => {
      while (!response.destroyed && response.write("x".repeat(65536)));
      if (!response.destroyed) response.once("drain", more);
    };
    more();
  },
  "the verdict on another pair": answer(() => '{"id": "0123456789abcdef", "choice": 1}'),
  "no choice": answer(() => "I cannot say."),
};
const bounds = { timeoutS: 3, idleS: 1, concurrency: 2 }; // far above what a busy machine takes for an answer

for (const [name, bad] of Object.entries(broken))
  test(`${name}, then well: each item is judged once`, () =>
    against(
      (ask) => (ask.again === 0 ? bad : fair)(ask),
      bounds,
      async (judge, server) => {
        const verdicts = await judge.compare(items(5));
        assert.equal(
          verdicts.map((v) => v.prefer),
          fairly(5),
        );
        assert.is(server.asks.length, 10);
        assert.is(judge.counters.calls, 10);
        assert.is(judge.counters.repeated, 5);
        await judge.compare(items(5));
        assert.is(server.asks.length, 10, "none is asked for again");
      },
    ));

for (const [name, bad] of Object.entries(broken))
  test(`${name}, always: ends in bounds, without the key`, () =>
    against(bad, bounds, async (judge, server) => {
      if (name === "no choice") {
        const [verdict] = await judge.compare(items(1));
        assert.equal(verdict, { prefer: null, raw: "I cannot say." });
        assert.is(server.asks.length, 2, "asked once more, then it counts");
        assert.is(judge.counters.unparsed, 1);
        return;
      }
      const e = await caught(() => judge.compare(items(1)));
      assert.is(e.code, "JUDGE_FAILED");
      assert.match(e.message, /^judge 127\.0\.0\.1:\d+\/v1: sample "s0": expected a verdict, got .+ after 3 requests$/);
      assert.match(e.hint!, /resumes/);
      assert.is((e.detail!.faults as string[]).length, 3);
      assert.is(server.asks.length, 3);
      keepsSecret(e, e.stack, judge);
    }));

// ---- what does not pass

const final: Record<string, [Behaviour, RegExp]> = {
  "400": [say(400, '{"error":{"message":"no such field"}}'), /HTTP 400 \(no such field\) after 1 request$/],
  "401 that repeats the key": [
    ({ request, response }) => response.writeHead(401).end(`bad key ${request.headers.authorization}`),
    /HTTP 401 \(bad key Bearer \[key\]\) after 1 request$/,
  ],
  "401 that repeats the key in JSON": [
    ({ request, response }) => response.writeHead(401).end(JSON.stringify({ key: request.headers.authorization })),
    /HTTP 401 \(\{"key":"Bearer \[key\]"\}\) after 1 request$/,
  ],
  "404 with control characters": [say(404, "\u001b[2Jgo\u202ene\0"), /HTTP 404 \(\[2Jgo ne\) after 1 request$/],
  "a redirection": [say(302, "", { location: "http://127.0.0.1:1/" }), /HTTP 302, a redirection .* after 1 request$/],
  "an hour of rest": [
    say(429, "", { "retry-after": "3600" }),
    /HTTP 429 after 1 request, which asks for 3600 s of rest$/,
  ],
};

for (const [name, [bad, message]] of Object.entries(final))
  test(`${name}: ends at once`, () =>
    against(bad, {}, async (judge, server) => {
      const e = await caught(() => judge.compare(items(1)));
      assert.is(e.code, "JUDGE_FAILED");
      assert.match(e.message, message);
      assert.is(server.asks.length, 1);
      keepsSecret(e, e.stack);
    }));

test("a key inside a long text is not shown in part", () =>
  against(say(401, `${"x".repeat(190)}${secret}`), {}, async (judge) => {
    keepsSecret(await caught(() => judge.compare(items(1))));
  }));

test("an endpoint that is not there", async () => {
  const server = new Server(fair);
  const url = await server.start();
  await server.stop();
  const e = await caught(() => openaiJudge({ ...quick, url }).compare(items(1)));
  assert.is(e.code, "JUDGE_FAILED");
  assert.match(e.message, /a broken connection \(ECONNREFUSED\) after 3 requests$/);
});

// ---- nothing lost, nothing twice

test("a failure keeps the verdicts that came, and starts no new requests", () => {
  let well = false;
  const later: Behaviour = (ask) => void setTimeout(() => fair(ask), 5);
  const behave: Behaviour = (ask) => (well || !ask.words.includes("What is it 7?") ? later : say(400, "no"))(ask);
  return against(behave, { concurrency: 3 }, async (judge, server) => {
    await caught(() => judge.compare(items(20)));
    const before = server.asks.length;
    assert.ok(before >= 8 && before <= 11, `${before} requests`);
    well = true;
    const verdicts = await judge.compare(items(20));
    assert.equal(
      verdicts.map((v) => v.prefer),
      fairly(20),
    );
    assert.is(server.asks.length, 21, "the one that failed is the only one that was asked for twice");
    assert.is(server.most, 3);
  });
});

test("a file keeps verdicts over processes, a torn line of it is a miss", () => {
  const answers = join(temporaryFolder(), "answers.jsonl");
  return against(fair, { answers }, async (judge, server, url) => {
    const first = await judge.compare(items(4));
    assert.equal(await openaiJudge({ ...quick, url, answers }).compare(items(4)), first);
    assert.is(server.asks.length, 4);
    appendFileSync(answers, readFileSync(answers, "utf8").slice(0, 30));
    const again = openaiJudge({ ...quick, url, answers });
    assert.equal((await again.compare(items(6))).slice(0, 4), first);
    assert.is(again.counters.known, 4);
    assert.is(server.asks.length, 6);
    await openaiJudge({ ...quick, url, answers }).compare(items(6));
    assert.is(server.asks.length, 6);
    await openaiJudge({ ...quick, url, answers, model: "other" }).compare(items(1));
    assert.is(server.asks.length, 7, "another judge's verdicts are not ours");
    keepsSecret(readFileSync(answers, "utf8"));
  });
});

test("equal items of one call are asked once; another order, context or sample is another item", () =>
  against(fair, {}, async (judge, server) => {
    const a = item(0);
    const others = [
      item(0, { responses: [a.responses[1], a.responses[0]] }),
      item(0, { context: null }),
      item(0, { context: "x" }),
      item(0, { sample: { ...a.sample, id: "t" } }),
      item(0, { sample: { ...a.sample, question: "Why?" } }),
    ];
    const verdicts = await judge.compare([a, a, ...others]);
    assert.equal(
      verdicts.map((v) => v.prefer),
      [0, 0, 1, 0, 0, 0, 0],
    );
    assert.is(new Set(server.asks.map((x) => x.id)).size, 6);
    assert.is(server.asks.length, 6);
  }));

// ---- bounds

test("the budget of calls", () =>
  against(fair, { maxCalls: 3, concurrency: 1 }, async (judge, server) => {
    const e = await caught(() => judge.compare(items(5)));
    assert.is(e.code, "JUDGE_FAILED");
    assert.match(e.message, /the budget of 3 calls is spent$/);
    assert.is(server.asks.length, 3);
    assert.is((await judge.compare(items(3))).length, 3, "what came before is kept");
  }));

test("requests at once, over calls", () =>
  against(
    (ask) => void setTimeout(() => fair(ask), 20),
    { concurrency: 2 },
    async (judge, server) => {
      await Promise.all([judge.compare(items(4)), judge.compare(items(9).slice(4)), judge.compare([])]);
      assert.is(server.most, 2);
      assert.is(server.asks.length, 9);
    },
  ));

test("requests a minute are spaced", () =>
  against(fair, { perMinute: 1200, concurrency: 4 }, async (judge) => {
    const begin = performance.now();
    await judge.compare(items(4));
    ordered(performance.now() - begin, ">", 145, "three spaces of 50 ms");
  }));

for (const [what, behave] of [
  ["asking", () => {}],
  ["waiting", say(429, "", { "retry-after": "60" })],
] as [string, Behaviour][])
  test(`an abort ends at once with its reason, while ${what}`, () =>
    against(behave, { timeoutS: 60, concurrency: 2 }, async (judge, server) => {
      const controller = new AbortController();
      const reason = new Error("enough");
      const run = judge.compare(items(6), { signal: controller.signal });
      while (server.asks.length < 2) await new Promise((resolve) => setTimeout(resolve, 1));
      controller.abort(reason);
      assert.is(await run.catch((e) => e), reason);
      assert.is(server.asks.length, 2);
      assert.is(await judge.compare(items(1), { signal: controller.signal }).catch((e) => e), reason);
    }));

// ---- what is sent, and what is read

test("the request: model, prompt, key; no path, no frame", () =>
  against(fair, { body: { max_tokens: null, top_p: 0.5 } }, async (judge, server, url) => {
    await judge.compare([item(0), item(1, { context: null })]);
    const [a, b] = server.asks;
    assert.is(a!.request.headers.authorization, `Bearer ${secret}`);
    assert.is(a!.request.url, "/v1/chat/completions");
    assert.equal(Object.keys(a!.body).sort(), ["messages", "model", "temperature", "top_p"]);
    assert.match(a!.words, /It is 0\. \{question\} \$& \{id\}/, "what is filled in is no template");
    assert.match(a!.words, /What is it 0\?[\s\S]*Answer 1:\na good one[\s\S]*Answer 2:\na bad one/);
    assert.not.match(b!.words, /Description/);
    assert.not.match(a!.words, /v0\.mp4/);
    const id = (o: Partial<OpenAIJudgeOptions>) => openaiJudge({ ...quick, url, ...o }).id;
    assert.match(judge.id, /^openai\/127\.0\.0\.1:\d+\/v1\/m\/[0-9a-f]{12}$/);
    assert.is(id({ body: { max_tokens: null, top_p: 0.5 }, concurrency: 9, keyEnv: undefined }), judge.id);
    const ids = [judge.id, id({}), id({ prompts: { system: "Other." } }), id({ model: "n" })];
    assert.is(new Set(ids).size, 4);
  }));

const mine = "00112233445566aa";
const read: [words: string, expected: 0 | 1 | null | "tie" | "other"][] = [
  [`{"id": "${mine}", "choice": 1}`, 0],
  [`{"choice": "2", "id": "${mine}", "why": "because"}`, 1],
  [`{"id": "${mine}", "choice": 0}`, "tie"],
  [`{"id": "${mine}", "choice": "tie"}`, "tie"],
  [`Let me think {hm}.\n\`\`\`json\n{"id":"${mine}","choice":2}\n\`\`\``, 1],
  [`{"id": "${mine}", "choice": 1} {"id": "${mine}", "choice": 1}`, 0],
  [`{"id": "${mine}", "choice": 1} {"id": "${mine}", "choice": 2}`, null],
  [`{"id": "other", "choice": 2} {"id": "${mine}", "choice": 1}`, 0],
  [`{"id": "other", "choice": 2}`, "other"],
  [`{"choice": 2}`, null],
  [`{"id": "${mine}", "choice": 3}`, null],
  [`{"id": "${mine}", "choice": "constructor"}`, null],
  [`{"id": "${mine}"}`, null],
  [`{"id": 5, "choice": 1}`, null],
  ["1", null],
  ["", null],
  ["{".repeat(100000), null],
];
for (const [words, expected] of read)
  test(`read: ${words.slice(0, 70).replace(/\n/g, " ")}`, () => {
    const found = readChoice(words, mine);
    assert.is(found === null || found === "other" ? found : found.tie ? "tie" : found.prefer, expected);
  });

const contents: [unknown, 0 | 1 | null][] = [
  [
    (id: string) => [
      { type: "text", text: `{"id": "${id}", ` },
      { type: "text", text: '"choice": 2}' },
    ],
    1,
  ],
  [() => null, null],
  [() => 5, null],
];
for (const [content, expected] of contents)
  test(`content ${inspect(content)}`, () =>
    against(
      answer(({ id }) => (content as (id: string) => unknown)(id)),
      { attempts: 1 },
      async (judge) => {
        const [verdict] = await judge.compare(items(1));
        assert.is(verdict!.prefer, expected);
      },
    ));

test("a tie has margin 0; what was said is kept, a long one marked as cut", () =>
  against(
    answer(({ id, n }) => `${n === 1 ? "x".repeat(5000) : secret} {"id": "${id}", "choice": 0}`),
    { concurrency: 1 },
    async (judge) => {
      const [a, b] = await judge.compare(items(2));
      assert.is(a!.margin, 0);
      assert.match(a!.raw!, /^\[key\] /);
      assert.match(b!.raw!, /^x{2000}\.\.\. \(50\d\d characters\)$/);
    },
  ));

const waits: [Record<string, string>, number | undefined][] = [
  [{}, undefined],
  [{ "retry-after": "2" }, 2000],
  [{ "retry-after": " 0 " }, 0],
  [{ "retry-after": "1.5" }, 1500],
  [{ "retry-after": "-1" }, undefined],
  [{ "retry-after": "soon" }, undefined],
  [{ "retry-after": "Thu, 01 Jan 1970 00:00:10 GMT" }, 9000],
  [{ "retry-after": "Thu, 01 Jan 1970 00:00:00 GMT" }, 0],
  [{ "retry-after-ms": "250", "retry-after": "9" }, 250],
];
for (const [headers, ms] of waits)
  test(`Retry-After: ${JSON.stringify(headers)}`, () => assert.is(retryAfter(new Headers(headers), 1000), ms));

test("texts of servers are shown as one short line", () => {
  assert.is(shown("a\n\u001b[31mb\u200b\t c"), "a [31mb c");
  assert.is(shown("x".repeat(300)), `${"x".repeat(200)}...`);
});

// ---- options

const good = { url: "http://127.0.0.1:1/v1", model: "m" };
const refused: [Record<string, unknown>, "INVALID_CONFIG" | "INVALID_ARGUMENT", RegExp][] = [
  [{ url: "nowhere" }, "INVALID_CONFIG", /^url: expected an address/],
  [{ url: "ftp://a/" }, "INVALID_CONFIG", /^url: expected https:\/\/ or http:\/\/, got ftp:$/],
  [{ url: "https://u:p@a/v1" }, "INVALID_CONFIG", /^url: expected an address without user and password, got one with$/],
  [{ url: 5 }, "INVALID_ARGUMENT", /^url: /],
  [{ keyEnv: "ISR_DPO_TEST_NO_KEY" }, "INVALID_CONFIG", /^keyEnv: .* ISR_DPO_TEST_NO_KEY .* got nothing there$/],
  [{ keyEnv: "ISR_DPO_TEST_BAD_KEY" }, "INVALID_CONFIG", /^keyEnv: expected visible ASCII in ISR_DPO_TEST_BAD_KEY/],
  [{ model: " " }, "INVALID_CONFIG", /^model: expected a name/],
  [{ concurrency: 0 }, "INVALID_ARGUMENT", /^concurrency: /],
  [{ timeoutS: -1 }, "INVALID_ARGUMENT", /^timeoutS: /],
  [{ attempts: 1.5 }, "INVALID_ARGUMENT", /^attempts: /],
  [{ concurency: 2 }, "INVALID_ARGUMENT", /did you mean 'concurrency'\?$/],
  [{ prompts: { plain: "{question} {first} {second}" } }, "INVALID_CONFIG", /^prompts\.plain: expected .*\{id\}, got /],
  [{ prompts: { system: "{question}" } }, "INVALID_CONFIG", /^prompts\.system: expected no place, got \{question\}$/],
  [
    { prompts: { plain: "{question} {first} {second} {id} {context}" } },
    "INVALID_CONFIG",
    /^prompts\.plain: .*\{context\}$/,
  ],
  [{ prompts: { other: "x" } }, "INVALID_ARGUMENT", /^prompts: unknown option 'other'/],
];
process.env.ISR_DPO_TEST_BAD_KEY = "a\nb";
for (const [change, code, message] of refused)
  test(`refused: ${inspect(change)}`, () =>
    rejects(() => openaiJudge({ ...good, ...change } as OpenAIJudgeOptions), code, message, "openaiJudge"));

for (const [end, path] of [
  ["", "/v1/chat/completions"],
  ["/", "/v1/chat/completions"],
  ["/chat/completions", "/v1/chat/completions"],
  ["?api-version=3#x", "/v1/chat/completions?api-version=3"],
] as const)
  test(`a url that ends with "/v1${end}" is asked at ${path}`, () =>
    against(fair, {}, async (_, server, url) => {
      const judge = openaiJudge({ ...quick, url: url + end });
      await judge.compare(items(1));
      assert.is(server.asks[0]!.request.url, path);
      excludes(judge.id, "api-version");
    }));

test("ids follow from what is judged", () =>
  against(fair, {}, async (judge, server) => {
    await judge.compare(items(1));
    const { sample, context, responses } = item(0);
    const judged = JSON.stringify([judge.id, sample.id, sample.question, context, ...responses]);
    assert.is(server.asks[0]!.id, createHash("sha256").update(judged).digest("hex").slice(0, 16));
  }));

test.run();
