// isr-dpo train sft|dpo: a run from a configuration file, flags, or both.
import { join } from "node:path";
import { Command, Option } from "commander";
import { type IterationEvent, type IterationResult, type TrainOptions, train } from "../index.js";
import { IsrDpoError } from "../errors.js";
import { realNumber, wholeNumber } from "./flags.js";
import { interruption } from "./interrupt.js";
import { jsonLine, printable } from "./terminal.js";
import { initialState, lastingLine, liveLines, nextState, stepLine, summary } from "./train-view.js";

type Kind = TrainOptions["kind"];

interface TrainFlags {
  set: string[];
  json?: boolean;
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

async function optionsOf(kind: Kind, file: string | undefined, flags: TrainFlags): Promise<TrainOptions> {
  const { readConfig, resolveConfig, settingsOf, layered } = await import("../config/read.js");
  const { trainOptionsOf } = await import("../config/options.js");
  const set = [...settings(flags)].reduce(layered, settingsOf(flags.set));
  if (file !== undefined) return trainOptionsOf(kind, await readConfig(file, "train", set));
  const missing = ["model", "data", "runDir"].filter((key) => set[key] === undefined);
  if (missing.length > 0)
    throw new IsrDpoError("INVALID_ARGUMENT", `command line: expected ${missing.map(flagOf).join(", ")}, got none`, {
      hint: "give a configuration file, or --model, --data and --run-dir",
    });
  return trainOptionsOf(kind, resolveConfig("train", set, "command line"));
}

const logEveryMs = 1000;
const drawEveryMs = 50;

/** To the begin of the first of so many lines, the last of which the cursor is in, with nothing below. */
const erase = (lines: number): string => `\r${lines > 1 ? `\u001b[${lines - 1}A` : ""}\u001b[J`;

/** Writes what happens: JSON to stdout, or a live line, or lines of a log. */
class View {
  #state: ReturnType<typeof initialState>;
  #shown = 0; // lines that stand on the terminal to be rewritten
  #ended = false;
  #logged = Number.NEGATIVE_INFINITY;
  #drawn = Number.NEGATIVE_INFINITY;

  constructor(
    readonly kind: Kind,
    readonly json: boolean,
    readonly terminal: boolean,
  ) {
    this.#state = initialState(kind);
  }

  event(e: IterationEvent): void {
    if (this.json) process.stdout.write(jsonLine(e));
    const lasting = lastingLine(e, this.kind);
    if (lasting !== undefined) this.say(lasting);
    this.#state = nextState(this.#state, e);
    if (this.json) return;
    if (this.terminal) this.#redraw(drawEveryMs);
    else if (e.type === "step") this.#log();
  }

  say(line: string): void {
    if (this.json && !this.terminal) return;
    this.#clear();
    process.stderr.write(`${printable(line)}\n`);
    if (this.terminal && !this.json && !this.#ended) this.#redraw();
  }

  /** What follows stays as it is written. */
  end(): void {
    this.#ended = true;
    this.#clear();
  }

  #log(): void {
    const s = this.#state;
    const now = performance.now();
    if (s.done > 1 && s.done < s.total && now - this.#logged < logEveryMs) return;
    this.#logged = now;
    process.stderr.write(`${stepLine(s)}\n`);
  }

  #clear(): void {
    if (this.#shown > 0) process.stderr.write(erase(this.#shown));
    this.#shown = 0;
  }

  #redraw(atMostEveryMs = 0): void {
    const now = performance.now();
    if (now - this.#drawn < atMostEveryMs) return;
    this.#drawn = now;
    const lines = liveLines(this.#state, (process.stderr.columns || 80) - 1);
    process.stderr.write(`${this.#shown > 0 ? erase(this.#shown) : ""}${lines.join("\n")}`);
    this.#shown = lines.length;
  }
}

async function run(kind: Kind, file: string | undefined, flags: TrainFlags): Promise<void> {
  const options = await optionsOf(kind, file, flags);
  const { signal, off } = interruption();
  const view = new View(kind, flags.json === true, process.stderr.isTTY === true);
  const began = performance.now();
  let steps = 0;
  try {
    const running = train({ ...options, signal });
    for await (const e of running) {
      if (e.type === "step") steps = e.metrics.step + 1;
      view.event(e);
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
  } catch (e) {
    view.end();
    if (signal.aborted) view.say(`stopped${steps > 0 ? ` at step ${steps}` : ""}; the same command goes on from there`);
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
      new Option("--set <key=value>", "any key of the configuration (may be given again)")
        .argParser(collect)
        .default([], "none"),
    )
    .option("--json", "print one JSON object an event")
    .exitOverride()
    .action((file: string | undefined, flags: TrainFlags) => run(kind, file, flags));
}

const collect = (text: string, before: string[]): string[] => [...before, text];

export function trainCommand(): Command {
  return new Command("train")
    .description("train a model on preference pairs or on examples")
    .addCommand(kindCommand("sft", "supervised: questions and their answers"))
    .addCommand(kindCommand("dpo", "preferences: questions with a chosen and a rejected answer"))
    .exitOverride();
}
