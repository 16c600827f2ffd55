// chat and generate on the command line: the same answers as the library's, media read once, files whole or absent, and
// nothing on a terminal that could move its cursor.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { PrintedConversation } from "../src/cli/chat-command.js";
import { batches } from "../src/model/generate-file.js";
import { Interrupted } from "../src/cli/interrupt.js";
import type { Row } from "../src/model/generate-rows.js";
import { Printable, printable } from "../src/cli/terminal.js";
import { floatList, jsonLine } from "../src/base/line-files.js";
import { type GenerateRequest, loadModel, type Message, type VideoLM } from "../src/index.js";
import { startRun } from "../src/base/run.js";
import { cliCommand, root } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";
import { makeVideo } from "./helpers/video.js";
import { memoized } from "./helpers/memoized.js";

const test = suite("cli-video");
const golden = (family: string) => fileURLToPath(new URL(`golden/${family}/policy`, import.meta.url));
const command = [...cliCommand];
const env = { ...process.env, NODE_NO_WARNINGS: "1" };
const dir = temporaryFolder();
const video = makeVideo(join(dir, "clip.mp4"));
const other = makeVideo(join(dir, "other.mp4"), undefined, { frames: 5, size: "48x32" });

function cli(args: string[], input = ""): { code: number | null; out: string; err: string } {
  const child = spawnSync(process.execPath, [...command, ...args], { cwd: root, encoding: "utf8", env, input });
  return { code: child.status, out: child.stdout, err: child.stderr };
}

const asking = (text: string, path: string): Message => ({
  role: "user",
  content: [
    { type: "video", media: path },
    { type: "text", text },
  ],
});

async function withModel<T>(family: string, use: (model: VideoLM) => Promise<T>): Promise<T> {
  const model = await loadModel(golden(family));
  try {
    return await use(model);
  } finally {
    await model[Symbol.asyncDispose]();
  }
}

const rowsOf = (text: string) =>
  text
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line));

const wild: [string, string][] = [
  ["a\tb\nc\rd\u0000\u0007\u007fe", "a\tb\ncde"],
  ["\u001b[31mred\u001b[0m \u001b[?25lplain", "red plain"],
  ["\u009b2Jtext", "text"],
  ["\u001b]0;title\u0007after \u001b]8;;http://x\u001b\\link", "after link"],
  ["\u0090payload\u009cafter", "after"],
  ["\u001bPhidden\nshown", "\nshown"],
  ["\u001b(Bline \u001bcdrawn", "line drawn"],
  ["\u001b[3\u00e9t\u00e9 \u{1f600}\u202f", "\u00e9t\u00e9 \u{1f600}\u202f"],
  ["\u001b\u001b[1mx\u0085", "x"],
];
for (const [given, shown] of wild)
  test(`control characters and escape sequences do not reach a terminal: ${JSON.stringify(given)}`, () => {
    assert.is(printable(given), shown, JSON.stringify(given));
    const characters = [...given];
    for (let at = 0; at <= characters.length; at++) {
      const clean = new Printable();
      const halves = [characters.slice(0, at), characters.slice(at)].map((half) => clean.push(half.join("")));
      assert.is(halves.join(""), shown, `${JSON.stringify(given)} cut at ${at}`);
    }
    const line = jsonLine({ given });
    assert.not.match(line.slice(0, -1), /\p{Cc}/u);
    assert.equal(JSON.parse(line), { given });
  });

test("float32 values are written so that they come back", () => {
  const values = Float32Array.of(-0.1, -3.20702553, -1e-30, 0);
  assert.equal(Float32Array.from(floatList(values)), values);
});

// Which seed draws a control character depends on the instruction-set level: the first one that does is taken.
const strippable = (family: string) =>
  withModel(family, async (m) => {
    for (let seed = 0; seed < 50; seed++) {
      const answer = await m.chat([asking("What happens?", video)], { maxTokens: 60, temperature: 3, seed }).result;
      if (/(?![\n\t])\p{Cc}/u.test(answer.text)) return { answer, seed };
    }
    throw new Error("there is something to strip");
  });
