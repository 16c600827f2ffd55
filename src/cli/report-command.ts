// isr-dpo report DIR: one HTML page of a run, and where to find it.
import { spawn } from "node:child_process";
import { Command, Option } from "commander";
import { IsrDpoError } from "../base/errors.js";
import { writeReport } from "../report/write-report.js";
import { realPlace } from "../runfolder/path-overlap.js";
import { colours } from "./exit-code.js";
import { say } from "./terminal.js";
import { jsonLine } from "../base/line-files.js";

interface ReportFlags {
  out?: string;
  open: "yes" | "no" | "auto";
  json?: boolean;
}

const openers: Partial<Record<NodeJS.Platform, string[]>> = {
  darwin: ["open"],
  linux: ["xdg-open"],
  win32: ["cmd", "/c", "start", ""],
};

/** Shows a file in the user's browser, where there is one; a failure is told, no more. */
function show(path: string): void {
  const [command, ...args] = openers[process.platform] ?? [];
  if (command === undefined) {
    say("no program to open it with is known here");
    return;
  }
  const child = spawn(command, [...args, path], { detached: true, stdio: "ignore" });
  child.once("error", (e) => say(`it could not be opened: ${e.message}`));
  child.unref();
}

const atDesk = (): boolean =>
  process.stdout.isTTY === true &&
  process.env.CI === undefined &&
  (process.platform !== "linux" || Boolean(process.env.DISPLAY ?? process.env.WAYLAND_DISPLAY));

/** A page is about one folder. */
async function refuseOthers(dirs: readonly string[]): Promise<never> {
  const places = await Promise.all(dirs.map((dir) => realPlace(dir)));
  const different = new Set(places).size;
  const all = different === 1 ? `${dirs[0]}, ${dirs.length} times` : `${dirs.length}: ${dirs.join(", ")}`;
  throw new IsrDpoError("INVALID_ARGUMENT", `dir: expected the folder of one run, got ${all}`, {
    hint:
      different === 1
        ? `give it once: isr-dpo report ${dirs[0]}`
        : "to compare runs put them into one folder with a comparison.json that names them (docs/report.md), and give that folder",
  });
}

async function run(dir: string, others: readonly string[], { out, open, json }: ReportFlags): Promise<void> {
  if (others.length > 0) await refuseOthers([dir, ...others]);
  const made = await writeReport(dir, out);
  if (json) process.stdout.write(jsonLine(made));
  else {
    const c = colours(process.stderr);
    for (const line of made.missing) say(`${c.yellow("note:")} ${line}`);
    console.log(made.path);
  }
  if (open === "yes" || (open === "auto" && !json && atDesk())) show(made.path);
}

export function reportCommand(): Command {
  return new Command("report")
    .description("write one offline HTML page about a run, a comparison or a training run")
    .argument("<dir>", "folder of the run, or of a comparison")
    .argument("[others...]", "none: runs are compared by a comparison.json in a folder of their own")
    .option("--out <file>", "the page (default: report.html in the folder)")
    .addOption(
      new Option("--open <when>", "open it in the browser; auto: at a terminal on a desktop")
        .choices(["yes", "no", "auto"])
        .default("auto"),
    )
    .option("--json", "print JSON: path, size, what is missing")
    .exitOverride()
    .action(run);
}
