// isr-dpo train sft|dpo: a run from a configuration file, flags, or both.
import { join } from "node:path";
import { Command, InvalidArgumentError, Option } from "commander";
import { type Communicator, IsrDpoError, type IterationResult, type TrainOptions, train } from "../index.js";
import type { ResolvedConfig } from "../config/read-config.js";
import type { TrainValues } from "../config/config-rows.js";
import { configFlag, setOption } from "./flags.js";
import { gradualInterruption } from "./interrupt.js";
import { type LiveFlags, liveOption, openLive } from "./live-view.js";
import { jsonLine } from "../base/line-files.js";
import { summary } from "./train-view.js";
import { leads } from "../train/ranks/agree.js";
import { amongRanks, follow, ranksOption, tellRanks } from "./ranks.js";
import { View } from "./run-view.js";

type Kind = TrainOptions["kind"];

interface TrainFlags extends LiveFlags {
  set: string[];
  ranks?: number;
  [flag: string]: unknown;
}

/** Flags with a key of the configuration each, which has their meaning, range and default. */
const flagKeys: readonly [flag: string, key: string][] = [
  ["--model <dir>", "model"],
  ["--data <file>", "data"],
  ["--run-dir <dir>", "runDir"],
  ["--videos <dir>", "videos"],
  ["--eval-data <file>", "evalData"],
  ["--eval-every <n>", "evalEvery"],
  ["--epochs <n>", "epochs"],
  ["--items-per-step <n>", "itemsPerStep"],
  ["--save-every <n>", "saveEverySteps"],
  ["--learning-rate <x>", "trainer.learningRate"],
  ["--schedule <name>", "trainer.schedule"],
  ["--warmup-ratio <x>", "trainer.warmupRatio"],
  ["--dtype <type>", "load.dtype"],
  ["--threads <n>", "load.threads"],
  ["--on-bad-row <policy>", "onBadRow"],
  ["--on-long <policy>", "onLong"],
  ["--on-end <policy>", "onEnd"],
  ["--max-lost <share>", "video.maxLost"],
  ["--turns <which>", "turns"],
  ["--on-ranks <policy>", "onRanks"],
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

async function resolvedOptions(kind: Kind, resolved: ResolvedConfig<TrainValues>): Promise<TrainOptions> {
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
  await amongRanks(flags.ranks, options, options.load?.device, (ranks) => {
    const all = ranks ? { ...options, trainer: { ...options.trainer, communicator: ranks } } : options;
    return leads(ranks) ? lead(kind, all, ranks, flags) : follow((finish) => train({ ...all, finish }));
  });
}

async function lead(
  kind: Kind,
  options: TrainOptions,
  ranks: Communicator | undefined,
  flags: TrainFlags,
): Promise<void> {
  const view = new View(kind, flags.json === true, process.stderr.isTTY === true);
  const live = await openLive(flags, kind, options.runDir);
  tellRanks(ranks, (line) => view.say(line));
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
  for (const [flag, key] of flagKeys) command.addOption(configFlag(flag, "train", key));
  return command
    .addOption(
      new Option("--pairs-per-step <n>").hideHelp().argParser(() => {
        throw new InvalidArgumentError("train calls it --items-per-step.");
      }),
    )
    .addOption(setOption())
    .addOption(ranksOption())
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
