// isr-dpo run CONFIG: the iterations of a configuration file; the same command resumes.
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { Command } from "commander";
import {
  type Communicator,
  type IterationResult,
  plan,
  readSamples,
  runIterations,
  type RunIterationsOptions,
} from "../index.js";
import { configFlag, setOption } from "./flags.js";
import { gradualInterruption } from "./interrupt.js";
import { type LiveFlags, liveOption, openLive } from "./live-view.js";
import { jsonLine } from "../base/line-files.js";
import { duration } from "../report/page/shared.js";
import { statusText } from "./train-view.js";
import { leads } from "../train/ranks/agree.js";
import { amongRanks, follow, ranksOption, tellRanks } from "./ranks.js";
import { View } from "./run-view.js";

interface RunFlags extends LiveFlags {
  from?: number;
  to?: number;
  runDir?: string;
  onRanks?: string;
  set: string[];
  ranks?: number;
}

async function optionsOf(file: string, flags: RunFlags): Promise<RunIterationsOptions> {
  const { readConfig, settingsOf, layered } = await import("../config/read-config.js");
  const { loadOptionsOf } = await import("../config/function-options.js");
  const { from, to, runDir, onRanks } = flags;
  const { config } = await readConfig(file, "run", layered({ from, to, runDir, onRanks }, settingsOf(flags.set)));
  return {
    runDir: config.runDir,
    model: config.model,
    samples: readSamples(config.samples),
    from: config.from,
    to: config.to,
    config: { ...config, videos: config.videos ?? dirname(config.samples) },
    load: loadOptionsOf(config.load, config.features, config.runDir),
  };
}

/** Before a new run: what the plan says does not fit, and what to change. What the run would refuse, the plan refuses. */
async function tellIfTooLarge(view: View, options: RunIterationsOptions): Promise<void> {
  const { runDir, model, config, communicator } = options;
  if (existsSync(join(runDir, "run.json"))) return;
  const { model: _, runDir: __, ...rest } = config!;
  const { fits, advice } = await plan({ model, runDir, config: rest, ranks: communicator?.size ?? 1 });
  if (!fits) for (const line of advice) view.say(`warning (PLAN): ${line}`);
}

/** What an iteration came to, in a line. */
function iterationLine({ iteration, counts, pairs, metrics }: IterationResult): string {
  const { samples, promptsCut, damagedVideos, truncatedTokens, keptTokens, ...statuses } = counts;
  const [first, last] = [metrics[0], metrics.at(-1)];
  const loss = first && last ? `; loss ${first.loss.toFixed(4)} -> ${last.loss.toFixed(4)}` : "";
  const cut =
    (truncatedTokens === undefined
      ? ""
      : `; answers of the truncated ${truncatedTokens.toFixed(1)} tokens, of the others ${keptTokens!.toFixed(1)}`) +
    ((promptsCut ?? 0) > 0 ? `; ${promptsCut} prompts cut` : "") +
    ((damagedVideos ?? 0) > 0 ? `; ${damagedVideos} damaged videos used` : "");
  return `iteration ${iteration}: ${pairs} pairs of ${samples} samples (${statusText(statuses)})${loss}${cut}`;
}

async function run(file: string, flags: RunFlags): Promise<void> {
  const options = await optionsOf(file, flags);
  const { config, runDir, model } = options;
  await amongRanks(flags.ranks, { config, runDir, model }, options.load?.device, (ranks) => {
    const all = ranks ? { ...options, communicator: ranks } : options;
    return leads(ranks) ? lead(all, ranks, flags) : follow((finish) => runIterations({ ...all, finish }));
  });
}

async function lead(options: RunIterationsOptions, ranks: Communicator | undefined, flags: RunFlags): Promise<void> {
  const view = new View("dpo", flags.json === true, process.stderr.isTTY === true);
  tellRanks(ranks, (line) => view.say(line));
  await tellIfTooLarge(view, options);
  const live = await openLive(flags, "dpo", options.runDir);
  const { finish, off } = gradualInterruption((line) => view.say(line));
  const began = performance.now();
  try {
    const running = runIterations({ ...options, finish });
    for await (const e of running) {
      view.event(e);
      live.event(e);
    }
    const results = await running.result;
    view.end();
    if (flags.json)
      process.stdout.write(jsonLine({ type: "result", results: results.map(({ metrics: _, ...r }) => r) }));
    else {
      for (const r of results) view.say(iterationLine(r));
      view.say(`${duration((performance.now() - began) / 1e3)}; model: ${results.at(-1)!.model}`);
      view.say(`next: isr-dpo report ${options.runDir}, isr-dpo chat ${options.runDir}`);
    }
    await live.end();
  } catch (e) {
    view.end();
    await live.end(e);
    if (finish.aborted) view.say("stopped; the same command resumes");
    throw e;
  } finally {
    off();
  }
}

export function runCommand(): Command {
  return new Command("run")
    .description("iterations of self-retrospective DPO; the same command resumes")
    .argument("<config>", "configuration file (YAML); `isr-dpo config schema` lists its keys")
    .addOption(configFlag("--from <t>", "run", "from"))
    .addOption(configFlag("--to <t>", "run", "to"))
    .addOption(configFlag("--run-dir <dir>", "run", "runDir"))
    .addOption(configFlag("--on-ranks <policy>", "run", "onRanks"))
    .addOption(setOption())
    .addOption(ranksOption())
    .addOption(liveOption())
    .option("--json", "print one JSON object per event")
    .exitOverride()
    .action(run);
}
