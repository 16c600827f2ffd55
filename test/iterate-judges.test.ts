// Iterations with other judges than the model: an endpoint, told by the configuration and resumed after a failure without
// paying twice; one of the caller's, and a guard that is overruled.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { excludes, exists, missing } from "./helpers/assert.js";
import { type Judge, trainIteration } from "../src/index.js";
import { caught } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";
import { folderOf } from "./helpers/golden-video.js";
import { makeVideo } from "./helpers/video.js";

const test = suite("isr-judges");

const videos = temporaryFolder();
const samples = Array.from({ length: 4 }, (_, i) => ({
  id: `s${i}`,
  video: i < 2 ? "a.mp4" : "b.mp4",
  question: `What is ${i}?`,
}));
const labels = ["1", "2"] as const;
const plain = "{question}\nOne: {first}\nTwo: {second}";
const prompts = { judge: { plain, withContext: `{context} ${plain}`, labels } };

test.before(() => {
  for (const name of ["a.mp4", "b.mp4"]) makeVideo(join(videos, name), undefined, { frames: 8, size: "32x32" });
});

const iterate = (o: { runDir: string; judge?: Judge }, config: { judge?: object; guards?: object }) =>
  trainIteration({
    ...o,
    model: folderOf("llava_hound"),
    samples,
    iteration: 1,
    prompts,
    config: {
      videos,
      context: { maxTokens: 8 },
      response: { maxTokens: 8 },
      train: { pairsPerStep: 2, epochs: 1 },
      ...config,
      judge: { truncated: "keep", ...config.judge },
    },
  }).result;

test("judge.kind openai: asked once a pair and order, over a failure, a spent budget and a resume", async () => {
  let asked = 0;
  let broken = true;
  const seen = new Set<string>();
  const server = createServer((request, response) => {
    let text = "";
    request.on("data", (piece) => {
      text += piece;
    });
    request.on("end", () => {
      asked += 1;
      const words = JSON.parse(text).messages[1].content as string;
      const id = /"id": "([0-9a-f]+)"/.exec(words)![1]!;
      if (broken && asked > 3) return response.writeHead(401).end("no");
      excludes(seen, id, "judged twice");
      seen.add(id);
      const [, a, b] = /\nOne: ([\s\S]*)\nTwo: ([\s\S]*)\n\nReply with one line/.exec(words)!;
      const content = JSON.stringify({ id, choice: a! < b! ? 1 : 2 });
      response.end(JSON.stringify({ choices: [{ message: { content } }] }));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const runDir = join(temporaryFolder(), "run");
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
    const run = (endpoint: object) =>
      iterate({ runDir }, { judge: { kind: "openai", orders: "both", endpoint: { url, model: "m", ...endpoint } } });
    const first = await caught(() => run({ concurrency: 1 }));
    assert.is(first.code, "JUDGE_FAILED");
    assert.is(asked, 4);
    broken = false;
    const spent = await caught(() => run({ maxCalls: 2 }));
    assert.match(spent.message, /the budget of 2 calls is spent$/);
    const result = await run({ maxCalls: 99 });
    assert.equal([result.resumed, result.counts.pair! + result.counts.identical!], [true, 4]);
    assert.is(seen.size, 2 * result.counts.pair!);
    assert.is(asked, seen.size + 1, "the one that was refused is the only one asked for again");
    assert.is(readFileSync(join(runDir, "judgements.jsonl"), "utf8").trim().split("\n").length, seen.size);
    exists(join(runDir, "iterations/1/model/model.safetensors"));
    const refused = await caught(() => run({ model: "other" }));
    assert.is(refused.code, "RUN_MISMATCH");
    assert.match(refused.message, /facts\.judge/);
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

test("a guard that was too strict is overruled by the same call with other bounds; nothing is judged again", async () => {
  let calls = 0;
  const judge: Judge = {
    id: "undecided about s1",
    compare: async (items) => {
      calls += items.length;
      return items.map(({ sample }) => (sample.id === "s1" ? { prefer: null, margin: 0 } : { prefer: 0 }));
    },
  };
  const runDir = join(temporaryFolder(), "run");
  const run = (config: object) => iterate({ runDir, judge }, config);
  const e = await caught(() => run({ guards: { minUsable: 1 } }));
  assert.is(e.code, "DEGENERATE");
  assert.match(e.message, /^75\.0 % of the samples became pairs, fewer than 100\.0 %; the others: \d+ /);
  missing(join(runDir, "iterations/1/model"));
  const result = await run({ guards: { minUsable: 0.5 }, judge: { tie: "fail" } });
  assert.is(result.counts.pair, 3);
  assert.is(result.counts.tie, 1);
  assert.is(calls, 4);
  const other = { runDir: join(temporaryFolder(), "run"), judge };
  const failed = await caught(() => iterate(other, { judge: { tie: "fail" } }));
  assert.match(failed.message, /^sample s1: tie, and judge\.tie is "fail"$/);
  assert.is((await iterate(other, {})).counts.tie, 1);
  assert.is((await caught(() => iterate(other, { judge: { orders: "both" } }))).code, "RUN_MISMATCH");
});

test.run();
