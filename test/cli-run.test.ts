// isr-dpo run as a user runs it: the configuration file, an end in order by the first SIGINT, going on, --json, the live page.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { root } from "./helpers/child.js";
import { temporaryFolder } from "./helpers/files.js";
import { clips, isrOptions, isrResultOf, samples } from "./helpers/isr-run.js";
import { writeClips } from "./helpers/train-run.js";

const test = suite("cli run");
const dir = temporaryFolder();
const cli = join(root, "dist", "cli.js");
const config = join(dir, "isr.yaml");

test.before(async () => {
  await writeClips(dir, clips);
  writeFileSync(join(dir, "samples.jsonl"), samples.map((s) => `${JSON.stringify(s)}\n`).join(""));
  const { config: c } = isrOptions(dir, "run");
  cpSync(join(root, "test/golden/llava_hound/policy"), join(dir, "model"), { recursive: true });
  const own = { model: "model", samples: "samples.jsonl", runDir: "run", to: 2, load: { threads: 1 } };
  writeFileSync(config, JSON.stringify({ ...c, videos: undefined, ...own })); // JSON is YAML
});

async function run(
  args: readonly string[],
  onLine: (line: string, child: ReturnType<typeof spawn>) => void = () => {},
) {
  const child = spawn(process.execPath, [cli, "run", config, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  const said = { out: "", err: "" };
  child.stdout!.setEncoding("utf8").on("data", (text: string) => {
    said.out += text;
    onLine(text, child);
  });
  child.stderr!.setEncoding("utf8").on("data", (text: string) => {
    said.err += text;
    onLine(text, child);
  });
  const [code] = await once(child, "close");
  return { code, ...said };
}

test("the first SIGINT ends it in order, and the same command goes on to the bytes of a run that was never stopped", async () => {
  const straight = await run(["--run-dir", join(dir, "straight")]);
  assert.is(straight.code, 0, straight.err);
  assert.match(straight.err, /\niteration 1: \d+ pairs of 10 samples \(.*\n/);
  assert.match(
    straight.err,
    /\nnext: isr-dpo report (\S+), isr-dpo chat \1\n$/,
    "chat with the run: in its own prompts",
  );
  let told = false;
  const stopped = await run(["--json"], (text, child) => {
    if (told || !text.includes('"type":"pair"')) return;
    told = true;
    child.kill("SIGINT");
  });
  assert.is(stopped.code, 130, stopped.err);
  const resumed = await run(["--json", "--live"]);
  assert.is(resumed.code, 0, resumed.err);
  const events = resumed.out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  assert.match(events[0].url, /^http:\/\/127\.0\.0\.1:\d+\/\?token=[\w-]{43}$/);
  assert.is(events.at(-1).type, "result");
  assert.equal(await isrResultOf(join(dir, "run")), await isrResultOf(join(dir, "straight")));
  assert.is(JSON.parse(readFileSync(join(dir, "run/run.json"), "utf8")).kind, "isr");
});

test("a video that is missing, a port that is taken: codes before anything is written", async () => {
  rmSync(join(dir, "clip3"), { recursive: true });
  const missing = await run(["--run-dir", join(dir, "other")]);
  assert.is(missing.code, 65);
  assert.match(missing.err, /^NOT_FOUND: .*1 are missing: clip3\nhint: /m);
  const refused = await run(["--run-dir", join(dir, "other"), "--live", "99999"]);
  assert.is(refused.code, 2);
});

test.run();
