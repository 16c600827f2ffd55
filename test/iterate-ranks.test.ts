// Iterations among ranks: the pairs, contexts, answers and counts of one rank, byte for byte; one folder; after a kill or a stop the
// bits of the straight run.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { every, includes, missing, ordered } from "./helpers/assert.js";
import { cliCommand, root } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";
import { equalByRanks, isrOptions, isrResultOf, journalOf, journalsOf, samples } from "./helpers/isr-run.js";
import {
  doneOf,
  equalsStraight,
  isDone,
  isrData,
  iterating,
  newFolder,
  straightRun,
} from "./helpers/iterating-ranks.js";
import { memoized } from "./helpers/memoized.js";
import { doneRanks, errorOf, slackMs, startRanks } from "./helpers/rank-group.js";
import { makeVideo } from "./helpers/video.js";

const test = suite("iterate ranks");
const kills = Number(process.env.ISR_DPO_KILLS ?? 3);
const data = await isrData();
const work = (runDir: string, options: object = {}) => iterating(data, runDir, options);
const oneIteration = { to: 2, config: { evaluate: { samples: join(data, "questions.jsonl"), count: 10 } } };

const iterated = (size: number) =>
  memoized(async () => {
    const runDir = newFolder();
    return { runDir, lines: await doneRanks(await startRanks(size, work(runDir, oneIteration))) };
  });
const bySize = { 1: iterated(1), 2: iterated(2), 4: iterated(4) };
/** One iteration by so many ranks. */
const first = (size: keyof typeof bySize) => bySize[size]();
const bytes = (dir: string, name: string) => readFileSync(join(dir, name));

for (const size of [2, 4] as const)
  test(`${size} ranks: the pairs, contexts, references, answers and counts of one, byte for byte`, async () => {
    const [alone, together] = [await first(1), await first(size)];
    const names = [
      ...equalByRanks.map((n) => `iterations/1/${n}`),
      "evaluation/slice.1.answers.jsonl",
      "samples.jsonl",
    ];
    for (const name of [...names, "iterations/1/refs.f32"])
      assert.is(Buffer.compare(bytes(together.runDir, name), bytes(alone.runDir, name)), 0, name);
    assert.equal(
      await journalsOf(join(together.runDir, "iterations/1")),
      await journalsOf(join(alone.runDir, "iterations/1")),
    );
    const [mine] = doneOf(alone.lines[0]!);
    every(together.lines, (lines) => JSON.stringify(doneOf(lines)) === JSON.stringify(doneOf(together.lines[0]!)));
    const [theirs] = doneOf(together.lines[0]!);
    assert.equal(theirs!.counts, mine!.counts);
    assert.is(theirs!.work.judgeCalls, mine!.work.judgeCalls);
    assert.is(theirs!.work.decodeTokens, mine!.work.decodeTokens);
    for (const [i, loss] of mine!.losses.entries()) ordered(Math.abs(theirs!.losses[i]! - loss), "<", 1e-4);
  });

test("rank 0 tells what all have done: every sample once, answers and steps; the others tell nothing", async () => {
  const { lines } = await first(2);
  const told = lines[0]!.filter((l) => "pair" in l).map((l) => l.pair);
  assert.equal([...told].sort(), samples.map((s) => s.id).sort());
  ordered(lines[0]!.filter((l) => "answer" in l).length, ">=", 3);
  every(
    lines[0]!.filter((l) => "step" in l),
    (l) => l.ranks === 2,
  );
  assert.equal(
    lines[1]!.filter((l) => !["ready", "met", "done"].some((key) => key in l)),
    [],
  );
});

test("both ranks take groups", async () => {
  const { runDir } = await first(2);
  for (const rank of [0, 1]) ordered(bytes(runDir, `iterations/1/journal.${rank}.log`).length, ">", 0);
});

test("a second iteration from the same folder: the pairs of one rank", async () => {
  const { runDir } = await first(1);
  const made: Buffer[][] = [];
  for (const size of [1, 2]) {
    const copy = newFolder();
    cpSync(runDir, copy, { recursive: true });
    const options = { ...oneIteration, to: 3, config: { ...oneIteration.config, onRanks: "warn" } };
    const lines = await doneRanks(await startRanks(size, work(copy, options)));
    if (size === 2)
      includes(
        lines[0]!.map((l) => l.warning),
        "RANKS_CHANGED",
      );
    made.push(equalByRanks.map((name) => bytes(copy, `iterations/2/${name}`)));
  }
  for (const [i, name] of equalByRanks.entries()) assert.is(Buffer.compare(made[0]![i]!, made[1]![i]!), 0, name);
});

