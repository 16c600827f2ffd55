// The live page: who is let in, what a reader is told, what happens to a slow one, and the page in Chromium. SCREENSHOTS=folder
// keeps pictures.
import { request } from "node:http";
import { connect } from "node:net";
import { setTimeout } from "node:timers/promises";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { every, ordered } from "./helpers/assert.js";
import type { IterationEvent } from "../src/index.js";
import { waitingLimit } from "../src/report/live-clients.js";
import { LiveServer } from "../src/report/live-server.js";
import { limits, LiveState, textLimit } from "../src/report/live-state.js";
import type { RunStepMetrics } from "../src/train/run-events.js";
import { bundled } from "./helpers/bundle.js";
import { browser, picture } from "./helpers/browser.js";
import { opened } from "./helpers/browser.js";
import { needing } from "./helpers/optional.js";
import { node } from "./helpers/child.js";
import { caught } from "./helpers/data.js";
import { hostileTexts } from "./helpers/run-folder.js";
import { memoized } from "./helpers/memoized.js";

const test = suite("live");
const { b, missing } = await browser();
const seen = needing(test, missing);
test.after(() => b?.close());

async function withServer<T>(work: (live: LiveServer) => Promise<T>): Promise<T> {
  const live = await LiveServer.open({ kind: "dpo", title: "a run" });
  try {
    return await work(live);
  } finally {
    await live.end({ state: "done" });
  }
}

/** What the server answers; fetch would not let the host be chosen. */
function answer(url: string, o: { method?: string; headers?: Record<string, string> } = {}) {
  return new Promise<{ status: number; headers: NodeJS.Dict<string | string[]> }>((done, fail) => {
    const asked = request(url, { agent: false, ...o }, (response) => {
      done({ status: response.statusCode!, headers: response.headers });
      response.destroy();
    });
    asked.once("error", fail);
    asked.end();
  });
}

const refusals: [string, (url: string) => [string, Parameters<typeof answer>[1]?], number][] = [
  ["no token", (url) => [url.replace(/\?.*/, "")], 403],
  ["a wrong token", (url) => [`${url}x`], 403],
  ["two tokens", (url) => [`${url}&${url.split("?")[1]}`], 403],
  ["events without a token", (url) => [url.replace(/\?.*/, "events")], 403],
  ["a name that points here", (url) => [url, { headers: { host: "evil.example" } }], 403],
  ["another port in the name", (url) => [url, { headers: { host: "127.0.0.1:1" } }], 403],
  ["another page", (url) => [url, { headers: { origin: "https://evil.example" } }], 403],
  ["a null origin", (url) => [url, { headers: { origin: "null" } }], 403],
  ["another path", (url) => [url.replace("/?", "/etc/passwd?")], 404],
  ["another method", (url) => [url, { method: "POST" }], 405],
  ["the page", (url) => [url], 200],
  ["the page by its other name", (url) => [url.replace("127.0.0.1", "localhost")], 200],
  ["the events", (url) => [url.replace("/?", "/events?")], 200],
];
for (const [name, ask, status] of refusals)
  test(`${name}: ${status}`, () =>
    withServer(async (live) => {
      const [url, o] = ask(live.url);
      const own = new URL(live.url).host.replace("127.0.0.1", url.includes("localhost") ? "localhost" : "127.0.0.1");
      const at = { ...o, headers: { host: own, ...o?.headers } };
      const found = await answer(url.replace("localhost", "127.0.0.1"), at);
      assert.is(found.status, status);
      assert.is(found.headers["cache-control"], "no-store");
      if (name === "the page") assert.match(String(found.headers["content-security-policy"]), /^default-src 'none';/);
    }));

test("a port that is taken: IO, before the run begins", () =>
  withServer(async (live) => {
    const port = Number(new URL(live.url).port);
    const e = await caught(() => LiveServer.open({ kind: "sft", title: "x", port }));
    assert.is(e.code, "IO");
    assert.match(e.message, new RegExp(`127.0.0.1:${port}, got a port that is in use`));
  }));

const metrics = (step: number) =>
  ({ step, loss: 1 / (step + 1), margin: step / 10, accuracy: 0.5, learningRate: 1e-4 }) as RunStepMetrics;
const stepEvent = (step: number): IterationEvent => ({ type: "step", iteration: 1, metrics: metrics(step) });
const pairEvent = (sample: string, chosen: string, rejected: string): IterationEvent => ({
  ...{ type: "pair", iteration: 1, sample, status: "pair", chosen, rejected, margin: 0.25, context: "A red circle." },
});

/** Messages of an event stream as [name, data], as they come. */
async function* messages(url: string): AsyncGenerator<[string, Record<string, unknown>]> {
  const response = await fetch(url.replace("/?", "/events?"));
  let text = "";
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream()) as unknown as AsyncIterable<string>) {
    text += chunk;
    for (let at = text.indexOf("\n\n"); at >= 0; at = text.indexOf("\n\n")) {
      const name = /^event: (.*)$/m.exec(text.slice(0, at))?.[1];
      if (name) yield [name, JSON.parse(/^data: (.*)$/m.exec(text.slice(0, at))![1]!)];
      text = text.slice(at + 2);
    }
  }
}

