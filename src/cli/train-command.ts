// isr-dpo train sft|dpo: a run from a configuration file, flags, or both.
import { join } from "node:path";
import { Command, InvalidArgumentError, Option } from "commander";
import { IsrDpoError, type IterationResult, type TrainOptions, train } from "../index.js";
import type { ResolvedConfig } from "../config/read-config.js";
import type { TrainConfig } from "../config/schema.js";
import { realNumber, wholeNumber, setOption } from "./flags.js";
import { gradualInterruption } from "./interrupt.js";
import { type LiveFlags, liveOption, openLive } from "./live-view.js";
import { jsonLine } from "../base/line-files.js";
import { summary } from "./train-view.js";
import { View } from "./run-view.js";

type Kind = TrainOptions["kind"];

interface TrainFlags extends LiveFlags {
  set: string[];
  [flag: string]: unknown;
}

/** Flags with a key of the configuration each. */
const flagKeys: readonly [flag: string, key: string, about: string, parse?: (text: string) => unknown][] = [
  ["--model <dir>", "model", "folder of the checkpoint to start from"],
  ["--data <file>", "data", "rows to train on: .jsonl, .json or .parquet"],
  ["--run-dir <dir>", "runDir", "folder of the run; the same command resumes it"],
  ["--videos <dir>", "videos", "folder that media paths are relative to (default: that of the data)"],
  ["--eval-data <file>", "evalData", "rows to evaluate on"],
  ["--eval-every <n>", "evalEvery", "steps between evaluations", wholeNumber(1)],
  ["--epochs <n>", "epochs", "how often each row is trained on (default: 1)", wholeNumber(1)],
  ["--items-per-step <n>", "itemsPerStep", "rows of an optimizer step (default: 8)", wholeNumber(1)],
  ["--save-every <n>", "saveEverySteps", "steps between checkpoints (default: about ten a run)", wholeNumber(1)],
  [
    "--learning-rate <x>",
    "trainer.learningRate",
    "peak learning rate (default: 5e-7)",
    realNumber("a number of at least 0", (x) => x >= 0),
  ],
  ["--schedule <name>", "trainer.schedule", "constant, linear or cosine (default: constant)"],
  [
    "--warmup-ratio <x>",
    "trainer.warmupRatio",
    "share of the steps that warm up",
    realNumber("a number from 0 to 1", (x) => x >= 0 && x <= 1),
  ],
  ["--dtype <type>", "load.dtype", "auto, f32 or bf16 (default: auto)"],
  ["--threads <n>", "load.threads", "at most this many threads", wholeNumber(1, 256)],
  ["--on-bad-row <policy>", "onBadRow", "fail or skip (default: fail)"],
  ["--on-long <policy>", "onLong", "fail or truncate (default: fail)"],
  ["--on-end <policy>", "onEnd", "answers without exactly one end token: repair or fail (default: repair)"],
  [
    "--max-lost <share>",
    "video.maxLost",
    "share of a video's frames that may be lost or damaged (default: 0)",
    realNumber("a number from 0 to 1", (x) => x >= 0 && x <= 1),
  ],
  ["--turns <which>", "turns", "sft: score all answers of a row, or the last (default: all)"],
];

const camel = (flag: string) =>
  flag
    .slice(2)
    .split(" ")[0]!
    .replace(/-(.)/g, (_, c: string) => c.toUpperCase());

const flagOf = (key: string): string => flagKeys.find(([, k]) => k === key)![0].split(" ")[0]!;

/** Given flags, each as an object of its own. */
function* settings(flags: TrainFlags): Generator<Record<string, unknown>> {
  for (const [flag, key] of flagKeys) {
    const value = flags[camel(flag)];
    if (value === undefined) continue;
    yield key.split(".").reduceRight<unknown>((below, k) => ({ [k]: below }), value) as Record<string, unknown>;
  }
}

async function resolvedOptions(kind: Kind, resolved: ResolvedConfig<TrainConfig>): Promise<TrainOptions> {
  const { trainOptionsOf } = await import("../config/function-options.js");
  return trainOptionsOf(kind, resolved);
}

async function optionsOf(kind: Kind, file: string | undefined, flags: TrainFlags): Promise<TrainOptions> {
  const { readConfig, resolveConfig, settingsOf, layered } = await import("../config/read-config.js");
  const set = [...settings(flags)].reduce(layered, settingsOf(flags.set));
  if (file !== undefined) return resolvedOptions(kind, await readConfig(file, "train", set));
  const missing = ["model", "data", "runDir"].filter((key) => set[key] === undefined);
  if (missing.length > 0)
    throw new IsrDpoError("INVALID_ARGUMENT", `command line: expected ${missing.map(flagOf).join(", ")}, got none`, {
      hint: "give a configuration file, or --model, --data and --run-dir",
    });
  return resolvedOptions(kind, resolveConfig("train", set, "command line"));
}

async function run(kind: Kind, file: string | undefined, flags: TrainFlags): Promise<void> {
  const options = await optionsOf(kind, file, flags);
  const view = new View(kind, flags.json === true, process.stderr.isTTY === true);
  const live = await openLive(flags, kind, options.runDir);
  const { finish, off } = gradualInterruption((line) => view.say(line));
  const began = performance.now();
  let steps = 0;
  try {
    const running = train({ ...options, finish });
    for await (const e of running) {
      if (e.type === "step") steps = e.metrics.step + 1;
      view.event(e);
      live.event(e);
    }
    const result: IterationResult = await running.result;
    view.end();
    const { metrics, ...facts } = result;
    if (flags.json) process.stdout.write(jsonLine({ type: "result", ...facts, steps: metrics.length }));
    else {
      if (steps === 0 && result.resumed) view.say("every step had been computed before");
      for (const line of summary(result, options.runDir, (performance.now() - began) / 1e3)) view.say(line);
    }
    if (!flags.json) view.say(`next: isr-dpo chat ${join(options.runDir, "model")}`);
    await live.end();
  } catch (e) {
    view.end();
    await live.end(e);
    if (finish.aborted) view.say(`stopped${steps > 0 ? ` at step ${steps}` : ""}; the same command resumes`);
    throw e;
  } finally {
    off();
  }
}

function kindCommand(kind: Kind, about: string): Command {
  const command = new Command(kind).description(about).argument("[config]", "configuration file (YAML)");
  for (const [flag, , text, parse] of flagKeys) {
    if (parse) command.option(flag, text, parse);
    else command.option(flag, text);
  }
  return command
    .addOption(
      new Option("--pairs-per-step <n>").hideHelp().argParser(() => {
        throw new InvalidArgumentError("train calls it --items-per-step.");
      }),
    )
    .addOption(setOption())
    .addOption(liveOption())
    .option("--json", "print one JSON object per event")
    .exitOverride()
    .action((file: string | undefined, flags: TrainFlags) => run(kind, file, flags));
}

export function trainCommand(): Command {
  return new Command("train")
    .description("train a model on preference pairs or on examples")
    .addCommand(kindCommand("sft", "supervised: questions and their answers"))
    .addCommand(kindCommand("dpo", "preferences: questions with a chosen and a rejected answer"))
    .exitOverride();
}
