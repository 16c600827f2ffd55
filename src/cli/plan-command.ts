// isr-dpo plan [CONFIG]: what a run will need, before anything is loaded.
import { dirname } from "node:path";
import { Command, InvalidArgumentError, Option } from "commander";
import { count } from "../base/counts.js";
import { IsrDpoError, type Plan, type PlanOptions, plan } from "../index.js";
import { memoryOf, sizeText } from "../plan/byte-sizes.js";
import { colours } from "./exit-code.js";
import { configFlag, setOption, wholeNumber } from "./flags.js";

type Kind = "sft" | "dpo" | "run";

interface PlanFlags {
  kind?: Kind;
  items?: number;
  tokensPerItem?: number;
  answerTokens?: number;
  ranks?: number;
  memory?: number;
  set: string[];
  json?: boolean;
  [flag: string]: unknown;
}

/** "80GB", "24GiB", or bytes. */
function bytesFlag(text: string): number {
  const [, number, unit] = /^(\d+(?:\.\d+)?)\s*(|[KMGT]i?B)$/i.exec(text) ?? [];
  if (number === undefined) throw new InvalidArgumentError("Expected bytes, as 80GB, 24GiB or a number.");
  const power = unit === "" ? 0 : "KMGT".indexOf(unit![0]!.toUpperCase()) + 1;
  return Math.round(Number(number) * (/i/i.test(unit!) ? 1024 : 1000) ** power);
}

/** Flags with a key of the configuration each: of a training run, and of a run of iterations. */
const flagKeys: readonly [flag: string, train: string, run: string][] = [
  ["model", "model", "model"],
  ["runDir", "runDir", "runDir"],
  ["device", "load.device", "load.device"],
  ["dtype", "load.dtype", "load.dtype"],
  ["epochs", "epochs", "train.epochs"],
  ["itemsPerStep", "itemsPerStep", "train.pairsPerStep"],
  ["checkpointing", "trainer.checkpointing", "train.checkpointing"],
  ["microBatchTokens", "trainer.microBatchTokens", "train.microBatchTokens"],
];

/** The configuration's file below the flags, as plan() takes it. */
async function configured(file: string | undefined, flags: PlanFlags): Promise<Record<string, unknown>> {
  const { kindOf, layered, readConfig, resolveConfig, settingsOf } = await import("../config/read-config.js");
  const { trainOptionsOf } = await import("../config/function-options.js");
  const what = flags.kind ?? (file !== undefined && (await kindOf(file)) === "run" ? "run" : "dpo");
  const kind = what === "run" ? "run" : "train";
  let set = settingsOf(flags.set);
  for (const [flag, train, run] of flagKeys) {
    if (flags[flag] === undefined) continue;
    const keys = (kind === "run" ? run : train).split(".");
    set = layered(
      keys.reduceRight<unknown>((below, k) => ({ [k]: below }), flags[flag]) as Record<string, unknown>,
      set,
    );
  }
  if (file === undefined) set = layered(set, { runDir: "." });
  if (what === "run") {
    if (file === undefined) {
      const { model, runDir, ...config } = resolveConfig("run", set, "command line", ["samples"]).config;
      return { model, runDir, config };
    }
    const { model, runDir, ...config } = (await readConfig(file, "run", set)).config;
    return { model, runDir, config: { ...config, videos: config.videos ?? dirname(config.samples) } };
  }
  return file === undefined
    ? trainOptionsOf(what, resolveConfig("train", set, "command line", ["data"]))
    : trainOptionsOf(what, await readConfig(file, "train", set));
}

/** Options of plan() from a configuration file and flags, of which the flags win. */
export async function planOf(file: string | undefined, flags: PlanFlags): Promise<PlanOptions> {
  if (flags.items === undefined && file === undefined)
    throw new IsrDpoError("INVALID_ARGUMENT", "--items: expected the number of rows of the data, got none", {
      hint: "give --items, or a configuration file whose data can be counted",
    });
  const options = await configured(file, flags);
  const given = (["items", "tokensPerItem", "answerTokens", "ranks", "memory"] as const).filter(
    (key) => flags[key] !== undefined,
  );
  return { ...options, ...Object.fromEntries(given.map((key) => [key, flags[key]])) } as PlanOptions;
}

