// isr-dpo generate DIR: answers for a file of prompts, by generateFile().
import { dirname, resolve } from "node:path";
import type { Readable } from "node:stream";
import { Command } from "commander";
import { asyncDispose } from "../base/addon.js";
import { type FrameSampling, generateFile, type VideoLM } from "../index.js";
import { renamed } from "../base/renamed.js";
import { answerKeys } from "../model/generate-file.js";
import { dashed, tellUnusedOfGenerate } from "./unused-flags.js";
import { openInput, openOutput, type Output, readUntil } from "./line-files.js";
import { addFrames, addLoading, addSampling, frameSamplingOf, load, optionFlag, samplingOf } from "./flags.js";
import { onBadRow } from "../data/bad-rows.js";
import { batchRow, requestRows } from "../model/sampling-options.js";
import type { LoadFlags, SamplingFlags } from "./flag-types.js";
import { interruption } from "./interrupt.js";
import { say } from "./terminal.js";

const progressMs = 5000;

interface GenerateFlags extends LoadFlags, SamplingFlags, FrameSampling {
  in: string;
  out: string;
  force?: boolean;
  n?: number;
  batch?: number;
  onError?: "fail" | "skip";
}

/** How far it has come. */
function sofar(model: VideoLM, began: number, { rows, answers }: { rows: number; answers: number }): string {
  const seconds = (performance.now() - began) / 1000;
  const { decodes, towerPasses, featureHits, decodeTokens } = model.counters;
  return `${rows} rows, ${answers} answers, ${decodeTokens} tokens in ${seconds.toFixed(1)} s; media: ${decodes} decoded, ${towerPasses} tower passes, ${featureHits} from the feature cache`;
}

function skippedText(skipped: readonly number[]): string {
  if (skipped.length === 0) return "";
  const lines = `${skipped.slice(0, 20).join(", ")}${skipped.length > 20 ? ", ..." : ""}`;
  return `; ${skipped.length} rows skipped (lines ${lines})`;
}

/** generateFile(), telling how far it has come every few seconds. */
async function answerRows(model: VideoLM, flags: GenerateFlags, input: Readable, output: Output, signal: AbortSignal) {
  const began = performance.now();
  let told = began;
  const frames = frameSamplingOf(flags);
  const result = await generateFile(model, input, output, {
    ...samplingOf(flags),
    ...(frames ? { sample: frames } : {}),
    ...{ n: flags.n, batch: flags.batch, onBadRow: flags.onError, name: flags.in, signal },
    folder: flags.in === "-" ? process.cwd() : dirname(resolve(flags.in)),
    onSkip: ({ code, message }) => say(`skipped ${code}: ${message}`),
    onProgress: (done) => {
      if (performance.now() - told < progressMs) return;
      told = performance.now();
      say(sofar(model, began, done));
    },
  });
  return { result, said: `${sofar(model, began, result)}${skippedText(result.skipped)}` };
}

async function generate(dir: string, given: GenerateFlags): Promise<void> {
  const flags = renamed(dashed, given, "copies") as GenerateFlags;
  const { signal, off } = interruption();
  let output: Output | undefined;
  let model: VideoLM | undefined;
  let input: Readable | undefined;
  try {
    input = readUntil(signal, await openInput(flags.in));
    output = await openOutput(flags.out, flags.force === true, answerKeys);
    model = await load(dir, flags, signal, false);
    const { result, said } = await answerRows(model, flags, input, output, signal);
    await output.commit();
    const told = model.info.media.length === 0 ? ["frames", "window", "fps", "featureCache"] : []; // when it was loaded
    if (result.rows + result.skipped.length > 0) tellUnusedOfGenerate(flags, [...result.used, ...told]);
    say(said);
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
    .requiredOption("--in <file>", "file of rows {prompt, video, image, ...}; - is stdin")
    .requiredOption("--out <file>", "file of answers, in the order of the rows; - is stdout")
    .option("--force", "replace an existing output")
    .addOption(optionFlag("-n, --n <count>", requestRows.n))
    .addOption(optionFlag("--copies <count>", requestRows.n).hideHelp())
    .addOption(optionFlag("--batch <n>", batchRow))
    .addOption(optionFlag("--on-error <what>", onBadRow));
  return addLoading(addFrames(addSampling(command)))
    .exitOverride()
    .action(generate);
}
