// isr-dpo generate DIR: answers for a file of prompts. Rows stream through in batches, so that neither file need fit into
// memory; rows side by side that look at the same video are answered together and read it once.
import type { Readable } from "node:stream";
import { Command, Option } from "commander";
import { asyncDispose } from "../addon.js";
import { type Completion, type FrameSampling, IsrDpoError, isIsrDpoError, type VideoLM } from "../index.js";
import { FlagUse } from "./effects.js";
import { openInput, openOutput, type Output, readUntil } from "./files.js";
import {
  addFrames,
  addLoading,
  addSampling,
  frameSamplingOf,
  type LoadFlags,
  load,
  type SamplingFlags,
  samplingOf,
  wholeNumber,
} from "./flags.js";
import { interruption } from "./interrupt.js";
import { isRowFault } from "../data/fault.js";
import { Reasons } from "../data/reasons.js";
import { type Row, readRows, rowError } from "./rows.js";
import { floatList, jsonLine, say } from "./terminal.js";

const progressMs = 5000;

interface GenerateFlags extends LoadFlags, SamplingFlags, FrameSampling {
  in: string;
  out: string;
  force?: boolean;
  copies: number;
  batch: number;
  onError: "fail" | "skip";
}

/** At most `size` rows at a time; where it can, a batch ends where the media change. */
export async function* batches(rows: AsyncIterable<Row>, size: number): AsyncGenerator<Row[]> {
  let batch: Row[] = [];
  for await (const row of rows) {
    if (batch.length === size) {
      let others = size;
      while (others > 0 && batch[others - 1]!.looksAt === row.looksAt) others--;
      const cut = others > 0 ? others : size;
      yield batch.slice(0, cut);
      batch = batch.slice(cut);
    }
    batch.push(row);
  }
  if (batch.length > 0) yield batch;
}

type Outcome = Completion[] | IsrDpoError;

/** Rows that a failure of their call names, by place or by the path of a medium. */
function named(rows: readonly Row[], { detail, path }: IsrDpoError): Row[] {
  const row = rows[Number(detail?.request ?? Number.NaN)];
  if (row) return [row];
  return path === undefined ? [] : rows.filter((r) => r.looksAt.includes(JSON.stringify(path)));
}

/** Whether the model has a tokenizer: then what it or its template refuses is a row's fault. */
function usable(model: VideoLM): boolean {
  try {
    return model.tokenizer !== null;
  } catch {
    return false;
  }
}

/** Answers in one call. Rows that make it fail are found, by halves where nothing names them, and the others asked again. */
async function answer(model: VideoLM, rows: readonly Row[], signal: AbortSignal): Promise<Map<Row, Outcome>> {
  if (rows.length === 0) return new Map();
  try {
    const requests = rows.map((r) => r.request);
    const completions = await model.generate(requests, { signal });
    const answers = new Map<Row, Completion[]>(rows.map((row) => [row, []]));
    for (const c of completions) answers.get(rows[Number(c.request)]!)!.push(c);
    return answers;
  } catch (e) {
    if (!isRowFault(e) && !(isIsrDpoError(e, "TOKENIZER") && usable(model))) throw e;
    if (rows.length === 1) return new Map([[rows[0]!, e]]);
    const bad = named(rows, e);
    if (bad.length > 0) {
      const others = rows.filter((row) => !bad.includes(row));
      return new Map([...bad.map((row) => [row, e] as const), ...(await answer(model, others, signal))]);
    }
    const half = rows.length >> 1;
    return new Map([
      ...(await answer(model, rows.slice(0, half), signal)),
      ...(await answer(model, rows.slice(half), signal)),
    ]);
  }
}

class Batcher {
  readonly #began = performance.now();
  #told = performance.now();
  #rows = 0;
  #answers = 0;
  #skipped: number[] = [];
  readonly #reasons = new Reasons();

  constructor(
    readonly flags: GenerateFlags,
    readonly model: VideoLM,
    readonly output: Output,
    readonly signal: AbortSignal,
  ) {}

