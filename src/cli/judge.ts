// isr-dpo judge: which of two answers a model (or an endpoint) prefers, for a file of pairs. A line of JSON a row:
//   {"id"?, "video"?, "question", "context"?, "responses": [first, second]}
import { dirname, isAbsolute, resolve } from "node:path";
import { Command, Option } from "commander";
import { asyncDispose } from "../addon.js";
import { array, object, options, text } from "../check.js";
import {
  type Judge,
  type JudgeItem,
  IsrDpoError,
  isIsrDpoError,
  openaiJudge,
  selfJudge,
  type VideoLM,
} from "../index.js";
import { fitJudgePrompt } from "../isr/fit.js";
import { endpointWords, type Prompts, promptsOf, readPrompts } from "../isr/prompts.js";
import { compareBoth, compareOnce, type Decision, decide, statuses, type Verdict } from "../judge/judge.js";
import { openInput, openOutput, readLines, readUntil } from "./files.js";
import { addFrames, addLoading, frameSamplingOf, type LoadFlags, load, wholeNumber } from "./flags.js";
import type { FrameSampling } from "../types.js";
import { interruption } from "./interrupt.js";
import { rowError } from "./rows.js";
import { jsonLine, say } from "./terminal.js";

interface JudgeFlags extends LoadFlags, FrameSampling {
  in: string;
  out: string;
  force?: boolean;
  method: "text" | "logprob";
  orders: "one" | "both";
  prompts?: string;
  endpoint?: string;
  endpointModel?: string;
  keyEnv?: string;
  videos?: string;
  batch: number;
}

const keys = ["id", "video", "question", "context", "responses"];

/** What an iteration's pairs hold beside what is judged; `chosen` is shown first. */
const pairKeys = [
  ...["id", "video", "prompt", "chosen", "rejected", "context", "chosen_ids", "rejected_ids", "iteration", "seeds"],
  ...["prompt_hash", "model_hash", "margin", "agreement", "chosen_length", "rejected_length"],
];

/** A row of pairs.jsonl as a row to judge. */
function judgeable(value: Record<string, unknown>): Record<string, unknown> {
  if (value.responses !== undefined || value.chosen === undefined || value.rejected === undefined)
    return options("row", value, keys);
  const { id, video, prompt, context, chosen, rejected } = options("row", value, pairKeys);
  return { id, video, question: prompt, context, responses: [chosen, rejected] };
}

function itemOf(value: Record<string, unknown>, line: number, base: string): JudgeItem {
  const row = judgeable(value);
  const responses = array("responses", row.responses).map((r, i) => text(`responses[${i}]`, r));
  if (responses.length !== 2)
    throw new IsrDpoError("INVALID_ARGUMENT", `responses: expected two, got ${responses.length}`);
  const video = row.video == null ? "" : text("video", row.video);
  return {
    sample: {
      id: row.id == null ? String(line) : String(row.id),
      video: video === "" || isAbsolute(video) ? video : resolve(base, video),
      question: text("question", row.question),
    },
    context: row.context == null || String(row.context).trim() === "" ? null : text("context", row.context),
    responses: responses as [string, string],
  };
}

async function* itemsOf(flags: JudgeFlags, signal: AbortSignal): AsyncGenerator<JudgeItem> {
  const base = flags.videos ?? (flags.in === "-" ? process.cwd() : dirname(resolve(flags.in)));
  const input = readUntil(signal, await openInput(flags.in));
  for await (const { number, bytes } of readLines(input, flags.in)) {
    const line = bytes.toString("utf8");
    if (line.trim() === "") continue;
    try {
      yield itemOf(object("row", JSON.parse(line)), number, base);
    } catch (e) {
      const fault = isIsrDpoError(e)
        ? e
        : new IsrDpoError("DATA_INVALID", `expected JSON, got ${(e as Error).message}`);
      throw rowError(flags.in, number, fault);
    }
  }
}

function ownJudge(model: VideoLM, prompts: Prompts, flags: JudgeFlags): Judge {
  const sample = frameSamplingOf(flags);
  const answer = 8; // tokens
  return selfJudge({
    model,
    generator: model,
    method: flags.method,
    labels: prompts.judge.labels,
    prompt: async ({ sample: { video, question }, context, responses: [first, second] }) => {
      if (video === "")
        throw new IsrDpoError("DATA_INVALID", `${question}: expected a video for the model to look at, got none`);
      const media = { kind: "video" as const, path: video, ...(sample ? { sample } : {}) };
      const limit = model.info.contextLength - answer;
      const { messages } = await fitJudgePrompt(model, prompts, media, { context, question, first, second }, limit);
      return messages;
    },
  });
}