test("a reader gets the state, then what changes, then the end", async () => {
  const live = await LiveServer.open({ kind: "dpo", title: "a run" });
  live.event({ type: "stage", iteration: 1, stage: "generate", state: "begin" });
  live.event(pairEvent("q1", "It moves left.", "It moves right."));
  const found: [string, Record<string, unknown>][] = [];
  const reading = (async () => {
    for await (const message of messages(live.url)) {
      found.push(message);
      if (message[0] === "snapshot") {
        live.event(stepEvent(0));
        void live.end({ state: "failed", code: "DISK_FULL" });
      }
    }
  })();
  await reading;
  assert.equal(
    found.map(([name]) => name),
    ["snapshot", "step", "end"],
  );
  const [snapshot, step, end] = found.map(([, data]) => data);
  assert.equal((snapshot!.iterations as { items: object[] }).items, [
    { iteration: 1, stages: [{ stage: "generate", state: "begin" }], counts: { pair: 1 } },
  ]);
  assert.is((snapshot!.pairs as { total: number }).total, 1);
  assert.equal((step!.point as number[]).slice(0, 4), [0, 1, 0, 1]);
  assert.equal([end!.state, end!.code], ["failed", "DISK_FULL"]);
});

test("the state is bounded, and says how much there was", () => {
  const state = new LiveState();
  for (let i = 0; i < 5 * limits.points; i++) state.take(stepEvent(i));
  for (let i = 0; i < 3 * limits.pairs; i++) state.take(pairEvent(`q${i}`, "x".repeat(1 << 20), "y"));
  const { series, pairs } = state.snapshot;
  ordered(series.points.length, "<=", limits.points);
  ordered(series.points.length, ">", limits.points / 2);
  assert.equal([series.total, series.every], [5 * limits.points, 8]);
  every(series.points, ([n]) => n % series.every === 0);
  assert.equal([pairs.items.length, pairs.total], [limits.pairs, 3 * limits.pairs]);
  assert.equal([pairs.items[0]!.chosen.text.length, pairs.items[0]!.chosen.length], [textLimit, 1 << 20]);
});

test("a reader that does not read is let go; what waits for it is bounded", () =>
  withServer(async (live) => {
    const { port, search } = new URL(live.url);
    const socket = connect(Number(port), "127.0.0.1");
    socket.pause();
    socket.write(`GET /events${search} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`);
    while (live.readers.count === 0) await setTimeout(5);
    let most = 0;
    for (let i = 0; live.readers.dropped === 0 && i < 200_000; i++) {
      live.event(pairEvent(`q${i}`, "x".repeat(textLimit), "y".repeat(textLimit)));
      most = Math.max(most, live.readers.waiting);
      if (i % 200 === 0) await setTimeout(1);
    }
    socket.destroy();
    assert.equal([live.readers.dropped, live.readers.count], [1, 0]);
    assert.ok(most < waitingLimit + (1 << 16), `${most} bytes waited`);
  }));

const liveChild = memoized(() => bundled("live"));
for (const [what, how] of [
  ["ends in order", "end"],
  ["does not", "no"],
] as const)
  test(`a reader does not keep the process of a run that ${what}`, () => {
    const { code, out } = node([liveChild(), how], {}, 20_000);
    assert.equal([code, out.trim().split("\n")], [0, ["readers 1", "last line"]], how);
  });

for (const [name, width, scheme] of [
  ["phone", 390, "light"],
  ["desktop", 1280, "dark"],
] as const)
  seen(`in Chromium, ${name}: nothing logged, nothing foreign asked for, hostile texts are text`, async () => {
    const live = await LiveServer.open({ kind: "dpo", title: "runs/isr <b>" });
    live.event({ type: "stage", iteration: 1, stage: "generate", state: "begin" });
    for (const [id, text] of hostileTexts) live.event(pairEvent(id, text, "A blue square."));
    live.event({ type: "warning", code: "PROMPTS_CUT", message: "<img src=x onerror=alert(1)>", detail: {} });
    live.event({ type: "answer", iteration: 1, model: 1, sample: "a1", question: "What?", text: "A <b>dog</b>." });
    live.event({ type: "stage", iteration: 1, stage: "train", state: "begin" });
    const { page, said, asked } = await opened(b!, live.url, { width, scheme });
    for (let i = 0; i < 60; i++) live.event(stepEvent(i));
    live.event({ type: "progress", iteration: 1, stage: "train", done: 60, total: 90, perSecond: 2, secondsLeft: 15 });
    /** It draws at most twice a second. */
    const shows = async (script: string, parts: readonly RegExp[]) => {
      for (let i = 0; ; i++) {
        const text: string = await page.evaluate(script);
        const missing = parts.filter((part) => !part.test(text));
        if (missing.length === 0) return;
        if (i === 100) assert.unreachable(`expected ${missing.join(", ")}, got ${text.slice(0, 2000)}`);
        await setTimeout(100);
      }
    };
    await shows("document.body.innerText", [
      ...[/60\D+90/, /training steps/, /<img src=x onerror=alert\(1\)>/, /A <b>dog<\/b>\./, /runs\/isr <b>/],
    ]);
    await shows("String(document.querySelectorAll('#loss svg path, #loss svg polyline').length)", [/[1-9]/]);
    await picture(page, `live-${name}`);
    assert.is(await page.evaluate("document.querySelectorAll('main img, main b b, main script').length"), 0);
    assert.not.equal(await page.evaluate("document.title"), "owned");
    const [widest, screen] = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]");
    ordered(widest, "<=", screen, "nothing is wider than the screen");
    await live.end({ state: "done" });
    await shows("document.getElementById('connection').textContent", [/end|done|finished/i]);
    assert.equal(said, []);
    const own = new URL(live.url).origin;
    assert.ok(asked.length >= 2 && asked.every((url) => url.startsWith(own)), asked.join(" "));
    await page.close();
  });

test.run();