for (const family of ["llava_hound", "video_llava"])
  test(`chat --prompt prints what model.chat answers: ${family}`, async () => {
    const { answer, seed } = await strippable(family);
    const flags = ["--max-tokens", "60", "--temperature", "3", "--seed", String(seed)];
    const ended = cli(["chat", golden(family), "--video", video, "--prompt", "What happens?", ...flags]);
    assert.is(ended.code, 0, ended.err);
    assert.is(ended.out, `${printable(answer.text)}\n`);
    assert.match(
      ended.err,
      new RegExp(`^loaded .*: ${family}, [\\d,]+ parameters, f32, [\\d.]+ s\nvideo .*clip.mp4: 8 frames \\(0 2 5`),
    );
    assert.match(ended.err, /, none repeated\n$/);
  });

test("chat --json: a prompt from stdin, sampling, a system message, a short clip", async () => {
  const messages: Message[] = [{ role: "system", content: "Be brief." }, asking("Where?", other)];
  const expected = await withModel(
    "llava_hound",
    (m) => m.chat(messages, { maxTokens: 9, temperature: 0.9, topP: 0.8, topK: 50, seed: 7n, stop: ["@@"] }).result,
  );
  const flags = ["--max-tokens", "9", "--temperature", "0.9", "--top-p", "0.8", "--top-k", "50", "--seed", "7"];
  const args = ["--json", "--video", other, "--system", "Be brief.", "--stop", "@@", ...flags];
  const ended = cli(["chat", golden("llava_hound"), ...args], "Where?\n");
  assert.is(ended.code, 0, ended.err);
  const [answer, ...rest] = rowsOf(ended.out);
  assert.equal(rest, []);
  assert.equal(Object.keys(answer), ["role", "text", "ids", "logProbs", "finishReason", "counters"]);
  const { text, ids, finishReason } = expected;
  assert.equal([answer.role, answer.text, answer.finishReason], ["assistant", text, finishReason]);
  assert.equal(answer.ids, Array.from(ids));
  assert.equal(Float32Array.from(answer.logProbs), expected.logProbs);
  assert.match(ended.err, /8 frames \(0 0 1 1 2 2 3 4\), 3 repeated/);
});

test("turns share one reading of the video", async () => {
  const answers = await withModel("llava_hound", async (m) => {
    const turns: Message[] = [asking("What happens?", video)];
    const first = await m.chat(turns, { maxTokens: 8 });
    turns.push({ role: "assistant", content: first.text }, { role: "user", content: "And then?" });
    return [first, await m.chat(turns, { maxTokens: 8 })];
  });
  const lines = "What happens?\n\nAnd then?\n/help\n/reset\nWhat happens?\n/exit\nnever asked\n";
  const ended = cli(
    ["chat", golden("llava_hound"), "--interactive", "--json", "--video", video, "--max-tokens", "8"],
    lines,
  );
  assert.is(ended.code, 0, ended.err);
  const turns = rowsOf(ended.out);
  assert.equal(
    turns.map((t) => t.ids),
    [...answers, answers[0]!].map((a) => Array.from(a.ids)),
  );
  for (const { counters } of turns) assert.equal([counters.decodes, counters.towerPasses], [1, 1]);
  const [first, second, again] = turns.map((t) => t.counters.prefillTokens);
  assert.ok(second - first < first / 2, `the second turn computed ${second - first} tokens after ${first}`);
  assert.is(again - second, first);
});

const piped = ["chat", golden("video_llava"), "--interactive", "--json", "--max-tokens", "3"];

test("chat: attaching in a piped conversation", () => {
  const good = cli(piped, `/video ${video}\nWhat?\n`);
  assert.is(good.code, 0, good.err);
  assert.is(rowsOf(good.out)[0].counters.towerPasses, 1);
});

for (const [what, line, code, message] of [
  ["a file that is not there", `/video ${join(dir, "none.mp4")}`, 65, /NOT_FOUND: .*none\.mp4/],
  ["/vidoe", "/vidoe x", 2, /INVALID_ARGUMENT: .*\/vidoe\nhint: did you mean \/video\?/],
  ["/image alone", "/image", 2, /INVALID_ARGUMENT: \/image: expected the path/],
] as const)
  test(`chat: what ends a piped conversation: ${what}`, () => {
    const ended = cli(piped, `${line}\nWhat?\n`);
    assert.is(ended.code, code, ended.err);
    assert.match(ended.err, message);
    assert.is(ended.out, "");
  });

