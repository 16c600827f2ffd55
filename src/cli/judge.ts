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
import { type Prompts, promptsOf, readPrompts } from "../isr/prompts.js";
import { compareBoth, compareOnce, decide, type Verdict } from "../judge/judge.js";
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
  batch: number;
}

const keys = ["id", "video", "question", "context", "responses"];

function itemOf(value: unknown, line: number, base: string): JudgeItem {
  const row = options("row", value, keys);
  const responses = array("responses", row.responses).map((r, i) => text(`responses[${i}]`, r));
  if (responses.length !== 2)
    throw new IsrDpoError("INVALID_ARGUMENT", `responses: expected two, got ${responses.length}`);
  const video = row.video === undefined ? "" : text("video", row.video);
  return {
    sample: {
      id: row.id === undefined ? String(line) : String(row.id),
      video: video === "" || isAbsolute(video) ? video : resolve(base, video),
      question: text("question", row.question),
    },
    context: row.context === undefined || row.context === null ? null : text("context", row.context),
    responses: responses as [string, string],
  };
}

async function* itemsOf(flags: JudgeFlags, signal: AbortSignal): AsyncGenerator<JudgeItem> {
  const base = flags.in === "-" ? process.cwd() : dirname(resolve(flags.in));
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

/** How a row is told: what was preferred, and how sure. */
function told({ sample: { id } }: JudgeItem, verdicts: readonly Verdict[]): object {
  const policies = { tie: "drop", disagree: "drop", identical: "drop", unparsed: "drop", truncated: "drop" } as const;
  const { status, chosen, margin } = decide(verdicts, policies);
  const raw = verdicts.flatMap((v) => (v.raw === undefined ? [] : [v.raw]));
  return { id, prefer: chosen ?? null, status, margin: margin ?? null, ...(raw.length > 0 ? { raw } : {}) };
}

async function judge(dir: string | undefined, flags: JudgeFlags): Promise<void> {
  const { signal, off } = interruption();
  let model: VideoLM | undefined;
  const output = await openOutput(flags.out, flags.force === true);
  try {
    let asked: Judge;
    if (flags.endpoint !== undefined) {
      if (flags.endpointModel === undefined)
        throw new IsrDpoError(
          "INVALID_ARGUMENT",
          "--endpoint-model: expected the model's name beside --endpoint, got none",
        );
      const key = flags.keyEnv === undefined ? {} : { keyEnv: flags.keyEnv };
      asked = openaiJudge({ url: flags.endpoint, model: flags.endpointModel, ...key });
    } else {
      if (dir === undefined)
        throw new IsrDpoError("INVALID_ARGUMENT", "dir: expected a checkpoint's folder or --endpoint, got neither");
      const prompts = flags.prompts === undefined ? promptsOf(undefined) : await readPrompts(flags.prompts);
      model = await load(dir, flags, signal, false);
      asked = ownJudge(model, prompts, flags);
    }
    let rows = 0;
    let batch: JudgeItem[] = [];
    const flush = async () => {
      const verdicts =
        flags.orders === "both"
          ? await compareBoth(asked, batch, { signal })
          : (await compareOnce(asked, batch, { signal })).map((v) => [v]);
      for (const [i, item] of batch.entries()) await output.write(jsonLine(told(item, verdicts[i]!)));
      rows += batch.length;
      batch = [];
    };
    for await (const item of itemsOf(flags, signal)) {
      batch.push(item);
      if (batch.length >= flags.batch) await flush();
    }
    if (batch.length > 0) await flush();
    await output.commit();
    say(`${rows} rows judged by ${asked.id}`);
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
    .option("--in <file>", "rows: question, responses, and video, context, id (default: stdin)", "-")
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
