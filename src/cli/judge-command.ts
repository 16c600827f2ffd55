// isr-dpo judge: which of two answers a model (or an endpoint) prefers, for a file of pairs, by judgeFile().
import { dirname, resolve } from "node:path";
import { Command } from "commander";
import { asyncDispose } from "../base/addon.js";
import { IsrDpoError } from "../base/errors.js";
import { linesOfStream } from "../base/line-files.js";
import type { FrameSampling } from "../base/types.js";
import { type Judge, judgeFile, modelJudge, openaiJudge, type VideoLM } from "../index.js";
import { endpointWords, promptsOf, readPrompts } from "../iterate/method-prompts.js";
import { onBadRow } from "../data/bad-rows.js";
import { statuses } from "../judge/judge.js";
import { judgeFileRows, judgeRows } from "../judge/judge-options.js";
import type { LoadFlags } from "./flag-types.js";
import { addFrames, addLoading, frameSamplingOf, load, optionFlag } from "./flags.js";
import { interruption } from "./interrupt.js";
import { openInput, openOutput, type Output, readUntil } from "./line-files.js";
import { say } from "./terminal.js";
import { dashed } from "./unused-flags.js";

interface JudgeFlags extends LoadFlags, FrameSampling {
  in: string;
  out: string;
  force?: boolean;
  method?: "text" | "logprob";
  orders?: "one" | "both";
  prompts?: string;
  endpoint?: string;
  endpointModel?: string;
  keyEnv?: string;
  videos?: string;
  batch?: number;
  onError?: "fail" | "skip";
}

/** Flags that only a model of our own looks at. */
const ofModel: readonly (keyof JudgeFlags)[] = [
  ...(["method", "videos", "frames", "window", "fps", "dtype", "threads", "visionTower"] as const),
  ...(["adapter", "featureCache"] as const),
];
const ofEndpoint = ["endpointModel", "keyEnv"] as const;

/** INVALID_ARGUMENT for a flag that would have no effect. */
function refuseUnused(dir: string | undefined, flags: JudgeFlags, given: (flag: string) => boolean): void {
  const endpoint = flags.endpoint !== undefined;
  const unused = (endpoint ? ofModel : ofEndpoint).find((flag) => given(flag));
  const name = unused !== undefined ? dashed(unused) : endpoint && dir !== undefined ? "dir" : undefined;
  if (name === undefined) return;
  throw new IsrDpoError(
    "INVALID_ARGUMENT",
    `${name}: expected nothing ${endpoint ? "beside --endpoint, which reads words alone" : "without --endpoint"}, got a value`,
    { hint: endpoint ? `leave ${name} out` : "give --endpoint, or leave it out", detail: { field: name } },
  );
}

async function judgeFor(
  dir: string | undefined,
  flags: JudgeFlags,
  signal: AbortSignal,
): Promise<{ asked: Judge; model?: VideoLM }> {
  const prompts = flags.prompts === undefined ? promptsOf(undefined) : await readPrompts(flags.prompts);
  if (flags.endpoint !== undefined) {
    if (flags.endpointModel === undefined)
      throw new IsrDpoError(
        "INVALID_ARGUMENT",
        "--endpoint-model: expected the model's name beside --endpoint, got none",
      );
    const key = flags.keyEnv === undefined ? {} : { keyEnv: flags.keyEnv };
    return {
      asked: openaiJudge({ url: flags.endpoint, model: flags.endpointModel, ...key, ...endpointWords(prompts) }),
    };
  }
  if (dir === undefined)
    throw new IsrDpoError("INVALID_ARGUMENT", "dir: expected a checkpoint's folder or --endpoint, got neither");
  const model = await load(dir, flags, signal, false);
  const sample = frameSamplingOf(flags);
  return { asked: modelJudge(model, { method: flags.method, prompts, ...(sample ? { sample } : {}) }), model };
}

/** The judge of the rows that stand in a file, if its first row names one. */
async function judgeOfFile(path: string): Promise<string | undefined> {
  try {
    for await (const { bytes } of linesOfStream(await openInput(path), path))
      return (JSON.parse(bytes.toString("utf8")) as { judge?: string }).judge;
  } catch {
    return undefined; // no line of this command
  }
  return undefined;
}

/** judgeFile(), and what is said of it at the end. */
async function judgeAll(asked: Judge, flags: JudgeFlags, output: Output, signal: AbortSignal): Promise<string> {
  const input = readUntil(signal, await openInput(flags.in));
  const { rows, counts, skipped } = await judgeFile(asked, input, output, {
    ...{ orders: flags.orders, batch: flags.batch, onBadRow: flags.onError, name: flags.in, signal },
    folder: flags.videos ?? (flags.in === "-" ? process.cwd() : dirname(resolve(flags.in))),
    onSkip: ({ code, message }) => say(`skipped ${code}: ${message}`),
  });
  const said = statuses.flatMap((s) => (counts[s] === undefined ? [] : [`${counts[s]} ${s}`])).join(", ");
  const left = skipped.length > 0 ? `; ${skipped.length} rows skipped` : "";
  return `${rows} rows judged by ${asked.id}${said === "" ? "" : `: ${said}`}${left}`;
}

async function judge(dir: string | undefined, flags: JudgeFlags, command: Command): Promise<void> {
  refuseUnused(dir, flags, (flag) => command.getOptionValueSource(flag) === "cli");
  const { signal, off } = interruption();
  let model: VideoLM | undefined;
  const output = await openOutput(flags.out, flags.force === true, ["id", "prefer", "status"]);
  try {
    const made = await judgeFor(dir, flags, signal);
    model = made.model;
    const { asked } = made;
    const before = flags.force && flags.out !== "-" ? await judgeOfFile(flags.out) : undefined;
    if (before !== undefined && before !== asked.id) say(`${flags.out}: the verdicts of ${before} are replaced`);
    const said = await judgeAll(asked, flags, output, signal);
    await output.commit();
    say(said);
  } finally {
    off();
    await output.discard();
    await model?.[asyncDispose]();
  }
}

export function judgeCommand(): Command {
  const command = new Command("judge")
    .description("which of two answers about a video a model prefers, for a file of rows")
    .argument("[dir]", "folder of a checkpoint or of a run; not with --endpoint")
    .option(
      "--in <file>",
      "file of rows: question, responses, and video, context, id; or pairs.jsonl (default: stdin)",
      "-",
    )
    .option("--videos <dir>", "folder that video paths are relative to (default: that of the rows)")
    .option("--out <file>", "file of verdicts, one JSON object per row (default: stdout)", "-")
    .option("--force", "replace the output file")
    .addOption(optionFlag("--method <how>", judgeRows.method.or("logprob")))
    .addOption(optionFlag("--orders <n>", judgeFileRows.orders))
    .option("--prompts <file>", "file of prompts that replace the built-in ones")
    .option("--endpoint <url>", "OpenAI-compatible API in place of a model; it sees text alone")
    .option("--endpoint-model <name>", "the model there")
    .option("--key-env <name>", "environment variable that holds the key")
    .addOption(optionFlag("--on-error <what>", onBadRow))
    .addOption(optionFlag("--batch <n>", judgeFileRows.batch));
  return addLoading(addFrames(command)).exitOverride().action(judge);
}
