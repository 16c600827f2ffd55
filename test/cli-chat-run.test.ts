// chat with the folder of a run: in the run's own prompts, frames and date, or in the user's words alone.
import { cpSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { loadModel, type Message } from "../src/index.js";
import { worldModel, writeWorld } from "../src/synthetic/index.js";
import { defaultPrompts, type Prompts, promptsHash } from "../src/iterate/method-prompts.js";
import { speechOf } from "../src/iterate/run-speech.js";
import { worldPrompts } from "../src/synthetic/world-prompts.js";
import { rejects } from "./helpers/assert.js";
import { cliCommand, node } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";

const test = suite("chat with a run");
const dir = temporaryFolder();
const run = join(dir, "run");
const model = join(run, "iterations/1/model");
let video = "";

function writeRun(prompts: Prompts, more: object = {}): void {
  mkdirSync(run, { recursive: true });
  const inputs = { prompts: { sha256: promptsHash(prompts) } };
  const config = { video: { frames: 4, looks: "varied" } };
  writeFileSync(join(run, "run.json"), JSON.stringify({ kind: "isr", config, inputs, templateDate: null, ...more }));
  writeFileSync(join(run, "prompts.json"), JSON.stringify(prompts));
}

test.before(async () => {
  const { videos } = await writeWorld(join(dir, "clips"), { name: "one", seed: 3, clips: 1 });
  video = join(videos, readdirSync(videos).find((f) => f.endsWith(".mp4"))!);
  cpSync(worldModel, model, { recursive: true });
  writeRun(worldPrompts);
});

/** Answers of the library to turns that are put as they are given. */
async function answers(
  turns: readonly string[],
  system: string | undefined,
  frames: number | undefined,
): Promise<string[]> {
  await using m = await loadModel(model);
  const media = { kind: "video", path: video, ...(frames === undefined ? {} : { sample: { frames } }) } as const;
  const messages: Message[] = system === undefined ? [] : [{ role: "system", content: system }];
  const given: string[] = [];
  for (const text of turns) {
    messages.push({
      role: "user",
      content:
        given.length > 0
          ? text
          : [
              { type: "video", media },
              { type: "text", text },
            ],
    });
    const { text: answer } = await m.chat(messages, { maxTokens: 16 });
    given.push(answer);
    messages.push({ role: "assistant", content: answer });
  }
  return given;
}

const chat = (args: string[], input?: string) => {
  const flags = [...cliCommand, "chat", run, "--video", video, "--max-tokens", "16", ...args];
  return node(flags, {}, 120_000, input);
};
const lines = (out: string) => out.trimEnd().split("\n");

test("--prompt and each turn of a conversation stand in the response prompt; --raw leaves them as they are", async () => {
  const [what, colours] = ["what happens ?", "what colours are seen ?"];
  const asked = [what, colours].map((q) => `<q> ${q} <ans>`);
  const [first, second] = await answers(asked, "", 4);
  assert.match(first!, /moves/); // it makes sense
  const one = chat(["--prompt", what]);
  assert.equal(lines(one.out), [first], one.err);
  assert.match(one.err, /asked as the run asks/);
  const both = chat(["--interactive"], `${what}\n${colours}\n`);
  assert.equal(lines(both.out), [first, second], both.err);
  const raw = chat(["--raw", "--prompt", what]);
  assert.equal(lines(raw.out), await answers([what], undefined, undefined), raw.err);
  assert.not.match(raw.err, /asked as the run asks/);
  const own = chat(["--system", "shapes", "--prompt", what]);
  assert.equal(lines(own.out), await answers(asked.slice(0, 1), "shapes", 4), own.err);
});

test("inspect of a run shows its newest model, and says which; training from one names what to take", async () => {
  const shown = node([...cliCommand, "inspect", run]);
  assert.match(shown.out, /^model +.*run.iterations.1.model\nfamily +llava_hound /, shown.err);
  await rejects(() => loadModel(run), "NOT_FOUND", /got the folder of a run/, "a run in place of a checkpoint");
});

test("whose prompts: kept, the built-in ones, a file's; others than the run's are refused; rows have none", async () => {
  assert.equal(await speechOf(run), { prompts: worldPrompts, frames: { frames: 4 }, templateDate: undefined });
  rmSync(join(run, "prompts.json"));
  await rejects(() => speechOf(run), "RUN_MISMATCH", /prompts\.json.*got none/, "no prompts kept");
  const file = join(worldModel, "prompts.json");
  writeRun(worldPrompts, { config: { prompts: file } });
  rmSync(join(run, "prompts.json"));
  assert.equal((await speechOf(run))!.prompts, worldPrompts);
  writeRun(defaultPrompts, { templateDate: "2026-01-02T03:04:05" });
  rmSync(join(run, "prompts.json"));
  assert.equal(await speechOf(run), {
    prompts: defaultPrompts,
    frames: { frames: 4 },
    templateDate: "2026-01-02T03:04:05",
  });
  writeRun(worldPrompts);
  writeFileSync(join(run, "prompts.json"), JSON.stringify({ ...worldPrompts, response: "{question}!" }));
  await rejects(() => speechOf(run), "RUN_MISMATCH", /got others/, "changed prompts");
  writeRun(worldPrompts, { kind: "dpo" });
  assert.is((await speechOf(run))!.prompts, null);
  assert.is(await speechOf(model), null);
});

test.run();