test(`a rank killed or stopped at ${kills} instants of two iterations: the other ends with 75, the same call resumes to the straight bits`, async () => {
  const marks = ["ready", "generate 1", "pair", "score 1", "train 1", "step", "save 1", "generate 2", "train 2"];
  for (let i = 0; i < kills; i++) {
    const runDir = newFolder();
    const ranks = await startRanks(2, work(runDir));
    const lost = i % 2;
    const mark = marks[(i * 4) % marks.length]!;
    await ranks[0]!.heard(mark);
    await sleep((i * 397) % 500);
    const how = i % 3 === 2 ? "SIGSTOP" : "SIGKILL";
    const seconds = mark === "ready" ? 24 : how === "SIGSTOP" ? 12 : 2; // it may not have come yet: timeoutMs, and what rank 0 adds
    const happened = performance.now();
    ranks[lost]!.child.kill(how);
    const other = await ranks[1 - lost]!.end;
    ranks[lost]!.child.kill("SIGKILL");
    const { signal } = await ranks[lost]!.end;
    if (signal === "SIGKILL" && !isDone(other)) {
      assert.is(other.code, 75, JSON.stringify(other));
      assert.is(errorOf(other).code, "RANK_LOST");
      ordered(other.at - happened, "<", 1000 * seconds + slackMs, `${how} after ${mark}`);
    }
    const again = await doneRanks(await startRanks(2, work(runDir)));
    await equalsStraight(runDir, again[0]!, `killed ${i}`);
    rmSync(runDir, { recursive: true, force: true });
  }
});

test("fewer ranks go on with what more of them have left in their journals", async () => {
  const runDir = newFolder();
  const ranks = await startRanks(3, work(runDir, oneIteration));
  const third = join(runDir, "iterations/1/journal.2.log");
  const ended = () => existsSync(third) && readFileSync(third, "utf8").includes('{"type":"end"');
  while (!ended() && ranks[2]!.child.exitCode === null) await sleep(5);
  for (const r of ranks) r.child.kill("SIGKILL");
  await Promise.all(ranks.map((r) => r.end));
  const kept = (await journalOf(third)).flatMap((r) => (r.type === "pair" ? [r.sample] : []));
  ordered(kept.length, ">", 0);
  const options = { ...oneIteration, config: { ...oneIteration.config, onRanks: "warn" } };
  const refused = await Promise.all((await startRanks(2, work(runDir, oneIteration))).map((r) => r.end));
  for (const end of refused) {
    assert.is(errorOf(end).code, "RUN_MISMATCH", errorOf(end).message);
    includes(errorOf(end).message, "facts.ranks: expected 3, got 2");
  }
  const [lines] = await doneRanks(await startRanks(2, work(runDir, options)));
  const again = lines!.flatMap((l) => ("pair" in l && kept.includes(String(l.pair)) ? [l.pair] : []));
  assert.equal(again, [], "computed again");
  const alone = await first(1);
  for (const name of equalByRanks)
    assert.is(
      Buffer.compare(bytes(runDir, `iterations/1/${name}`), bytes(alone.runDir, `iterations/1/${name}`)),
      0,
      name,
    );
});

test("a video that only one rank opens and cannot read: all end with its error, and resume when it is there", async () => {
  const runDir = newFolder();
  const own = join(temporaryFolder(), "videos");
  cpSync(data, own, { recursive: true });
  writeFileSync(join(own, "clip2", "3.png"), "no image"); // the run looks at others before it begins
  const given = { ...work(runDir, { to: 2 }), data: own };
  const ends = await Promise.all((await startRanks(2, given)).map((r) => r.end));
  for (const end of ends) assert.is(errorOf(end).code, "MEDIA_UNREADABLE", JSON.stringify(end));
  const told = ends.map((e) => /^rank \d: /.test(errorOf(e).message));
  assert.equal([...told].sort(), [false, true], "the other one names the rank");
  const left = await journalsOf(join(runDir, "iterations/1"));
  ordered(
    left.filter((r) => r.type === "ctx").length,
    "<=",
    4,
    "contexts of the eight videos: nobody goes on to the end",
  );
  cpSync(join(data, "clip2", "3.png"), join(own, "clip2", "3.png"));
  await doneRanks(await startRanks(2, given));
  const alone = await first(1);
  for (const name of ["contexts.jsonl", "pairs.jsonl"])
    assert.is(
      Buffer.compare(bytes(runDir, `iterations/1/${name}`), bytes(alone.runDir, `iterations/1/${name}`)),
      0,
      name,
    );
});

test("other samples on a rank: RUN_MISMATCH, and nothing is left behind", async () => {
  const runDir = newFolder();
  const other = samples.map((s, i) => (i === 3 ? { ...s, question: "What else is seen?" } : s));
  const ranks = await startRanks(2, work(runDir), (r) => (r === 1 ? { options: { samples: other } } : {}));
  for (const end of await Promise.all(ranks.map((r) => r.end))) {
    assert.is(errorOf(end).code, "RUN_MISMATCH", errorOf(end).message);
    includes(errorOf(end).message, "expected the samples of rank 0");
  }
  missing(runDir);
});

