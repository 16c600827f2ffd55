// An iteration whose judge is an endpoint: told by the configuration, resumed after a failure without paying twice.
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { trainIteration } from "../src/index.js";
import { caught } from "./helpers/data.js";
import { temporaryFolder } from "./helpers/files.js";
import { folderOf } from "./helpers/golden_video.js";
import { makeVideo } from "./helpers/video.js";

const test = suite("isr-endpoint");

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
      assert.not.ok(seen.has(id), "judged twice");
      seen.add(id);
      const [, a, b] = /Answer 1:\n([\s\S]*)\n\nAnswer 2:\n([\s\S]*)\n\nReply/.exec(words)!;
      const content = JSON.stringify({ id, choice: a! < b! ? 1 : 2 });
      response.end(JSON.stringify({ choices: [{ message: { content } }] }));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const videos = temporaryFolder();
    for (const name of ["a.mp4", "b.mp4"]) makeVideo(join(videos, name), undefined, { frames: 8, size: "32x32" });
    const samples = Array.from({ length: 4 }, (_, i) => ({
      id: `s${i}`,
      video: i < 2 ? "a.mp4" : "b.mp4",
      question: `What is ${i}?`,
    }));
    const runDir = join(temporaryFolder(), "run");
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
    const run = (endpoint: object) =>
      trainIteration({
        runDir,
        model: folderOf("llava_hound"),
        samples,
        iteration: 1,
        prompts: {
          judge: {
            plain: "{question} {first} {second}",
            withContext: "{context} {question} {first} {second}",
            labels: ["1", "2"],
          },
        },
        config: {
          videos,
          context: { maxTokens: 8 },
          response: { maxTokens: 8 },
          judge: { kind: "openai", orders: "both", truncated: "keep", endpoint: { url, model: "m", ...endpoint } },
          train: { pairsPerStep: 2, epochs: 1 },
        },
      }).result;
    const first = await caught(() => run({ concurrency: 1 }));
    assert.is(first.code, "JUDGE_FAILED");
    assert.is(asked, 4);
    broken = false;
    const spent = await caught(() => run({ maxCalls: 2 }));
    assert.match(spent.message, /the budget of 2 calls is spent$/);
    const result = await run({ maxCalls: 99 });
    assert.ok(result.resumed);
    assert.is(result.counts.pair! + result.counts.identical!, 4);
    assert.is(seen.size, 2 * result.counts.pair!);
    assert.is(asked, seen.size + 1, "the one that was refused is the only one asked for again");
    assert.is(readFileSync(join(runDir, "judgements.jsonl"), "utf8").trim().split("\n").length, seen.size);
    assert.ok(existsSync(join(runDir, "iterations/1/model/model.safetensors")));
    const refused = await caught(() => run({ model: "other" }));
    assert.is(refused.code, "RUN_MISMATCH");
    assert.match(refused.message, /facts\.judge/);
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

test.run();