test("a stopped answer stays in the conversation as far as it went", async () => {
  const asked: (readonly Message[])[] = [];
  let stop = new AbortController();
  const session = {
    chat: (messages: readonly Message[], { signal }: { signal: AbortSignal }) =>
      startRun(signal, async (aborted, emit) => {
        asked.push(messages);
        emit("half");
        setImmediate(() => stop.abort(new Interrupted("stopped")));
        await once(aborted, "abort");
        throw aborted.reason;
      }),
  };
  const model = { session: () => session } as unknown as VideoLM;
  const conversation = new PrintedConversation(model, { json: true });
  const failed = await conversation.ask("one", stop.signal).catch((e) => e);
  assert.instance(failed, Interrupted);
  await conversation.ask("two", stop.signal).catch(() => {});
  stop = new AbortController();
  await conversation.ask("three", stop.signal).catch(() => {});
  assert.equal(
    asked[1]!.map((m) => [m.role, m.content]),
    [
      ["user", "one"],
      ["assistant", "half"],
      ["user", "three"],
    ],
    "the turn that was refused before it began is not in it",
  );
});

const goodRows = [
  { prompt: "<video>\nWhat happens?", video: "clip.mp4" },
  { id: "b", prompt: "And where?", video: ["clip.mp4"], n: 2, temperature: 0.7, seed: 3, maxTokens: 5 },
  { id: 7, ids: [1, 5, 9], maxTokens: 3, stop: "@@" },
  { prompt: [asking("Look", "clip.mp4")], topK: 3, topP: 0.5 },
  { prompt: "Short?", video: { path: "other.mp4", sample: { window: [0, 0.2] } } },
];
const badRows: [row: object | string, message: RegExp][] = [
  [{ prompt: "x", vidio: "clip.mp4" }, /^DATA_INVALID: .*: row: unknown option 'vidio'; did you mean 'video'\?$/],
  ['{"prompt":', /^DATA_INVALID: .*: expected a JSON object in UTF-8, got /],
  ["[1]", /^DATA_INVALID: .*: row: expected an object/],
  [{ video: "clip.mp4" }, /^DATA_INVALID: .*: prompt: expected prompt or ids, got neither$/],
  [{ prompt: "x", temperature: -1 }, /^DATA_INVALID: .*: temperature: expected a finite number at least 0/],
  [{ prompt: "x", id: {} }, /^DATA_INVALID: .*: id: expected a string or a number/],
  [{ prompt: [asking("x", "clip.mp4")], video: "clip.mp4" }, /^DATA_INVALID: .*: video: expected media inside/],
  [{ prompt: "x", video: "none.mp4" }, /^NOT_FOUND: .*: .*none\.mp4: expected a video file/],
  [{ prompt: "x", video: "http://a.b/c.mp4" }, /^DATA_INVALID: .*: media\.path: expected a local file/],
  [{ prompt: "x", maxTokens: 100000 }, /^CONTEXT_OVERFLOW: .*: \d+ prompt tokens and maxTokens 100000/],
  [{ prompt: "<video>\nWhat?" }, /^DATA_INVALID: .*: prompt: expected a video for each of 1 places/],
  [{ prompt: "<image> What?", video: "clip.mp4" }, /^DATA_INVALID: .*: prompt: expected an image for each of 1 places/],
  [{ prompt: [{ role: "user", content: "<video> x" }] }, /^DATA_INVALID: .*: prompt\[0\]\.content: expected a video/],
  [{ prompt: "<|video_pad|> x", video: "clip.mp4" }, /^DATA_INVALID: .*: prompt: expected places for media written as/],
  [{ ids: [1, 100000] }, /^DATA_INVALID: .*: .*ids\[1\]: expected an integer in \[0, 448\)/],
];
const jsonl = (rows: readonly (object | string)[]) =>
  rows.map((row) => `${typeof row === "string" ? row : JSON.stringify(row)}\n`).join("");

const mixed = badRows.flatMap(([bad], i) => [bad, ...(goodRows[i] ? ["", goodRows[i]] : [])]);
const mixedAnswers = join(dir, "mixed.out.jsonl");
const mixedRun = memoized(() => {
  const path = join(dir, "mixed.jsonl");
  writeFileSync(path, jsonl(mixed));
  const flags = ["--max-tokens", "6", "--on-error", "skip"];
  return cli(["generate", golden("llava_hound"), "--in", path, "--out", mixedAnswers, ...flags]);
});

badRows.forEach(([bad, message], i) => {
  test(`generate: a bad row is told: row ${i}, ${message}`, () => {
    const told = mixedRun()
      .err.split("\n")
      .filter((line) => line.startsWith("skipped "));
    const line = mixed.indexOf(bad) + 1;
    const about = told.find((t) => t.includes(`mixed.jsonl:${line}: `));
    assert.match(String(about?.slice("skipped ".length)), message, told.join("\n"));
  });
});