const size = (bytes: number): string => (bytes < 2 ** 20 ? `${Math.ceil(bytes / 1024)} KiB` : sizeText(bytes));

/** "about 3 to 7 min", in the unit that the longer end is told in. */
function timeRange({ from, to }: NonNullable<Plan["seconds"]>): string {
  const [unit, name] = to < 60 ? [1, "s"] : to < 5400 ? [60, "min"] : to < 48 * 3600 ? [3600, "h"] : [86_400, "days"];
  const number = (x: number) => (x / unit < 10 ? Math.max(0.1, Number((x / unit).toFixed(1))) : Math.round(x / unit));
  const [low, high] = [number(from), number(to)];
  return `about ${low === high ? high : `${low} to ${high}`} ${name}, if the machine does nothing else`;
}

const scoredText = ({ rows, tokens }: NonNullable<Plan["scored"]>): string =>
  `${count(tokens)} tokens in ${rows < 1000 ? `${rows} rows` : "the first 1,000 rows"}`;

const labels: readonly (readonly [keyof Plan["bytes"], string])[] = [
  ["weights", "weights"],
  ["gradients", "gradients"],
  ["optimizer", "optimizer"],
  ["activations", "activations"],
  ["kvCache", "KV cache"],
  ["vision", "vision"],
  ["runtime", "runtime"],
];

function print(p: Plan): void {
  const c = colours(process.stdout);
  const rows: [string, string][] = [
    ...labels.filter(([key]) => p.bytes[key] > 0).map(([key, name]): [string, string] => [name, size(p.bytes[key])]),
    ["memory", `${size(memoryOf(p.bytes))} of ${size(p.limit.memory)} per rank`],
    ["disk", `${size(p.bytes.disk)} of ${size(p.limit.disk)} free`],
    ["time", p.seconds === null ? "not known for another machine" : timeRange(p.seconds)],
    ...(p.scored ? [["scored", scoredText(p.scored)] as [string, string]] : []),
    ["fits", p.fits ? "yes" : "no"],
    ...p.advice.map((line): [string, string] => [p.fits ? "note" : "advice", line]),
  ];
  const width = Math.max(...rows.map(([key]) => key.length));
  for (const [key, value] of rows) console.log(`${c.bold(key.padEnd(width))}  ${value}`);
}

export function planCommand(): Command {
  return new Command("plan")
    .description("show the memory, disk and time of a run, before anything is loaded")
    .argument("[config]", "configuration file (YAML)")
    .addOption(
      new Option("--kind <kind>", "what is run")
        .choices(["sft", "dpo", "run"])
        .default(undefined, "kind of the run (default: by the keys of the file, or dpo)"),
    )
    .option("--items <n>", "number of rows, or of samples (default: those of the file)", wholeNumber(1))
    .option("--tokens-per-item <n>", "tokens per item: prompt, video and answers (default: a guess)", wholeNumber(1))
    .option("--answer-tokens <n>", "tokens per answer (default: a guess)", wholeNumber(1))
    .option("--ranks <n>", "number of processes that share the work (default: 1)", wholeNumber(1))
    .option(
      "--memory <bytes>",
      "memory of a card or host, such as 80GB (default: the memory of this machine)",
      bytesFlag,
    )
    .addOption(configFlag("--model <dir>", "train", "model"))
    .option("--run-dir <dir>", "where the run folder will be (default: here)")
    .addOption(configFlag("--device <device>", "train", "load.device"))
    .addOption(configFlag("--dtype <type>", "train", "load.dtype"))
    .addOption(configFlag("--epochs <n>", "train", "epochs"))
    .addOption(configFlag("--items-per-step <n>", "train", "itemsPerStep"))
    .option("--checkpointing", "recompute activations in the backward pass")
    .option("--no-checkpointing", "keep all activations")
    .addOption(configFlag("--micro-batch-tokens <n>", "train", "trainer.microBatchTokens"))
    .addOption(setOption())
    .option("--json", "print JSON")
    .exitOverride()
    .action(async (file: string | undefined, flags: PlanFlags) => {
      const found = await plan(await planOf(file, flags));
      if (flags.json) console.log(JSON.stringify(found, null, 2));
      else print(found);
    });
}