const policies = { tie: "drop", disagree: "drop", identical: "drop", unparsed: "drop", truncated: "drop" } as const;

/** What became of an item: the same words twice are nothing to prefer, and no judge is asked. */
const decisionOf = (verdicts: readonly Verdict[] | null): Decision =>
  verdicts === null ? { status: "identical" } : decide(verdicts, policies);

/** How a row is told: what was preferred, how sure, and by whom. */
function told({ sample: { id } }: JudgeItem, verdicts: readonly Verdict[] | null, judge: string): object {
  const { status, chosen, margin } = decisionOf(verdicts);
  const raw = (verdicts ?? []).flatMap((v) => (v.raw === undefined ? [] : [v.raw]));
  return { id, prefer: chosen ?? null, status, margin: margin ?? null, ...(raw.length > 0 ? { raw } : {}), judge };
}

/** Flags that only a model of our own looks at. */
const ofModel: readonly (keyof JudgeFlags)[] = [
  ...(["method", "frames", "window", "fps", "dtype", "threads", "visionTower", "featureCache"] as const),
];
const ofEndpoint = ["endpointModel", "keyEnv"] as const;

const dashed = (flag: string) => `--${flag.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;

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
  return { asked: ownJudge(model, prompts, flags), model };
}

/** Verdicts of a batch in its order; null for answers of the same words. */
async function verdictsOf(asked: Judge, batch: readonly JudgeItem[], flags: JudgeFlags, signal: AbortSignal) {
  const open = batch.filter(({ responses: [a, b] }) => a.trim() !== b.trim());
  const found =
    open.length === 0
      ? []
      : flags.orders === "both"
        ? await compareBoth(asked, open, { signal })
        : (await compareOnce(asked, open, { signal })).map((v) => [v]);
  const byItem = new Map<JudgeItem, readonly Verdict[]>(open.map((item, i) => [item, found[i]!]));
  return batch.map((item) => byItem.get(item) ?? null);
}

/** The judge of the rows that stand in a file, if its first row names one. */
async function judgeOfFile(path: string): Promise<string | undefined> {
  try {
    for await (const { bytes } of readLines(await openInput(path), path))
      return (JSON.parse(bytes.toString("utf8")) as { judge?: string }).judge;
  } catch {
    return undefined; // not ours
  }
  return undefined;
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
    const counts = new Map<string, number>();
    let rows = 0;
    let batch: JudgeItem[] = [];
    const flush = async () => {
      const verdicts = await verdictsOf(asked, batch, flags, signal);
      for (const [i, item] of batch.entries()) {
        await output.write(jsonLine(told(item, verdicts[i]!, asked.id)));
        const { status } = decisionOf(verdicts[i]!);
        counts.set(status, (counts.get(status) ?? 0) + 1);
      }
      rows += batch.length;
      batch = [];
    };
    for await (const item of itemsOf(flags, signal)) {
      batch.push(item);
      if (batch.length >= flags.batch) await flush();
    }
    if (batch.length > 0) await flush();
    await output.commit();
    const said = statuses.flatMap((s) => (counts.has(s) ? [`${counts.get(s)} ${s}`] : [])).join(", ");
    say(`${rows} rows judged by ${asked.id}${said === "" ? "" : `: ${said}`}`);
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
    .option("--in <file>", "rows: question, responses, and video, context, id; or pairs.jsonl (default: stdin)", "-")
    .option("--videos <dir>", "folder that video paths are relative to (default: that of the rows)")
    .option("--out <file>", "a line of JSON a row (default: stdout)", "-")
    .option("--force", "replace the output file")
    .addOption(
      new Option("--method <how>", "the choice as text, or from the labels' log-probs")
        .choices(["text", "logprob"])
        .default("logprob"),
    )
    .addOption(
      new Option("--orders <n>", "show the answers in one order or in both").choices(["one", "both"]).default("both"),
    )
    .option("--prompts <file>", "prompts in place of the built-in ones")
    .option("--endpoint <url>", "an OpenAI-compatible API in place of a model; it reads words alone")
    .option("--endpoint-model <name>", "the model there")
    .option("--key-env <name>", "environment variable that holds the key")
    .option("--batch <n>", "rows judged at once", wholeNumber(1, 4096), 16);
  return addLoading(addFrames(command)).exitOverride().action(judge);
}