test("generate: answers as the library gives them, bad rows counted and left out", async () => {
  const ended = mixedRun();
  assert.is(ended.code, 0, ended.err);
  assert.is(ended.out, "");
  const lines = badRows.map(([bad]) => mixed.indexOf(bad) + 1).join(", ");
  assert.match(
    ended.err,
    new RegExp(`\\n5 rows, 6 answers, \\d+ tokens in .*; ${badRows.length} rows skipped \\(lines ${lines}\\)\\n$`),
  );

  const requests: GenerateRequest[] = [
    { prompt: [asking("What happens?", video)], maxTokens: 6 },
    { prompt: [asking("And where?", video)], n: 2, temperature: 0.7, seed: 3, maxTokens: 5 },
    { prompt: { ids: [1, 5, 9] }, maxTokens: 3, stop: ["@@"] },
    { prompt: [asking("Look", video)], topK: 3, topP: 0.5, maxTokens: 6 },
    { prompt: "Short?", media: [{ path: other, sample: { window: [0, 0.2] } }], maxTokens: 6 },
  ];
  const completions = await withModel("llava_hound", (m) => m.generate(requests).result);
  const ids = goodRows.map((row) => row.id ?? mixed.indexOf(row) + 1);
  assert.equal(
    rowsOf(readFileSync(mixedAnswers, "utf8")),
    completions.map(({ request, copy, text, ids: tokens, logProbs, finishReason }) => ({
      ...{ id: ids[Number(request)], copy, text, ids: Array.from(tokens), logProbs: floatList(logProbs), finishReason },
    })),
  );
});

test("generate: the same for any batch, through stdin and stdout, and from the feature cache", () => {
  const file = join(dir, "good.jsonl");
  writeFileSync(file, jsonl(goodRows).trimEnd()); // the last line may lack its end
  const model = golden("llava_hound");
  const whole = cli(["generate", model, "--in", file, "--out", "-"]);
  assert.is(whole.code, 0, whole.err);
  assert.match(whole.err, /5 rows, 6 answers, .*; media: 2 decoded, 2 tower passes, 0 from the feature cache\n$/);
  const cached = ["--feature-cache", join(dir, "features")];
  const piped = jsonl(goodRows).replaceAll("clip.mp4", video).replaceAll("other.mp4", other);
  const single = cli(["generate", model, "--in", "-", "--out", "-", "--batch", "1", ...cached], piped);
  const again = cli(["generate", model, "--in", file, "--out", "-", "--batch", "2", ...cached]);
  assert.is(single.out, whole.out, single.err);
  assert.is(again.out, whole.out, again.err);
  assert.match(again.err, /media: 0 decoded, 0 tower passes, 2 from the feature cache\n$/);
});

/** A folder with two rows, of which the second cannot be answered, and generate from that file to out.jsonl beside it. */
function halfBad() {
  const folder = temporaryFolder();
  const [file, out] = [join(folder, "in.jsonl"), join(folder, "out.jsonl")];
  const rows = [
    { prompt: "a", maxTokens: 2 },
    { prompt: "b", maxTokens: 100000 },
  ];
  writeFileSync(file, jsonl(rows));
  const run = (...flags: string[]) =>
    cli(["generate", golden("text_llama"), "--in", file, "--out", out, "--batch", "1", ...flags]);
  return { folder, out, run };
}

test("generate: a row that fails leaves no output", () => {
  const { folder, run } = halfBad();
  const failed = run();
  assert.is(failed.code, 65);
  assert.match(failed.err, /\nCONTEXT_OVERFLOW: .*in\.jsonl:2: /);
  assert.equal(readdirSync(folder), ["in.jsonl"]);
});

const before = jsonl([{ id: "0", copy: 0, text: "an answer of before", ids: [1], logProbs: [0], end: "stop" }]);
const skip = ["--force", "--on-error", "skip"];
for (const [what, kept, flags, code] of [
  ["answers, without --force", before, [], 2],
  ["answers, and a row fails", before, ["--force"], 65],
  ["what is no answers", "notes of mine", skip, 2],
  ["rows of something else", '{"id":"mine"}\n', skip, 2],
  ["answers, and bad rows are skipped", before, skip, 0],
] as const)
  test(`generate: an output that is there stays or is replaced whole: ${what}`, () => {
    const { folder, out, run } = halfBad();
    writeFileSync(out, kept);
    const ended = run(...flags);
    assert.is(ended.code, code, ended.err);
    if (code !== 0) assert.is(readFileSync(out, "utf8"), kept);
    else assert.is(rowsOf(readFileSync(out, "utf8")).length, 1);
    assert.equal(readdirSync(folder).sort(), ["in.jsonl", "out.jsonl"]);
  });

