#!/usr/bin/env node
// The command line: a file a command, each calls one exported function. Results go to stdout, everything else to stderr.
import { Command, CommanderError } from "commander";
import { packageVersion } from "../base/addon.js";
import { chatCommand } from "./chat-command.js";
import { configCommand } from "./config-command.js";
import { exitCode, ExitWith, report } from "./exit-code.js";
import { generateCommand } from "./generate-command.js";
import { demoCommand } from "./demo-command.js";
import { expandHome } from "./home-folder.js";
import { inspectCommand } from "./inspect-command.js";
import { Interrupted } from "./interrupt.js";
import { judgeCommand } from "./judge-command.js";
import { mergeCommand } from "./merge-command.js";
import { planCommand } from "./plan-command.js";
import { reportCommand } from "./report-command.js";
import { runCommand } from "./run-command.js";
import { trainCommand } from "./train-command.js";

async function main(): Promise<number> {
  const program = new Command("isr-dpo")
    .description("train and run video language models by iterative DPO")
    .version(packageVersion())
    .showSuggestionAfterError()
    .exitOverride()
    .hook("preAction", (_, command) => expandHome(command))
    .addCommand(chatCommand())
    .addCommand(configCommand())
    .addCommand(demoCommand())
    .addCommand(generateCommand())
    .addCommand(inspectCommand())
    .addCommand(judgeCommand())
    .addCommand(mergeCommand())
    .addCommand(planCommand())
    .addCommand(reportCommand())
    .addCommand(runCommand())
    .addCommand(trainCommand());
  try {
    await program.parseAsync();
    return 0;
  } catch (e) {
    if (e instanceof CommanderError) return e.exitCode === 0 ? 0 : 2;
    if (e instanceof Interrupted) return 130;
    if (e instanceof ExitWith) return e.code;
    report(e);
    return exitCode(e);
  }
}

process.stdout.on("error", (e: NodeJS.ErrnoException) => {
  if (e.code !== "EPIPE") throw e;
  process.exit(141); // the reader of the pipe is gone: the exit code of SIGPIPE
});
process.exitCode = await main();
