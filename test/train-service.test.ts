// examples/train-service.mjs as a user runs it: a run over HTTP with progress, cancel, SIGTERM in the middle, and going on.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { ordered } from "./helpers/assert.js";
import { root } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";
import { isrOptions } from "./helpers/isr-run.js";
import { writeClips } from "./helpers/train-run.js";

const test = suite("train service");
const data = temporaryFolder();
const runDir = join(temporaryFolder(), "run");

test.before(async () => {
  await writeClips(data, 8);
});

async function service() {
  const child = spawn(process.execPath, ["examples/train-service.mjs", "0"], {
    cwd: root,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [line] = (await once(createInterface(child.stdout!), "line")) as [string];
  return { child, url: /http:\S+/.exec(line)![0] };
}

const { samples, model, config } = isrOptions(data, runDir);
const request = JSON.stringify({ runDir, model, samples, config, iteration: 1, load: { threads: 1 } });
const post = (url: string) => fetch(`${url}/runs`, { method: "POST", body: request });

/** Events of a run until one fits, or the stream ends. */
async function eventsOf(url: string, until: (e: { type?: string }) => boolean): Promise<{ type?: string }[]> {
  const found: { type?: string }[] = [];
  const response = await fetch(`${url}/runs/0`);
  let text = "";
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream()) as unknown as AsyncIterable<string>) {
    text += chunk;
    for (let at = text.indexOf("\n\n"); at >= 0; at = text.indexOf("\n\n")) {
      found.push(JSON.parse(text.slice(6, at)));
      text = text.slice(at + 2);
      if (until(found.at(-1)!)) return found;
    }
  }
  return found;
}

test("progress, SIGTERM in the middle, going on, and a bad request", async () => {
  const first = await service();
  assert.is((await post(first.url)).status, 201);
  await eventsOf(first.url, (e) => e.type === "pair");
  first.child.kill("SIGTERM");
  const [code] = await once(first.child, "close");
  assert.is(code, 0);
  const second = await service();
  try {
    assert.is((await fetch(`${second.url}/runs`, { method: "POST", body: "{" })).status, 400);
    assert.is((await fetch(`${second.url}/runs/9`)).status, 404);
    assert.is((await post(second.url)).status, 201);
    const events = await eventsOf(second.url, () => false);
    const result = events.at(-1) as { type?: string; resumed?: boolean; pairs?: number };
    assert.equal([result.type, result.resumed], ["result", true]);
    ordered(result.pairs!, ">", 0);
  } finally {
    second.child.kill("SIGKILL");
  }
});

test("cancelled by its client", async () => {
  const { child, url } = await service();
  try {
    const other = JSON.stringify({ ...JSON.parse(request), runDir: `${runDir}-2` });
    assert.is((await fetch(`${url}/runs`, { method: "POST", body: other })).status, 201);
    assert.is((await fetch(`${url}/runs/0`, { method: "DELETE" })).status, 202);
    const last = (await eventsOf(url, (e) => e.type === "error")).at(-1) as {
      state?: string;
      last?: { code?: string };
    };
    assert.ok(JSON.stringify(last).includes("AbortError"), JSON.stringify(last));
  } finally {
    child.kill("SIGKILL");
  }
});

test.run();