test("an endpoint: no rank asks for a verdict that any of them has; the bounds are those of the run", async () => {
  const seen = new Set<string>();
  const twice: string[] = [];
  let [now, most] = [0, 0];
  const server = createServer(async (request, response) => {
    most = Math.max(most, ++now);
    let text = "";
    for await (const piece of request) text += piece;
    const words = JSON.parse(text).messages[1].content as string;
    const id = /"id": "([0-9a-f]+)"/.exec(words)![1]!;
    if (seen.has(id)) twice.push(id);
    seen.add(id);
    await sleep(50);
    now -= 1;
    response.end(JSON.stringify({ choices: [{ message: { content: JSON.stringify({ id, choice: 1 }) } }] }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const runDir = newFolder();
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
    const judge = { kind: "openai", orders: "both", disagree: "drop", truncated: "keep" };
    const config = { judge: { ...judge, endpoint: { url, model: "m", concurrency: 2 } } };
    const options = { to: 2, config: { ...config, groupVideos: 2, guards: { maxPosition: 1, minUsable: 1 } } };
    const ends = await Promise.all((await startRanks(2, work(runDir, options))).map((r) => r.end));
    for (const end of ends) assert.is(errorOf(end).code, "DEGENERATE", JSON.stringify(end)); // the first place wins both times
    ordered(seen.size, ">", 10);
    assert.equal([twice, most <= 2], [[], true]);
    const kept = ["judgements.jsonl", "judgements-1.jsonl"].map((n) => bytes(runDir, n).toString().trim().split("\n"));
    assert.is(kept.flat().length, seen.size);
    rmSync(join(runDir, "iterations"), { recursive: true }); // as if no group had been finished
    await Promise.all((await startRanks(2, work(runDir, options))).map((r) => r.end));
    assert.equal(twice, [], "asked again");
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

test("a rank that is killed while the other waits for its judge: it ends in two seconds", async () => {
  const server = createServer(() => {}); // never answers
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const asked = once(server, "request");
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
    const judge = { kind: "openai", truncated: "keep", endpoint: { url, model: "m" } };
    const ranks = await startRanks(2, work(newFolder(), { to: 2, config: { judge } }));
    await asked;
    const killed = performance.now();
    ranks[0]!.child.kill("SIGKILL");
    const late = setTimeout(() => ranks[1]!.child.kill("SIGKILL"), 30_000);
    const end = await ranks[1]!.end;
    clearTimeout(late);
    assert.is(errorOf(end)?.code, "RANK_LOST", JSON.stringify(end));
    ordered(end.at - killed, "<", 2000 + slackMs);
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

test("a damaged video: whichever rank meets it, rank 0 tells, and it is counted", async () => {
  const own = join(temporaryFolder(), "videos");
  cpSync(data, own, { recursive: true });
  const bad = readFileSync(makeVideo(join(own, "bad.mp4"), ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "10"]));
  bad.fill(0, Math.floor(bad.length * 0.5), Math.floor(bad.length * 0.6));
  writeFileSync(join(own, "bad.mp4"), bad);
  const asked = ["clip0", "clip1", "bad.mp4", "clip2", "clip3"].map((video, i) => ({
    id: `s${i}`,
    video,
    question: `What is seen in part ${i}?`,
  }));
  const options = { to: 2, samples: asked, config: { train: { pairsPerStep: 1 }, video: { maxLost: 0.9 } } };
  const lines = await doneRanks(await startRanks(2, { ...work(newFolder(), options), data: own }));
  const told = lines[0]!.filter((l) => l.warning === "MEDIA").map((l) => String(l.message));
  every(told, (message) => message.includes("bad.mp4"));
  ordered(told.length, ">=", 1);
  assert.is(doneOf(lines[0]!)[0]!.counts.damagedVideos, 1);
});

test("run --ranks 2: SIGTERM ends it in order with 130, and the same command resumes to the straight bits", async () => {
  const config = join(data, "isr.yaml");
  const { config: c } = isrOptions(data, "");
  const own = { model: join(root, "test/golden/llava_hound/policy"), samples: join(data, "questions.jsonl"), to: 3 };
  writeFileSync(config, JSON.stringify({ ...c, videos: data, ...own, runDir: newFolder(), load: { threads: 1 } })); // JSON is YAML
  const start = (runDir: string) => {
    const args = [...cliCommand, "run", config, "--ranks", "2", "--json", "--run-dir", runDir];
    const child = spawn(process.execPath, args, { cwd: root, stdio: ["pipe", "pipe", "inherit"] });
    let out = "";
    child.stdout.on("data", (text) => {
      out += text;
    });
    return { child, out: () => out, end: once(child, "close").then(([code]) => code as number) };
  };
  const runDir = newFolder();
  const stopped = start(runDir);
  while (!stopped.out().includes('"type":"pair"') && stopped.child.exitCode === null) await sleep(20);
  stopped.child.kill("SIGTERM");
  assert.is(await stopped.end, 130);
  missing(join(runDir, "iterations/1/model"), "it was told to stop, and did");
  const again = start(runDir);
  assert.is(await again.end, 0);
  assert.match(again.out(), /"type":"result"/);
  assert.equal(await isrResultOf(runDir), (await straightRun()).result);
});

test.run();