  readonly bad = (line: number, e: IsrDpoError): void => {
    const failure = rowError(this.flags.in, line, e);
    if (this.flags.onError === "fail") throw failure;
    this.#skipped.push(line);
    this.#reasons.add(failure.message);
    say(`skipped ${failure.code}: ${failure.message}`);
  };

  async write(rows: readonly Row[]): Promise<void> {
    const outcomes = await answer(this.model, rows, this.signal);
    for (const row of rows) {
      const outcome = outcomes.get(row)!;
      if (outcome instanceof IsrDpoError) {
        this.bad(row.line, outcome);
        continue;
      }
      for (const { copy, text, ids, logProbs, end } of outcome)
        await this.output.write(
          jsonLine({ id: row.id, copy, text, ids: Array.from(ids), logProbs: floatList(logProbs), end }),
        );
      this.#rows += 1;
      this.#answers += outcome.length;
    }
    if (performance.now() - this.#told < progressMs) return;
    this.#told = performance.now();
    say(this.#sofar());
  }

  #sofar(): string {
    const seconds = (performance.now() - this.#began) / 1000;
    const { decodes, towerPasses, featureHits, decodeTokens } = this.model.counters;
    return `${this.#rows} rows, ${this.#answers} answers, ${decodeTokens} tokens in ${seconds.toFixed(1)} s; media: ${decodes} decoded, ${towerPasses} tower passes, ${featureHits} from the feature cache`;
  }

  /** DATA_INVALID where rows were skipped and none is left. */
  summary(): string {
    const skipped = [...this.#skipped].sort((a, b) => a - b);
    if (skipped.length > 0 && this.#rows === 0)
      throw new IsrDpoError(
        "DATA_INVALID",
        `${this.flags.in}: expected at least one usable row, got ${this.#reasons.text()}`,
      );
    const lines = `${skipped.slice(0, 20).join(", ")}${skipped.length > 20 ? ", ..." : ""}`;
    return `${this.#sofar()}${skipped.length > 0 ? `; ${skipped.length} rows skipped (lines ${lines})` : ""}`;
  }
}

async function generate(dir: string, flags: GenerateFlags): Promise<void> {
  const { signal, off } = interruption();
  let output: Output | undefined;
  let model: VideoLM | undefined;
  let input: Readable | undefined;
  try {
    input = readUntil(signal, await openInput(flags.in));
    output = await openOutput(flags.out, flags.force === true, ["id", "text", "ids", "end"]);
    model = await load(dir, flags, signal, false);
    const work = new Batcher(flags, model, output, signal);
    const use = new FlagUse();
    const defaults = { sampling: samplingOf(flags), copies: flags.copies, frames: frameSamplingOf(flags), use };
    for await (const batch of batches(readRows(input, flags.in, defaults, work.bad), flags.batch)) {
      signal.throwIfAborted();
      await work.write(batch);
    }
    const summary = work.summary();
    await output.commit();
    if (model.info.visualTokens === null) use.take("frames", "window", "fps", "featureCache"); // told when it was loaded
    use.tell(flags);
    say(summary);
  } finally {
    off();
    input?.destroy();
    await output?.discard();
    await model?.[asyncDispose]();
  }
}

export function generateCommand(): Command {
  const command = new Command("generate")
    .description("answer each row of a JSONL file of prompts")
    .argument("<dir>", "folder of a checkpoint")
    .requiredOption("--in <file>", "rows {prompt, video, image, ...}; - is stdin")
    .requiredOption("--out <file>", "answers, in the rows' order; - is stdout")
    .option("--force", "replace an existing output")
    .option("--copies <n>", "answers a row", wholeNumber(1, 65536), 1)
    .option("--batch <n>", "rows answered at a time", wholeNumber(1, 4096), 64)
    .addOption(
      new Option("--on-error <what>", "a row that cannot be answered ends the command, or is left out")
        .choices(["fail", "skip"])
        .default("fail"),
    );
  return addLoading(addFrames(addSampling(command)))
    .exitOverride()
    .action(generate);
}