test("generate: stopped while it waits for rows, it leaves no output", async () => {
  const folder = temporaryFolder();
  const args = ["generate", golden("text_llama"), "--in", "-", "--out", join(folder, "never.jsonl")];
  const child = spawn(process.execPath, [...command, ...args], { cwd: root, env });
  await once(child.stderr, "data"); // loaded; it waits for rows
  child.kill("SIGINT");
  assert.equal(await once(child, "exit"), [130, null]);
  assert.equal(readdirSync(folder), []);
});

test("batches end where the media change, if they can", async () => {
  const cut = async (media: string, size: number) => {
    async function* rows() {
      for (const looksAt of media) yield { looksAt } as Row;
    }
    const found: string[] = [];
    for await (const batch of batches(rows(), size)) found.push(batch.map((r) => r.looksAt).join(""));
    return found;
  };
  assert.equal(await cut("abbbcc", 3), ["a", "bbb", "cc"]);
  assert.equal(await cut("aaaaab", 2), ["aa", "aa", "ab"]);
  assert.equal(await cut("abc", 3), ["abc"]);
  assert.equal(await cut("", 3), []);
});

const textModel = golden("text_llama");
const usages: [args: string[], code: number, message: RegExp][] = [
  [["chat", "--help"], 0, /^$/],
  [["chat", textModel, "--vidoe", "x"], 2, /Did you mean --video/],
  [["chat", textModel, "--prompt", "x", "--interactive"], 2, /cannot be used with/],
  [["chat", textModel, "--window", "3:1"], 2, /FROM before TO/],
  [["chat", textModel, "--top-p", "0"], 2, /above 0 and at most 1/],
  [["chat", textModel, "--seed", "-1"], 2, /from 0 to 2\^64 - 1/],
  [["chat", textModel, "--max-tokens", "1.5"], 2, /a whole number/],
  [["chat", textModel], 2, /INVALID_ARGUMENT: stdin: expected a prompt[\s\S]*--interactive/],
  [["chat", join(dir, "nowhere"), "--prompt", "x"], 65, /NOT_FOUND: .*nowhere/],
  [["chat", textModel, "--prompt", "x", "--video", video], 2, /text model and takes no media/],
  [["generate", textModel, "--out", "-"], 2, /required option '--in <file>'/],
  [["generate", textModel, "--in", join(dir, "no.jsonl"), "--out", "-"], 65, /NOT_FOUND: .*no\.jsonl/],
  [["generate", textModel, "--in", video, "--out", "-"], 65, /DATA_INVALID: .*clip\.mp4:1: /],
  [["generate", textModel, "--in", "-", "--out", dir, "--force"], 2, /expected a regular file/],
];
for (const [args, code, message] of usages)
  test(`exit code ${code}: ${args.map((arg) => basename(arg)).join(" ")}`, () => {
    const ended = cli(args);
    assert.is(ended.code, code, ended.err);
    assert.match(ended.err, message);
    if (code !== 0) assert.is(ended.out, "");
  });

test("inspect shows visual tokens and how weights are stored", () => {
  assert.match(
    cli(["inspect", golden("video_llava_original")]).out,
    /stored as +F32\n.*\nvisual tokens +40 per video\n/,
  );
  assert.match(cli(["inspect", golden("text_llama")]).out, /visual tokens +none: takes no videos\n/);
});

test("docs/video.md shows the example as it is, and it runs", () => {
  const read = (path: string) => readFileSync(join(root, path), "utf8");
  const example = read("examples/ask-video.mjs").replace(/^\/\/.*\n/, "");
  assert.is(/```js\n([\s\S]*?)```/.exec(read("docs/video.md"))?.[1], example);
  const ended = spawnSync(process.execPath, ["examples/ask-video.mjs", golden("llava_hound"), video], {
    cwd: root,
    encoding: "utf8",
  });
  assert.is(ended.status, 0, ended.stderr);
  assert.is(ended.stdout.match(/\((length|stop); decoded 1, tower passes 1\)\n/g)?.length, 2, ended.stdout);
});

test.run();
