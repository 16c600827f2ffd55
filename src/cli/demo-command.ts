// isr-dpo demo: the whole method on a laptop, with the model that is part of the package, and a page about what happened.
import { Command } from "commander";
import { percent } from "../base/counts.js";
import { type DemoEvent, type DemoResult, demo } from "../synthetic/demo.js";
import { writeReport } from "../report/write-report.js";
import { colours } from "./exit-code.js";
import { wholeNumber } from "./flags.js";
import { gradualInterruption } from "./interrupt.js";
import { say } from "./terminal.js";
import { jsonLine } from "../base/line-files.js";
import { duration } from "../report/page/shared.js";

interface DemoFlags {
  seed?: number;
  clips?: number;
  heldOut?: number;
  iterations?: number;
  json?: boolean;
}

/** The closing table: accuracy and words by design and model, the judge against the truth. */
export function demoTable({ accuracy, alignment, chance }: DemoResult): string[] {
  const designs = Object.keys(accuracy) as (keyof typeof accuracy)[];
  const models = accuracy[designs[0]!]!.length;
  const head = [
    "context",
    ...Array.from({ length: models }, (_, i) => (i === 0 ? "start" : `model ${i + 1}`)),
    "words",
    "judge right",
  ];
  const rows = designs.map((design) => {
    const list = accuracy[design]!;
    const of = alignment[design]!.reduce((a, b) => ({ agree: a.agree + b.agree, of: a.of + b.of }));
    const words = `${list[0]!.sampled.words.toFixed(1)} -> ${list.at(-1)!.sampled.words.toFixed(1)}`;
    return [design, ...list.map((m) => percent(m.sampled.exact)), words, of.of > 0 ? percent(of.agree / of.of) : "-"];
  });
  const widths = head.map((_, i) => Math.max(...[head, ...rows].map((row) => row[i]!.length)));
  const lines = [head, ...rows].map((row) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join("  "),
  );
  const last = accuracy[designs[0]!]!.at(-1)!;
  const half = (last.interval[1] - last.interval[0]) / 2;
  return [
    "Answers without fault on clips that no training saw (drawn at temperature 0.7):",
    "",
    ...lines,
    "",
    `95 % interval ± ${(100 * half).toFixed(1)} points; by chance ${percent(chance)}.`,
  ];
}

/** Tells what goes on: one line a thing on a terminal and in a log alike. */
function tell(e: DemoEvent): void {
  if (e.type === "note") say(e.message);
  else if (e.type === "clips" && e.done === e.total) say(`${e.total} clips written`);
  else if (e.type === "measured")
    say(
      `${e.design === "start" ? "start" : `${e.design}, model ${e.model}`}: ${percent(e.summary.sampled.exact)} of answers without fault`,
    );
  else if (e.type === "iteration" && e.event.type === "stage" && e.event.stage === "save" && e.event.state === "end")
    say(`${e.design}: iteration ${e.event.iteration} done`);
  else if (e.type === "iteration" && e.event.type === "warning") say(`${e.design}: ${e.event.message}`);
}

async function run(dir: string, flags: DemoFlags): Promise<void> {
  const { finish, off } = gradualInterruption();
  const began = performance.now();
  const { json, ...options } = flags;
  try {
    const running = demo({ dir, ...options, finish });
    for await (const event of running) {
      if (json) process.stdout.write(jsonLine(event));
      else tell(event);
    }
    const result = await running.result;
    const { path } = await writeReport(dir);
    if (json) process.stdout.write(jsonLine({ type: "result", ...result, report: path }));
    else {
      const c = colours(process.stdout);
      console.log(
        [
          "",
          ...demoTable(result),
          "",
          `${c.bold("report:")} ${path}`,
          `${duration((performance.now() - began) / 1e3)}`,
        ].join("\n"),
      );
    }
  } catch (e) {
    if (finish.aborted) say("stopped; the same command resumes");
    throw e;
  } finally {
    off();
  }
}

export function demoCommand(): Command {
  return new Command("demo")
    .description("the whole method on synthetic clips with the model that ships, on this CPU; ends with a report")
    .argument("[dir]", "folder of the demo", "isr-dpo-demo")
    .option("--seed <n>", "seed of clips, questions and draws (default: 1)", wholeNumber(0))
    .option("--clips <n>", "number of clips to ask about (default: 160)", wholeNumber(1, 100_000))
    .option("--held-out <n>", "number of clips to measure on (default: 100)", wholeNumber(1, 100_000))
    .option("--iterations <n>", "number of iterations per design (default: 3)", wholeNumber(1, 100))
    .option("--json", "print one JSON object per event")
    .exitOverride()
    .action(run);
}
