// isr-dpo judge: which of two answers a model (or an endpoint) prefers, for a file of pairs. A line of JSON a row:
//   {"id"?, "video"?, "question", "context"?, "responses": [first, second]}
import { dirname, isAbsolute, resolve } from "node:path";
import { Command, Option } from "commander";
import { asyncDispose } from "../addon.js";
import { array, object, options, text } from "../check.js";
import { isRowFault } from "../data/fault.js";
import { bareQuestion } from "../data/hound.js";
import { Reasons } from "../data/reasons.js";
import { foreignPlace, hasPlace } from "../data/places.js";
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
import { dashed } from "./effects.js";
import { openInput, openOutput, type Output, readLines, readUntil } from "./files.js";
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
  onError: "fail" | "skip";
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

/** The question without the place for its video; a place without a video is a fault of the row. */
function questionOf(question: string, video: boolean): string {
  if (!hasPlace(question) && foreignPlace(question) === undefined) return question;
  if (video) return bareQuestion("question", question);
  throw new IsrDpoError("DATA_INVALID", "question: expected a video for the place written in it, got none", {
    detail: { field: "question" },
  });
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
      question: questionOf(text("question", row.question), video !== ""),
    },
    context: row.context == null || String(row.context).trim() === "" ? null : text("context", row.context),
    responses: responses as [string, string],
  };
}

type BadRow = (line: number, e: IsrDpoError) => void;

async function* itemsOf(
  flags: JudgeFlags,
  signal: AbortSignal,
  bad: BadRow,
): AsyncGenerator<{ line: number; item: JudgeItem }> {
  const base = flags.videos ?? (flags.in === "-" ? process.cwd() : dirname(resolve(flags.in)));
  const input = readUntil(signal, await openInput(flags.in));
  for await (const { number, bytes } of readLines(input, flags.in)) {
    const line = bytes.toString("utf8");
    if (line.trim() === "") continue;
    let item: JudgeItem;
    try {
      item = itemOf(object("row", JSON.parse(line)), number, base);
    } catch (e) {
      const fault = `expected JSON, got ${(e as Error).message}`;
      bad(number, isIsrDpoError(e) ? e : new IsrDpoError("DATA_INVALID", fault));
      continue;
    }
    yield { line: number, item };
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
  ...(["method", "videos", "frames", "window", "fps", "dtype", "threads", "visionTower", "featureCache"] as const),
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
  return { asked: ownJudge(model, prompts, flags), model };
}

type Outcome = readonly Verdict[] | null | IsrDpoError;

/** Verdicts in the order of the items. Items that make a call fail are found by halves, and the others judged. */
async function ask(
  asked: Judge,
  items: readonly JudgeItem[],
  flags: JudgeFlags,
  signal: AbortSignal,
): Promise<Outcome[]> {
  if (items.length === 0) return [];
  try {
    return flags.orders === "both"
      ? await compareBoth(asked, items, { signal })
      : (await compareOnce(asked, items, { signal })).map((v) => [v]);
  } catch (e) {
    if (!isRowFault(e)) throw e;
    if (items.length === 1) return [e];
    const half = items.length >> 1;
    const first = await ask(asked, items.slice(0, half), flags, signal);
    return [...first, ...(await ask(asked, items.slice(half), flags, signal))];
  }
}

/** What becomes of a batch in its order; null for answers of the same words. */
async function verdictsOf(
  asked: Judge,
  batch: readonly JudgeItem[],
  flags: JudgeFlags,
  signal: AbortSignal,
): Promise<Outcome[]> {
  const open = batch.filter(({ responses: [a, b] }) => a.trim() !== b.trim());
  const found = await ask(asked, open, flags, signal);
  const byItem = new Map<JudgeItem, Outcome>(open.map((item, i) => [item, found[i]!]));
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

/** Judges all rows, and gives what is said of them at the end. DATA_INVALID where rows were skipped and none is left. */
async function judgeRows(asked: Judge, flags: JudgeFlags, output: Output, signal: AbortSignal): Promise<string> {
  const counts = new Map<string, number>();
  const left = new Reasons();
  let rows = 0;
  let batch: { line: number; item: JudgeItem }[] = [];
  const bad: BadRow = (line, e) => {
    const failure = rowError(flags.in, line, e);
    if (flags.onError === "fail") throw failure;
    left.add(failure.message);
    say(`skipped ${failure.code}: ${failure.message}`);
  };
  const flush = async () => {
    const items = batch.map(({ item }) => item);
    const outcomes = await verdictsOf(asked, items, flags, signal);
    for (const [i, { line, item }] of batch.entries()) {
      const outcome = outcomes[i]!;
      if (isIsrDpoError(outcome)) {
        bad(line, outcome);
        continue;
      }
      const verdicts = outcome as readonly Verdict[] | null;
      await output.write(jsonLine(told(item, verdicts, asked.id)));
      const { status } = decisionOf(verdicts);
      counts.set(status, (counts.get(status) ?? 0) + 1);
      rows++;
    }
    batch = [];
  };
  for await (const found of itemsOf(flags, signal, bad)) {
    batch.push(found);
    if (batch.length >= flags.batch) await flush();
  }
  if (batch.length > 0) await flush();
  if (left.count > 0 && rows === 0)
    throw new IsrDpoError("DATA_INVALID", `${flags.in}: expected at least one usable row, got ${left.text()}`);
  const said = statuses.flatMap((s) => (counts.has(s) ? [`${counts.get(s)} ${s}`] : [])).join(", ");
  const skipped = left.count > 0 ? `; ${left.count} rows skipped` : "";
  return `${rows} rows judged by ${asked.id}${said === "" ? "" : `: ${said}`}${skipped}`;
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
    const said = await judgeRows(asked, flags, output, signal);
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
    .addOption(
      new Option("--on-error <what>", "a row that cannot be judged ends the command, or is left out")
        .choices(["fail", "skip"])
        .default("fail"),
    )
    .option("--batch <n>", "rows judged at once", wholeNumber(1, 4096), 16);
  return addLoading(addFrames(command)).exitOverride().action(judge);
}
